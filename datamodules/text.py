"""The DataModule for text alone: conversations without media."""

from __future__ import annotations

from datamodules.base import GuardDataModule


class TextDataModule(GuardDataModule):
    """A `GuardDataModule` that keeps the samples of modality text."""

    modality = "text"
