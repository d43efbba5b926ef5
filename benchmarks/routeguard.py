"""What routing costs beside the monolith, at equal backbone: a part of `python -m benchmarks.run`.

A batch's time depends on how many readers a row is given to, so three mixes are measured: every row falls back (the
monolith through RouteGuard), half of the rows do, and no row does while each calls 1.5 experts. Adapters and router are
random: what they cost does not depend on what they say.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.prefix import TEXTS
from datamodules.schema import Sample
from datamodules.taxonomy import DEFAULT_POLICY
from zoo.registry import load
from zoo.routeguard.backbone import Routing
from zoo.routeguard.model import RouteGuard, routeguard
from zoo.routeguard.timing import batch_times

BASE, ROWS = "omniguard-tiny", 64
MIXES = {"all fall back": (1.0, 0.0), "half fall back": (0.5, 0.75), "none falls back": (0.0, 1.5)}


def texts() -> list[Sample]:
    """Texts of 10 to 150 words."""
    words = " ".join(TEXTS).split()
    generator = torch.Generator().manual_seed(0)
    out = []
    for n in range(ROWS):
        length = int(torch.randint(10, 150, (), generator=generator))
        picked = torch.randint(len(words), (length,), generator=generator).tolist()
        out.append(Sample.of(" ".join(words[i] for i in picked), id=str(n)))
    return out


def fixed_routes(guard: RouteGuard, fall_back: float, experts: float, seed: int = 0) -> None:
    """Calls random experts: none for a share of the rows, for the rest so many that a row has `experts` on average."""
    names = guard.backbone.router.names
    generator = torch.Generator().manual_seed(seed)

    def called(routes: torch.Tensor, policies: Any) -> list[list[str]]:
        out: list[list[str]] = []
        busy = max(1, round(len(policies) * (1 - fall_back)))
        for i in range(len(policies)):
            share = experts * len(policies) / busy
            many = 0 if i >= round(len(policies) * (1 - fall_back)) else int(share) + (i % 2 < 2 * (share % 1))
            out.append([names[k] for k in torch.randperm(len(names), generator=generator)[:many].sort().values])
        return out

    guard.backbone.called = called  # type: ignore[method-assign]


def routing_cost() -> dict[str, Any]:
    """For each mix, milliseconds of a batch of 16 and the ratio to the monolith."""
    guard = routeguard(load(BASE), DEFAULT_POLICY)
    guard.backbone.routing = Routing()
    rows = texts()
    out: dict[str, Any] = {"base": BASE}
    for name, (fall_back, experts) in MIXES.items():
        fixed_routes(guard, fall_back, experts)
        out[name] = {**batch_times(guard, rows), "experts_per_row": experts, "null_share": fall_back}
    return out
