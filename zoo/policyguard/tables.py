"""The generated bench as tables: domains × rule types, splits, and baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules.rules import TYPES
from datamodules.schema import SPLITS
from zoo.core.tables import markdown_table


def bench_tables(report: dict[str, Any]) -> str:
    """`report` is that of `load_policyguard`. A cell has the pairs and, of these, the violations."""
    rows, total = [], {t: [0, 0] for t in TYPES}
    for domain, cells in report["domains"].items():
        for name, cell in cells.items():
            total[name][0] += cell["pairs"]
            total[name][1] += cell["violations"]
        rows.append(_row(domain, [(c["pairs"], c["violations"]) for c in cells.values()]))
    rows.append(_row("all", [tuple(total[t]) for t in TYPES]))
    parts = [markdown_table(["pairs, violations", *TYPES, "all"], rows)]
    keys = ("samples", "pairs", "violations", "cross", "steps", "tokens")
    names = ("trajectories", "pairs", "violations", "across subdomains", "steps", "words and signs")
    splits = [[s, *(report["splits"].get(s, {}).get(k, 0) for k in keys)] for s in SPLITS]
    parts.append(markdown_table(["split", *names], splits))
    notes = [f"{report['rules']} rules."]
    if report["held_out"]:
        notes.append(f"For test alone: {', '.join(report['held_out'])}.")
    notes += [f"Left out: {n} trajectories ({why})." for why, n in report["dropped"].items()]
    return "\n\n".join([*parts, " ".join(notes)])


def baseline_table(judged: Mapping[str, Mapping[str, Any]]) -> str:
    """`judged`: name → `metrics.by_slice`. All test pairs, and balanced accuracy across subdomains."""
    rows = []
    for name, metrics in judged.items():
        whole, across = metrics["overall"]["all"], metrics.get("cross", {}).get("across", {})
        columns = [whole[k] for k in ("n", "accuracy", "f1", "balanced_accuracy", "auprc")]
        rows.append([name, *columns, across.get("balanced_accuracy")])
    return markdown_table(["baseline", "pairs", "accuracy", "F1", "balanced accuracy", "AUPRC", "across"], rows)


def _row(name: str, cells: list[tuple[int, int]]) -> list[Any]:
    pairs, broken = sum(c[0] for c in cells), sum(c[1] for c in cells)
    return [name, *(_cell(*c) for c in cells), _cell(pairs, broken)]


def _cell(pairs: int, broken: int) -> str:
    return f"{pairs}, {broken / pairs:.1%}" if pairs else ""
