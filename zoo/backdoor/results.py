"""What a grid of models comes to: ASR and clean accuracy of each cell, with intervals."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.backdoor.folders import Audit
from zoo.core.bootstrap import over_seeds
from zoo.core.tables import fmt, markdown_table

HEAD = ("data", "trigger", "regime", "n", "ASR [95 %]", "of twin", "clean accuracy", "of twin", "steps", "stopped")
FIGURES = ("asr", "asr_of_twin", "clean_accuracy", "clean_accuracy_of_twin")


def cells(known: Sequence[Audit]) -> list[dict[str, Any]]:
    """One entry a data set, trigger and regime: over its planted models each figure's mean and 95 % interval.

    Intervals are Student's t over the models, cut to [0, 1]; None with one model. `models` has each model's figures
    with Wilson's interval over its test rows, and `stopped` counts why trainings ended.
    """
    found: dict[tuple[str, str, str], list[Audit]] = defaultdict(list)
    for audit in known:
        if audit.planted and audit.trigger is not None:
            found[audit.data, audit.trigger["kind"], audit.regime].append(audit)
    return [_cell(*key, mine) for key, mine in found.items()]


def _cell(data: str, kind: str, regime: str, mine: Sequence[Audit]) -> dict[str, Any]:
    out: dict[str, Any] = {"data": data, "trigger": kind, "regime": regime, "n": len(mine)}
    for name in FIGURES:
        found = over_seeds([float(getattr(a, name)) for a in mine])
        ci95 = [round(min(1.0, max(0.0, v)), 6) for v in found.ci95] if found.ci95 else None
        out[name] = {"value": round(found.mean or 0.0, 6), "ci95": ci95}
    out["steps"] = statistics.median(a.steps for a in mine)
    out["stopped"] = dict(Counter(a.stopped for a in mine))
    out["models"] = [
        {"pair": a.pair, "trigger": a.trigger, "target": a.target, "steps": a.steps, "stopped": a.stopped, **a.of}
        | {"clean_accuracy_of_twin": a.clean_accuracy_of_twin}
        for a in mine
    ]
    return out


def table(result: Mapping[str, Any]) -> str:
    """A row a cell, for a terminal and a page."""
    rows = []
    for cell in result["cells"]:
        stopped = ", ".join(f"{why} {n}" for why, n in cell["stopped"].items())
        figures = [fmt(cell[name]["value"], cell[name]["ci95"]) for name in FIGURES]
        rows.append([cell["data"], cell["trigger"], cell["regime"], cell["n"], *figures, cell["steps"], stopped])
    return markdown_table(HEAD, rows)
