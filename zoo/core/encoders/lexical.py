"""Which words a text has: a bag of hashed word pieces and pairs of them, with an embedding for each, trained.

The wide half of a wide and deep model (Cheng et al. 2016, arXiv 1606.07792; the bag of n-grams is that of fastText,
Joulin et al. 2017). What a frozen sentence encoder smooths over, a rare word or a set phrase, has a place of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.core.encoders.base import Encoder, with_times

# Odd multipliers below 2^31: products of word-piece ids with them do not overflow int64.
ONE, LEFT, RIGHT = 0x5BD1E995, 0x1B873593, 0x4CF5AD43


def hashed(ids: Tensor, buckets: int) -> Tensor:
    """The distinct buckets of the pieces `ids` [n] and of the pairs of neighbours, int64 [m], sorted."""
    ids = ids.long()
    single, pairs = ids * ONE, (ids[:-1] * LEFT) ^ (ids[1:] * RIGHT)
    mixed = torch.cat([single, pairs])
    return ((mixed ^ (mixed >> 15)) % buckets).unique()


class LexicalEncoder(Encoder):
    """Raw input: word-piece ids [n] without special tokens; features [1, dim + 1]: the bag's sum over √m."""

    def __init__(self, buckets: int, dim: int):
        super().__init__()
        if buckets < 1 or dim < 1:
            raise ValueError(f"lexical: {buckets} buckets of {dim} numbers: give whole numbers from 1 on")
        self.dim, self.buckets = dim, buckets
        self.setting = f"lexical/{buckets}/{dim}"
        self.bag = nn.EmbeddingBag(buckets, dim, mode="sum")
        nn.init.normal_(self.bag.weight, std=0.01)  # small: a word that was met a few times is told from one never met

    def freeze(self) -> LexicalEncoder:
        """Nothing is frozen: there is no published one."""
        return self

    def num_tokens(self, raw: Tensor) -> int:
        return 1

    def encode(self, raws: Sequence[Tensor]) -> list[Tensor]:
        device = self.bag.weight.device
        bags = [hashed(raw.cpu(), self.buckets) for raw in raws]
        sizes = torch.tensor([len(b) for b in bags])
        starts = (sizes.cumsum(0) - sizes).to(device)
        sums = self.bag(torch.cat(bags).to(device), starts)  # [b, dim]
        features = sums / sizes.clamp_min(1).sqrt().unsqueeze(-1).to(device)
        return [with_times(f, torch.zeros(1)) for f in features.unsqueeze(1)]
