"""`python -m zoo.test recipe=backdoor_scan farm=FOLDER data_dir=FOLDER`: detectors against a farm of planted models."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.schema import DataError, Message, Part, Sample, near
from zoo.backdoor import scan_metrics
from zoo.backdoor.detectors.weights import FEWEST
from zoo.backdoor.folders import Audit
from zoo.backdoor.scan_farm import INVERSIONS, Member, detectors, farm_hash, members, references, scan_farm
from zoo.backdoor.scan_metrics import NEAR, Judged, kind_of
from zoo.backdoor.scanning import ALL
from zoo.core.interrupts import Signals
from zoo.core.metrics import Record
from zoo.core.run import new_run, write_json, write_lines, write_yaml
from zoo.core.scores import Judged as Row
from zoo.core.scores import write_scores

JOURNAL = "scans.jsonl"  # in the farm's folder: every run and every claim reads the same scans


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's configuration with its inversions. Raises `DataError` for an unknown detector."""
    name = config["detector"]
    names = {ALL: list(INVERSIONS), "weights": []}.get(name, [name])
    for n in names:
        if n not in INVERSIONS:
            raise DataError(f"detector={n}{near(n, (*INVERSIONS, 'weights', ALL))}")
    return {**config, "inversions": names}


def check(config: dict[str, Any]) -> None:
    """Raises `DataError` for settings that no scan can have, and for a farm that is not there or too small."""
    own = settings(config)
    if not isinstance(config["processes"], int) or config["processes"] < 1:
        raise DataError(f"processes={config['processes']}: give a number from 1 on")
    try:
        detectors(own)
    except TypeError as e:
        raise DataError(f"a detector has no such setting: {e}") from e
    measured = [m.audit for m in _measured(config)]
    for seed in {a.seed for a in measured}:  # before an hour of scanning, not after it
        for planted in (True, False):
            n = sum(a.seed != seed and a.regime == "moderate" and a.planted == planted for a in measured)
            if n < FEWEST:
                kind = "planted" if planted else "clean"
                raise DataError(
                    f"{config['farm']}: beside those of seed {seed}, {n} {kind} models of the moderate regime are "
                    f"measured, and a forest needs {FEWEST}: train more seeds (recipe=backdoor_farm seeds=…)"
                )


def _measured(config: Mapping[str, Any]) -> list[Member]:
    """The farm's models but the references."""
    models = members(config["farm"])
    known = references(models).values()
    return [m for m in models if m.name not in known]


def look(config: dict[str, Any]) -> tuple[str, list[Sample]]:
    """The farm's hash, and a row for each model that is measured: what a claim can choose its rows by."""
    return farm_hash(config["farm"]), [_sample(m.name, m.audit) for m in _measured(config)]


def _sample(name: str, audit: Audit) -> Sample:
    meta = {f"regime:{audit.regime}": True, f"trigger:{kind_of(audit, name)}": True}
    said = (Message("user", (Part("text", text=name),)),)
    return Sample(name, said, unsafe=audit.planted, source=audit.data, group=audit.pair, meta=meta)


def test(config: dict[str, Any]) -> int:
    """Scans what is not scanned yet, prints the table, and writes `metrics.json`, `calibration.json` and score files.

    `scores_<detector>_<regime>.jsonl` call a model by data, trigger and seed, so that a claim can pair regimes.
    """
    started = time.perf_counter()
    check(config)
    own = settings(config)
    with Signals():
        lines = list(scan_farm(own, Path(config["farm"]) / JOURNAL))
    audits = {m.name: m.audit for m in members(config["farm"])}
    judged = scan_metrics.judge(lines, audits, config["seed"])
    run = new_run(Path(config["runs"]) / "test", config["recipe"])
    write_yaml(run / "config.yaml", config)
    metrics = {
        "farm_models": len(lines),
        "planted": sum(audits[line["model"]].planted for line in lines),
        "references": references(members(config["farm"])),
        "detectors": {n: d.settings() for n, d in detectors(own).items()},
        "cells": scan_metrics.cells(judged, config["seed"]),
        "true_loss": scan_metrics.true_losses(lines, audits),
        "failed": 0,
        "seed": config["seed"],
        "data_hash": farm_hash(config["farm"]),
        "seconds": round(time.perf_counter() - started, 1),
    }
    for name, rows in judged.items():
        for regime in scan_metrics.REGIMES:
            mine = [r for r in rows if r.audit.regime == regime]
            write_scores(run / f"scores_{name}_{regime}.jsonl", (_row(r) for r in mine))
    for regime in scan_metrics.REGIMES:
        true = [line for line in lines if line["true"] is not None and audits[line["model"]].regime == regime]
        write_scores(run / f"scores_true_{regime}.jsonl", (_true(line, audits[line["model"]]) for line in true))
    write_json(run / "calibration.json", calibration(lines, audits, own))
    write_lines(run / "scans.jsonl", [{k: v for k, v in line.items() if k != "weights"} for line in lines])
    write_json(run / "metrics.json", metrics)
    print(scan_metrics.table(metrics))
    print(f"run folder: {run}", file=sys.stderr)
    return 0


def _row(r: Judged) -> Row:
    return Row(_record(r.audit, r.name, 1.0 - r.p), r.flagged, {})


def _true(line: Mapping[str, Any], audit: Audit) -> Row:
    """`flagged`: the true trigger's loss is under `NEAR`."""
    return Row(_record(audit, line["model"], min(1.0, line["true"]["flips"])), line["true"]["loss"] < NEAR, {})


def _record(audit: Audit, name: str, score: float) -> Record:
    kind = kind_of(audit, name)
    same = f"{audit.data}/{kind}/{audit.seed}"
    id = f"{same}/{'planted' if audit.planted else 'clean'}"
    slices = (f"regime:{audit.regime}", f"trigger:{kind}")
    return Record(id, score, audit.planted, source=audit.data, slices=slices, group=same)


def calibration(
    lines: Sequence[Mapping[str, Any]], audits: Mapping[str, Audit], config: Mapping[str, Any]
) -> dict[str, Any]:
    """What `zoo.scan` compares a model with: every model's scores and weight statistics (see `Calibration`).

    The forest's score of a clean model is by a forest of other seeds: of its own it would be too low.
    """
    shapes = [line["architecture"] for line in lines]
    if any(shape != shapes[0] for shape in shapes):
        common = {k: v for k, v in shapes[0].items() if all(s.get(k) == v for s in shapes)}
    else:
        common = dict(shapes[0])
    known = [audits[line["model"]] for line in lines]
    forests = scan_metrics.forest_scores(
        [line["weights"] for line in lines], known, scan_metrics.REGIMES, config["seed"]
    )
    models = [
        {
            "model": line["model"],
            "data": audit.data,
            "regime": audit.regime,
            "planted": audit.planted,
            "scores": {n: round(s["score"], 6) for n, s in line["scans"].items()} | {"weights": round(weight, 6)},
            "weights": line["weights"],
        }
        for line, audit, weight in zip(lines, known, forests)
    ]
    own = {n: {**d.settings(), "with_reference": True} for n, d in detectors(config).items()}
    own["weights"] = {"detector": "weights", "trees": 300, "seed": config["seed"]}
    return {"settings": own, "architecture": common, "models": models}
