"""Branches: many short continuations of one encoded prompt, scored in a single pass.

A branch token sees the prompt, the suffix of its own query up to itself, and its own option up to itself; positions
restart at the prompt's end. A branch may see the beginning of the prompt alone and go on from there: nothing in a
causal model's prompt knows what comes after it, so that is a shorter prompt, read in the same pass. What is computed
here is layout and attention mask: it holds for any causal LM with a key-value cache. The mask is additive and float: a
boolean 4-D mask is silently wrong under eager attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from zoo.core.backbones.base import Scores


@dataclass
class RowBranches:
    """One row's branches. Suffix tokens have `option` −1. T tokens; M scored tokens; `counts` [q, o]."""

    query: Tensor  # [T]
    option: Tensor  # [T]
    depth: Tensor  # [T], position after what is seen of the prompt
    sees: Tensor  # [T], how many of the prompt's tokens; −1: all
    start: Tensor  # [T], the position after those; −1: after the prompt
    at: Tensor  # [M], the token (0…T−1) whose output predicts …
    token: Tensor  # [M], … this one …
    slot: Tensor  # [M, 2], … of this query and option
    counts: Tensor  # [q, o]


WHOLE = (-1, -1)  # a view of all of the prompt


def lay_out(
    suffix_lengths: Sequence[int],
    options: Sequence[Sequence[Sequence[int]]],
    views: Sequence[tuple[int, int]] | None = None,
) -> tuple[RowBranches, list]:
    """Lays out one row's queries.

    `suffix_lengths[q]` tokens of suffix, then `options[q][o]`: token ids, terminator last. The terminator is predicted
    but never an input. `views[q]` are the prompt's tokens that query q sees, from the first, and the position after
    them (None: all see all). Returns the layout and the order of the inputs: ("suffix", q) or ("option", q, o).
    """
    query, option, depth, at, token, slot, order = [], [], [], [], [], [], []
    width = max((len(o) for o in options), default=0)
    counts = torch.zeros(len(options), width, dtype=torch.long)
    for q, (length, answers) in enumerate(zip(suffix_lengths, options)):
        if length < 1:
            raise ValueError("a query needs a suffix of at least one token")
        order.append(("suffix", q))
        query += [q] * length
        option += [-1] * length
        depth += range(length)
        last = len(query) - 1
        for o, ids in enumerate(answers):
            counts[q, o] = len(ids)
            order.append(("option", q, o))
            first = len(query)
            inputs = len(ids) - 1
            query += [q] * inputs
            option += [o] * inputs
            depth += range(length, length + inputs)
            at += [last, *range(first, first + inputs)]
            token += ids
            slot += [(q, o)] * len(ids)
    as_long = torch.as_tensor
    seen = as_long([WHOLE] * len(options) if views is None else list(views), dtype=torch.long).reshape(-1, 2)  # [q, 2]
    seen = seen[as_long(query, dtype=torch.long)]  # [T, 2]
    row = RowBranches(
        as_long(query, dtype=torch.long),
        as_long(option, dtype=torch.long),
        as_long(depth, dtype=torch.long),
        seen[:, 0],
        seen[:, 1],
        as_long(at, dtype=torch.long),
        as_long(token, dtype=torch.long),
        as_long(slot, dtype=torch.long).reshape(-1, 2),
        counts,
    )
    return row, order


@dataclass
class Branches:
    """A batch of rows' branches, padded to T tokens, Q queries and O options."""

    query: Tensor  # [b, T], −1 on padding
    option: Tensor  # [b, T]
    depth: Tensor  # [b, T]
    sees: Tensor  # [b, T], −1: all of the prompt
    start: Tensor  # [b, T], −1: after the prompt
    row: Tensor  # [M]
    at: Tensor  # [M]
    token: Tensor  # [M]
    slot: Tensor  # [M, 2]
    counts: Tensor  # [b, Q, O]

    def to(self, device: torch.device | str, **kw: bool) -> Branches:
        return Branches(**{f.name: getattr(self, f.name).to(device, **kw) for f in fields(self)})

    def seen(self, lengths: Tensor) -> Tensor:
        """How many tokens of prompts of `lengths` [b] each branch token sees, [b, T]."""
        return torch.where(self.sees < 0, lengths[:, None], self.sees)

    def positions(self, after: Tensor) -> Tensor:
        """[b, T], where what follows the whole prompts begins at `after` [b]."""
        return torch.where(self.start < 0, after[:, None], self.start) + self.depth


def round_up(n: int, step: int = 8) -> int:
    """The next multiple of `step`. Kernels are compiled and kept for each shape: rounded shapes are few."""
    return -(-n // step) * step


def pad_rows(rows: Sequence[Tensor], value: int) -> Tensor:
    """Rows [n] of several lengths as [b, L], L rounded up."""
    out = pad_sequence(list(rows), batch_first=True, padding_value=value)
    return torch.nn.functional.pad(out, (0, round_up(out.shape[1]) - out.shape[1]), value=value)


def collate(rows: Sequence[RowBranches]) -> Branches:
    def pad(name: str, value: int) -> Tensor:
        return pad_rows([getattr(r, name) for r in rows], value)

    size = [max((r.counts.shape[d] for r in rows), default=0) for d in (0, 1)]
    counts = torch.zeros(len(rows), *size, dtype=torch.long)
    for i, r in enumerate(rows):
        counts[i, : r.counts.shape[0], : r.counts.shape[1]] = r.counts
    row = torch.cat([torch.full((len(r.at),), i) for i, r in enumerate(rows)])
    cat = {name: torch.cat([getattr(r, name) for r in rows]) for name in ("at", "token", "slot")}
    laid = {name: pad(name, 0 if name == "depth" else -1) for name in ("query", "option", "depth", "sees", "start")}
    return Branches(**laid, row=row, counts=counts, **cat)


def attention_mask(branches: Branches, prompt_lengths: Tensor, prompt_width: int, dtype: torch.dtype) -> Tensor:
    """The additive mask [b, 1, T, P + T]: 0 where a branch token may look, the dtype's minimum elsewhere."""
    device = prompt_lengths.device
    prompt = torch.arange(prompt_width, device=device) < branches.seen(prompt_lengths)[:, :, None]  # [b, T, P]
    q, o, d = branches.query, branches.option, branches.depth
    own = (q[:, :, None] == q[:, None, :]) & ((o[:, None, :] == -1) | (o[:, :, None] == o[:, None, :]))  # [b, T, T]
    own = own & (d[:, None, :] <= d[:, :, None])
    mask = torch.cat([prompt, own], dim=-1)  # [b, T, P + T]
    return torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill(~mask, torch.finfo(dtype).min).unsqueeze(1)


def whole_mask(
    branches: Branches, prompt_lengths: Tensor, prompt_width: int, dtype: torch.dtype, first: int = 0
) -> Tensor:
    """The additive mask [b, 1, P − first + T, P + T] of prompts (causal) and branches in one pass.

    The prompts' tokens before `first` have been read already.
    """
    device = prompt_lengths.device
    t = branches.query.shape[1]
    floor = torch.finfo(dtype).min
    places = torch.arange(prompt_width, device=device)
    seen = (places <= places[first:, None]) & (places < prompt_lengths[:, None, None])  # [b, P − first, P]
    top = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill(~seen, floor)
    top = torch.nn.functional.pad(top, (0, t), value=floor).unsqueeze(1)  # [b, 1, P − first, P + T]
    return torch.cat([top, attention_mask(branches, prompt_lengths, prompt_width, dtype)], dim=2)


class _TokenLogProbs(torch.autograd.Function):
    """log softmax(states Wᵀ)[row, token] for chosen (row, token) pairs, without keeping the logits.

    The vocabulary is wide and the model narrow, so the logits are most of the memory traffic of a training step: they
    are made chunk by chunk in the forward pass and again in the backward pass.
    """

    CHUNK = 256

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, row: Tensor, token: Tensor) -> Tensor:
        """states [u, d], weight [v, d] of one dtype; row, token [m] with `row` ascending → float32 [m]."""
        out, norms = [], []
        for first, pairs in _TokenLogProbs._chunks(states, row):
            logits = (states[first : first + _TokenLogProbs.CHUNK] @ weight.T).float()  # [c, v]
            norms.append(logits[:, 0] - torch.log_softmax(logits, -1)[:, 0])  # [c]
            local = row[pairs] - first
            out.append(logits[local, token[pairs]] - norms[-1][local])
        ctx.save_for_backward(states, weight, row, token, torch.cat(norms))
        return torch.cat(out)

    @staticmethod
    def _chunks(states: Tensor, row: Tensor) -> list[tuple[int, slice]]:
        """First rows of the chunks, with the pairs that fall into each."""
        firsts = torch.arange(0, len(states), _TokenLogProbs.CHUNK, device=row.device)
        bounds = [*torch.searchsorted(row, firsts).tolist(), len(row)]
        return [(f, slice(a, b)) for f, a, b in zip(firsts.tolist(), bounds, bounds[1:])]

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        states, weight, row, token, norms = ctx.saved_tensors
        to_states = torch.empty_like(states)
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = torch.zeros(weight.shape, dtype=torch.float32, device=weight.device)
        total = torch.zeros(len(states), dtype=torch.float32, device=grad.device).index_add_(0, row, grad)  # [u]
        for first, pairs in _TokenLogProbs._chunks(states, row):
            chunk = slice(first, first + _TokenLogProbs.CHUNK)
            slope = (states[chunk] @ weight.T).float()  # [c, v]
            slope.sub_(norms[chunk, None]).exp_().mul_(-total[chunk, None])
            slope.index_put_((row[pairs] - first, token[pairs]), grad[pairs], accumulate=True)
            slope = slope.to(states.dtype)
            to_states[chunk] = slope @ weight
            if to_weight is not None:
                to_weight += slope.T @ states[chunk]
        return to_states, None if to_weight is None else to_weight.to(weight.dtype), None, None


def gather_scores(branches: Branches, hidden: Tensor, head: torch.nn.Linear) -> Scores:
    """Sums the log-probabilities of each option's tokens: `hidden` [b, T, d] → [b, Q, O].

    Only the outputs that predict something go through the output layer, and one that predicts several options' first
    tokens goes once.
    """
    b, t, d = hidden.shape
    size = branches.counts.shape
    none, some = branches.counts == 0, (branches.counts > 0).any(-1, keepdim=True)
    logp = hidden.new_zeros(size, dtype=torch.float32) + hidden.sum() * 0  # on the graph even with nothing to score
    if len(branches.at):
        places, inverse = (branches.row * t + branches.at).unique(return_inverse=True)  # [U], [M]
        order = inverse.argsort(stable=True)
        dtype = mask_dtype(hidden)
        states = hidden.reshape(b * t, d)[places].to(dtype)  # [U, d]
        states = torch.nn.functional.pad(states, (0, 0, 0, round_up(len(states), 64) - len(states)))
        values = _TokenLogProbs.apply(states, head.weight.to(dtype), inverse[order], branches.token[order])  # [M]
        index = (branches.row * size[1] + branches.slot[:, 0]) * size[2] + branches.slot[:, 1]
        logp = logp.flatten().index_add(0, index[order], values).view(size)
    return Scores(logp.masked_fill(none & some, -torch.inf), branches.counts)


def fork(cache: DynamicCache, rows: int | Tensor | None = None) -> DynamicCache:
    """A cache over the same tensors: appending leaves the original as it was.

    `rows` spreads a cache of one row over so many; as a tensor [n] it picks rows. A DynamicCache that is made from keys
    and values copies them; its layers do not. Layers that have read nothing stay empty.
    """
    out = DynamicCache()
    for layer in cache.layers:
        mine = DynamicLayer()
        if layer.is_initialized:
            keys, values = layer.keys, layer.values
            if isinstance(rows, Tensor):
                keys, values = keys[rows], values[rows]
            elif rows is not None:
                keys, values = keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)
            mine.update(keys[:, :, :0], values[:, :, :0])  # now it knows dtype and device
            mine.keys, mine.values = keys, values
        out.layers.append(mine)
    return out


def mask_dtype(x: Tensor) -> torch.dtype:
    """The dtype that queries will have in attention: under autocast not that of the embeddings `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
