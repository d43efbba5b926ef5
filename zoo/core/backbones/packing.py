"""Packing: several rows in one sequence, each blind to the others, with positions of its own.

Rows of several lengths side by side are padded to the longest. Laid end to end in sequences no longer than that, they
are fewer sequences of the same length, and attention costs no more for each. The mask is additive and float, as that of
the branches is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from transformers import DynamicCache

from zoo.core.backbones.branches import Branches, mask_dtype, round_up
from zoo.core.backbones.prefix import HasDecoder, read_prefix

STEP = 64  # sequences are rounded up to this: their number varies too, and kernels are kept for each shape


@dataclass
class Packing:
    """n sequences of L tokens. A row is its prompt, then its branches."""

    where: Tensor  # [n, L], the token's place among the padded rows [b · (P + T)]; 0 on padding
    row: Tensor  # [n, L], −1 on padding
    position: Tensor  # [n, L], within its row
    query: Tensor  # [n, L], −1 in a prompt
    option: Tensor  # [n, L], −1 in a prompt and in a suffix
    sees: Tensor  # [n, L], how many of its row's prompt a token may see at most
    back: Tensor  # [b, T], each branch token's place among the sequences [n · L]; 0 on padding
    first: int = 0  # tokens that all rows share and that are read apart: they are in no sequence

    def to(self, device: torch.device | str, **kw: bool) -> Packing:
        moved = {f.name: getattr(self, f.name).to(device, **kw) for f in fields(self) if f.name != "first"}
        return Packing(**moved, first=self.first)


def fill_bins(sizes: Sequence[int], capacity: int, kinds: Sequence[int] | None = None) -> list[list[int]]:
    """Indices by bin, the largest first, each into the first bin that has room; one bin holds one of `kinds`."""
    bins: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fits = (n for n, r in enumerate(room) if sizes[i] <= r and (kinds is None or kinds[bins[n][0]] == kinds[i]))
        at = next(fits, len(bins))
        if at == len(bins):
            bins.append([])
            room.append(capacity)
        bins[at].append(i)
        room[at] -= sizes[i]
    return bins


def pack(
    prompts: Sequence[int], branches: Branches, width: int, first: int = 0, kinds: Sequence[int] | None = None
) -> Packing:
    """Packs rows whose prompts have these lengths, padded to `width` tokens, followed by their branches.

    The prompts' tokens before `first` are left out: they are read once for all rows. Rows of different `kinds` [b]
    share no sequence (those that go through different adapters).
    """
    b, t = branches.query.shape
    real = branches.query >= 0  # [b, T]
    sizes = [p - first + int(n) for p, n in zip(prompts, real.sum(1))]
    length = round_up(max(sizes, default=0), STEP)
    bins = fill_bins(sizes, length, kinds)
    shape = (len(bins), length)
    where, position = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    row, query, option = (torch.full(shape, -1) for _ in range(3))
    sees, seen = torch.full(shape, width), branches.seen(torch.as_tensor(prompts))  # [n, L], [b, T]
    places = branches.positions(torch.as_tensor(prompts))  # [b, T]
    back = torch.zeros(b, t, dtype=torch.long)
    for n, rows in enumerate(bins):
        at = 0
        for i in rows:
            split, end = at + prompts[i] - first, at + sizes[i]
            mine = real[i].nonzero().squeeze(1)  # [T_i]
            own = torch.arange(first, prompts[i])
            where[n, at:split] = own + i * (width + t)
            where[n, split:end] = mine + i * (width + t) + width
            row[n, at:end] = i
            position[n, at:split] = own
            position[n, split:end] = places[i, mine]
            sees[n, split:end] = seen[i, mine]
            query[n, split:end] = branches.query[i, mine]
            option[n, split:end] = branches.option[i, mine]
            back[i, mine] = torch.arange(len(mine)) + n * length + split
            at = end
    return Packing(where, row, position, query, option, sees, back, first)


def packed_mask(packing: Packing, dtype: torch.dtype) -> Tensor:
    """The additive mask [n, 1, L, first + L]: 0 where a token may look, the dtype's minimum elsewhere.

    A token sees what all rows share, its own row's prompt up to itself, and of its row's branches its own suffix and
    option up to itself.
    """
    r, p, q, o = packing.row, packing.position, packing.query, packing.option
    seen = (r[:, :, None] == r[:, None, :]) & (p[:, None, :] <= p[:, :, None])  # [n, L, L]
    own = (q[:, :, None] == q[:, None, :]) & ((o[:, None, :] == -1) | (o[:, :, None] == o[:, None, :]))
    seen &= own | ((q[:, None, :] == -1) & (p[:, None, :] < packing.sees[:, :, None]))
    shared = torch.arange(packing.first, device=seen.device) < packing.sees[:, :, None]  # [n, L, first]
    seen = torch.cat([shared, seen], dim=-1)  # [n, L, first + L]
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def packed_pass(
    lm: HasDecoder, prompt: Tensor, suffix: Tensor, packing: Packing, past: DynamicCache | None = None
) -> Tensor:
    """Outputs [b, T, d] of the branches, from padded prompts [b, p, d] and branches [b, T, d] laid end to end.

    `past` holds the keys and values of the first tokens, for each sequence, where they have been read already.
    """
    x = torch.cat([prompt, suffix], dim=1).flatten(0, 1)[packing.where]  # [n, L, d]
    if packing.first and past is None:
        past = read_prefix(lm, prompt[:1, : packing.first], len(x))
    out = lm.get_decoder()(
        inputs_embeds=x,
        attention_mask=packed_mask(packing, mask_dtype(x)),
        position_ids=packing.position,
        past_key_values=past,
        use_cache=past is not None,
    )
    return out.last_hidden_state.flatten(0, 1)[packing.back]
