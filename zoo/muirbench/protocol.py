"""How a record is put to a model: its pictures, what an ablation leaves out, and the closed query of its letters."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from PIL import Image

from datamodules.atomic import replacing
from datamodules.media import read_image
from datamodules.muirbench import ANSWER, IMAGE
from datamodules.schema import DataError, Part, Sample, canonical_json, near
from zoo.core.query import Query

LAYOUTS = ("interleaved", "concatenated")
ABLATIONS = ("text_only", "single_image")
ANSWERS = ("letters", "words")
HEIGHT = 336  # pixels of a concatenated picture: what the single-image models of the paper read


def answer_query(sample: Sample, answers: str = "letters") -> Query:
    """The answers to a record's sample after "Answer:", as the official prompt ends (paper, section 4), in the options'
    order: their letters, or their own words where all of them have some.
    """
    options: list[str] = sample.meta["options"]
    if answers == "words" and not any(IMAGE in option for option in options):
        return Query((ANSWER,), tuple(options))
    return Query((ANSWER,), tuple(sample.meta["letters"]))


def ablated(sample: Sample, what: str) -> Sample:
    """The sample without its pictures (text_only) or with the first of them alone (single_image).

    The words stay as they are. Raises `DataError` for an unknown ablation.
    """
    if what not in ABLATIONS:
        raise DataError(f"unknown ablation {what!r}{near(str(what), ABLATIONS)}")
    kept, seen = [], 0
    for part in sample.messages[0].content:
        if part.type == "image":
            seen += 1
            if what == "text_only" or seen > 1:
                continue
        kept.append(part)
    return _with(sample, kept)


def concatenated(sample: Sample, folder: Path) -> Sample:
    """All pictures beside each other in one file under `folder`, first of all; "image 1", … stand where they stood.

    For models that take one picture. The paper says that it concatenates, not how: here from left to right at HEIGHT
    pixels. Raises `MediaError` for a picture that cannot be read.
    """
    parts, paths = [], []
    for part in sample.messages[0].content:
        if part.type == "image":
            paths.append(str(part.path))
            parts.append(Part("text", text=f"image {len(paths)}"))
        else:
            parts.append(part)
    path = folder / f"{hashlib.sha256(canonical_json(paths).encode()).hexdigest()[:32]}.png"
    if not path.is_file():
        pictures = [read_image(p) for p in paths]
        pictures = [p.resize((max(1, round(p.width * HEIGHT / p.height)), HEIGHT)) for p in pictures]
        whole = Image.new("RGB", (sum(p.width for p in pictures), HEIGHT))
        left = 0
        for picture in pictures:
            whole.paste(picture, (left, 0))
            left += picture.width
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as f:
            whole.save(f, format="PNG")
    words = "".join(p.text or "" for p in parts)
    return _with(sample, [Part("image", path=str(path)), Part("text", text=words)])


def _with(sample: Sample, parts: list[Part]) -> Sample:
    (message,) = sample.messages
    return sample.replace(messages=(dataclasses.replace(message, content=tuple(parts)),))
