"""Clothing, a subset: 60 photos of garments in 10 classes, six each.

Upstream: alexeygrigorev/clothing-dataset-small (CC0-1.0). Citation: Grigorev (2020), "Clothing dataset" (a data set
without a paper).

A label is the folder: one piece of clothing laid out or hung up, nothing else in view. A long or dressy top is near a
dress and a jacket near a shirt: such pairs are unknown.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, media_sample
from datamodules.sources.media_labels import PICTURE, PICTURE_UNSURE, labels

LICENCE = "CC0-1.0"
PERMISSIVE = True
TARGET = "prompt"


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the folder is missing."""
    return [
        media_sample(
            "clothing", f"{path.parent.name}-{path.stem[:8]}", "image", path,
            labels({path.parent.name}, PICTURE, PICTURE_UNSURE),
            f"The picture shows an article of clothing of the class {path.parent.name}.",
            meta={"tags": [path.parent.name]},
        )
        for path in sorted(locate(data_dir, "image/clothing_small").glob("*/*.jpg"))
    ]  # fmt: skip
