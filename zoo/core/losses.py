"""The loss of a guard: cross-entropy over the options of its queries, and over the tokens of what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.schema import Policy, Sample
from datamodules.trajectory import STATES, prefixes_of
from zoo.core.backbones.base import Scores
from zoo.core.orders import VERDICT_FIRST, Order
from zoo.core.query import Query
from zoo.core.tags import SourceTags

VERDICT, CATEGORY, CRITIQUE, LINE, STATE, TAG, ABSTAIN = range(7)
PARTS = ("verdict", "categories", "critique", "lines", "states", "tags", "abstain")
CLOSED = (VERDICT, CATEGORY, STATE, TAG, ABSTAIN)  # answered by one of several options; the others by the tokens of one


@dataclass(frozen=True)
class LossWeights:
    """Weights of the means: over verdicts, over known category labels, over critique tokens, over tokens of `lines`,
    over what is known of a trajectory's steps (`states`), over the source of a row (`tags`), over whether a verdict is
    the doing of a source that is switched off (`abstain`).

    Lines are the assessment and the categories as the guard writes them out. The closed queries compare options with
    each other alone: without lines a guard that writes freely may say anything.
    """

    verdict: float = 1.0
    categories: float = 1.0
    critique: float = 1.0
    lines: float = 0.0
    states: float = 1.0
    tags: float = 1.0
    abstain: float = 1.0


@dataclass(frozen=True)
class Targets:
    """`option` [b, q] is the right option of each query, −1 where there is none; `kind` [b, q] says what it asks."""

    option: Tensor
    kind: Tensor

    def to(self, device: torch.device | str, **kw: bool) -> Targets:
        return Targets(self.option.to(device, **kw), self.kind.to(device, **kw))


def training_queries(
    sample: Sample,
    policy: Policy,
    critique: bool = True,
    most: int | None = None,
    order: Order = VERDICT_FIRST,
    lines: bool = False,
    steps: Sequence[int] = (),
    tags: SourceTags | None = None,
) -> tuple[list[Query], list[int], list[int]]:
    """Queries of one sample under `policy` with their right options and kinds. Unknown labels are not asked for.

    At most `most` categories are asked for, those with a yes first: drawn policies are in random order, so the others
    are a random part. `steps` of a labelled trajectory, from 1, are those that are asked about while it goes on. With
    `tags` a row with a verdict is asked for its source, too.
    """
    queries: list[Query] = []
    options: list[int] = []
    kinds: list[int] = []
    gold = sample.gold(policy)
    said = sample.critique or "" if critique else ""
    if gold is not None:
        queries.append(order.verdict(policy, said))
        options.append(int(gold))
        kinds.append(VERDICT)
    known = [(e, sample.label(e.id)) for e in policy.entries]
    for entry, label in [x for answer in (True, False) for x in known if x[1] is answer][:most]:
        queries.append(order.category(entry))
        options.append(int(label))
        kinds.append(CATEGORY)
    for query, option in state_targets(sample, policy, order, steps):
        queries.append(query)
        options.append(option)
        kinds.append(STATE)
    if gold is None:
        return queries, options, kinds
    broken = [e.name for e, label in known if label]
    written = [(order.critique(gold, broken, said), CRITIQUE)] if said else []
    if lines:
        written.append((order.assessment(policy, said, gold), LINE))
        written += [(order.categories(said, broken), LINE)] if broken else []
    for query, kind in written:
        queries.append(query)
        options.append(0)
        kinds.append(kind)
    if tags is not None:
        taught, switched_off = tags.training(sample, policy, gold)
        for kind, (query, option) in ((TAG, taught), *((ABSTAIN, asked) for asked in switched_off)):
            queries.append(query)
            options.append(option)
            kinds.append(kind)
    return queries, options, kinds


def state_targets(sample: Sample, policy: Policy, order: Order, steps: Sequence[int]) -> list[tuple[Query, int]]:
    """What is asked after each of `steps` of a labelled trajectory, with the right options.

    The verdict's is unsafe where a rule is violated by then; it is not asked where that is unknown.
    """
    marked = prefixes_of(sample) if steps else None
    out: list[tuple[Query, int]] = []
    for step in steps:
        assert marked is not None
        verdict, *rules = order.so_far(policy, marked.ends[step - 1])
        states = [marked.states[id][step - 1] if id in marked.states else None for id in policy.ids]
        if "violated" in states or None not in states:
            out.append((verdict, int("violated" in states)))
        out += [(query, STATES.index(state)) for query, state in zip(rules, states) if state is not None]
    return out


def collate_targets(rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Targets:
    """Rows of (options, kinds) → padded [b, q]."""
    width = max((len(o) for o, _ in rows), default=0)
    option = torch.full((len(rows), width), -1)
    kind = torch.full((len(rows), width), -1)
    for i, (o, k) in enumerate(rows):
        option[i, : len(o)] = torch.tensor(o, dtype=torch.long)
        kind[i, : len(k)] = torch.tensor(k, dtype=torch.long)
    return Targets(option, kind)


def asked(targets: Targets, tokens: Tensor) -> Tensor:
    """How much a batch asks for of each of PARTS, float32 [7]: queries of closed parts, tokens of written ones.

    These are the denominators of its means. `tokens` [b, q, o] counts the tokens of each option.
    """
    at = targets.option.clamp_min(0).unsqueeze(-1)  # [b, q, 1]
    right = tokens.gather(-1, at).squeeze(-1)  # [b, q]
    of = [targets.kind == kind for kind in range(len(PARTS))]
    return torch.stack([rows.sum() if kind in CLOSED else right[rows].sum() for kind, rows in enumerate(of)]).float()


def loss_sums(scores: Scores, targets: Targets) -> Tensor:
    """Sums of the losses of PARTS over a batch's closed queries and written tokens, [7].

    A sum over nothing is zero and still on the graph: its gradient is zero, not missing.
    """
    at = targets.option.clamp_min(0).unsqueeze(-1)  # [b, q, 1]
    right = scores.logp.gather(-1, at).squeeze(-1)  # [b, q]
    sums = []
    for kind in range(len(PARTS)):
        rows = targets.kind == kind
        whole = scores.logp[rows].logsumexp(-1) if kind in CLOSED else 0.0
        sums.append((whole - right[rows]).sum())
    return torch.stack(sums)


def weighted_mean(sums: Tensor, counts: Tensor, weights: LossWeights) -> Tensor:
    """The weighted loss from `loss_sums` and the counts of `asked`, [7] each. What was not asked for adds nothing.

    Linear in `sums`: with the counts of a whole step, the losses of its parts add up to the loss of the step.
    """
    factors = torch.tensor([getattr(weights, name) for name in PARTS], device=sums.device)
    return (sums * factors / counts.clamp_min(1)).sum()


def named_means(sums: Tensor, counts: Tensor) -> dict[str, Tensor]:
    """The parts by name. A part without a row is absent: it is not zero, it was not asked."""
    return {name: s / n for name, s, n in zip(PARTS, sums, counts) if n > 0}


def guard_loss(scores: Scores, targets: Targets, weights: LossWeights) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted loss of one batch by itself, and its parts."""
    sums, counts = loss_sums(scores, targets), asked(targets, scores.tokens)
    return weighted_mean(sums, counts, weights), named_means(sums, counts)
