"""The loss of a guard: cross-entropy over the options of its queries, and the critique's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.schema import Policy, Sample
from zoo.core.backbones.base import Scores
from zoo.core.query import Query, category_query, critique_query, verdict_query

VERDICT, CATEGORY, CRITIQUE = 0, 1, 2
PARTS = ("verdict", "categories", "critique")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the three means: over verdicts, over known category labels, over critique tokens."""

    verdict: float = 1.0
    categories: float = 1.0
    critique: float = 1.0


@dataclass(frozen=True)
class Targets:
    """`option` [b, q] is the right option of each query, −1 where there is none; `kind` [b, q] says what it asks."""

    option: Tensor
    kind: Tensor

    def to(self, device: torch.device | str, **kw: bool) -> Targets:
        return Targets(self.option.to(device, **kw), self.kind.to(device, **kw))


def training_queries(
    sample: Sample, policy: Policy, critique: bool = True, most: int | None = None
) -> tuple[list[Query], list[int], list[int]]:
    """Queries of one sample under `policy` with their right options and kinds. Unknown labels are not asked for.

    At most `most` categories are asked for, those with a yes first: drawn policies are in random order, so the others
    are a random part.
    """
    queries: list[Query] = []
    options: list[int] = []
    kinds: list[int] = []
    gold = sample.gold(policy)
    if gold is not None:
        queries.append(verdict_query(policy))
        options.append(int(gold))
        kinds.append(VERDICT)
    known = [(e, sample.categories.get(e.id, "unknown")) for e in policy.entries]
    for entry, label in [x for answer in ("yes", "no") for x in known if x[1] == answer][:most]:
        queries.append(category_query(entry))
        options.append(int(label == "yes"))
        kinds.append(CATEGORY)
    if critique and sample.critique and gold is not None:
        broken = [e.name for e in policy.entries if sample.categories.get(e.id) == "yes"]
        queries.append(critique_query(gold, broken, sample.critique))
        options.append(0)
        kinds.append(CRITIQUE)
    return queries, options, kinds


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
    """How many verdicts, category labels and critique tokens a batch asks for, float32 [3]: its means' denominators.

    `tokens` [b, q, o] counts the tokens of each option.
    """
    rows = targets.kind == CRITIQUE  # [b, q]
    at = targets.option.clamp_min(0).unsqueeze(-1)  # [b, q, 1]
    critique = tokens.gather(-1, at).squeeze(-1)[rows].sum()
    return torch.stack([(targets.kind == VERDICT).sum(), (targets.kind == CATEGORY).sum(), critique]).float()


def loss_sums(scores: Scores, targets: Targets) -> Tensor:
    """Sums of the three losses over a batch's verdicts, category labels and critique tokens, [3].

    A sum over nothing is zero and still on the graph: its gradient is zero, not missing.
    """
    at = targets.option.clamp_min(0).unsqueeze(-1)  # [b, q, 1]
    right = scores.logp.gather(-1, at).squeeze(-1)  # [b, q]
    sums = []
    for kind in (VERDICT, CATEGORY):
        rows = targets.kind == kind
        sums.append((scores.logp[rows].logsumexp(-1) - right[rows]).sum())
    return torch.stack([*sums, -right[targets.kind == CRITIQUE].sum()])


def weighted_mean(sums: Tensor, counts: Tensor, weights: LossWeights) -> Tensor:
    """The weighted loss from `loss_sums` and the counts of `asked`, [3] each. What was not asked for adds nothing.

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
