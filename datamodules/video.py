"""The DataModule for video alone: clips with their sound."""

from __future__ import annotations

from datamodules.base import GuardDataModule


class VideoDataModule(GuardDataModule):
    """A `GuardDataModule` that keeps the samples of modality video."""

    modality = "video"
