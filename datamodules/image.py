"""The DataModule for image alone: pictures, with or without a neutral text beside them."""

from __future__ import annotations

from datamodules.base import GuardDataModule


class ImageDataModule(GuardDataModule):
    """A `GuardDataModule` that keeps the samples of modality image."""

    modality = "image"
