"""Donors for Swap: another clip's sound that could belong to the pictures, and does not (Thud, arXiv 2605.16403).

A donor that is too near would be right again, and one that is too far gives itself away without a look at the pictures.
So its similarity to the sound that it replaces must lie in a band.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.bank import rng_for
from datamodules.schema import DataError
from datamodules.transforms.audio_edits import SILENT

RATE, BANDS = 16_000, 40
FLOOR = -80.0  # dB; below it there is nothing to hear
SCALE = 10.0  # dB of difference at which the similarity is 1/e
# About the middle half of all pairs of 28 real clips; two drum kits are at 0.58 to 0.65, two applauses at 0.62.
BAND = (0.35, 0.55)
LEAST_LENGTH = 0.5  # of the sound that it replaces: a donor is padded with no more silence than that


@dataclass(frozen=True, eq=False)
class Features:
    """What a sound is like: mean and spread over time of each mel band, [2, BANDS] in dB, its level taken out."""

    values: Tensor
    seconds: float
    silent: bool


@dataclass(frozen=True)
class Donor:
    """The name of the chosen sound, and its similarity (0 to 1) to the one that it replaces."""

    name: str
    similarity: float


def features(wave: Tensor, rate: int) -> Features:
    """Of a sound [channels, samples] at `rate` Hz."""
    from torchaudio.functional import resample
    from torchaudio.transforms import MelSpectrogram

    seconds, silent = wave.shape[-1] / rate, float(wave.abs().max()) < SILENT
    mono = wave.mean(0)
    if rate != RATE:
        mono = resample(mono, rate, RATE)
    if len(mono) < 400:
        mono = torch.nn.functional.pad(mono, (0, 400 - len(mono)))
    mel = MelSpectrogram(RATE, n_fft=512, win_length=400, hop_length=160, n_mels=BANDS, f_min=40, f_max=7800)
    level = mel(mono).clamp_min(1e-12).log10() * 10.0  # [BANDS, frames] in dB
    level = level.clamp_min(float(level.max()) + FLOOR)  # relative to the loudest: a recording's level is no trait
    mean, spread = level.mean(-1), level.std(-1, correction=0)
    return Features(torch.stack([mean - mean.mean(), spread]), seconds, silent)


def similarity(a: Features, b: Features) -> float:
    """exp(−d / 10 dB), d the root mean square difference of the features: 1 for equal sounds, towards 0."""
    return math.exp(-float((a.values - b.values).square().mean().sqrt()) / SCALE)


def choose(
    name: str, pool: Mapping[str, Features], seed: int, band: tuple[float, float] = BAND, where: str = "pool"
) -> Donor:
    """A donor for the sound `name` of `pool`, drawn from all in the band with a generator of `seed` and `name`.

    Silent sounds, and those under half as long, are none. Raises `DataError` that says how many were too near, too far,
    silent or short when no donor is left; `where` is what the message calls the pool.
    """
    low, high = band
    own, fits = pool[name], []
    near = far = unfit = 0
    for other, its in sorted(pool.items()):
        if other == name:
            continue
        score = similarity(own, its)
        if its.silent or its.seconds < LEAST_LENGTH * own.seconds:
            unfit += 1
        elif score > high:
            near += 1
        elif score < low:
            far += 1
        else:
            fits.append(Donor(other, score))
    if not fits:
        raise DataError(
            f"no donor with a similarity from {low:g} to {high:g} among {len(pool) - 1} other sounds of the {where}: "
            f"{near} are nearer, {far} farther, {unfit} silent or too short; bring more clips or set band=LOW,HIGH"
        )
    return rng_for("donor", seed, name).choice(fits)
