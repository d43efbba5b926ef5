"""What makes soft tokens of encoders' features: a projection, and the time at which a token stands."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Seconds [...] → [..., d]: sines and cosines with periods from 0.25 s to 256 s, through a linear map."""

    def __init__(self, dim: int, waves: int = 16):
        super().__init__()
        self.register_buffer("rates", 2 * math.pi / torch.logspace(-2, 8, waves, base=2.0), persistent=False)
        self.out = nn.Linear(2 * waves, dim, bias=False)

    def forward(self, seconds: Tensor) -> Tensor:
        angles = seconds.unsqueeze(-1) * self.rates
        return self.out(torch.cat([angles.sin(), angles.cos()], dim=-1))


class Projector(nn.Module):
    """Encoder features [n, e] → soft tokens [n, d].

    In training, noise is added to the normalised features: another wording is a point nearby, and a model that has met
    few wordings must not depend on the exact point. With `noise` 0.2 the cosine to the clean feature is about 0.98.
    """

    def __init__(self, dim_in: int, dim_out: int, noise: float = 0.0):
        super().__init__()
        self.norm = nn.LayerNorm(dim_in, elementwise_affine=False)
        self.out = nn.Linear(dim_in, dim_out)
        self.noise = noise

    def forward(self, features: Tensor) -> Tensor:
        x = self.norm(features)
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x)
        return self.out(x)
