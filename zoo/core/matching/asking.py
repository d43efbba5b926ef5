"""Which questions the matcher can be asked, and their answers from what is known of the rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from datamodules.schema import DataError, Policy
from datamodules.trajectory import STATES
from zoo.core.backbones.base import Scores
from zoo.core.matching.net import Known
from zoo.core.query import CATEGORY_OPTIONS, STATE_OPTIONS, VERDICT_OPTIONS, Query

# Is an entry broken at the end; what can be known of it; is anything, at the end; is anything by now.
RULE, STATE, VERDICT, SO_FAR = range(4)
BROKEN = STATES.index("violated")
LEAST = 1e-6  # of −log P(safe): P(unsafe) has a logarithm


@dataclass(frozen=True)
class Asked:
    """b rows of up to q questions, int64 [b, q].

    `kind` (−1: none), `entry` of the row's policy, `after` so many messages.
    """

    kind: Tensor
    entry: Tensor
    after: Tensor

    def to(self, device: torch.device | str, **kw: bool) -> Asked:
        return Asked(*(x.to(device, **kw) for x in (self.kind, self.entry, self.after)))

    @property
    def counts(self) -> Tensor:
        """As `Scores.tokens` [b, q, o]: an option is one token."""
        sizes = torch.tensor([len(CATEGORY_OPTIONS), len(STATE_OPTIONS), len(VERDICT_OPTIONS), len(VERDICT_OPTIONS), 0])
        size = sizes.to(self.kind.device)[self.kind]  # −1: the last one
        width = max(2, int(size.max())) if size.numel() else 2
        return (torch.arange(width, device=size.device) < size.unsqueeze(-1)).long()


def lay(queries: Sequence[Query], policy: Policy, messages: int) -> list[tuple[int, int, int]]:
    """Each query as (kind, entry, after). Raises `DataError` for one that is not about the policy's entries."""
    names = {e.name: n for n, e in enumerate(policy.entries)}
    out = []
    for query in queries:
        entry = next((names[piece] for piece in query.suffix if piece in names), None)
        after = messages if query.after is None else query.after
        if query.options == VERDICT_OPTIONS:
            out.append((SO_FAR if query.open else VERDICT, -1, after))
        elif query.options == STATE_OPTIONS and entry is not None:
            out.append((STATE, entry, after))
        elif query.options == CATEGORY_OPTIONS and entry is not None:
            out.append((RULE, entry, after))
        else:
            raise DataError(
                f"backbone matcher cannot answer {query.text[:80]!r} with {', '.join(query.options)[:80] or 'words'}: "
                "it judges the entries of the policy, and writes nothing (loss.critique=0, loss.lines=0)"
            )
    return out


def collate(rows: Sequence[Sequence[tuple[int, int, int]]]) -> Asked:
    """Rows of `lay` as one."""
    width = max(map(len, rows), default=0)
    padded = torch.tensor([[*row, *[(-1, 0, 0)] * (width - len(row))] for row in rows], dtype=torch.long)
    return Asked(*padded.view(len(rows), width, 3).unbind(-1))


def read_out(known: Known, first: Tensor, row: Tensor, asked: Asked, of: Tensor | None = None) -> Scores:
    """Scores of what is asked. `row` [n] names each rule's row; `first` [b] is the number of a row's first rule.

    `of` [g] names the row that each of g groups of questions is about; None: one group a row.
    """
    states = known.states.log_softmax(-1)  # [n, t + 1, 3]
    kept = torch.cat([states[..., :BROKEN], states[..., BROKEN + 1 :]], -1).logsumexp(-1)  # [n, t + 1]
    b, times = len(first), states.shape[1]
    here = (torch.arange(b, device=first.device) if of is None else of).unsqueeze(-1)  # [g, 1]
    tokens = asked.counts
    logp = tokens.new_zeros(tokens.shape, dtype=states.dtype)
    if not asked.kind.numel():
        return Scores(logp, tokens)
    safe = [states.new_zeros(b, times).index_add(0, row, x) for x in (logsigmoid(-known.broken), kept)]  # [b, t + 1]
    at = (first[here] + asked.entry.clamp_min(0)).clamp_max(max(len(row) - 1, 0))  # [b, q]
    of_state = states[at, asked.after] if len(row) else states.new_zeros(*at.shape, len(STATES))
    of_rule = known.broken[at, asked.after] if len(row) else states.new_zeros(at.shape)
    pairs = [torch.stack([logsigmoid(-of_rule), logsigmoid(of_rule)], -1)]
    for total in safe:
        total = total[here, asked.after].clamp_max(-LEAST)  # [b, q]
        pairs.append(torch.stack([total, torch.log(-torch.expm1(total))], -1))
    kind = asked.kind.unsqueeze(-1)  # [b, q, 1]
    two = torch.where(kind == RULE, pairs[0], torch.where(kind == VERDICT, pairs[1], pairs[2]))  # [b, q, 2]
    if tokens.shape[-1] > 2:
        two = torch.nn.functional.pad(two, (0, 1), value=-torch.inf)
        two = torch.where(kind == STATE, of_state, two)
    return Scores(torch.where(kind < 0, 0.0, two), tokens)
