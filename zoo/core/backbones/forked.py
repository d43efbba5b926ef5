"""Prompts read once through the lower layers, then by several readers through the upper ones.

A reader is an adapter; a pair (row, adapter) reads the row's prompt and branches of its own. All pairs of a batch take
one pass. Pairs of one adapter may be packed into sequences, as rows are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo.core.backbones import branches as br
from zoo.core.backbones import passes
from zoo.core.backbones.adapters import AdapterBank
from zoo.core.backbones.generation import Past
from zoo.core.backbones.packing import pack, packed_pass
from zoo.core.backbones.prefix import prefix_states
from zoo.core.backbones.split import Split

APART = 256  # tokens of padding that one more pass has to save


@dataclass
class Middle:
    """b prompts after the lower layers: `hidden` [b, p, d], right-padded, and the lower layers' keys and values.

    The first `first` tokens are the same in all rows.
    """

    hidden: Tensor
    past: Past
    first: int

    @property
    def lengths(self) -> Tensor:
        return self.past.lengths


def read_lower(split: Split, x: Tensor, lengths: Tensor, first: int = 0) -> Middle:
    """Embedded prompts [b, p, d] of `lengths` [b] through the lower layers."""
    hidden, cache = passes.read(split.lower, x, lengths, first=first)
    return Middle(hidden, Past(cache, lengths, x.shape[1], lengths), first)


@torch.no_grad()
def _branches_below(split: Split, middle: Middle, rows: Tensor, x: Tensor, branches: br.Branches) -> Tensor:
    """Branches [n, T, d] through the lower layers, after prompts `rows` [n].

    The narrow ones go apart from the wide ones where that saves more padding than another pass costs.
    """
    sizes = (branches.query >= 0).sum(1)  # [n]
    narrow = sizes * 2 <= branches.query.shape[1]  # [n]
    width = br.round_up(int(sizes[narrow].max())) if narrow.any() else 0
    saved = int(narrow.sum()) * (branches.query.shape[1] - width)
    groups = [narrow.nonzero()[:, 0], (~narrow).nonzero()[:, 0]] if not narrow.all() and saved >= APART else [None]
    out = torch.zeros_like(x)
    for at in groups:
        if at is None:
            part, mine, its, wide = x, rows, branches, x.shape[1]
        else:
            wide = br.round_up(int(sizes[at].max()))
            layout = {k: getattr(branches, k)[at, :wide] for k in ("query", "option", "depth", "sees", "start")}
            part, mine, its = x[at, :wide], rows[at], replace(branches, **layout)
        lengths = middle.lengths[mine]
        past = Past(br.fork(middle.past.cache, mine), lengths, middle.past.width, lengths)
        hidden = passes.go_on(split.lower, past, part, its)
        if at is None:
            return hidden
        out[at, :wide] = hidden.to(out.dtype)
    return out


def go_up(
    split: Split,
    bank: AdapterBank,
    middle: Middle,
    rows: Tensor,
    adapters: Tensor,
    x: Tensor,
    branches: br.Branches,
    packed: bool = False,
) -> Tensor:
    """The model's outputs [n, T, d] for n pairs: prompt `rows[i]` with embedded branches x[i] through `adapters[i]`.

    `rows` and `adapters` are [n], `x` [n, T, d]. The lower layers are frozen: their part takes no gradient.
    """
    lengths = middle.lengths[rows]
    x = _branches_below(split, middle, rows, x, branches)  # [n, T, d]
    prompt, first = middle.hidden[rows], middle.first
    packing = pack(lengths.tolist(), branches, prompt.shape[1], first, adapters.tolist()) if packed else None
    if packing is not None and len(packing.where) >= len(rows):
        packing = None  # each pair has a sequence to itself as it is
    if packing is not None:
        packing = packing.to(x.device)
        adapters = adapters[packing.row[:, 0]]
    shared = None
    if first:  # what all rows begin with is read once by each adapter
        kinds, place = adapters.unique(return_inverse=True)
        with bank.using(kinds):
            _, cache = prefix_states(split.upper, middle.hidden[:1, :first].expand(len(kinds), -1, -1))
        shared = br.fork(cache, place)
    with bank.using(adapters):
        if packing is not None:
            return packed_pass(split.upper, prompt, x, packing, shared)
        return passes.at_once(split.upper, prompt, x, branches, lengths, lengths, first=first, past=shared)
