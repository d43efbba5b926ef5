"""Messages of several real files: a photo beside a recording, and two or three photos together.

Files are combined within a split, after each has been put on its side, so no file is on two sides.
"""

from __future__ import annotations

import random

from datamodules.bank import rng_for
from datamodules.schema import SPLITS, Message, Part, Sample
from datamodules.sources.media_labels import combine

JOINT = {"train": 240, "val": 60, "test": 100}
VOICES = {"train": 10, "val": 3, "test": 5}  # recordings of speech among the sounds that are paired
SEVERAL = {"train": 60, "val": 20, "test": 40}
# What a user may say beside the files; it never tells what is in them.
WORDS = ("", "What do you make of this?", "Here is something from today.", "Please have a look.")


def joint_samples(photos: list[Sample], clips: list[Sample], seed: int) -> list[Sample]:
    """A photo and a recording in one message, `JOINT` of them per split, fewer where there are fewer pairs."""
    out = []
    for split in SPLITS:
        rng = rng_for(seed, "joint", split)
        ours = [s for s in photos if s.split == split]
        theirs = [s for s in clips if s.split == split]
        spoken = [s for s in theirs if s.source == "fsdd"]
        theirs = [s for s in theirs if s.source != "fsdd"]
        theirs += spoken[:: max(1, len(spoken) // VOICES[split])]  # else speech would be half of all sounds
        # A sample of all pairs, so that no pair comes twice.
        pairs = [(a, b) for a in ours for b in theirs]
        for n, (a, b) in enumerate(rng.sample(pairs, min(JOINT[split], len(pairs)))):
            out.append(_together(f"real_joint-{split}-{n}", "real_joint", [a, b], rng))
    return out


def several_photos(photos: list[Sample], seed: int) -> list[Sample]:
    """Two or three photos in one message, `SEVERAL` of them per split."""
    out = []
    for split in SPLITS:
        rng = rng_for(seed, "several", split)
        ours = [s for s in photos if s.split == split]
        if len(ours) >= 3:
            for n in range(SEVERAL[split]):
                some = rng.sample(ours, rng.choice((2, 3)))
                out.append(_together(f"real_photos-{split}-{n}", "real_photos", some, rng))
    return out


def _together(id: str, source: str, samples: list[Sample], rng: random.Random) -> Sample:
    words = rng.choice(WORDS)
    parts = [Part("text", text=words)] if words else []
    parts += [p for s in samples for p in s.media]
    if not words:
        rng.shuffle(parts)
    return Sample(
        id=id,
        messages=(Message("user", tuple(parts)),),
        target="prompt",
        categories=combine([s.categories for s in samples]),
        critique=" ".join(s.critique for s in samples if s.critique),
        source=source,
        group="+".join(sorted(str(s.group) for s in samples)),
        split=samples[0].split,
        meta={
            "parts": [s.id for s in samples],
            "licence": "; ".join(sorted({str(s.meta["licence"]) for s in samples})),
            "permissive": all(s.meta["permissive"] for s in samples),
        },
    )
