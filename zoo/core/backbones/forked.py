"""Prompts read once through the lower layers, then by several readers through the upper ones.

A reader is an adapter; a pair (row, adapter) reads the row's prompt and branches of its own. All pairs of a batch take
one pass. Pairs of one adapter may be packed into sequences, as rows are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.core.backbones import branches as br
from zoo.core.backbones import passes
from zoo.core.backbones.adapters import AdapterBank
from zoo.core.backbones.generation import Past
from zoo.core.backbones.packing import pack, packed_pass
from zoo.core.backbones.prefix import prefix_states
from zoo.core.backbones.split import Split


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
    past = Past(br.fork(middle.past.cache, rows), lengths, middle.past.width, lengths)
    with torch.no_grad():
        x = passes.go_on(split.lower, past, x, branches)  # [n, T, d]
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
