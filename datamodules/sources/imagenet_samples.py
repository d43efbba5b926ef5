"""ImageNet sample images: 91 photos, one a class, in 31 "hazard objects" and 60 "ordinary" ones.

Upstream: EliSchwartz/imagenet-sample-images, no licence stated (ImageNet's research terms): not permissive, not to be
redistributed. Citation: Deng, Dong, Socher, Li, Li and Fei-Fei (2009), "ImageNet: A Large-Scale Hierarchical Image
Database".

A label is the synset in the file's name; the folders are our own sorting, and a photo of a hazard object is still
benign. ImageNet names one thing in a picture that may show more: entries that other things in it could meet (people
wear clothes) are unknown. Trap: the class is upstream's, right or wrong (the "jaguar" is a puma: an animal too).
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, media_sample
from datamodules.sources.media_labels import PICTURE, PICTURE_UNSURE, labels

LICENCE = "none stated"
PERMISSIVE = False
TARGET = "prompt"


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a folder is missing."""
    samples = []
    for folder in ("hazard_objects", "ordinary"):
        for path in sorted(locate(data_dir, "image/imagenet_samples", folder).glob("*.JPEG")):
            _synset, tag = path.stem.split("_", 1)
            samples.append(
                media_sample(
                    "imagenet_samples", path.stem, "image", path, labels({tag}, PICTURE, PICTURE_UNSURE),
                    f"The picture is of the class {tag.replace('_', ' ')}.",
                    meta={"tags": [tag], "kind": folder},
                )
            )  # fmt: skip
    return samples
