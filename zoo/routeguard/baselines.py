"""Routers to compare with: nearest neighbours and a small network over pooled prompts (both in arXiv 2605.30693)."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import nn


class RouterBaseline(Protocol):
    """`fit` takes features [n, d] and targets [n, k] (1, 0, −1: unknown); the call gives log-odds [m, k]."""

    def fit(self, features: np.ndarray, targets: np.ndarray) -> None: ...

    def __call__(self, features: np.ndarray) -> np.ndarray: ...


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


class NearestRouter:
    """The share of the `k` nearest training rows (by cosine) that an expert is for, unknown ones left out."""

    def __init__(self, k: int = 15):
        self.k = k

    def fit(self, features: np.ndarray, targets: np.ndarray) -> None:
        self.mean = features.mean(0)
        self.features, self.targets = _unit(features - self.mean), targets

    def __call__(self, features: np.ndarray) -> np.ndarray:
        near = np.argpartition(-_unit(features - self.mean) @ self.features.T, min(self.k, len(self.features)) - 1)
        found = self.targets[near[:, : self.k]]  # [m, k nearest, experts]
        yes, known = (found == 1).sum(1), (found >= 0).sum(1)
        share = (yes + 0.5) / (known + 1.0)  # half a row of doubt: no infinite odds
        return np.log(share / (1 - share))


class NetworkRouter:
    """Two layers over standardised features, trained with the whole set in each step."""

    def __init__(self, width: int = 128, steps: int = 300, lr: float = 3e-3, seed: int = 0):
        self.width, self.steps, self.lr, self.seed = width, steps, lr, seed

    def fit(self, features: np.ndarray, targets: np.ndarray) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.net = nn.Sequential(
                nn.Linear(features.shape[1], self.width), nn.GELU(), nn.Linear(self.width, targets.shape[1])
            )
        self.mean, self.scale = features.mean(0), features.std(0) + 1e-6
        x, y = self._input(features), torch.tensor(targets, dtype=torch.float32)
        known = (y >= 0).float()
        optimizer = torch.optim.AdamW(self.net.parameters(), lr=self.lr, weight_decay=0.1)
        for _ in range(self.steps):
            optimizer.zero_grad()
            each = nn.functional.binary_cross_entropy_with_logits(self.net(x), y.clamp_min(0), reduction="none")
            ((each * known).sum() / known.sum().clamp_min(1)).backward()
            optimizer.step()

    def _input(self, features: np.ndarray) -> torch.Tensor:
        return torch.tensor((features - self.mean) / self.scale, dtype=torch.float32)

    @torch.no_grad()
    def __call__(self, features: np.ndarray) -> np.ndarray:
        return self.net(self._input(features)).double().numpy()
