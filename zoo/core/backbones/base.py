"""The backbone interface: prepare (in a worker) → collate → encode → score | generate.

A backbone reads pieces of a prompt and answers queries. It knows neither labels nor losses, and nothing about files
beyond asking `datamodules.media` for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import Policy, Sample
from zoo.core.query import Query


@dataclass
class Scores:
    """Log-probabilities of options: `logp` [b, q, o] (−inf where a query has fewer options, 0 where there is no query).

    `tokens` [b, q, o] counts the tokens of each option, terminator included; zero where there is none.
    """

    logp: Tensor
    tokens: Tensor

    def log_odds(self, query: int | slice = 0) -> Tensor:
        """log P(second option) − log P(first option): [b] for one query, [b, q] for a slice."""
        return self.logp[:, query, 1] - self.logp[:, query, 0]


class Backbone(nn.Module, ABC):
    """`modalities` names what it can take. Subclasses say in `describe()` all that is needed to build them again."""

    modalities: frozenset[str] = frozenset(("text", "image", "audio", "video"))

    @abstractmethod
    def prepare(self, sample: Sample, policy: Policy, queries: Sequence[Query] = ()) -> Any:
        """One sample as tensors, with its query branches. Runs in a worker; raises `MediaError` for a bad file."""

    @abstractmethod
    def collate(self, rows: Sequence[Any]) -> Any:
        """Prepared rows as one batch, which has `.to(device)`, `size` and `truncated` (a list of b booleans)."""

    @abstractmethod
    def encode(self, batch: Any) -> Any:
        """The state after the prompts: what every query and every generated text goes on from."""

    @abstractmethod
    def score(self, state: Any, queries: Sequence[Sequence[Query]] | None = None) -> Scores:
        """Scores all queries of all rows as branches, in one pass; None: those that the batch was prepared with."""

    def score_batch(self, batch: Any) -> Scores:
        """`score(encode(batch))` where nothing else is wanted of the state; a backbone may do it in one pass.

        Where a query is asked, every trainable parameter takes part, whatever modalities the batch lacks: processes
        that share a step wait for the gradients of all of them.
        """
        return self.score(self.encode(batch))

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        """`score_batch` as plain tensors, for the steps of a trainer: strategies hang their hooks on this call."""
        scores = self.score_batch(batch)
        return scores.logp, scores.tokens

    def option_tokens(self, batch: Any) -> Tensor:
        """How many tokens each option of a batch has, as in `Scores.tokens` [b, q, o], before it is scored."""
        return batch.branches.counts

    def layers(self) -> list[nn.Module]:
        """Modules that every pass runs through one after the other: what a sharding strategy gathers one at a time."""
        return list(self.lm.get_decoder().layers)

    @abstractmethod
    def generate(self, state: Any, suffixes: Sequence[Query], max_new_tokens: int = 64) -> list[str]:
        """Greedy text after each row's suffix, from the same state."""

    @abstractmethod
    def input_embeddings(self, batch: Any) -> Tensor:
        """Differentiable embeddings of the prompts [b, p, d] (for gradients with respect to the input)."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain JSON that `zoo.core.backbones.build` makes the same backbone from; pins the hashes of frozen parts."""

    def warm(self, samples: Sequence[Sample], phrases: Sequence[str] = ()) -> list[tuple[Sample, str]]:
        """Fills the feature cache for `samples`; returns the samples that cannot be read, with the reason."""
        return []

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the trainable tensors. Frozen parts are pinned by hash instead."""
        return {n: t for n, t in self.state_dict().items() if n in self._saved_names()}

    def load_saved_state(self, state: dict[str, Tensor]) -> None:
        """Strict: the names and shapes must be exactly those of `saved_state`. Raises ValueError otherwise."""
        own, wanted = self.state_dict(), self._saved_names()
        missing, extra = sorted(wanted - set(state)), sorted(set(state) - wanted)
        if missing or extra:
            raise ValueError(f"weights do not fit the backbone: missing {missing[:3]}, unexpected {extra[:3]}")
        for name, value in state.items():
            if own[name].shape != value.shape:
                raise ValueError(
                    f"weights do not fit: {name} is {tuple(value.shape)}, expected {tuple(own[name].shape)}"
                )
        with torch.no_grad():
            for name, value in state.items():
                own[name].copy_(value)

    def _saved_names(self) -> set[str]:
        return {n for n, p in self.named_parameters(remove_duplicate=True) if p.requires_grad}
