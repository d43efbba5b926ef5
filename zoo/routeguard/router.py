"""The router: which experts a prompt is for, read off the hidden states that all of them share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class AttentionRouter(nn.Module):
    """A probability for each expert from hidden states after the lower layers: no pass of its own.

    The paper's router is a language model that writes a set. This one looks at the prompt with a few learned vectors an
    expert and answers from what they find; what is learned of one expert shares nothing with another but `mix`.
    """

    def __init__(self, dim: int, width: int = 64, heads: int = 2):
        super().__init__()
        self.width, self.heads = width, heads
        self.norm, self.mix = nn.LayerNorm(dim), nn.Linear(dim, width)
        self.look, self.answer = nn.ParameterDict(), nn.ParameterDict()

    @property
    def names(self) -> list[str]:
        return list(self.look)

    def add(self, name: str) -> None:
        """Vectors for one more expert, the last in `names`."""
        device = self.mix.weight.device
        self.look[name] = nn.Parameter(torch.randn(self.heads, self.width, device=device))
        self.answer[name] = nn.Parameter(torch.zeros(self.heads * self.width + 1, device=device))

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Log-odds [b, k] of the experts in `names`, from hidden states [b, p, d] of prompts of `lengths` [b]."""
        x = nn.functional.gelu(self.mix(self.norm(hidden.float())))  # [b, p, w]
        look = torch.cat(list(self.look.values()))  # [k · h, w]
        weights = x @ look.T / math.sqrt(self.width)  # [b, p, k · h]
        real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # [b, p]
        weights = weights.masked_fill(~real.unsqueeze(-1), -torch.inf).softmax(dim=1)
        found = (weights.mT @ x).view(len(x), len(self.look), -1)  # [b, k, h · w]
        answer = torch.stack(list(self.answer.values()))  # [k, h · w + 1]
        return (found * answer[:, :-1]).sum(-1) + answer[:, -1]


def pooled(hidden: Tensor, lengths: Tensor) -> Tensor:
    """The mean hidden state [b, d] of each prompt: what the baselines of `baselines.py` read."""
    real = (torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]).unsqueeze(-1)
    return (hidden.float() * real).sum(1) / lengths[:, None]
