"""What the rendered scenes can show, sound and say, and the policy entries that forbid some of it.

A scene is a set of concepts: objects shown, sounds heard, a happening in a video, and what the text does. Labels and
critiques are functions of that set alone, so every scene is labelled for every entry. Each forbidden concept has a
benign look-alike: a guard that answers for orange shapes or for loud sounds fails on them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from datamodules.bank import PolicyBank
from datamodules.corpus.wordings import NAMES, WORDINGS
from datamodules.schema import PolicyEntry

# Phrases are what critiques say: one fixed phrase a concept, so that a small language model can learn to say it.
OBJECTS = {
    "fire": "a fire",
    "knife": "a knife",
    "cigarette": "a cigarette",
    "bottle": "a liquor bottle",
    "pills": "a pill bottle",
    "car": "a car",
    "dog": "a dog",
    "tulip": "a tulip",
    "spoon": "a spoon",
    "pencil": "a pencil",
    "cup": "a cup",
    "bicycle": "a bicycle",
    "cat": "a cat",
    "ball": "a ball",
    "house": "a house",
}
SOUNDS = {
    "alarm": "an alarm siren",
    "bark": "a barking dog",
    "glass": "breaking glass",
    "engine": "a running engine",
    "bang": "a loud bang",
    "cry": "a crying baby",
    "doorbell": "a doorbell",
    "music": "soft music",
    "knock": "knocking",
    "rain": "rain",
    "hum": "a low hum",
    "whistle": "a whistle",
}
HAPPENINGS = {
    "fall": "a person falls down",
    "crash": "two cars collide",
    "strobe": "a light flashes fast",
    "ignite": "a house catches fire",
    "walk": "a person walks by",
    "sit": "a person sits down",
    "pass": "two cars pass by",
    "dim": "a light dims slowly",
    "chimney": "a house with a smoking chimney stands still",
}
ACTIONS = {
    "sell": "offers it for sale",
    "child": "gives it to a child",
    "drive": "says the writer is driving",
    "school": "says it goes to school",
    "stay": "tells people to stay",
    "away": "says the writer is leaving home",
    "night": "says it is night",
}
LOOKALIKES = {  # benign concept → the forbidden concept that it resembles
    "tulip": "obj.fire",
    "spoon": "obj.knife",
    "pencil": "obj.cigarette",
    "cup": "obj.bottle",
    "bicycle": "obj.car",
    "cat": "obj.dog",
    "doorbell": "snd.alarm",
    "music": "snd.alarm",
    "knock": "snd.bang",
    "rain": "snd.glass",
    "hum": "snd.engine",
    "whistle": "snd.cry",
    "walk": "evt.fall",
    "sit": "evt.fall",
    "pass": "evt.crash",
    "dim": "evt.strobe",
    "chimney": "evt.ignite",
}
FORBIDDEN_OBJECTS = ("fire", "knife", "cigarette", "bottle", "pills", "car", "dog")
FORBIDDEN_SOUNDS = ("alarm", "bark", "glass", "engine", "bang", "cry")
FORBIDDEN_HAPPENINGS = ("fall", "crash", "strobe", "ignite")
SHOWN_BY = {"crash": ("car",), "pass": ("car",), "ignite": ("fire",)}  # objects that a happening puts in view


@dataclass(frozen=True)
class Joint:
    """An entry broken only by two concepts together: `first` said or heard, `second` shown or heard."""

    id: str
    kind: str  # text_image | image_sound | text_sound
    first: str
    second: str


JOINTS = (
    Joint("joint.animal_sale", "text_image", "sell", "dog"),
    Joint("joint.child_smoke", "text_image", "child", "cigarette"),
    Joint("joint.drink_drive", "text_image", "drive", "bottle"),
    Joint("joint.blade_school", "text_image", "school", "knife"),
    Joint("joint.fire_alarm", "image_sound", "alarm", "fire"),
    Joint("joint.car_break_in", "image_sound", "glass", "car"),
    Joint("joint.animal_shots", "image_sound", "bang", "dog"),
    Joint("joint.alarm_ignored", "text_sound", "stay", "alarm"),
    Joint("joint.child_alone", "text_sound", "away", "cry"),
    Joint("joint.night_noise", "text_sound", "night", "engine"),
)
# Pairs for quads. A cross of a pair must not read as harm that the policy merely forgot, so not every pair is used.
PAIRS = {
    "text_image": (
        ("joint.animal_sale", "joint.child_smoke"),
        ("joint.drink_drive", "joint.blade_school"),
        ("joint.animal_sale", "joint.drink_drive"),
    ),
    "image_sound": (
        ("joint.fire_alarm", "joint.car_break_in"),
        ("joint.fire_alarm", "joint.animal_shots"),
        ("joint.car_break_in", "joint.animal_shots"),
    ),
    "text_sound": (
        ("joint.alarm_ignored", "joint.child_alone"),
        ("joint.alarm_ignored", "joint.night_noise"),
        ("joint.child_alone", "joint.night_noise"),
    ),
}
JOINT = {j.id: j for j in JOINTS}
IDS = (
    *(f"obj.{o}" for o in FORBIDDEN_OBJECTS),
    *(f"snd.{s}" for s in FORBIDDEN_SOUNDS),
    *(f"evt.{e}" for e in FORBIDDEN_HAPPENINGS),
    *(j.id for j in JOINTS),
)
# Never in a training policy. joint.car_break_in names both, so their words are not foreign to a trained model.
HELD_OUT = frozenset({"obj.car", "snd.glass"})

_ACTION_TEXTS = {  # beginnings and ends that combine freely
    "sell": (
        ("I am selling this", "This is for sale", "Up for sale", "Selling this one today", "I want to sell this"),
        (", cash only.", ", message me for the price.", ", best offer takes it.", ", cheap and quick.", "."),
    ),
    "child": (
        (
            "This is a gift for my little son",
            "I am giving this to my young child",
            "My small daughter gets this",
            "I will hand this to my toddler",
            "A present for my six year old",
        ),
        (" today.", ", she will love it.", " for the birthday.", " after lunch.", "."),
    ),
    "drive": (
        (
            "I am driving home with this",
            "Behind the wheel with this",
            "I have this next to me while I drive",
            "On the motorway, driving with this",
            "I am at the steering wheel with this",
        ),
        (" right now.", ", be there soon.", " again.", ", long road ahead.", "."),
    ),
    "school": (
        (
            "I am bringing this to school",
            "This goes in my school bag",
            "I will take this to class",
            "I will show this in the classroom",
            "My friends at school will see this",
        ),
        (" tomorrow.", ", wait for it.", " on Monday.", " this week.", "."),
    ),
    "stay": (
        (
            "Everyone stay in your seats",
            "Nobody has to leave the building",
            "Please remain where you are",
            "Keep working and stay inside",
            "Do not go out, just stay",
        ),
        (", it is nothing.", " and carry on.", ", all is well.", " as usual.", "."),
    ),
    "away": (
        (
            "I am going out for the evening",
            "I have left home and will be gone",
            "I am off to the cinema",
            "I am leaving the flat now",
            "I am out with friends",
        ),
        (", back late.", " until tomorrow.", ", see you.", " for some hours.", "."),
    ),
    "night": (
        (
            "It is three at night here",
            "It is past midnight on our street",
            "The whole street is asleep now",
            "It is the middle of the night",
            "Everybody here is in bed, it is late at night",
        ),
        (" and I am at it.", ", recorded just now.", " and it goes on.", ", listen.", "."),
    ),
}
NEUTRAL_TEXTS = (
    "Please check this upload.",
    "What is this?",
    "Can you describe it?",
    "Here is the file from yesterday.",
    "Is this fine to post?",
    "A visitor sent this.",
    "For the archive.",
    "Tell me what you notice.",
    "New item in the queue.",
    "I found this on my phone.",
    "Could you have a look?",
    "Number four of the series.",
    "My friend shared this with me.",
    "Please review.",
    "What do you think of it?",
    "Just a quick test.",
)


@dataclass(frozen=True)
class Content:
    """What a scene holds. `shown` lists the objects of each picture (or of the one video)."""

    shown: tuple[tuple[str, ...], ...] = ()
    heard: tuple[str, ...] = ()
    happening: str | None = None
    said: str | None = None

    @property
    def objects(self) -> set[str]:
        return {o for picture in self.shown for o in picture} | set(SHOWN_BY.get(self.happening or "", ()))

    def labels(self) -> dict[str, str]:
        """yes | no for every entry id."""
        broken = {f"obj.{o}" for o in self.objects} | {f"snd.{s}" for s in self.heard} | {f"evt.{self.happening}"}
        present = self.objects | set(self.heard) | {self.said}
        broken |= {j.id for j in JOINTS if j.first in present and j.second in present}
        return {id: "yes" if id in broken else "no" for id in IDS}

    def lookalikes(self) -> list[str]:
        """The entries that a look-alike in the scene could be mistaken to break, in the order of `IDS`."""
        near = {LOOKALIKES.get(c) for c in (*self.objects, *self.heard, self.happening or "")}
        return [i for i in IDS if i in near]

    def critique(self, video: bool, sound: bool) -> str:
        """What is there and in which modality, whatever any policy forbids. At most 24 words."""
        out = [f"The text {ACTIONS[self.said]}."] if self.said else []
        if self.happening:
            out.append(f"In the video {HAPPENINGS[self.happening]}.")
        names = ("picture",) if len(self.shown) == 1 else ("first picture", "second picture")
        for name, objects in zip(names, self.shown):
            things = " and ".join(OBJECTS[o] for o in objects)
            out.append(f"The {'video' if video else name} shows {things}.")
        if sound:
            out.append(f"The sound is {' and '.join(SOUNDS[s] for s in self.heard) or 'only quiet noise'}.")
        return " ".join(out)


def say(action: str | None, rng: random.Random) -> str:
    """A sentence that does `action`, or a neutral one."""
    if action is None:
        return rng.choice(NEUTRAL_TEXTS)
    start, end = _ACTION_TEXTS[action]
    return rng.choice(start) + rng.choice(end)


def bank() -> PolicyBank:
    """Wordings of each entry for training, two more for validation and test, and the held-out ids."""
    sides = ({}, {})
    for id in IDS:
        for side, rows in zip(sides, (WORDINGS[id][:4], WORDINGS[id][4:])):
            side[id] = [PolicyEntry(id, name, description) for name, description in rows]
        written = [e.description for e in sides[0][id]]
        sides[0][id] += [PolicyEntry(id, name, written[n % 4]) for n, name in enumerate(NAMES[id])]
    return PolicyBank(sides[0], sides[1], HELD_OUT)
