"""What is decided before anything is rendered: a job for every file, and samples whose labels follow from content."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from datamodules.corpus.concepts import SOUNDS, Content
from datamodules.schema import Message, Part, Sample

FORBIDDEN_SHARE = 0.6
IMAGE_SIZES = ((224, 224), (256, 192), (192, 256), (240, 200))


@dataclass(frozen=True)
class Job:
    """One file to render. Equal keys draw equal pictures or sounds, in whichever file they go."""

    path: str
    kind: str  # image | audio | video
    shown: tuple[str, ...] = ()
    heard: tuple[str, ...] | None = None  # None: no sound track at all
    happening: str | None = None
    shown_key: str = ""
    heard_key: str = ""


@dataclass
class Plan:
    """Samples whose media paths are relative to the corpus folder, and the jobs that make those files."""

    samples: list[Sample] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    single: list[tuple[Sample, Content]] = field(default_factory=list)  # training scenes of one file


class Deck:
    """Draws from `options` without replacement and starts again when empty: rare classes stay represented."""

    def __init__(self, options: list[str] | tuple[str, ...], rng: random.Random) -> None:
        self.options, self.rng, self.left = list(options), rng, []

    def draw(self) -> str:
        if not self.left:
            self.left = self.rng.sample(self.options, len(self.options))
        return self.left.pop()


class ForbiddenDeck:
    """Forbidden concepts with a share of FORBIDDEN_SHARE, benign ones otherwise."""

    def __init__(self, bad: tuple[str, ...], every: dict[str, str], rng: random.Random) -> None:
        self.rng = rng
        self.bad, self.good = Deck(bad, rng), Deck([c for c in every if c not in bad], rng)

    def draw(self) -> str:
        return (self.bad if self.rng.random() < FORBIDDEN_SHARE else self.good).draw()


def make_sample(
    id: str, split: str, modality: str, group: str, content: Content, text: str | None, jobs: list[Job], **meta: object
) -> Sample:
    parts = [Part("text", text=text)] if text is not None else []
    parts += [Part(j.kind, path=j.path) for j in jobs]
    labels, near = content.labels(), content.lookalikes()
    kinds = {j.kind for j in jobs}
    info: dict = {"modality": modality, **meta}
    if any(j.heard is not None for j in jobs):
        info["heard"] = {name: "yes" if name in content.heard else "no" for name in SOUNDS}
    if near:
        info.setdefault("contrast", near)  # entries that a look-alike in the scene seems to break
        if "yes" not in labels.values():
            info["hard_negative"] = True
    return Sample(
        id=id,
        messages=(Message("user", tuple(parts)),),
        target="prompt",
        categories=labels,
        critique=content.critique("video" in kinds, bool(kinds & {"audio", "video"})),
        source="scenes",
        group=group,
        split=split,
        meta=info,
    )
