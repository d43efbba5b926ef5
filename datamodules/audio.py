"""The DataModule for audio alone: recordings."""

from __future__ import annotations

from datamodules.base import GuardDataModule


class AudioDataModule(GuardDataModule):
    """A `GuardDataModule` that keeps the samples of modality audio."""

    modality = "audio"
