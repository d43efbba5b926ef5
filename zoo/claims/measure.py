"""From judged rows to a claim's figures: every metric of every arm, every difference, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.schema import DataError
from zoo.claims.claim import BINARY, REPORTED, Claim, Comparison, Metric
from zoo.core import bootstrap
from zoo.core.bootstrap import Estimate, Statistic
from zoo.core.metrics import ABLATION
from zoo.core.scores import read_scores

_LABEL = {True: 1, False: 0, None: -1, "yes": 1, "no": 0, "unknown": -1}
REPRODUCED, NOT, OPEN = "reproduced", "not reproduced", "inconclusive"


class Table:
    """The judged rows of one run, in columns: names are lists [n], decisions and labels int8 (−1: there is none)."""

    def __init__(self, path: Path):
        rows = list(read_scores(path))
        records = [r.record for r in rows]
        self.path = path
        self.ids = [r.id for r in records]
        if len(set(self.ids)) < len(self.ids):
            raise DataError(f"{path}: the same id is judged twice: rows cannot be paired")
        self.groups = [r.group for r in records]
        self.names = {
            "source": [r.source for r in records],
            "modality": [r.modality for r in records],
            "target": [r.target for r in records],
            "slice": [r.slices for r in records],
        }
        self.scores = np.array([r.score for r in records], dtype=np.float64)
        self.flags = np.array([r.flagged for r in rows], dtype=np.int8)
        self.golds = np.array([_LABEL[r.gold] for r in records], dtype=np.int8)
        self.categories = sorted({c for r in records for c in r.category_scores})
        place = {c: i for i, c in enumerate(self.categories)}
        self.category_flags = np.full((len(rows), len(place)), -1, dtype=np.int8)
        self.category_golds = np.full((len(rows), len(place)), -1, dtype=np.int8)
        for n, row in enumerate(rows):
            for c, flag in row.categories.items():
                self.category_flags[n, place[c]] = flag
                self.category_golds[n, place[c]] = _LABEL[row.record.category_gold.get(c, "unknown")]

    def chosen(self, where: Mapping[str, Sequence[str]]) -> list[int]:
        """Numbers of the rows that a metric asks for. A copy that lacks a part counts in that slice alone."""
        return [
            n
            for n, slices in enumerate(self.names["slice"])
            if selected({k: v[n] for k, v in self.names.items()}, slices, where)
        ]


def selected(names: Mapping[str, Any], slices: Sequence[str], where: Mapping[str, Sequence[str]]) -> bool:
    """Whether a row of these `names` (source, modality, target) and `slices` is one that `where` asks for."""
    lacks = [s for s in slices if s.startswith(ABLATION)]
    if lacks and not set(lacks) & set(where.get("slice", ())):
        return False
    return all(set(slices) & set(wanted) if key == "slice" else names[key] in wanted for key, wanted in where.items())


@dataclass(frozen=True)
class Run:
    """A finished run of one arm and seed: its metrics.json, and its judged rows where it wrote some."""

    folder: Path
    metrics: dict[str, Any]
    table: Table | None


# ------------------------------------------------------------------------------------------------------ rows in common


class Aligned:
    """The rows that a metric asks for and that all of `tables` judged, in one order, with the labels all agree on.

    Raises `DataError` for two labels that contradict each other: the runs were not asked the same.
    """

    def __init__(self, tables: Sequence[Table], where: Mapping[str, Sequence[str]]):
        places = [{t.ids[n]: n for n in t.chosen(where)} for t in tables]
        ids = [i for i in places[0] if all(i in p for p in places[1:])]
        self.unpaired = len(set().union(*places)) - len(ids)
        self.ids, self.tables = ids, tables
        self.at = [np.array([p[i] for i in ids], dtype=np.int64) for p in places]  # [n] each
        self.groups = [tables[0].groups[n] for n in self.at[0]]

    def labels(self, columns: Sequence[np.ndarray], what: str) -> np.ndarray:
        """1, 0, or −1 where one of `columns`, [n] or [n, categories] each, has no label."""
        out = columns[0].copy()
        for column in columns[1:]:
            apart = (out >= 0) & (column >= 0) & (out != column)
            if apart.any():
                row = self.ids[int(np.argwhere(apart)[0][0])]
                raise DataError(
                    f"{what} of {int(apart.sum())} rows, e.g. {row!r}, differ between {self.tables[0].path} and other "
                    "runs: they were not judged under the same policy; compare categories instead"
                )
            out[column < 0] = -1
        return out

    def shared_categories(self, wanted: Sequence[str]) -> list[str]:
        """Those that all tables scored; of `wanted` where given."""
        shared = [c for c in self.tables[0].categories if all(c in t.categories for t in self.tables)]
        return [c for c in shared if not wanted or c in wanted]


@dataclass(frozen=True)
class Asked:
    """A metric of some tables: a statistic of each, all of the same rows. `n` rows have a label; `notes` say what is
    left out."""

    statistics: list[Statistic]
    groups: list[Any]
    n: int
    notes: list[str]


def asked(metric: Metric, tables: Sequence[Table]) -> Asked:
    rows = Aligned(tables, metric.where)
    notes = [f"{rows.unpaired} rows left out: not judged by every run"] if rows.unpaired else []
    make = _binary if metric.kind in BINARY else _category
    golds, of = make(metric, rows, notes)  # [n] or [n, categories]; (table, its place, rows) → statistic
    known = golds >= 0 if golds.ndim == 1 else (golds >= 0).any(axis=1)
    parts = _parts(metric, rows, known, golds, notes)
    made = []
    for table, at in zip(rows.tables, rows.at):
        each = [bootstrap.of_rows(of(table, at, part), part) for part in parts]
        made.append(each[0] if len(each) == 1 else bootstrap.mean_of(each) if each else _nothing)
    return Asked(made, rows.groups, sum(map(len, parts)), notes)


def _nothing(weights: np.ndarray) -> np.ndarray:
    return np.full(len(weights), np.nan)


def _parts(metric: Metric, rows: Aligned, known: np.ndarray, golds: np.ndarray, notes: list[str]) -> list[np.ndarray]:
    """Numbers of the labelled rows: of each source or modality that the metric is defined on, or of all together."""
    if metric.average is None:
        return [np.flatnonzero(known)]
    names = np.array([rows.tables[0].names[metric.average][n] for n in rows.at[0]], dtype=object)
    parts, without = [], []
    for name in sorted(set(names)):
        part = np.flatnonzero(known & (names == name))
        (parts.append(part) if _defined(metric.kind, golds[part]) else without.append(name))
    if without:
        notes.append(f"mean over {metric.average}s without {', '.join(without)}: a class is missing there")
    return parts


def _defined(kind: str, golds: np.ndarray) -> bool:
    safe, unsafe = bool((golds == 0).any()), bool((golds == 1).any())
    needs = {"auprc": safe and unsafe, "fpr": safe, "precision": safe or unsafe, "accuracy": safe or unsafe}
    return needs.get(kind, safe or unsafe if kind == "exact_match" else unsafe)


def _binary(metric: Metric, rows: Aligned, notes: list[str]) -> tuple[np.ndarray, Any]:
    golds = rows.labels([t.golds[at] for t, at in zip(rows.tables, rows.at)], "the labels")
    masked = int((golds < 0).sum())
    if masked:
        notes.append(f"{masked} rows without a label")
    make = getattr(bootstrap, metric.kind)

    def of(table: Table, at: np.ndarray, part: np.ndarray) -> Statistic:
        answers = table.scores if metric.kind == "auprc" else table.flags == 1
        return make(answers[at[part]], golds[part] == 1)

    return golds, of


def _category(metric: Metric, rows: Aligned, notes: list[str]) -> tuple[np.ndarray, Any]:
    names = rows.shared_categories(metric.categories)
    if missing := sorted(set(metric.categories) - set(names)):
        raise DataError(f"metric {metric.name!r}: category {', '.join(missing)} is not scored by every run")
    columns = [[t.categories.index(c) for c in names] for t in rows.tables]
    here = [np.ix_(at, c) for at, c in zip(rows.at, columns)]
    golds = rows.labels([t.category_golds[h] for t, h in zip(rows.tables, here)], "category labels")  # [n, categories]
    for table, h in zip(rows.tables, here):
        golds[table.category_flags[h] < 0] = -1  # its policy did not have the entry
    if metric.rows == "unsafe":
        verdicts = np.stack([t.golds[at] for t, at in zip(rows.tables, rows.at)])  # [tables, n]
        golds[verdicts.max(axis=0, initial=-1) != 1] = -1
    if metric.kind == "macro_f1" and (without := [c for c, g in zip(names, golds.T) if not (g == 1).any()]):
        notes.append(f"mean over categories without {', '.join(without)}: no row has one")
    make = getattr(bootstrap, metric.kind)

    def of(table: Table, at: np.ndarray, part: np.ndarray) -> Statistic:
        flags = table.category_flags[np.ix_(at[part], [table.categories.index(c) for c in names])]
        return make(flags == 1, golds[part] == 1, golds[part] >= 0)

    return golds, of


# ------------------------------------------------------------------------------------------------------------- figures


def figure(metric: Metric, runs: Sequence[Run]) -> dict[str, Any]:
    """The metric of one arm: a run a seed."""
    if metric.kind == REPORTED:
        return _entry(bootstrap.over_seeds([reported(metric, r) for r in runs]), None, [])
    a = asked(metric, [_table(r, metric) for r in runs])
    return _entry(bootstrap.estimate(a.statistics, a.groups, (0.0, 1.0)), a.n, a.notes)


def contrast(metric: Metric, runs: Sequence[Run], against: Sequence[Run]) -> dict[str, Any]:
    """The metric of one arm minus that of another, paired over rows and over seeds."""
    if metric.kind == REPORTED:
        pairs = [reported(metric, a) - reported(metric, b) for a, b in zip(runs, against)]
        return _entry(bootstrap.over_seeds(pairs), None, [])
    a = asked(metric, [_table(r, metric) for r in (*runs, *against)])
    pairs = [bootstrap.difference(x, y) for x, y in zip(a.statistics, a.statistics[len(runs) :])]
    return _entry(bootstrap.estimate(pairs, a.groups, (-1.0, 1.0)), a.n, a.notes)


def _table(run: Run, metric: Metric) -> Table:
    if run.table is None:
        raise DataError(f"{run.folder}: no judged rows there, and metric {metric.name!r} needs them")
    return run.table


def reported(metric: Metric, run: Run) -> float:
    """The number at the metric's path in metrics.json. Raises `DataError` naming the part that is not there."""
    where = f"metric {metric.name!r}: {run.folder}/metrics.json"
    return _at(metric.path or "", run.metrics, where) - (_at(metric.minus, run.metrics, where) if metric.minus else 0.0)


def _at(path: str, value: Any, where: str) -> float:
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            raise DataError(f"{where} has no {path} ({key!r} is missing)")
        value = value[key]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{where}: {path} is {value!r}, not a number")
    return float(value)


def _entry(e: Estimate, n: int | None, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "values": [None if v is None else round(v, 6) for v in e.values],
        "mean": None if e.mean is None else round(e.mean, 6),
        "ci95": None if e.ci95 is None else [round(v, 6) for v in e.ci95],
        "n": n,
        "groups": e.groups or None,
        "reasons": [*notes, *e.reasons],
    }


# ------------------------------------------------------------------------------------------------------------ verdicts


def verdict(comparison: Comparison, ci95: Sequence[float] | None) -> str:
    """Where the interval lies: wholly where the claim wants it, wholly elsewhere, or across the margin."""
    if ci95 is None:
        return OPEN
    low, high = ci95
    m = comparison.margin
    if comparison.against is None and comparison.direction == "lower":
        m = -m  # a value by itself is under the margin, a difference is under minus the margin
    inside, outside = {
        "higher": (low > m, high <= m),
        "lower": (high < -m, low >= -m),
        "not_lower": (low > -m, high <= -m),
        "equal": (-m < low and high < m, low >= m or high <= -m),
    }[comparison.direction]
    return REPRODUCED if inside else NOT if outside else OPEN


def overall(verdicts: Sequence[str], at_least: int) -> str:
    """Of the deciding comparisons: reproduced when enough are, not reproduced when enough cannot be any more."""
    if verdicts.count(REPRODUCED) >= at_least:
        return REPRODUCED
    return NOT if len(verdicts) - verdicts.count(NOT) < at_least else OPEN


def measure(claim: Claim, runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """`arms`, `differences` and `verdict` of a claim's result; `runs`: arm → a run a seed, the same seeds in all."""
    arms = []
    for name in claim.arms:
        figures = {m: figure(metric, runs[name]) for m, metric in claim.metrics.items() if _asks(claim, name, m)}
        arms.append({"name": name, "metrics": figures})
    differences = []
    for c in claim.comparisons:
        metric = claim.metrics[c.metric]
        entry = contrast(metric, runs[c.arm], runs[c.against]) if c.against else figure(metric, runs[c.arm])
        differences.append(
            {
                "metric": c.metric,
                "arm": c.arm,
                "against": c.against,
                **entry,
                "direction": c.direction,
                "margin": c.margin,
                "paper": c.paper,
                "decides": c.decides,
                "verdict": verdict(c, entry["ci95"]),
            }
        )
    deciding = [d["verdict"] for d in differences if d["decides"]]
    return {"arms": arms, "differences": differences, "verdict": overall(deciding, claim.at_least)}


def _asks(claim: Claim, arm: str, metric: str) -> bool:
    """A metric is measured of the arms that a comparison asks it of: an expert has no other categories."""
    return any(c.metric == metric and arm in (c.arm, c.against) for c in claim.comparisons)
