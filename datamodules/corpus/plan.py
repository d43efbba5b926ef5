"""What the corpus will hold, decided before anything is rendered: samples with paths, and a job for every file.

Everything follows from the seed, so labels, policies and balance can be checked in milliseconds without a single file.
"""

from __future__ import annotations

import random

from datamodules.bank import rng_for
from datamodules.corpus import concepts
from datamodules.corpus.concepts import (
    FORBIDDEN_HAPPENINGS,
    FORBIDDEN_OBJECTS,
    FORBIDDEN_SOUNDS,
    HAPPENINGS,
    JOINT,
    OBJECTS,
    SOUNDS,
    Content,
    say,
)
from datamodules.corpus.jobs import Deck, ForbiddenDeck, Job, Plan, make_sample
from datamodules.corpus.mixed import mixed
from datamodules.corpus.policies import judged
from datamodules.corpus.quads import QUAD_KINDS, quad

# Scenes of one modality at scale 1, and quads of each kind (four samples each) by split.
COUNTS = {"image": 600, "audio": 500, "video": 350, "joint": 140}
QUADS = {"train": 20, "val": 3, "test": 9}
MIXED = 1600  # training samples that put pictures, sounds and texts of other training scenes together
SHARES = (("train", 0.70), ("val", 0.12), ("test", 0.18))


def plan(seed: int = 0, scale: float = 1.0) -> Plan:
    """The whole corpus at `scale` times the default counts, without rendering. Raises ValueError for a bad scale."""
    if not 0 < scale <= 20:
        raise ValueError(f"scale must be in 0..20, got {scale}")
    out = Plan()
    for split, share in SHARES:
        for modality, count in COUNTS.items():
            n = max(4, round(count * scale * share))
            _scenes(out, seed, split, modality, n)
        for kind in QUAD_KINDS:
            for n in range(max(1, round(QUADS[split] * scale))):
                quad(out, seed, split, kind, n)
    mixed(out, seed, max(8, round(MIXED * scale)))
    return out


def _scenes(out: Plan, seed: int, split: str, modality: str, count: int) -> None:
    rng = rng_for(seed, "scenes", split, modality)
    objects, sounds = (
        ForbiddenDeck(FORBIDDEN_OBJECTS, OBJECTS, rng),
        ForbiddenDeck(FORBIDDEN_SOUNDS, SOUNDS, rng),
    )
    happenings = ForbiddenDeck(FORBIDDEN_HAPPENINGS, HAPPENINGS, rng)
    joints = Deck(list(JOINT), rng)
    samples = []
    for n in range(count):
        id = f"{split}-{modality}-{n:04d}"
        if modality == "image":
            content = Content(shown=_pictures(objects, rng))
        elif modality == "audio":
            content = Content(heard=_heard(sounds, rng, quiet=0.03))
        elif modality == "video":
            happening = happenings.draw() if rng.random() < 0.6 else None
            shown = () if happening else ((objects.draw(),),)
            content = Content(shown, _heard(sounds, rng, quiet=0.25), happening)
        else:
            content = _joint_content(JOINT[joints.draw()], objects, sounds, rng)
        mute = modality == "video" and not content.heard and rng.random() < 0.25
        jobs = _jobs(id, seed, content, video=modality == "video", mute=mute)
        out.jobs += jobs
        text = say(content.said, rng) if content.said or rng.random() < 0.6 else None
        samples.append(make_sample(id, split, modality, id, content, text, jobs))
        if split == "train" and modality in ("image", "audio") and len(jobs) == 1:
            out.single.append((samples[-1], content))
    out.samples += judged(samples, seed, split)


def _pictures(objects: ForbiddenDeck, rng: random.Random) -> tuple[tuple[str, ...], ...]:
    first = objects.draw()
    if rng.random() < 0.08:
        return ((first,), (objects.draw(),))
    if rng.random() < 0.22:
        second = objects.good.draw()
        if second != first:
            return ((first, second),)
    return ((first,),)


def _heard(sounds: ForbiddenDeck, rng: random.Random, quiet: float) -> tuple[str, ...]:
    if rng.random() < quiet:
        return ()
    first = sounds.draw()
    if rng.random() < 0.08:
        second = sounds.good.draw()
        if second != first:
            return (first, second)
    return (first,)


def _joint_content(joint: concepts.Joint, objects: ForbiddenDeck, sounds: ForbiddenDeck, rng: random.Random) -> Content:
    """Half of the scenes hold both halves of the harm; the others swap one of them for something else."""
    first, second = joint.first, joint.second
    swap = rng.random()
    shown_second = joint.kind != "text_sound"
    if swap < 0.25:
        second = (objects if shown_second else sounds).draw()
    elif swap < 0.5:
        said = rng.choice([a for a in concepts.ACTIONS if a != first])
        first = sounds.draw() if joint.kind == "image_sound" else said
    if joint.kind == "text_image":
        return Content(shown=((second,),), said=first)
    if joint.kind == "image_sound":
        return Content(shown=((second,),), heard=(first,))
    return Content(heard=(second,), said=first)


def _jobs(id: str, seed: int, content: Content, video: bool, mute: bool = False) -> list[Job]:
    key = f"{seed}/{id}"
    if video:
        shown = content.shown[0] if content.shown else ()
        heard = None if mute else content.heard
        return [Job(f"video/{id}.mp4", "video", shown, heard, content.happening, key + "/shown", key + "/heard")]
    jobs = [Job(f"image/{id}-{n}.png", "image", names, shown_key=f"{key}/{n}") for n, names in enumerate(content.shown)]
    if content.heard or not content.shown:
        jobs.append(Job(f"audio/{id}.flac", "audio", heard=content.heard, heard_key=key))
    return jobs
