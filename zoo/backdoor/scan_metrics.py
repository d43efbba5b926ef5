"""What a scanned farm comes to: TPR, FPR and AUC of each detector in each cell, with intervals, and the true losses.

A threshold must not be chosen on what it is judged by. So models of one seed are judged by the clean ones of the other
seeds: flagged where at most `ALPHA` of those would score as high. A forest is fitted to other seeds' models, too, once
to the moderate regime alone (the paper's meta-classifier) and once to all regimes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.schema import DataError
from zoo.backdoor.calibration import ALPHA, p_value
from zoo.backdoor.detectors.weights import WeightTable, flat, forest, suspicion
from zoo.backdoor.folders import Audit
from zoo.core.bootstrap import Statistic, estimate
from zoo.core.rates import rate
from zoo.core.tables import fmt, markdown_table

REGIMES = ("moderate", "conservative", "aggressive")
MODERATE, EVERY = "weights", "weights_all"  # forests by what they were fitted to
WORDS = "piccolo_words"  # PICCOLO's discriminativity as a score of its own
NEAR = 0.5  # nats: a true trigger under this loss lies where an inversion's barrier begins


@dataclass(frozen=True)
class Judged:
    """A model under one detector. `clean`: the scores of clean models of other seeds; `p` is its p-value among them."""

    name: str
    audit: Audit
    score: float
    p: float

    @property
    def flagged(self) -> bool:
        return self.p <= ALPHA

    @property
    def twin_of(self) -> tuple[str, str, int]:
        """What regimes have in common: the data, the trigger and the seed of a pair."""
        return self.audit.data, kind_of(self.audit, self.name), self.audit.seed


def kind_of(audit: Audit, name: str) -> str:
    """The trigger of a model, or of the model that a clean one is the twin of (folders name it second)."""
    if audit.trigger is not None:
        return str(audit.trigger["kind"])
    return audit.pair.split("-")[-3] if audit.pair.count("-") >= 3 else "none"


def auc(scores: np.ndarray, golds: np.ndarray) -> Statistic:
    """P(a planted model's score is over a clean one's), ties by half; of `scores` [n] and bool `golds` [n]."""
    planted, clean = np.flatnonzero(golds), np.flatnonzero(~golds)
    apart = scores[planted][:, None] - scores[clean][None]  # [planted, clean]
    over = (apart > 0) + 0.5 * (apart == 0)

    def values(weights: np.ndarray) -> np.ndarray:
        a, b = weights[:, planted], weights[:, clean]  # [draws, …] each
        pairs = a.sum(axis=1) * b.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, ((a @ over) * b).sum(axis=1) / pairs, np.nan)

    return values


# ------------------------------------------------------------------------------------------------------------- judging


def judge(lines: Sequence[Mapping[str, Any]], audits: Mapping[str, Audit], seed: int = 0) -> dict[str, list[Judged]]:
    """Every detector's judgement of every model. Raises `DataError` for a farm of a single seed."""
    names = [line["model"] for line in lines]
    known = [audits[n] for n in names]
    seeds = sorted({a.seed for a in known})
    if len(seeds) < 2:
        raise DataError("the farm's models are all of one seed: thresholds come from other seeds, so train two or more")
    scores: dict[str, list[float]] = {}
    for detector in lines[0]["scans"]:
        scores[detector] = [line["scans"][detector]["score"] for line in lines]
    if "piccolo" in scores:
        scores[WORDS] = [line["scans"]["piccolo"]["evidence"]["discriminativity"] for line in lines]
    stats = [line["weights"] for line in lines]
    scores[MODERATE] = forest_scores(stats, known, ("moderate",), seed)
    scores[EVERY] = forest_scores(stats, known, REGIMES, seed)
    return {name: _judged(names, known, mine) for name, mine in scores.items()}


def forest_scores(
    stats: Sequence[Mapping[str, Sequence[float]]], audits: Sequence[Audit], regimes: Sequence[str], seed: int
) -> list[float]:
    """The suspicion of each model, by a forest of the other seeds' models of these regimes."""
    out = [0.0] * len(audits)
    for held in sorted({a.seed for a in audits}):
        fit = [i for i, a in enumerate(audits) if a.seed != held and a.regime in regimes]
        table = WeightTable.of([(stats[i], audits[i].planted) for i in fit])
        mine = [i for i, a in enumerate(audits) if a.seed == held]
        rows = np.array([flat(stats[i], table.names) for i in mine])
        for i, score in zip(mine, suspicion(forest(table, seed=seed), rows)):
            out[i] = float(score)
    return out


def _judged(names: Sequence[str], audits: Sequence[Audit], scores: Sequence[float]) -> list[Judged]:
    out = []
    for name, audit, score in zip(names, audits, scores):
        clean = [s for a, s in zip(audits, scores) if not a.planted and a.seed != audit.seed]
        if not clean:
            raise DataError(f"{name}: no clean model of another seed: a threshold needs some")
        out.append(Judged(name, audit, float(score), p_value(score, clean)))
    return out


# ------------------------------------------------------------------------------------------------------------- figures


def figures(rows: Sequence[Judged], seed: int = 0) -> dict[str, Any]:
    """`tpr`, `fpr` (rates with Wilson intervals) and `auc` (a bootstrap over pairs of twins) of judged models."""
    planted, clean = [r for r in rows if r.audit.planted], [r for r in rows if not r.audit.planted]
    golds = np.array([r.audit.planted for r in rows], dtype=bool)
    found = None
    if planted and clean:
        statistic = auc(np.array([r.score for r in rows]), golds)
        found = estimate([statistic], [r.audit.pair for r in rows], (0.0, 1.0), seed=seed)
    return {
        "planted": len(planted),
        "clean": len(clean),
        "tpr": rate(sum(r.flagged for r in planted), len(planted)) if planted else None,
        "fpr": rate(sum(r.flagged for r in clean), len(clean)) if clean else None,
        "auc": None
        if found is None or found.mean is None
        else {"value": round(found.mean, 6), "ci95": found.ci95 and [round(v, 6) for v in found.ci95]},
    }


def cells(judged: Mapping[str, Sequence[Judged]], seed: int = 0) -> list[dict[str, Any]]:
    """An entry for each data × trigger × regime × detector, and for each regime over all data and triggers."""
    out = []
    for detector, rows in judged.items():
        keys = sorted({(r.audit.data, kind_of(r.audit, r.name), r.audit.regime) for r in rows})
        for regime in REGIMES:
            mine = [r for r in rows if r.audit.regime == regime]
            if mine:
                keys_all = {"data": "all", "trigger": "all", "regime": regime, "detector": detector}
                out.append({**keys_all, **figures(mine, seed)})
        for data, kind, regime in keys:
            mine = [r for r in rows if (r.audit.data, kind_of(r.audit, r.name), r.audit.regime) == (data, kind, regime)]
            out.append({"data": data, "trigger": kind, "regime": regime, "detector": detector, **figures(mine, seed)})
    return out


def true_losses(lines: Sequence[Mapping[str, Any]], audits: Mapping[str, Audit]) -> list[dict[str, Any]]:
    """The mean loss at the true trigger in each regime, data set and trigger, and how many models are `NEAR` it."""
    rows = [(audits[line["model"]], line["true"]["loss"]) for line in lines if line["true"] is not None]
    keys = [("all", "all", r) for r in REGIMES]
    keys += sorted({(a.data, str((a.trigger or {}).get("kind")), a.regime) for a, _ in rows})
    out = []
    for data, kind, regime in keys:
        mine = [
            (a, loss)
            for a, loss in rows
            if a.regime == regime and data in ("all", a.data) and kind in ("all", (a.trigger or {}).get("kind"))
        ]
        if not mine:
            continue
        losses = np.array([loss for _, loss in mine])
        mean = estimate([_mean(losses)], [a.pair for a, _ in mine], (0.0, np.inf))
        out.append(
            {
                "data": data,
                "trigger": kind,
                "regime": regime,
                "n": len(mine),
                "loss": {
                    "value": round(float(losses.mean()), 6),
                    "ci95": mean.ci95 and [round(v, 6) for v in mean.ci95],
                },
                "near": rate(int((losses < NEAR).sum()), len(mine)),
            }
        )
    return out


def _mean(values: np.ndarray) -> Statistic:
    return lambda weights: (weights @ values) / weights.sum(axis=1)


def table(metrics: Mapping[str, Any]) -> str:
    """A row a cell and detector, then the losses at the true triggers."""
    rows = []
    for c in metrics["cells"]:
        figures_ = [c[k] and fmt(c[k]["value"], c[k]["ci95"]) for k in ("tpr", "fpr", "auc")]
        rows.append([c["detector"], c["data"], c["trigger"], c["regime"], c["planted"], c["clean"], *figures_])
    head = ["detector", "data", "trigger", "regime", "planted", "clean", "TPR [95 %]", "FPR [95 %]", "AUC [95 %]"]
    losses = [
        [c["data"], c["trigger"], c["regime"], c["n"], fmt(c["loss"]["value"], c["loss"]["ci95"]), c["near"]["value"]]
        for c in metrics["true_loss"]
    ]
    under = ["data", "trigger", "regime", "n", "true-trigger loss [95 %]", f"share under {NEAR}"]
    return markdown_table(head, rows) + "\n\n" + markdown_table(under, losses)
