"""The wide half of a wide and deep guard (Cheng et al. 2016, arXiv 1606.07792): two linear readers of the judged text.

A language model that learns from a few sources learns to tell them apart, too, and what it knows of words ends where
they end. A linear reader has nowhere to put such a rule, and being convex it is the same for every seed. One reads
words: hashed word pieces and pairs of neighbours, tf-idf weighted. One reads the sentence: the mean token state of a
frozen encoder. They are fitted (`zoo.wide`), not stepped, and vote beside the language model.
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
    """Two logistic regressions: of words over `buckets`, and of sentences over `dim` numbers. Nothing here is trained
    by steps, so all of it is buffers. `fitted` is false until weights are set or loaded.
    """

    def __init__(self, dim: int, buckets: int = BUCKETS):
        super().__init__()
        if dim < 1 or buckets < 1:
            raise ValueError(f"wide: {buckets} buckets and sentences of {dim} numbers: give whole numbers from 1 on")
        self.dim, self.buckets, self.fitted = dim, buckets, False
        for name, size in (("idf", buckets), ("words", buckets), ("sentence", dim), ("biases", 2)):
            self.register_buffer(name, torch.zeros(size))

    def describe(self) -> dict[str, Any]:
        return {"dim": self.dim, "buckets": self.buckets}

    def weighted(self, bags: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The bags end to end [n], and the tf-idf value of each bucket [n]: a bag's values have length 1.

        A bucket counts once a text. One that training rows have in fewer than two texts has idf 0, and says nothing.
        """
        device = self.idf.device
        sizes = torch.tensor([len(b) for b in bags], device=device)
        owner = torch.repeat_interleave(torch.arange(len(bags), device=device), sizes)  # [n]
        ids = torch.cat([*bags, torch.zeros(0, dtype=torch.long)]).to(device)  # [n]
        values = self.idf[ids]
        norms = torch.zeros(len(bags), device=device).index_add_(0, owner, values**2).sqrt()  # [b]
        return ids, values / norms.clamp_min(1e-12)[owner]

    def odds(self, features: Features) -> Tensor:
        """Log-odds of unsafe by each reader, [b, 2]: of the words, of the sentence."""
        ids, values = self.weighted(features.bags)
        device = self.idf.device
        sizes = torch.tensor([len(b) for b in features.bags], device=device)
        owner = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)
        words = torch.zeros(len(sizes), device=device).index_add_(0, owner, self.words[ids] * values)  # [b]
        sentence = features.sentences.to(device) @ self.sentence  # [b]
        return torch.stack([words, sentence], dim=-1) + self.biases

    def set(self, state: dict[str, Tensor]) -> None:
        """Takes weights over. Raises ValueError unless names and shapes are exactly those of `state_dict`."""
        own = self.state_dict()
        if set(own) != set(state):
            raise ValueError(f"weights do not fit the wide half: it has {sorted(own)}, they have {sorted(state)}")
        for name, value in state.items():
            if own[name].shape != value.shape:
                raise ValueError(
                    f"weights do not fit: wide.{name} is {tuple(value.shape)}, expected {tuple(own[name].shape)}"
                )
            own[name].copy_(value)
        self.fitted = True


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
