"""The wide half of a wide and deep guard (Cheng et al. 2016, arXiv 1606.07792): two linear readers of the judged text.

A language model that learns from a few sources learns to tell them apart, too, and what it knows of words ends where
they end. A linear reader has nowhere to put such a rule, and being convex it is the same for every seed. One reads
words: hashed word pieces and pairs of neighbours, tf-idf weighted. One reads the sentence: the mean token state of a
frozen encoder. They are fitted (`wide_fit`), not stepped, and vote beside the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

BUCKETS = 2**18


@dataclass
class Features:
    """What the readers read of b texts: `bags` are distinct buckets, int64 [m] each; `sentences` [b, d], length 1."""

    bags: list[Tensor]
    sentences: Tensor


class Wide(nn.Module):
    """Two logistic regressions: of words over `buckets`, and of sentences over `dim` numbers.

    `encoder` is the fingerprint of the one that sentences come from. There are no tensors until `set` gives some:
    nothing that processes in training would have to keep alike. Nothing is trained by steps, so all are buffers.
    """

    def __init__(self, dim: int, buckets: int = BUCKETS, encoder: str = ""):
        super().__init__()
        if dim < 1 or buckets < 1:
            raise ValueError(f"wide: {buckets} buckets and sentences of {dim} numbers: give whole numbers from 1 on")
        self.dim, self.buckets, self.encoder = dim, buckets, encoder
        self.sizes = {"idf": buckets, "words": buckets, "sentence": dim, "biases": 2}

    @property
    def fitted(self) -> bool:
        return bool(self._buffers)

    def describe(self) -> dict[str, Any]:
        return {"dim": self.dim, "buckets": self.buckets, "encoder": self.encoder}

    def odds(self, features: Features) -> Tensor:
        """Log-odds of unsafe by each reader, [b, 2]: of the words, of the sentence."""
        ids, values, owner = weighted(features.bags, self.idf)
        words = torch.zeros(len(features.bags), device=ids.device).index_add_(0, owner, self.words[ids] * values)  # [b]
        sentence = features.sentences.to(ids.device) @ self.sentence  # [b]
        return torch.stack([words, sentence], dim=-1) + self.biases

    def set(self, state: dict[str, Tensor]) -> None:
        """Takes weights over. Raises ValueError unless their names and sizes are those of `sizes`."""
        if set(self.sizes) != set(state):
            raise ValueError(
                f"weights do not fit the wide half: it has {sorted(self.sizes)}, they have {sorted(state)}"
            )
        for name, size in self.sizes.items():
            if state[name].shape != (size,):
                raise ValueError(f"weights do not fit: wide.{name} is {tuple(state[name].shape)}, expected ({size},)")
        for name, value in state.items():
            self.register_buffer(name, value.detach().float().clone())


def weighted(bags: Sequence[Tensor], idf: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """b bags end to end: their buckets, the tf-idf value of each, and the bag that it is of, [n] each.

    A bucket counts once a text, and the values of a bag have length 1. One with idf 0 says nothing.
    """
    device = idf.device
    sizes = torch.tensor([len(b) for b in bags], dtype=torch.long, device=device)
    owner = torch.repeat_interleave(torch.arange(len(bags), device=device), sizes)
    ids = torch.cat([*bags, torch.zeros(0, dtype=torch.long)]).to(device)
    values = idf[ids]
    norms = torch.zeros(len(bags), device=device).index_add_(0, owner, values**2).sqrt()  # [b]
    return ids, values / norms.clamp_min(1e-12)[owner], owner


def inverse_frequency(bags: Sequence[Tensor], buckets: int = BUCKETS, least: int = 2) -> Tensor:
    """Smoothed inverse document frequency [buckets], as scikit-learn's: ln((1 + n) / (1 + df)) + 1.

    0 for what fewer than `least` of the n texts have; of fewer than 100 texts, one is enough.
    """
    counts = torch.zeros(buckets)
    for bag in bags:
        counts[bag] += 1
    idf = torch.log((1 + len(bags)) / (1 + counts)) + 1
    return idf * (counts >= (least if len(bags) >= 100 else 1))


@dataclass(frozen=True)
class Votes:
    """How three log-odds become one: a weight each for the language model and the two readers, and a shift.

    The votes are equal: each log-odds is centred and divided by its standard deviation over validation rows, and the
    sum has the language model's mean and standard deviation again. That they are equal was decided beforehand, and is
    not fitted: validation rows are of the training's sources, where the language model is best, and would trust it
    alone. `temperature` divides the language model's log-odds where it judges alone.
    """

    model: float
    words: float
    sentence: float
    shift: float
    temperature: float = 1.0

    def together(self, odds: Tensor, wide: Tensor) -> Tensor:
        """One log-odds from the language model's [b] and the readers' [b, 2]."""
        return self.model * odds + self.words * wide[..., 0] + self.sentence * wide[..., 1] + self.shift


def fit_votes(odds: Tensor, wide: Tensor, temperature: float = 1.0) -> Votes | None:
    """Equal votes from validation rows, `odds` [n] and `wide` [n, 2]; None where one of them says the same of all."""
    columns = torch.cat([odds.unsqueeze(-1), wide], dim=-1).double()  # [n, 3]
    if not len(columns):
        return None
    means, spreads = columns.mean(0), columns.std(0, correction=0)  # [3]
    if (spreads <= 1e-12).any():
        return None
    spread = ((columns - means) / spreads).sum(-1).std(correction=0)
    if spread <= 1e-12:
        return None
    weights = spreads[0] / (spread * spreads)  # [3]
    return Votes(*weights.tolist(), shift=(means[0] - weights @ means).item(), temperature=temperature)
