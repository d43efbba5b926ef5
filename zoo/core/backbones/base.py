"""The backbone interface: prepare (in a worker) → collate → encode → score | generate.

A backbone reads pieces of a prompt and answers queries. It knows neither labels nor losses, and nothing about files
beyond asking `datamodules.media` for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from datamodules.schema import DataError, MediaError, Policy, Sample
from datamodules.transforms.augment import Augment
from zoo.core.cache import FeatureCache
from zoo.core.encoders.text import TextEncoder
from zoo.core.query import Query

if TYPE_CHECKING:
    from zoo.core.backbones.sight import Sight
    from zoo.core.backbones.stream import Stream


WHOLE_ONLY = "answers for whole conversations only: ask a guard over matcher, tiny_words, tiny, smollm2 or causal_lm"


@dataclass
class Scores:
    """Log-probabilities of options: `logp` [b, q, o] (−inf where a query has fewer options, 0 where there is no query).

    `tokens` [b, q, o] counts the tokens of each option, terminator included; zero where there is none.
    """

    logp: Tensor
    tokens: Tensor

    def log_odds(self, query: int | slice = 0) -> Tensor:
        """log P(second option) − log P(any other option): [b] for one query, [b, q] for a slice."""
        logp = self.logp[:, query]
        if logp.shape[-1] == 2:
            return logp[..., 1] - logp[..., 0]
        return logp[..., 1] - torch.cat([logp[..., :1], logp[..., 2:]], dim=-1).logsumexp(-1)


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of several batches as one, padded to the most queries and options."""
    size = [max(p.logp.shape[d] for p in parts) for d in (1, 2)]
    logp, tokens = [], []
    for part in parts:
        more = (0, size[1] - part.logp.shape[2], 0, size[0] - part.logp.shape[1])
        asked = nn.functional.pad(part.tokens, more)
        none, some = asked == 0, (asked > 0).any(-1, keepdim=True)
        logp.append(nn.functional.pad(part.logp, more).masked_fill(none & some, -torch.inf))
        tokens.append(asked)
    return Scores(torch.cat(logp), torch.cat(tokens))


@dataclass
class ExportParts:
    """What `zoo.export` writes.

    `model` is a class of transformers, LoRA layers perhaps injected; `processor` its tokenizer or processor as it was
    loaded; `loader` the plain class that reads both the export and the base. `base` is the folder that adapters lie
    over (None: trained from scratch); `base_name` and `base_revision` are what they call it. `rest` holds the tensors
    that no hub class reads; `reads_text` says whether the model was trained on its tokenizer's own tokens.
    """

    model: PreTrainedModel
    processor: Any
    loader: type
    base: Path | None = None
    base_name: str | None = None
    base_revision: str | None = None
    rest: dict[str, Tensor] = field(default_factory=dict)
    reads_text: bool = True


class Backbone(nn.Module, ABC):
    """`modalities` names what it can take. Subclasses say in `describe()` all that is needed to build them again.

    `cache` keeps features of frozen encoders on disk; None where there is none. `in_step` says that several processes
    run the backbone together: every batch then takes the same passes on each, or sharded ones wait for ever.
    `needs_policy` says that it reads nothing without one.
    """

    modalities: frozenset[str] = frozenset(("text", "image", "audio", "video"))
    cache: FeatureCache | None = None
    in_step: bool = False
    needs_policy: bool = False

    @abstractmethod
    def prepare(
        self, sample: Sample, policy: Policy | None, queries: Sequence[Query] = (), augment: Augment | None = None
    ) -> Any:
        """One sample as tensors, with its query branches. Runs in a worker; raises `MediaError` for a bad file.

        Without a policy the prompt is the conversation alone (see `render`). What `augment` changes is read from the
        file, whatever the cache holds.
        """

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

    def sights(self, sample: Sample, policy: Policy) -> list[Sight]:
        """What is in sight of the sample's messages after none, one, … all of them, for queries within them.

        Raises `DataError` for a backbone that can only be asked after all of them.
        """
        raise DataError(f"backbone {self.describe()['name']} {WHOLE_ONLY}")

    def score_groups(self, rows: Sequence[Any], groups: Sequence[tuple[int, Sequence[Query]]]) -> Scores:
        """Scores [g, q, o] of groups of queries within prepared rows. Raises `DataError` as `sights`."""
        raise DataError(f"backbone {self.describe()['name']} {WHOLE_ONLY}")

    def stream(self, policy: Policy, target: str = "trajectory") -> Stream:
        """Reads a conversation message by message. Raises `DataError` as `sights`."""
        raise DataError(f"backbone {self.describe()['name']} {WHOLE_ONLY}")

    @abstractmethod
    def generate(self, state: Any, suffixes: Sequence[Query], max_new_tokens: int = 64) -> list[str]:
        """Greedy text after each row's suffix, from the same state."""

    @abstractmethod
    def input_embeddings(self, batch: Any) -> Tensor:
        """Differentiable embeddings of the prompts [b, p, d] (for gradients with respect to the input)."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Plain JSON that `zoo.core.backbones.build` makes the same backbone from; pins the hashes of frozen parts."""

    def check(self, samples: Sequence[Sample]) -> None:
        """Raises `MediaError` for the first sample with a kind of media that this backbone cannot take."""
        for sample in samples:
            needs = {p.type for p in sample.media}
            if any(p.type == "video" and p.sound for p in sample.media):
                needs.add("audio")  # the clip's track
            lacking = sorted(needs - self.modalities)
            if lacking:
                raise MediaError(
                    f"sample {sample.id!r} needs {' and '.join(lacking)}, and backbone {self.describe()['name']} takes "
                    f"{', '.join(sorted(self.modalities))} only: choose another backbone, or leave such samples out "
                    '(data.modalities=[…]); a clip\'s track is left out with "sound": false'
                )

    def warm(self, samples: Sequence[Sample], phrases: Sequence[str] = ()) -> list[tuple[Sample, str]]:
        """Fills the feature cache for `samples`; returns the samples that cannot be read, with the reason."""
        return []

    def text_encoder(self) -> tuple[TextEncoder, Any, int] | None:
        """The frozen encoder that its passages go through, the tokenizer, and the most word pieces of a sample; None
        where words are read without one.
        """
        return None

    def encoded(self, batch: Any) -> dict[str, Tensor]:
        """Features of the passages that a batch holds since it was scored, by their key in the cache."""
        return {}

    def export_parts(self) -> ExportParts:
        """The language model and what belongs to it. Raises `DataError` for a backbone that has none to give."""
        raise DataError(f"the backbone {self.describe()['name']!r} has no language model in the hub's layout")

    def saved_state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: the trainable tensors. Frozen parts are pinned by hash instead."""
        names = self._saved_names()
        return {n: t for n, t in self.state_dict().items() if n in names}

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
