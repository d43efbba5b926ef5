"""What the data of a claim's arms holds, looked at before anything long is begun: its hash, and each metric's rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.base import GuardDataModule
from datamodules.schema import DataError, Sample, canonical_json, near
from zoo.benchmarks import Benchmark
from zoo.claims.claim import ARM, CATEGORY, REPORTED, Claim, Metric
from zoo.claims.measure import selected
from zoo.claims.runs import Unit, benchmark_of
from zoo.core.metrics import ABLATION
from zoo.core.resume import leaves
from zoo.evaluate import data_hash, slices_of
from zoo.fit import build_data


@dataclass(frozen=True)
class Row:
    """What a metric can choose a test sample by, and its label."""

    names: Mapping[str, str]
    slices: tuple[str, ...]
    gold: bool | None
    categories: frozenset[str]  # entries of its policy


def survey(units: Mapping[tuple[str, int], Unit], claim: Claim) -> None:
    """Gives each unit its data's hash. Raises `DataError` for a metric that no test row of an arm can answer.

    Data that another arm makes are not there yet: their hash is that arm's key, and what metrics ask of them shows
    when they are measured.
    """
    seen: dict[str, tuple[str, list[Row]]] = {}
    checked: set[tuple[str, str]] = set()
    for (name, _), unit in units.items():
        config = {**unit.config, "seed": 0}  # the seed orders training rows; the rows are the same
        benchmark = benchmark_of(unit.arm, config)
        if benchmark is None and (made := made_by(unit)):
            unit.data_hash = hashlib.sha256(canonical_json(made).encode()).hexdigest()
            continue
        what = canonical_json(config if benchmark else config["data"])
        try:
            if what not in seen:
                seen[what] = _look_at(benchmark, config) if benchmark else _look(build_data(config))
            unit.data_hash, rows = seen[what]
            if (name, what) not in checked:
                checked.add((name, what))
                for metric in {c.metric for c in claim.comparisons if name in (c.arm, c.against)}:
                    check(claim.metrics[metric], rows)
        except DataError as e:
            raise DataError(f"arm {name!r}: {e}") from e


def made_by(unit: Unit) -> dict[str, str]:
    """The keys of the runs that the data of a unit are from, by the setting that says so."""
    named = {v for v in leaves(unit.config["data"]).values() if isinstance(v, str) and v.startswith(ARM)}
    return {k: u.key for k, u in unit.uses.items() if unit.arguments.get(k) in named}


def _look(data: GuardDataModule) -> tuple[str, list[Row]]:
    data.prepare_data()
    rows = [row for s in data.samples("test") for row in _rows(s, data)]
    return data_hash(data.corpus.samples), rows


def _look_at(benchmark: Benchmark, config: dict[str, Any]) -> tuple[str, list[Row]]:
    """As `_look`, of a benchmark that has rows of its own: its labels are those of the rows."""
    if benchmark.look is None:
        raise DataError(f"recipe {config['recipe']!r} has no judged rows that a claim can compare")
    digest, samples = benchmark.look(config)
    return digest, [
        Row({"source": s.source, "modality": s.modality, "target": s.target}, slices_of(s), s.unsafe, frozenset())
        for s in samples
    ]


def _rows(sample: Sample, data: GuardDataModule) -> list[Row]:
    """The sample, and the copies of a twin that lack a part: each has that slice alone."""
    policy = data.fixed_policy(sample)
    names = {"source": sample.source, "modality": sample.modality, "target": sample.target}
    lacking = sample.meta.get("needs", ()) if "twin" in sample.meta else ()
    slices = [slices_of(sample), *((f"{ABLATION}{n}",) for n in lacking)]
    return [Row(names, s, sample.gold(policy), frozenset(policy.ids)) for s in slices]


def check(metric: Metric, rows: Sequence[Row]) -> None:
    """Raises `DataError`, with near matches, where `metric` asks for what no test row has."""
    if metric.kind == REPORTED:
        return
    for key, wanted in metric.where.items():
        there = {s for r in rows for s in r.slices} if key == "slice" else {r.names[key] for r in rows}
        for value in wanted:
            if value not in there:
                raise DataError(f"metric {metric.name!r}: no test row has {key} {value!r}{near(value, sorted(there))}")
    chosen = [r for r in rows if selected(r.names, r.slices, metric.where)]
    if not chosen:
        asked = ", ".join(f"{k} {' or '.join(v)}" for k, v in metric.where.items()) or "all"
        raise DataError(f"metric {metric.name!r}: no test row has {asked} together")
    if metric.kind in CATEGORY:
        entries = frozenset[str]().union(*(r.categories for r in chosen))
        for category in metric.categories:
            if category not in entries:
                raise DataError(
                    f"metric {metric.name!r}: no policy has category {category!r}{near(category, sorted(entries))}"
                )
        return
    golds: set[Any] = {r.gold for r in chosen} - {None}
    if not golds:
        raise DataError(f"metric {metric.name!r}: none of its {len(chosen)} test rows has a label")
    needed = {"auprc": {True, False}, "f1": {True}, "recall": {True}, "fpr": {False}}.get(metric.kind, set())
    if needed - golds:
        lacking = "unsafe" if True in needed - golds else "safe"
        raise DataError(f"metric {metric.name!r}: none of its {len(chosen)} test rows is {lacking}: undefined there")
