"""The prefix that all rows of a batch have in common, which is their policy: read once, for all of them.

Prompts begin with the policy, so its keys and values are the same in every row. They are computed for one row and
spread over the batch as a view; gradients of all rows add up in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from zoo.core.backbones.branches import fork
from zoo.core.backbones.tokens import IDS, Row

# One more pass over a few tokens costs what it saves in others. Measured with benchmarks/prefix.py: two rows gain
# nothing from 128 shared tokens, sixteen gain from 48.
LEAST, SAVED = 32, 128
STEP = 8  # as the widths of batches are rounded


class HasDecoder(Protocol):
    """What passes run: a language model of transformers, or some of its layers (`split.Stage`)."""

    def get_decoder(self) -> torch.nn.Module: ...


def leading_ids(row: Row) -> Tensor:
    """The ids [n] that a row begins with, up to the first soft token."""
    ids = []
    for source in row.sources:
        if source.kind != IDS:
            break
        ids.append(source.value)
    return torch.cat(ids) if ids else torch.zeros(0, dtype=torch.long)


def common_prefix(rows: Sequence[Row]) -> int:
    """How many tokens to share: a multiple of STEP, each row keeping one of its own; 0 where sharing would not pay."""
    if len(rows) < 2:
        return 0
    leads = [leading_ids(r) for r in rows]
    most = min(min(map(len, leads)), min(map(len, rows)) - 1)
    same = (torch.stack([x[:most] for x in leads]) == leads[0][:most]).all(0)  # [most]
    shared = int(same.cumprod(0).sum()) // STEP * STEP
    return shared if shared >= LEAST and shared * (len(rows) - 1) >= SAVED else 0


def read_prefix(lm: HasDecoder, x: Tensor, rows: int) -> DynamicCache:
    """Keys and values of embeddings [1, s, d], spread over `rows` without a copy."""
    return fork(prefix_states(lm, x)[1], rows)


def prefix_states(lm: HasDecoder, x: Tensor) -> tuple[Tensor, DynamicCache]:
    """Outputs [n, s, d] of embeddings [n, s, d] that stand first in their rows, and their keys and values."""
    cache = DynamicCache()
    out = lm.get_decoder()(inputs_embeds=x, past_key_values=cache, use_cache=True)
    return out.last_hidden_state, cache


def can_share(lm: PreTrainedModel) -> bool:
    """Whether a training step may share: not with dropout, which draws for each row; nor with layers computed again
    in the backward pass, which then keep no keys and values."""
    heads = ("classifier", "summary")  # of other tasks
    drops = (v for k, v in lm.config.to_dict().items() if "drop" in k and not k.startswith(heads))
    layers = (m.p for m in lm.modules() if isinstance(m, torch.nn.Dropout))
    random = any(isinstance(p, float) and p > 0 for p in (*drops, *layers))
    return not random and not any(getattr(m, "gradient_checkpointing", False) for m in lm.modules())
