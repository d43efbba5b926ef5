"""Passes of a causal language model over prompts and their branches: one after the other, or both at once.

Prompts are right-padded. Their positions are [b, p], or [axes, b, p] for a model that places pictures on several axes;
what follows a prompt is text, which stands at the same position on every axis. The first `first` tokens of all prompts
are the same where they are shared: they are read once, and count from 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from zoo.core.backbones import branches as br
from zoo.core.backbones.generation import Past
from zoo.core.backbones.prefix import HasDecoder, prefix_states, read_prefix


def encode(lm: HasDecoder, x: Tensor, lengths: Tensor, positions: Tensor | None = None, first: int = 0) -> DynamicCache:
    """Keys and values of embedded prompts [b, p, d] of `lengths` [b]; without `positions` they count from 0.

    Raises RuntimeError in training with gradient checkpointing, which keeps none.
    """
    return read(lm, x, lengths, positions, first)[1]


def read(
    lm: HasDecoder, x: Tensor, lengths: Tensor, positions: Tensor | None = None, first: int = 0
) -> tuple[Tensor, DynamicCache]:
    """Outputs [b, p, d] of embedded prompts, and what `encode` returns of them."""
    mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # [b, p]
    head, cache = prefix_states(lm, x[:1, :first]) if first else (x[:, :0], DynamicCache())
    cache = br.fork(cache, len(x)) if first else cache
    out = lm.get_decoder()(
        inputs_embeds=x[:, first:],
        attention_mask=mask.long(),
        position_ids=None if positions is None else positions[..., first:],
        past_key_values=cache,
        use_cache=True,
    )
    if cache.get_seq_length() != x.shape[1]:
        raise RuntimeError("gradient checkpointing in training keeps no cache: call eval() first, or score_batch")
    return torch.cat([head.expand(len(x), -1, -1), out.last_hidden_state], dim=1), cache


def read_on(lm: HasDecoder, past: Past, x: Tensor) -> Past:
    """One row's past with embeddings x [1, n, d] read after it; its cache grows, and is what is returned."""
    n = x.shape[1]
    lm.get_decoder()(
        inputs_embeds=x,
        attention_mask=torch.ones(1, past.width + n, dtype=torch.long, device=x.device),
        position_ids=past.after[:, None] + torch.arange(n, device=x.device),  # [1, n]
        past_key_values=past.cache,
        use_cache=True,
    )
    return Past(past.cache, past.lengths + n, past.width + n, past.after + n)


def go_on(lm: HasDecoder, past: Past, x: Tensor, branches: br.Branches) -> Tensor:
    """Outputs [b, T, d] for embedded branches [b, T, d] after the prompts, whose keys and values stay as they were."""
    if not x.shape[1]:
        return x  # nothing is asked of any row
    out = lm.get_decoder()(
        inputs_embeds=x,
        attention_mask=br.attention_mask(branches, past.lengths, past.width, br.mask_dtype(x)),
        position_ids=branches.positions(past.after),  # [b, T]
        past_key_values=br.fork(past.cache),
        use_cache=True,
    )
    return out.last_hidden_state


def at_once(
    lm: HasDecoder,
    prompt: Tensor,
    x: Tensor,
    branches: br.Branches,
    lengths: Tensor,
    after: Tensor,
    positions: Tensor | None = None,
    first: int = 0,
    past: DynamicCache | None = None,
) -> Tensor:
    """The same [b, T, d] in one pass over prompts [b, p, d] and branches, without a cache but for what is shared.

    `past` holds the keys and values of the first tokens where they have been read already.
    """
    b, p, _ = prompt.shape
    if positions is None:
        positions = torch.arange(p, device=prompt.device).expand(b, p)
    follow = branches.positions(after)  # [b, T]
    if first and past is None:
        past = read_prefix(lm, prompt[:1, :first], b)
    out = lm.get_decoder()(
        inputs_embeds=torch.cat([prompt[:, first:], x], dim=1),
        attention_mask=br.whole_mask(branches, lengths, p, br.mask_dtype(prompt), first),
        position_ids=torch.cat([positions[..., first:], follow.expand(*positions.shape[:-1], -1)], dim=-1),
        past_key_values=past,
        use_cache=past is not None,
    )
    return out.last_hidden_state[:, p - first :]
