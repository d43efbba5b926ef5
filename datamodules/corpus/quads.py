"""Twins: quads of the same strings and files in which no single modality decides."""

from __future__ import annotations

from datamodules.bank import rng_for
from datamodules.corpus.concepts import JOINT, PAIRS, Content, say
from datamodules.corpus.jobs import Job, Plan, make_sample
from datamodules.corpus.policies import twin_policy

QUAD_KINDS = {
    "text_image": ("text", "image"),
    "image_sound": ("image", "sound"),
    "text_sound": ("text", "sound"),
    "frames_sound": ("frames", "sound"),
}


def quad(out: Plan, seed: int, split: str, kind: str, n: int) -> None:
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
                make_sample(
                    f"{id}-{a}{b}", split, "joint", id, content, texts[a] if texts else neutral, files,
                    twin=id, needs=list(QUAD_KINDS[kind]), contrast=[j.id for j in joints],
                )
            )  # fmt: skip
    out.jobs += jobs.values()
    if split != "train":
        members = twin_policy(members, [j.id for j in joints], seed, split, n)
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
