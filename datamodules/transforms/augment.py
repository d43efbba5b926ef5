"""Random augmentation of what a training sample is read from: `data.augment=shift` in a recipe.

It is drawn anew each epoch from the seed, the epoch and the sample's id, so a resumed run draws what the first would
have. What it changes goes past the feature cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from datamodules.bank import rng_for
from datamodules.schema import DataError, Sample, near
from datamodules.transforms.audio_edits import RandomShift

AUGMENTATIONS = ("shift",)
HEARD = ("audio", "video", "joint")  # the modalities that have a sound


class Augment(Protocol):
    """A change of decoded media. `kinds` names what it changes: sound (waveforms [samples]), image (encoder inputs)."""

    kinds: frozenset[str]

    def __call__(self, kind: str, raw: Tensor) -> Tensor: ...


class ShiftSounds:
    """Every sound of a sample, files and the tracks of videos, by up to a quarter of its length."""

    kinds = frozenset(("sound",))

    def __init__(self, seed: int):
        self.shift = RandomShift(generator=torch.Generator().manual_seed(seed))

    def __call__(self, kind: str, raw: Tensor) -> Tensor:
        return self.shift(raw) if kind in self.kinds else raw


def augmentation(
    name: str | None, seed: int, modalities: tuple[str, ...] | None = None
) -> Callable[[Sample, int], Augment] | None:
    """(sample, epoch) → its augmentation, or None where there is none (`name` None).

    Raises `DataError` for an unknown name, and where none of `modalities` (None: all) has a sound to change.
    """
    if name is None:
        return None
    if name not in AUGMENTATIONS:
        more = ": it would change what is heard, and with it the label" if name in ("mute", "swap") else ""
        raise DataError(f"unknown augmentation {name!r}{more or near(name, AUGMENTATIONS)}")
    if modalities is not None and not set(modalities) & set(HEARD):
        raise DataError(f"data.augment={name} changes sounds, and modalities are {', '.join(modalities)}: leave it out")
    return lambda sample, epoch: ShiftSounds(rng_for("augment", seed, epoch, sample.id).getrandbits(63))
