"""A sound tagger: `SoundNet` tokens, pooled over time, one logit a label. Plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.core.encoders.audio import LogMel, SoundNet


class SoundTagger(nn.Module):
    """The head is a linear layer over the mean and the maximum of the tokens: a bark is short, rain goes on."""

    def __init__(self, labels: Sequence[str], dim: int = 160, width: int = 24):
        super().__init__()
        self.labels = tuple(labels)
        self.shape = {"dim": dim, "width": width}
        self.mel = LogMel()
        self.net = SoundNet(dim, width)
        self.head = nn.Linear(2 * dim, len(self.labels))

    def forward(self, mel: Tensor) -> Tensor:
        """Log-mel [b, frames, 64] → logits [b, labels]."""
        tokens = self.net(mel)  # [b, n, d]
        return self.head(torch.cat([tokens.mean(1), tokens.amax(1)], dim=-1))


def augment_mel(mel: Tensor, generator: torch.Generator) -> Tensor:
    """Changes level, rolls in time, shifts pitch by up to 3 bands, adds hiss, masks a stretch of time and of pitch.

    mel [b, frames, 64], in the scale of `LogMel` (0.33 is 10 dB); each row gets its own changes.
    """

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand((), generator=generator).item()

    out = []
    for row in mel:
        row = row + uniform(-0.3, 0.3)
        row = row.roll(int(uniform(0, len(row))), 0)
        shift = round(uniform(-3, 3))
        if shift:
            row = row.roll(shift, 1)
            edge = slice(0, shift) if shift > 0 else slice(shift, None)
            row[:, edge] = row.amin()
        hiss = torch.randn(row.shape, generator=generator) * 0.1 + uniform(-2.2, -0.6)
        row = torch.maximum(row, hiss)
        start, length = int(uniform(0, len(row))), int(uniform(0, len(row) / 6))
        row[start : start + length] = row.amin()
        band, height = int(uniform(0, 64)), int(uniform(0, 8))
        row[:, band : band + height] = row.amin()
        out.append(row)
    return torch.stack(out)


def tagging_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy over known labels; `labels` [b, k] holds 1, 0 or −1 for unknown.

    Positives are rare, so each label's positives and negatives weigh alike within the batch's known cells.
    """
    known = labels >= 0
    gold = labels.clamp_min(0).float()
    loss = nn.functional.binary_cross_entropy_with_logits(logits, gold, reduction="none")
    weight = torch.where(gold > 0, 3.0, 1.0) * known
    return (loss * weight).sum() / weight.sum().clamp_min(1.0)
