"""What the corpus will hold, decided before anything is rendered: samples with paths, and a job for every file.

Everything follows from the seed, so labels, policies and balance can be checked in milliseconds without a single file.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from datamodules.bank import rng_for
from datamodules.corpus import concepts
from datamodules.corpus.concepts import (
    FORBIDDEN_HAPPENINGS,
    FORBIDDEN_OBJECTS,
    FORBIDDEN_SOUNDS,
    HAPPENINGS,
    HELD_OUT,
    IDS,
    JOINT,
    JOINTS,
    OBJECTS,
    PAIRS,
    SOUNDS,
    Content,
    say,
)
from datamodules.schema import Message, Part, Policy, PolicyEntry, Sample

# Scenes of one modality at scale 1, and quads of each kind (four samples each) by split.
COUNTS = {"image": 600, "audio": 500, "video": 350, "joint": 140}
QUADS = {"train": 20, "val": 3, "test": 9}
MIXED = 1600  # training samples that put pictures, sounds and texts of other training scenes together
QUAD_KINDS = {
    "text_image": ("text", "image"),
    "image_sound": ("image", "sound"),
    "text_sound": ("text", "sound"),
    "frames_sound": ("frames", "sound"),
}
SHARES = (("train", 0.70), ("val", 0.12), ("test", 0.18))
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


class _Deck:
    """Draws from `options` without replacement and starts again when empty: rare classes stay represented."""

    def __init__(self, options: list[str] | tuple[str, ...], rng: random.Random) -> None:
        self.options, self.rng, self.left = list(options), rng, []

    def draw(self) -> str:
        if not self.left:
            self.left = self.rng.sample(self.options, len(self.options))
        return self.left.pop()


class _Mixed:
    """Forbidden concepts with a share of FORBIDDEN_SHARE, benign ones otherwise."""

    def __init__(self, bad: tuple[str, ...], every: dict[str, str], rng: random.Random) -> None:
        self.rng = rng
        self.bad, self.good = _Deck(bad, rng), _Deck([c for c in every if c not in bad], rng)

    def draw(self) -> str:
        return (self.bad if self.rng.random() < FORBIDDEN_SHARE else self.good).draw()


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
                _quad(out, seed, split, kind, n)
    _mixed(out, seed, max(8, round(MIXED * scale)))
    return out


# ------------------------------------------------------------------------------------------------------------ scenes


def _scenes(out: Plan, seed: int, split: str, modality: str, count: int) -> None:
    rng = rng_for(seed, "scenes", split, modality)
    objects, sounds = (
        _Mixed(FORBIDDEN_OBJECTS, OBJECTS, rng),
        _Mixed(FORBIDDEN_SOUNDS, SOUNDS, rng),
    )
    happenings = _Mixed(FORBIDDEN_HAPPENINGS, HAPPENINGS, rng)
    joints = _Deck(list(JOINT), rng)
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
        samples.append(_sample(id, split, modality, id, content, text, jobs))
        if split == "train" and modality in ("image", "audio") and len(jobs) == 1:
            out.single.append((samples[-1], content))
    out.samples += _judged(samples, seed, split)


def _mixed(out: Plan, seed: int, count: int) -> None:
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
    joints = _Deck(list(JOINT), rng)
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
            _sample(id, "train", "joint", id, content, text, jobs, contrast=[joint.id, other.id], mixed=True)
        )


def _pictures(objects: _Mixed, rng: random.Random) -> tuple[tuple[str, ...], ...]:
    first = objects.draw()
    if rng.random() < 0.08:
        return ((first,), (objects.draw(),))
    if rng.random() < 0.22:
        second = objects.good.draw()
        if second != first:
            return ((first, second),)
    return ((first,),)


def _heard(sounds: _Mixed, rng: random.Random, quiet: float) -> tuple[str, ...]:
    if rng.random() < quiet:
        return ()
    first = sounds.draw()
    if rng.random() < 0.08:
        second = sounds.good.draw()
        if second != first:
            return (first, second)
    return (first,)


def _joint_content(joint: concepts.Joint, objects: _Mixed, sounds: _Mixed, rng: random.Random) -> Content:
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


def _sample(
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


# ---------------------------------------------------------------------------------------------------------- policies


def _entries(ids: list[str], unseen_wording: bool, rng: random.Random, split: str) -> Policy:
    """Of the two wordings that training lacks, one is for validation, where thresholds are fitted, and one for test."""
    bank = concepts.bank()
    unseen = {id: [wordings[split == "test"]] for id, wordings in bank.test.items()}
    side = unseen if unseen_wording else bank.train
    entries: list[PolicyEntry] = [rng.choice(side[i]) for i in ids]
    return Policy("scenes", tuple(entries))


def _judged(samples: list[Sample], seed: int, split: str) -> list[Sample]:
    """Val and test scenes with their fixed policies, as near to half unsafe as their content allows."""
    if split == "train":
        return samples
    rng = rng_for(seed, "verdicts", samples[0].id)
    held_out = HELD_OUT if split == "test" else frozenset()
    allowed = [i for i in IDS if split == "test" or i not in HELD_OUT]

    def broken(s: Sample) -> list[str]:
        return [i for i in allowed if s.categories[i] == "yes"]

    order = rng.sample(range(len(samples)), len(samples))
    able = [n for n in order if broken(samples[n])]
    unsafe = set(able[: (len(samples) + 1) // 2])
    # Drawn apart from `unsafe`: wording must tell nothing about the verdict.
    reword = set(rng.sample(range(len(samples)), len(samples) // 2))
    out = []
    for n, s in enumerate(samples):
        draw = rng_for(seed, s.id, "policy")
        yes = broken(s)
        picked: list[str] = []
        surprise = bool(held_out) and draw.random() < 0.08
        if n in unsafe:
            # What only several modalities together show is the point of a joint scene: prefer it.
            best = [i for i in yes if i.startswith("joint.")] if s.modality == "joint" else []
            best = best or [i for i in yes if surprise and i in held_out]
            best = best or [i for i in yes if i not in held_out] or yes
            picked.append(draw.choice(best))
        no = [i for i in allowed if s.categories[i] == "no"]
        near = [i for i in s.meta.get("contrast", ()) if i in no and i not in held_out]
        size = _size(draw)
        if near and draw.random() < 0.6 and len(picked) < size:
            picked.append(draw.choice(near))
        rest = [i for i in no if i not in picked and i not in held_out]
        if surprise and not held_out & set(picked):
            options = [i for i in no if i in held_out]
            picked += draw.sample(options, min(1, len(options)))
        picked += draw.sample(rest, min(len(rest), max(size - len(picked), 0)))
        out.append(_fixed(s, picked, n in reword, draw))
    return out


def _size(rng: random.Random) -> int:
    return rng.choice((1, 2, 3, 4, 4, 5, 6, 8))


def _fixed(s: Sample, ids: list[str], unseen_wording: bool, rng: random.Random) -> Sample:
    ids = rng.sample(ids, len(ids))
    return _under(s, _entries(ids, unseen_wording, rng, s.split), unseen_wording)


def _under(s: Sample, policy: Policy, unseen_wording: bool) -> Sample:
    meta = dict(s.meta)
    if s.split == "test":
        meta["wording"] = "unseen" if unseen_wording else "seen"
        meta["entry"] = "unseen" if HELD_OUT & set(policy.ids) else "seen"
    return s.replace(policy=policy, meta=meta)  # `unsafe` stays unset: labels and policy imply it


# ------------------------------------------------------------------------------------------------------------- quads


def _quad(out: Plan, seed: int, split: str, kind: str, n: int) -> None:
    """Four samples {A1, A2} x {B1, B2} of the same strings and files; the policy forbids (A1, B1) and (A2, B2) only.

    Each A and each B is in one safe and one unsafe member, so nothing can be told from one of them alone, and without
    either the members fall into two pairs that are identical but for the label.
    """
    id = f"{split}-twin-{kind}-{n:03d}"
    rng = rng_for(seed, id)
    pairs = PAIRS["image_sound" if kind == "frames_sound" else kind]
    joints = [JOINT[i] for i in pairs[(n + rng_for(seed, split, kind).randrange(len(pairs))) % len(pairs)]]
    texts = [say(j.first, rng) for j in joints] if kind.startswith("text") else []
    neutral = say(None, rng) if not texts and rng.random() < 0.5 else None
    members, jobs = [], {}
    for a, first in enumerate(joints):
        for b, second in enumerate(joints):
            files = [_twin_job(id, seed, kind, a, b, first.first, second.second, part) for part in _files(kind)]
            jobs.update({j.path: j for j in files})
            heard = {"text_image": (), "text_sound": (second.second,)}.get(kind, (first.first,))
            content = Content(
                shown=() if kind == "text_sound" else ((second.second,),),
                heard=heard,
                said=first.first if texts else None,
            )
            members.append(
                _sample(
                    f"{id}-{a}{b}", split, "joint", id, content, texts[a] if texts else neutral, files,
                    twin=id, needs=list(QUAD_KINDS[kind]), contrast=[j.id for j in joints],
                )
            )  # fmt: skip
    out.jobs += jobs.values()
    if split != "train":
        members = _twin_policy(members, [j.id for j in joints], seed, split, n)
    out.samples += members


def _files(kind: str) -> tuple[str, ...]:
    return {
        "text_image": ("image",),
        "image_sound": ("image", "audio"),
        "text_sound": ("audio",),
        "frames_sound": ("video",),
    }[kind]


def _twin_job(id: str, seed: int, kind: str, a: int, b: int, first: str, second: str, part: str) -> Job:
    """The file of one modality: it depends on `a` or `b` alone, and so is shared; a video depends on both."""
    key = f"{seed}/{id}"
    if part == "image":
        return Job(f"image/{id}-b{b}.png", "image", (second,), shown_key=f"{key}/b{b}")
    if part == "audio":
        side, name = ("b", second) if kind == "text_sound" else ("a", first)
        n = b if side == "b" else a
        return Job(f"audio/{id}-{side}{n}.flac", "audio", heard=(name,), heard_key=f"{key}/{side}{n}")
    return Job(f"video/{id}-{a}{b}.mp4", "video", (second,), (first,), None, f"{key}/b{b}", f"{key}/a{a}")


def _twin_policy(members: list[Sample], pair: list[str], seed: int, split: str, n: int) -> list[Sample]:
    """One policy for all four: the pair, and entries that none of the four breaks."""
    rng = rng_for(seed, members[0].group, "policy")
    free = [i for i in IDS if i not in pair and all(m.categories[i] == "no" for m in members)]
    surprise = [i for i in free if i in HELD_OUT and split == "test" and rng.random() < 0.12]
    free = [i for i in free if i not in HELD_OUT]
    size = rng.choice((2, 3, 4, 5, 6))
    ids = pair + surprise[:1] + rng.sample(free, max(0, min(len(free), size - 2 - len(surprise[:1]))))
    policy = _entries(rng.sample(ids, len(ids)), n % 2 == 1, rng, split)
    return [_under(m, policy, n % 2 == 1) for m in members]
