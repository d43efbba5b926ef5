"""Counterfactual edits of a sound: Shift, Mute and Swap ("When Vision Speaks for Sound", Thud, arXiv 2605.16403).

Waveforms are [..., samples], of any device and floating type; the length never changes, and every sample is either
copied as it is or zero. What differs from row to row of a batch is given as a tensor that broadcasts to the leading
dimensions. The edits are modules, so they stand in an `nn.Sequential` beside torchaudio's transforms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SILENT = 1e-3  # below it (-60 dBFS) a sample counts as silence


class Shift(nn.Module):
    """Moves a sound by `seconds` (later > 0, earlier < 0); silence comes in at the other end, and nothing wraps round.

    Args:
        rate: samples per second, in Hz.
        seconds: a number, or a tensor that broadcasts to the leading dimensions of the waveform. It is rounded to the
            nearest sample (halves to even). `forward` takes another in its place.
    """

    def __init__(self, rate: int, seconds: float | Tensor = 0.0):
        super().__init__()
        if rate <= 0:
            raise ValueError(f"a rate of {rate} Hz is not positive")
        self.rate = rate
        self.register_buffer("seconds", torch.as_tensor(seconds, dtype=torch.float64), persistent=False)

    def forward(self, wave: Tensor, seconds: float | Tensor | None = None) -> Tensor:
        """[..., samples] → [..., samples]."""
        # In float64: 0.1 s is not 0.1 s in float32, and an hour at 48 kHz does not fit its mantissa.
        seconds = self.seconds if seconds is None else torch.as_tensor(seconds, dtype=torch.float64)
        return shifted(wave, (seconds.to(torch.float64) * self.rate).round().to(torch.int64))


class Mute(nn.Module):
    """Writes zeros, of the rows that `rows` marks (all without it). The sound keeps its length."""

    def forward(self, wave: Tensor, rows: Tensor | None = None) -> Tensor:
        """`rows` is boolean and broadcasts to the leading dimensions. [..., samples] → [..., samples]."""
        # Not times zero: a sample that is not a number would stay one.
        mask = torch.ones((), dtype=torch.bool, device=wave.device) if rows is None else _column(rows, wave)
        return wave.masked_fill(mask, 0.0)


class Swap(nn.Module):
    """Puts the donor's samples in place of the sound's, cut or padded with zeros at the end to the sound's length.

    Args:
        donor: [..., samples] at the rate of the sounds, with leading dimensions that broadcast to theirs. `forward`
            takes another in its place.
    """

    def __init__(self, donor: Tensor | None = None):
        super().__init__()
        self.register_buffer("donor", donor, persistent=False)

    def forward(self, wave: Tensor, donor: Tensor | None = None, rows: Tensor | None = None) -> Tensor:
        """Of the rows that `rows` marks (all without it). [..., samples] → [..., samples]."""
        donor = self.donor if donor is None else donor
        if donor is None:
            raise ValueError("Swap has no donor: give one when it is made or when it is called")
        donor = fitted(donor, wave.shape[-1]).to(wave).expand(wave.shape)
        return donor.clone() if rows is None else torch.where(_column(rows, wave), donor, wave)


def shifted(wave: Tensor, samples: int | Tensor) -> Tensor:
    """`wave` [..., n] moved by whole samples: `out[t] = wave[t - samples]`, zero where that lies outside.

    `samples` broadcasts to the leading dimensions.
    """
    samples = torch.as_tensor(samples)
    if samples.numel() == 1 and not samples.is_meta:
        return _moved(wave, int(samples))
    samples = samples.expand(wave.shape[:-1])
    if wave.device.type != "cpu":
        return _gathered(wave, samples)
    # One copy of each row: a gather's index alone is twice as large as the sound.
    out, n = torch.empty_like(wave, memory_format=torch.contiguous_format), wave.shape[-1]
    into, rows = out.view(-1, n), wave.reshape(-1, n)
    for i, by in enumerate(samples.flatten().tolist()):
        first, end = min(max(by, 0), n), max(n + min(by, 0), 0)  # where there is sound afterwards
        into[i, :first] = 0.0
        into[i, end:] = 0.0
        into[i, first:end] = rows[i, max(-by, 0) : max(n - max(by, 0), 0)]
    return out


def _moved(wave: Tensor, by: int) -> Tensor:
    n = wave.shape[-1]
    if abs(by) >= n:
        return wave.masked_fill(torch.ones((), dtype=torch.bool, device=wave.device), 0.0)
    return nn.functional.pad(wave[..., max(-by, 0) : n - max(by, 0)], (max(by, 0), max(-by, 0)))


def _gathered(wave: Tensor, samples: Tensor) -> Tensor:
    """Each row with its own number, without asking the device for it."""
    n = wave.shape[-1]
    at = torch.arange(n, device=wave.device) - samples.to(wave.device).unsqueeze(-1)  # [..., n]
    inside = (at >= 0) & (at < n)
    return wave.gather(-1, at.clamp(0, max(n - 1, 0))).masked_fill(~inside, 0.0)


def fitted(wave: Tensor, samples: int) -> Tensor:
    """The first `samples` samples of `wave` [..., n], with zeros after it where it is shorter."""
    return nn.functional.pad(wave[..., :samples], (0, max(samples - wave.shape[-1], 0)))


def silenced(wave: Tensor, lead: int, tail: int) -> Tensor:
    """`wave` [..., n] with zeros in its first `lead` and last `tail` samples: what an unedited original gets, so that
    silence at an end does not tell that a sound was moved."""
    t = torch.arange(wave.shape[-1], device=wave.device)
    return wave.masked_fill((t < lead) | (t >= wave.shape[-1] - tail), 0.0)


def silent_ends(wave: Tensor) -> tuple[int, int]:
    """How many samples at the start and at the end of `wave` [..., n] are silent in all rows; (n, n) if all are."""
    loud = (wave.abs() >= SILENT).reshape(-1, wave.shape[-1]).any(0).nonzero()
    n = wave.shape[-1]
    return (int(loud[0]), n - 1 - int(loud[-1])) if len(loud) else (n, n)


def _column(rows: Tensor, wave: Tensor) -> Tensor:
    return torch.as_tensor(rows, device=wave.device).unsqueeze(-1)


class RandomShift(nn.Module):
    """Augmentation: moves each row by up to `fraction` of its length, either way, drawn uniformly.

    What is heard, and with it a label, stays: Mute and Swap would change it, so there is no augmentation of theirs.
    `generator` is a CPU generator; None draws from torch's own.
    """

    def __init__(self, fraction: float = 0.25, generator: torch.Generator | None = None):
        super().__init__()
        if not 0 < fraction < 1:
            raise ValueError(f"a fraction of {fraction} does not lie between 0 and 1")
        self.fraction, self.generator = fraction, generator

    def forward(self, wave: Tensor) -> Tensor:
        """[..., samples] → [..., samples]; every row gets a shift of its own."""
        most = math.floor(self.fraction * wave.shape[-1])
        return shifted(wave, torch.randint(-most, most + 1, wave.shape[:-1], generator=self.generator))
