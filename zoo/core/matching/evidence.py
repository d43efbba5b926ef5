"""The critique of a matcher: which step breaks which rule. It is put together from what it knows, not generated."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from datamodules.schema import Policy
from zoo.core.matching.asking import BROKEN
from zoo.core.matching.net import Known
from zoo.core.matching.reading import ACTION, Event


def evidence(known: Known, events: Sequence[Event], texts: Sequence[str], policy: Policy) -> str:
    """One sentence a broken rule, in the order of the steps: `Step 3 breaks "…": click "Delete".`

    `known` is of this row's rules [n, t + 1, …]; `texts` are the messages. A rule that only the end breaks has no step.
    Where no rule is over one half, the likeliest one is named.
    """
    t = len(events)
    by_now = known.states[:, : t + 1].softmax(-1)[..., BROKEN]  # [n, t + 1]
    end = torch.sigmoid(known.broken[:, t])  # [n]
    likely = torch.maximum(end, by_now[:, t])
    if not len(likely):
        return ""
    rules = [i for i, p in enumerate(likely.tolist()) if p >= 0.5] or [int(likely.argmax())]
    numbers = [sum(e.kind == ACTION for e in events[: n + 1]) for n in range(t)]
    said = []
    for i in rules:
        name = policy.entries[i].name.rstrip(".")
        over = [n for n in range(t) if float(by_now[i, n + 1]) >= 0.5]
        if over:
            said.append((numbers[over[0]], f"Step {numbers[over[0]]} breaks the rule ({name}): {texts[over[0]]}."))
        else:
            said.append((t + 1, f"The run ended without what a rule asks for ({name})."))
    return " ".join(text for _, text in sorted(said))
