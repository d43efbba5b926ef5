"""Joint training samples that put pictures, sounds and texts of other training scenes together."""

from __future__ import annotations

from datamodules.bank import rng_for
from datamodules.corpus import concepts
from datamodules.corpus.concepts import JOINT, JOINTS, Content, say
from datamodules.corpus.jobs import Deck, Job, Plan, make_sample


def mixed(out: Plan, seed: int, count: int) -> None:
    """Joint training samples without new files: what makes harm together is met in ever new company.

    Half of them hold both halves of a joint harm. Most others cross two harms, one half of each, as twins do; the rest
    have something else in place of one half. The files are those of training scenes of one modality, so nothing of
    validation or test is in them.
    """
    rng = rng_for(seed, "mixed")
    pictures: dict[str, list[tuple[str, Content]]] = {}
    sounds: dict[str, list[tuple[str, Content]]] = {}
    for sample, content in out.single:
        (part,) = sample.media
        pool, names = (pictures, content.shown[0]) if part.type == "image" else (sounds, content.heard)
        for name in names:
            pool.setdefault(name, []).append((part.path, content))
    joints = Deck(list(JOINT), rng)
    for n in range(count):
        joint = JOINT[joints.draw()]
        first_pool = sounds if joint.kind == "image_sound" else None
        second_pool = sounds if joint.kind == "text_sound" else pictures
        other = rng.choice([j for j in JOINTS if j.kind == joint.kind and j is not joint])
        first, second = joint.first, joint.second
        swap = rng.random()
        if swap < 0.35:
            second = other.second
        elif swap < 0.425:
            second = rng.choice(list(second_pool))
        elif swap < 0.5:
            first = rng.choice(list(first_pool or concepts.ACTIONS))
        if second not in second_pool or (first_pool is not None and first not in first_pool):
            continue  # a corpus of a few scenes may lack a concept
        files = [rng.choice(second_pool[second])]
        if first_pool is not None:
            files.append(rng.choice(first_pool[first]))
        content = Content(
            shown=next((c.shown for _, c in files if c.shown), ()),
            heard=next((c.heard for _, c in files if c.heard), ()),
            said=None if first_pool is not None else first,
        )
        text = say(content.said, rng) if content.said or rng.random() < 0.5 else None
        jobs = [Job(path, "image" if c.shown else "audio", heard=c.heard or None) for path, c in files]
        id = f"train-mixed-{n:04d}"
        out.samples.append(
            make_sample(id, "train", "joint", id, content, text, jobs, contrast=[joint.id, other.id], mixed=True)
        )
