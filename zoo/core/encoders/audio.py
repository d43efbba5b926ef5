"""`audio-tiny`, the ear: log-mel frames through a small convolution, one token for each 320 ms of sound."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchaudio
from torch import Tensor, nn

from zoo.core.encoders.base import Encoder, with_times

RATE = 16_000
HOP = 160  # 10 ms
MELS = 64
STRIDE = 32  # mel frames a token


class LogMel(nn.Module):
    """Waveform [samples] at 16 kHz → log-mel [frames, 64], 10 ms apart, clamped at −80 dB."""

    def __init__(self):
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            RATE, n_fft=400, hop_length=HOP, n_mels=MELS, f_min=40, f_max=7800
        )

    def forward(self, wave: Tensor) -> Tensor:
        return (self.mel(wave).clamp_min(1e-8).log10().transpose(-1, -2) + 3.0) / 3.0  # [frames, 64]


class SoundNet(nn.Module):
    """Log-mel [b, frames, 64] → tokens [b, frames / 32, dim].

    Strided convolutions over time and pitch; the pitch axis is kept as channels at the end, because what tells a
    siren from a whistle is where on that axis it moves.
    """

    def __init__(self, dim: int = 160, width: int = 24):
        super().__init__()
        w = width
        self.blocks = nn.Sequential(
            self._block(1, w, (2, 2)),  # [b, w, f/2, 32]
            self._block(w, 2 * w, (2, 2)),  # [b, 2w, f/4, 16]
            self._block(2 * w, 3 * w, (2, 2)),  # [b, 3w, f/8, 8]
            self._block(3 * w, 4 * w, (2, 2)),  # [b, 4w, f/16, 4]
        )
        self.out = nn.Sequential(
            nn.Conv1d(4 * w * (MELS // 16), dim, 3, padding=1),
            nn.BatchNorm1d(dim),
            nn.ReLU(),
            nn.AvgPool1d(2, ceil_mode=True),
        )

    @staticmethod
    def _block(c_in: int, c_out: int, stride: tuple[int, int]) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.MaxPool2d(stride, ceil_mode=True),
        )

    def forward(self, mel: Tensor) -> Tensor:
        x = self.blocks(mel.unsqueeze(1))  # [b, c, f/16, 4]
        x = x.transpose(1, 2).flatten(2).transpose(1, 2)  # [b, f/16, 4c] → [b, 4c, f/16]
        return self.out(x).transpose(1, 2)  # [b, f/32, dim]


class AudioEncoder(Encoder):
    """Raw input: log-mel [frames, 64]. Only sounds of equal length share a batch: padding would leak."""

    def __init__(self, net: SoundNet, dim: int):
        super().__init__()
        self.net, self.dim = net, dim
        self.mel = LogMel()
        self.setting = f"audio/{RATE}/{HOP}/{MELS}/{STRIDE}"

    def load(self, wave: Tensor) -> Tensor:
        """Waveform [samples] → log-mel [frames, 64]; silence is appended up to one token's length."""
        if len(wave) < STRIDE * HOP:
            wave = nn.functional.pad(wave, (0, STRIDE * HOP - len(wave)))
        with torch.no_grad():
            return self.mel(wave)

    def num_tokens(self, raw: Tensor) -> int:
        n = len(raw)
        for _ in range(5):  # four poolings in the blocks and one after them, each rounding up
            n = -(-n // 2)
        return n

    def token_times(self, n: int) -> Tensor:
        """Seconds at the middle of each token, [n]."""
        return (torch.arange(n) + 0.5) * STRIDE * HOP / RATE

    @torch.no_grad()
    def encode(self, raws: Sequence[Tensor]) -> list[Tensor]:
        device = next(self.net.parameters()).device
        out: list[Tensor | None] = [None] * len(raws)
        by_length: dict[int, list[int]] = {}
        for i, raw in enumerate(raws):
            by_length.setdefault(len(raw), []).append(i)
        for rows in by_length.values():
            for start in range(0, len(rows), 16):
                picked = rows[start : start + 16]
                tokens = self.net(torch.stack([raws[i] for i in picked]).to(device))  # [b, n, d]
                for i, t in zip(picked, tokens):
                    out[i] = with_times(t, self.token_times(len(t)))
        return out
