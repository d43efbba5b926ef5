"""What a backbone's language model reads, as embeddings and positions: for full passes to compare with.

Neither caches, masks nor branches: one row, plain causal attention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.core.backbones.base import Backbone
from zoo.core.backbones.native import NativeBackbone
from zoo.core.backbones.soft_token import TYPE
from zoo.core.backbones.tokens import Row, collate_tokens


@dataclass
class Reading:
    """Embeddings x [1, n, d]; positions [3, 1, n] where the model has three axes."""

    x: Tensor
    positions: Tensor | None = None

    def then(self, x: Tensor) -> Reading:
        """With text [1, m, d] after it."""
        positions = self.positions
        if positions is not None:
            more = positions[:, :, -1:] + 1 + torch.arange(x.shape[1])
            positions = torch.cat([positions, more], dim=-1)
        return Reading(torch.cat([self.x, x], dim=1), positions)

    def of(self, x: Tensor) -> Reading:
        """The same places, other embeddings."""
        return replace(self, x=x)


def lengths_of(batch) -> list[int]:
    """Tokens of each prompt of a collated batch."""
    return (batch.lengths if hasattr(batch, "lengths") else batch.prompt.lengths).tolist()


def prompt_of(backbone: Backbone, sample, policy) -> Reading:
    batch = backbone.collate([backbone.prepare(sample, policy)])
    (n,) = lengths_of(batch)
    positions = batch.positions[:, :, :n] if isinstance(backbone, NativeBackbone) else None
    return Reading(backbone.input_embeddings(batch)[:, :n], positions)


def suffix_of(backbone: Backbone, query) -> Tensor:
    """Embeddings [1, s, d] of a query's suffix."""
    if isinstance(backbone, NativeBackbone):
        return words(backbone, backbone.reader.suffix_ids(query.suffix))
    row = Row()
    for source in backbone.reader.suffix(query.suffix):
        row.add(source, TYPE["query"])
    return backbone.embed(collate_tokens([row], backbone.kinds))[:, : len(row)]  # without the padding


def words(backbone: Backbone, ids) -> Tensor:
    """Embeddings [1, n, d] of token ids."""
    return backbone.lm.get_input_embeddings()(torch.as_tensor(ids, dtype=torch.long))[None]


def logits(backbone: Backbone, reading: Reading) -> Tensor:
    """[n, v] of one full pass."""
    places = {} if reading.positions is None else {"position_ids": reading.positions}
    return backbone.lm(inputs_embeds=reading.x, use_cache=False, **places).logits[0]


def brute(backbone: Backbone, prompt: Reading, query) -> Tensor:
    """[o]: one full pass for each option over prompt + suffix + option."""
    out = []
    for option in query.options:
        ids = torch.tensor(backbone.reader.answer(option))
        assert ids[-1] == backbone.reader.terminator
        ids = ids if query.terminated else ids[:-1]
        head = prompt.then(suffix_of(backbone, query))
        logp = logits(backbone, head.then(words(backbone, ids[:-1]))).log_softmax(-1)
        at = torch.arange(len(ids)) + head.x.shape[1] - 1
        out.append(logp[at, ids].sum())
    return torch.stack(out)


@torch.no_grad()
def greedy(backbone: Backbone, prompt: Reading, query, terminator: int, steps: int) -> list[int]:
    """The likeliest token again and again, each by a full pass."""
    reading, ids = prompt.then(suffix_of(backbone, query)), []
    for _ in range(steps):
        token = int(logits(backbone, reading)[-1].argmax())
        if token == terminator:
            break
        ids.append(token)
        reading = reading.then(words(backbone, [token]))
    return ids
