"""Soft tokens: sources (ids, cached features, or raw inputs still to be encoded) and the layout that orders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.core.backbones.branches import pad_rows

IDS = "ids"


@dataclass
class Source:
    """Consecutive tokens of one origin.

    `value`: ids [n], or features [n, d + 1] when `ready`, or an encoder's raw input. `time` (seconds) is added to the
    features' time column. `key` identifies the content; None forbids caching (a randomly augmented input).
    """

    kind: str
    value: Tensor
    tokens: int
    ready: bool = True
    time: float = 0.0
    key: str | None = None


@dataclass
class Row:
    """One row being laid out: `layout` rows are (source, token within it, type)."""

    sources: list[Source] = field(default_factory=list)
    layout: list[tuple[int, int, int]] = field(default_factory=list)

    def add(self, source: Source, type: int) -> None:
        at = len(self.sources)
        self.sources.append(source)
        self.layout += [(at, i, type) for i in range(source.tokens)]

    def extend(self, other: Row) -> None:
        at = len(self.sources)
        self.sources += other.sources
        self.layout += [(at + n, i, type) for n, i, type in other.layout]

    def __len__(self) -> int:
        return len(self.layout)


@dataclass
class _Joined:
    """Sources with their values end to end: one tensor for those of one dtype and shape but for the first axis."""

    facts: list[tuple[str, int, bool, float, str | None]]  # kind, tokens, ready, time, key
    group: list[int]  # of each source
    sizes: list[int]  # first axis of each source's value
    values: list[Tensor]  # of each group

    @classmethod
    def of(cls, sources: Sequence[Source]) -> _Joined:
        groups: dict[tuple[torch.dtype, torch.Size], int] = {}
        members: list[list[Tensor]] = []
        out = cls([], [], [], [])
        for s in sources:
            group = groups.setdefault((s.value.dtype, s.value.shape[1:]), len(members))
            if group == len(members):
                members.append([])
            members[group].append(s.value)
            out.facts.append((s.kind, s.tokens, s.ready, s.time, s.key))
            out.group.append(group)
            out.sizes.append(len(s.value))
        out.values = [torch.cat(values) for values in members]
        return out

    def apart(self) -> list[Source]:
        out, used = [], [0] * len(self.values)
        for (kind, tokens, ready, time, key), group, size in zip(self.facts, self.group, self.sizes):
            value = self.values[group].narrow(0, used[group], size)
            used[group] += size
            out.append(Source(kind, value, tokens, ready, time, key))
        return out


@dataclass
class Tokens:
    """A batch of rows: sources by kind, and for each token its kind, its place among the tokens of that kind, its type.

    b rows of L tokens. On padding, `kind` is −1.
    """

    sources: dict[str, list[Source]]
    kind: Tensor  # [b, L], index into `kinds`
    place: Tensor  # [b, L]
    type: Tensor  # [b, L]
    within: Tensor  # [b, L], the token's number within its source
    lengths: Tensor  # [b]
    kinds: tuple[str, ...]

    def __getstate__(self) -> dict[str, Any]:
        """For the way from a worker: each tensor is a shared file there; one a source takes longer than the rest."""
        return {**vars(self), "sources": {k: _Joined.of(v) for k, v in self.sources.items()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({**state, "sources": {k: v.apart() for k, v in state["sources"].items()}})

    def to(self, device: torch.device | str, **kw: bool) -> Tokens:
        moved = {
            k: [Source(s.kind, s.value.to(device, **kw), s.tokens, s.ready, s.time, s.key) for s in v]
            for k, v in self.sources.items()
        }
        parts = (t.to(device, **kw) for t in (self.kind, self.place, self.type, self.within, self.lengths))
        return Tokens(moved, *parts, self.kinds)


def collate_tokens(rows: Sequence[Row], kinds: tuple[str, ...]) -> Tokens:
    """Pads on the right, to a round length."""
    sources: dict[str, list[Source]] = {k: [] for k in kinds}
    used = dict.fromkeys(kinds, 0)
    columns: dict[str, list[Tensor]] = {"kind": [], "place": [], "type": [], "within": []}
    for row in rows:
        base, number = [], []
        for s in row.sources:
            base.append(used[s.kind])
            number.append(kinds.index(s.kind))
            used[s.kind] += s.tokens
            sources[s.kind].append(s)
        layout = torch.tensor(row.layout, dtype=torch.long).reshape(-1, 3)  # [L, 3]
        base_, number_ = torch.tensor(base, dtype=torch.long), torch.tensor(number, dtype=torch.long)
        columns["kind"].append(number_[layout[:, 0]])
        columns["place"].append(base_[layout[:, 0]] + layout[:, 1])
        columns["type"].append(layout[:, 2])
        columns["within"].append(layout[:, 1])
    lengths = torch.tensor([len(r) for r in rows])
    padded = {name: pad_rows(c, -1 if name == "kind" else 0) for name, c in columns.items()}
    return Tokens(sources, padded["kind"], padded["place"], padded["type"], padded["within"], lengths, kinds)
