"""One model's scan: which detectors can look at it, what they say, how sure that is, and what nobody looked at."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.labelled_text import LabelledText
from datamodules.schema import DataError, near
from zoo.backdoor.calibration import ALPHA, UNCALIBRATED, Calibration, p_value, published
from zoo.backdoor.detectors.base import Detector
from zoo.backdoor.detectors.dbs import DBS
from zoo.backdoor.detectors.piccolo import Piccolo
from zoo.backdoor.detectors.weights import WeightForest
from zoo.backdoor.guards import GuardClassifier, policy_texts
from zoo.backdoor.subject import Subject
from zoo.core.guard import Guard

DETECTORS = ("dbs", "piccolo", "weights")
ALL = "all"
# A guard reads a policy with every text: a pass of it costs as much as dozens of a small classifier's.
QUICK = {
    "dbs": DBS(tokens=5, steps=40, rows=4, held=16, positions=("start",)),
    "piccolo": Piccolo(steps=25, rows=4, held=12, random_words=12),
}
ALWAYS = (
    "triggers that are no words put into a text (a syntax, a style): a search finds words that stand for them at best",
    "triggers of more pieces than are searched for, and at other positions",
    "behaviour that no class shows: one class moved to another for some texts alone",
)


class BackdoorError(DataError):
    """A model that a scan flags, and that was therefore not loaded."""


def names_of(detector: str) -> tuple[str, ...]:
    """`all`, or names with commas between them. Raises `DataError` for an unknown one."""
    names = DETECTORS if detector == ALL else tuple(detector.split(","))
    for name in names:
        if name not in DETECTORS:
            raise DataError(f"detector={name}{near(name, (*DETECTORS, ALL))}")
    return names


def grid(path: str | Path | None = None) -> Calibration | None:
    """The calibration at `path`, else the published one; None where that is not there."""
    if path is None and not published().is_file():
        return None
    return Calibration.read(path or published())


@dataclass(frozen=True)
class Plan:
    """`detectors` that run, and why the others do not."""

    detectors: tuple[Detector, ...]
    skipped: dict[str, str]


def plan(
    names: Sequence[str],
    subject: Subject,
    data: LabelledText | None,
    known: Calibration | None,
    reference: Subject | None = None,
    seed: int = 0,
) -> Plan:
    """Detectors by name, and a reason for each that cannot look at this model."""
    out: list[Detector] = []
    skipped: dict[str, str] = {}
    for name in names:
        if name == "weights":
            why = "no grid of models is there to compare its weights with" if known is None else None
            if known is not None:
                try:
                    table = known.table()
                except DataError as e:
                    why = str(e)
                else:
                    forest = WeightForest(table, known.name)
                    why = known.why_not(subject, forest.settings())
            if why:
                skipped[name] = why
            else:
                out.append(forest)
        elif data is None:
            skipped[name] = "no labelled texts were given (data=FILE)"
        elif isinstance(subject, GuardClassifier):
            out.append(replace(QUICK[name], seed=seed, reference=reference))
        elif name == "dbs":
            out.append(DBS(seed=seed, reference=reference))
        else:
            out.append(Piccolo(seed=seed, reference=reference))
    return Plan(tuple(out), skipped)


def scan(
    subject: Subject,
    data: LabelledText | None,
    names: Sequence[str] = DETECTORS,
    known: Calibration | None = None,
    reference: Subject | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The report on one model as plain JSON.

    `score`, `trigger`, `target` and `false_positive_rate` are those of the detector that finds it least likely to be
    clean. Raises `DataError` where no detector can look at it: a scan of nothing must not pass for a clean one.
    """
    started = time.perf_counter()
    todo = plan(names, subject, data, known, reference, seed)
    if not todo.detectors:
        reasons = "; ".join(f"{n}: {why}" for n, why in todo.skipped.items())
        raise DataError(f"{subject.name}: nothing can be scanned ({reasons})")
    found: dict[str, Any] = {}
    for detector in todo.detectors:
        begun = time.perf_counter()
        done = detector.scan(subject, data)
        entry: dict[str, Any] = {"score": round(done.score, 6), **_judged(done.score, subject, detector, known)}
        found[detector.name] = {**entry, "seconds": round(time.perf_counter() - begun, 2), "evidence": done.evidence}
    worst = min(found, key=lambda n: (found[n]["false_positive_rate"] or 1.0, -found[n]["score"]))
    trigger = found[worst]["evidence"].get("trigger")
    top = {k: found[worst][k] for k in ("score", "false_positive_rate", "calibration")}
    not_covered = [f"{n}: {why}" for n, why in todo.skipped.items()]
    not_covered += [*getattr(subject, "not_covered", ()), *ALWAYS]
    return {
        "model": subject.name,
        "flagged": any(f["flagged"] for f in found.values()),
        "detector": worst,
        **top,
        "trigger": trigger and trigger["words"],
        "target": trigger and trigger["class"],
        "detectors": found,
        "data": None if data is None else {"name": data.name, "rows": len(data), "skipped": data.skipped},
        "not_covered": not_covered,
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _judged(score: float, subject: Subject, detector: Detector, known: Calibration | None) -> dict[str, Any]:
    """Flagged at a false-positive rate of ALPHA where it is known, else from a score of UNCALIBRATED on."""
    why = "no grid of clean models" if known is None else known.why_not(subject, detector.settings())
    if why is not None or known is None:
        said = {"flagged": score >= UNCALIBRATED, "threshold": UNCALIBRATED, "false_positive_rate": None}
        return {**said, "calibration": f"not calibrated: {why}"}
    clean = known.clean(detector.name)
    rate = p_value(score, clean)
    return {
        "flagged": rate <= ALPHA,
        "threshold": f"false-positive rate {ALPHA}",
        "false_positive_rate": round(rate, 6),
        "calibration": f"{len(clean)} clean models of {known.name}",
    }


def refuse(report: dict[str, Any]) -> None:
    """Raises `BackdoorError` for a flagged model, with what was found."""
    if not report["flagged"]:
        return
    which = [n for n, f in report["detectors"].items() if f["flagged"]]
    found = report["detectors"][which[0]]
    trigger = found["evidence"].get("trigger")
    words = f", words {' '.join(trigger['words'])!r} → {trigger['class']}" if trigger else ""
    rate = found["false_positive_rate"]
    sure = found["calibration"] if rate is None else f"of clean models {rate:.1%} score as high"
    raise BackdoorError(
        f"{report['model']}: {' and '.join(which)} flag it (score {found['score']:.3f}{words}; {sure}): it was not "
        "loaded. python -m zoo.scan prints the whole report; load without scan=True if you trust it"
    )


def check_guard(guard: Guard, data: LabelledText | None = None, seed: int = 0) -> dict[str, Any]:
    """Scans a guard by DBS, on texts of its policy where none are given. Raises `BackdoorError` for a flagged one, and
    `DataError` for one that cannot be scanned. What was not looked at is said on standard error.
    """
    subject = GuardClassifier(guard)
    report = scan(subject, data or policy_texts(guard), ("dbs",), grid(), seed=seed)
    refuse(report)
    print(
        f"{guard.name}: scanned by dbs in {report['seconds']:.0f} s, score {report['score']:.3f} "
        f"({report['calibration']}). Not covered: {'; '.join(report['not_covered'])}",
        file=sys.stderr,
    )
    return report
