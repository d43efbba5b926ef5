"""Greedy text after an encoded prompt, for any causal language model of transformers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from zoo.core.backbones import branches as br


@dataclass
class Past:
    """Keys and values of the prompts: their real lengths [b], right-padded to `width`.

    What follows row i begins at position `after[i]`. That is its length, except where media take several positions a
    token or several tokens a position.
    """

    cache: DynamicCache
    lengths: Tensor
    width: int
    after: Tensor  # [b]


@torch.no_grad()
def greedy(
    lm: PreTrainedModel, past: Past, suffix: Tensor, lengths: Tensor, terminator: int, max_new_tokens: int
) -> list[list[int]]:
    """The likeliest token again and again after embedded suffixes [b, s, d] of `lengths` [b], right-padded.

    A row ends at `terminator`, which is not part of what is returned. The past stays as it was. Every row's positions
    count its own tokens alone, so a row reads the same whatever it is batched with.
    """
    device = past.lengths.device
    b, s, _ = suffix.shape
    cache, x, dtype = br.fork(past.cache), suffix, br.mask_dtype(suffix)
    seen = torch.cat(
        [
            torch.arange(past.width, device=device) < past.lengths[:, None],
            torch.arange(s, device=device) < lengths[:, None],
        ],
        dim=1,
    )  # [b, p + s]
    causal = torch.ones(s, s, dtype=torch.bool, device=device).tril()
    look = seen[:, None, :].repeat(1, s, 1)
    look[:, :, past.width :] &= causal
    positions = past.after[:, None] + torch.arange(s, device=device)  # [b, s]
    last = lengths - 1
    done = torch.zeros(b, dtype=torch.bool, device=device)
    out: list[list[int]] = [[] for _ in range(b)]
    for step in range(max_new_tokens):
        mask = torch.zeros(look.shape, dtype=dtype, device=device).masked_fill(~look, torch.finfo(dtype).min)
        hidden = lm.get_decoder()(
            inputs_embeds=x,
            attention_mask=mask.unsqueeze(1),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        states = hidden[torch.arange(b, device=device), last]
        chosen = lm.get_output_embeddings()(states).argmax(-1)  # [b]
        done |= chosen == terminator
        if done.all():
            break
        for i, token in enumerate(chosen.tolist()):
            if not done[i]:
                out[i].append(token)
        seen = torch.cat([seen, torch.ones(b, 1, dtype=torch.bool, device=device)], dim=1)
        look = seen[:, None, :]
        x = lm.get_input_embeddings()(chosen).unsqueeze(1)
        positions = (past.after + lengths + step)[:, None]  # [b, 1]
        last = torch.zeros(b, dtype=torch.long, device=device)
    return out
