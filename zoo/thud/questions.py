"""The probe's questions as closed queries: two wordings, the same for every model.

neutral does not say that anything may be wrong; direct asks for it. With letters the options stand in the question, in
an order in which every letter is right equally often; with words the options themselves are the answers.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.muirbench import ANSWER, LETTERS
from datamodules.schema import Part, Sample
from datamodules.thud import LABELS, Item
from datamodules.transforms.preferences import Preference
from zoo.core.query import Query

ANSWERS = ("letters", "words")
OFFSET = "offset"  # asked beside sync: how far apart sound and picture are, if they are
SIZES = ("0.4", "0.8", "1.2", "1.6", "2.0")  # seconds
WORDINGS = {
    "neutral": {
        "sync": "When is the sound of what happens heard in this clip?",
        "existence": "What is the sound of this clip like?",
        "consistency": "What is heard in this clip?",
        OFFSET: "How many seconds lie between what happens in this clip and its sound?",
    },
    "direct": {
        "sync": "Is the sound of this clip in sync with the picture, or does it come too late or too early?",
        "existence": "Is there any sound in this clip, or is it silent?",
        "consistency": "Does the sound of this clip belong to what is seen, or to something else?",
        OFFSET: "By how many seconds is the sound of this clip shifted against the picture?",
    },
}
TEXTS = {
    "synced": "at the moment it is seen",
    "delay": "later than it is seen",
    "early": "earlier than it is seen",
    "sound": "something is heard",
    "silent": "nothing is heard",
    "match": "the sound of what is seen",
    "mismatch": "the sound of something else",
    **{size: f"{size} seconds" for size in SIZES},
}
WORDS = {"synced": "synced", "delay": "delayed", "early": "early", **{size: size for size in SIZES}}


@dataclass(frozen=True)
class Question:
    """`sample` is the clip and the words; `labels` are what the query's options mean, in their order. `id` is also the
    sample's.
    """

    item: Item
    about: str
    wording: str
    sample: Sample
    query: Query
    labels: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.sample.id

    @property
    def texts(self) -> tuple[str, ...]:
        """The options as a written answer may spell them out."""
        return tuple(self.query.options if self.query.options[0] not in LETTERS else (TEXTS[x] for x in self.labels))


def questions(items: Sequence[Item], wording: str, answers: str, offset: bool, seed: int = 0) -> list[Question]:
    """One of each item, and with `offset` one more of each item of sync."""
    out: list[Question] = []
    for about in (*LABELS, *([OFFSET] if offset else [])):
        dimension = "sync" if about == OFFSET else about
        rows = [i for i in items if i.dimension == dimension]
        rights = [_right(i, about) for i in rows]
        for item, labels in zip(rows, _orders([i.id for i in rows], rights, about, seed)):
            out.append(_question(item, about, wording, labels, answers))
    return out


def pair_questions(pairs: Sequence[Preference], wording: str, answers: str, seed: int = 0) -> list[Question]:
    """One of each preference pair, in their order: the query's two options are the chosen answer and the rejected one.

    The words before them are those of the probe. With letters the chosen one has every letter equally often.
    """
    out: dict[str, Question] = {}
    for about in LABELS:
        rows = [p for p in pairs if p.item.dimension == about]
        for pair, labels in zip(rows, _orders([p.id for p in rows], [p.chosen for p in rows], about, seed)):
            q = _question(pair.item, about, wording, labels, answers)
            both = (pair.chosen, pair.rejected)
            options = tuple(q.query.options[q.labels.index(label)] for label in both)
            sample = q.sample.replace(id=f"{pair.id}/{wording}")
            out[pair.id] = dataclasses.replace(q, sample=sample, query=Query(q.query.suffix, options), labels=both)
    return [out[p.id] for p in pairs]


def _right(item: Item, about: str) -> str:
    if about != OFFSET:
        return item.label
    return nearest_size(item.delta) if item.edited else SIZES[0]


def _orders(keys: Sequence[str], rights: Sequence[str], about: str, seed: int) -> list[tuple[str, ...]]:
    """The options of each question in an order of its own: of those with one right answer it takes each place equally
    often.
    """
    known = SIZES if about == OFFSET else LABELS[about]
    turns: dict[str, int] = {}
    out = []
    for key, right in zip(keys, rights):
        digest = hashlib.sha256(f"{seed}/{about}/{key}".encode()).digest()
        rest = random.Random(digest).sample([x for x in known if x != right], len(known) - 1)
        turn = turns[right] = turns.get(right, -1) + 1
        place = turn % len(known)
        out.append((*rest[:place], right, *rest[place:]))
    return out


def nearest_size(delta: float) -> str:
    return min(SIZES, key=lambda size: abs(float(size) - abs(delta)))


def _question(item: Item, about: str, wording: str, labels: tuple[str, ...], answers: str) -> Question:
    text = WORDINGS[wording][about]
    if answers == "letters":
        options = tuple(LETTERS[: len(labels)])
        text += "".join(f"\n({letter}) {TEXTS[label]}" for letter, label in zip(options, labels))
        text += "\nAnswer with the letter of the right option."
    else:
        labels = SIZES if about == OFFSET else LABELS[about]
        options = tuple(WORDS.get(label, label) for label in labels)
        text += f"\nAnswer with one of: {', '.join(options)}."
    (message,) = item.sample.messages
    whole = dataclasses.replace(message, content=(*message.content, Part("text", text=f"{text}\n")))
    sample = item.sample.replace(id=f"{item.sample.id}/{about}/{wording}", messages=(whole,))
    return Question(item, about, wording, sample, Query((ANSWER,), options), labels)
