"""Takes one modality out of a sample, to test whether a model uses it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from datamodules.schema import DataError, Part, Sample, near

ABLATIONS = ("text", "image", "audio", "video", "frames", "sound")


def without(sample: Sample, what: str) -> Sample:
    """`sample` without its text, images, audio files or videos; without the frames of its videos; or without all sound.

    `sound` is what can be heard: audio files and the tracks of videos.
    """
    if what not in ABLATIONS:
        raise DataError(f"cannot take {what!r} out of a sample{near(what, ABLATIONS)}")

    def kept(parts: Sequence[Part]) -> tuple[Part, ...]:
        if what == "sound":
            parts = [p for p in parts if p.type != "audio"]
        if what in ("frames", "sound"):
            return tuple(dataclasses.replace(p, **{what: False}) if p.type == "video" else p for p in parts)
        return tuple(p for p in parts if p.type != what)

    messages = tuple(dataclasses.replace(m, content=kept(m.content)) for m in sample.messages)
    return sample.replace(id=f"{sample.id}~{what}", messages=messages)
