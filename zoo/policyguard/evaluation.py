"""What a guard says of pairs of rule and trajectory: at the end, after each step, how early, and how fast."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from datamodules.sampling import process
from datamodules.schema import Sample
from zoo.core.guard import Guard
from zoo.core.tables import markdown_table, text_table
from zoo.core.watch import StepVerdict
from zoo.policyguard.metrics import by_slice, detection, ea_f1, prefix_metrics
from zoo.policyguard.pairs import Pairs, pairs_of

BATCH = 16
TIMED = 16  # trajectories that latency is measured on, one at a time


def judged(guard: Guard, samples: Sequence[Sample]) -> list[list[StepVerdict]]:
    """`Guard.prefixes` of all samples, each under its own policy, in batches of similar length."""
    order = sorted(range(len(samples)), key=lambda i: len(samples[i].messages))
    out: dict[int, list[StepVerdict]] = {}
    for start in tqdm(
        range(0, len(order), BATCH), desc="steps", leave=False, disable=process()[0] > 0, file=sys.stderr
    ):
        at = order[start : start + BATCH]
        out |= zip(at, guard.prefixes([samples[i] for i in at], batch_size=BATCH))
    return [out[i] for i in range(len(samples))]


def measure(guard: Guard, samples: Sequence[Sample]) -> dict[str, Any]:
    """The figures of `zoo.policyguard.metrics` over the pairs of `samples` whose labels are known.

    `pairs` at the end, `prefixes` and `detection` over the pairs whose prefixes are labelled; all at the guard's
    threshold of categories but for detection, which goes through several. `latency_ms` is that of one trajectory with
    all of its rules, and of one step of a stream; `ea_f1` takes the former for each pair.
    """
    found = judged(guard, samples)
    by_id = dict(zip((s.id for s in samples), found))
    pairs = pairs_of(samples)
    end = [by_id[t][-1].categories[r] for t, r in zip(pairs.trajectory, pairs.id)]
    steps = [[v.categories[r] for v in by_id[t][:-1]] for t, r in zip(pairs.trajectory, pairs.id)]
    threshold = guard.calibration.category_threshold
    out: dict[str, Any] = {"threshold": threshold, "pairs": by_slice(end, pairs.gold, pairs.slices, threshold)}
    out |= _early(pairs, steps, threshold)
    out["truncated"] = sum(verdicts[-1].truncated for verdicts in found)
    out["latency_ms"] = latency(guard, samples[:TIMED])
    f1 = out["pairs"]["overall"]["all"]["f1"]
    a_pair = out["latency_ms"].get("pair")
    out["ea_f1"] = None if f1 is None or not a_pair else ea_f1(f1, a_pair)
    return out


def _early(pairs: Pairs, steps: Sequence[Sequence[float]], threshold: float) -> dict[str, Any]:
    rows = [i for i, states in enumerate(pairs.states) if states and len(states) == len(steps[i])]
    scores = [steps[i] for i in rows]
    return {
        "prefixes": prefix_metrics(scores, [pairs.states[i] for i in rows], [pairs.gold[i] for i in rows], threshold),
        "detection": detection(scores, [pairs.first[i] for i in rows], [pairs.trajectory[i] for i in rows]),
    }


def latency(guard: Guard, samples: Sequence[Sample]) -> dict[str, float]:
    """Median milliseconds: of a whole trajectory under its policy, of one of its pairs, and of a step of a stream."""
    whole, pair, step = [], [], []
    for n, sample in enumerate(samples):
        policy = guard.policy_for(sample)
        started = time.perf_counter()
        guard.moderate(sample)
        taken = 1000 * (time.perf_counter() - started)
        watch = guard.watch(policy)
        times = []
        for message in sample.messages:
            started = time.perf_counter()
            watch.step(message)
            times.append(1000 * (time.perf_counter() - started))
        if n or len(samples) == 1:  # the first one warms up
            whole.append(taken)
            pair.append(taken / len(policy))
            step += times
    return {
        name: round(statistics.median(v), 2) for name, v in (("example", whole), ("pair", pair), ("step", step)) if v
    }


def table(metrics: dict[str, Any]) -> str:
    """What `fit` prints: trajectories as a whole, pairs by slice, and what was known after each prefix."""
    whole = {"overall": metrics.get("overall"), "by_slice": metrics.get("by_slice")}  # rules are too many to be listed
    own = metrics["policyguard"]
    head = ["pairs", "n", "F1", "balanced accuracy", "AUPRC", "accuracy"]
    keys = ("n", "f1", "balanced_accuracy", "auprc", "accuracy")
    rows = [
        [f"{kind} {name}", *(m[k] for k in keys)] for kind, cells in own["pairs"].items() for name, m in cells.items()
    ]
    parts = [text_table(whole), markdown_table(head, rows)]
    head = ["known after", "n", "F1", "balanced accuracy", "majority accuracy", "accuracy"]
    keys = ("n", "f1", "balanced_accuracy", "majority_accuracy", "accuracy")
    parts.append(markdown_table(head, [[k, *(m["already"][x] for x in keys)] for k, m in own["prefixes"].items()]))
    head = ["alarm at", "detected", "at once", "mean delay", "false alarms a trajectory"]
    keys = ("detected", "at_once", "delay_mean", "false_alarms_per_trajectory")
    parts.append(markdown_table(head, [[f"{d['threshold']:.2f}", *(d[k] for k in keys)] for d in own["detection"]]))
    return "\n\n".join(parts)
