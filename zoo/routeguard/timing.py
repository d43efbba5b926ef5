"""What routing costs: the time of a batch through router, experts and fallback, beside the base by itself."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from datamodules.schema import Sample
from zoo.core.query import policy_queries
from zoo.routeguard.model import RouteGuard

BATCH, BATCHES, ROUNDS = 16, 4, 5


@torch.no_grad()
def batch_times(guard: RouteGuard, samples: Sequence[Sample]) -> dict[str, float]:
    """Median milliseconds of a prepared batch: `routeguard`, and `monolith`, the base asked for every entry.

    Both read the same rows under the guard's policy, in turns, each in the fastest way that it has. `ratio` is the
    median of the ratios of each turn.
    """
    b, policy = guard.backbone, guard.policy
    queries = policy_queries(policy)
    rows = list(samples[: BATCH * BATCHES])
    routed, plain = [], []
    for at in range(0, len(rows), BATCH):
        part = rows[at : at + BATCH]
        routed.append(b.collate([b.prepare(s, policy) for s in part]).to(guard.device))
        plain.append(b.base.collate([b.base.prepare(s, b.shown, queries) for s in part]).to(guard.device))
    guard.eval()
    both: list[Callable[[], object]] = [
        lambda: [b.score_batch(x) for x in routed],
        lambda: [b.base.score_batch(x) for x in plain],
    ]
    for run in both:
        run()
    turns = [[_milliseconds(run) / len(routed) for run in both] for _ in range(ROUNDS)]
    mine, base = (statistics.median(t[i] for t in turns) for i in range(2))
    ratio = statistics.median(t[0] / t[1] for t in turns)
    return {"routeguard": round(mine, 3), "monolith": round(base, 3), "ratio": round(ratio, 3), "batch": BATCH}


def _milliseconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - started)
