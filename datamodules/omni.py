"""The mixture: text, pictures, sound, video, and what only several of them together tell."""

from __future__ import annotations

from datamodules.base import GuardDataModule


class OmniDataModule(GuardDataModule):
    """A `GuardDataModule` over all modalities, in equal shares by default (`balance=0`)."""
