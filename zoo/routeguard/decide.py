"""Routings tried offline: who is called, what the union of their answers is, and which thresholds serve it best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zoo.core.calibration import fit_threshold
from zoo.routeguard.backbone import FLOOR, Routing, _logit
from zoo.routeguard.experts import MONOLITH
from zoo.routeguard.measure import category_f1
from zoo.routeguard.model import RouteGuard
from zoo.routeguard.survey import Survey

QUANTILES = 12  # router thresholds that are tried for each expert
ROUNDS = 2


@dataclass
class Calibrated:
    """A survey in calibrated log-odds, FLOOR where a reader is not asked: [n, r] and [n, r, c]."""

    verdict: np.ndarray
    category: np.ndarray
    own: np.ndarray  # bool [n, r]: P(unsafe) reaches the reader's own threshold


@dataclass
class Union:
    """What a routing says: `verdict` [n] and `category` [n, c] log-odds, `calls` bool [n, k], `null` bool [n]."""

    verdict: np.ndarray
    category: np.ndarray
    calls: np.ndarray
    null: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        return sigmoid(self.verdict)

    @property
    def category_scores(self) -> np.ndarray:
        return sigmoid(self.category)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def calibrated(guard: RouteGuard, s: Survey) -> Calibrated:
    verdict, category = np.full(s.verdict.shape, FLOOR), np.full(s.category.shape, FLOOR)
    own = np.zeros(s.verdict.shape, bool)
    for r, name in enumerate(s.readers):
        c = guard.backbone.reader(name).calibration
        asked = ~np.isnan(s.verdict[:, r])
        known = np.where(np.isnan(s.category[:, r]), -np.inf, s.category[:, r])  # [n, c]
        verdict[asked, r] = c.verdict(s.verdict[asked, r], known[asked].max(axis=1))
        category[:, r] = np.where(np.isnan(s.category[:, r]), FLOOR, c.category(s.category[:, r]))
        own[:, r] = asked & (verdict[:, r] >= _logit(c.threshold))
    return Calibrated(np.maximum(verdict, FLOOR), np.maximum(category, FLOOR), own)


def union(c: Calibrated, calls: np.ndarray, fallback: str = MONOLITH, second_look: bool = False) -> Union:
    """The maximum over called readers, as `RoutedBackbone.score_batch` takes it. `calls` is bool [n, k]."""
    null = ~calls.any(axis=1)
    by = np.concatenate([(null & (fallback == MONOLITH))[:, None], calls | (null & (fallback == "all"))[:, None]], 1)
    counts = by.copy()
    if second_look:
        counts[:, 1:] &= c.own[:, 1:]
    verdict = np.where(by, c.verdict, FLOOR).max(axis=1)
    category = np.where(counts[:, :, None], c.category, FLOOR).max(axis=1)
    return Union(verdict, category, calls, null)


@dataclass(frozen=True)
class Cuts:
    """Thresholds, as probabilities, of the union's verdict and categories."""

    verdict: float
    category: float


def fit_cuts(u: Union, golds: Sequence[bool | None], labels: np.ndarray) -> Cuts:
    """The verdict's by F1; the categories' by macro F1 over all rows."""
    scores = u.category_scores
    tries = np.unique(np.quantile(scores[labels == 1], np.linspace(0.02, 0.98, 25))) if (labels == 1).any() else [0.5]
    best = max(tries, key=lambda t: category_f1(scores >= t, labels)["macro"] or 0.0)
    return Cuts(fit_threshold(u.scores, golds).value, float(best))


def goodness(u: Union, cuts: Cuts, golds: Sequence[bool | None], labels: np.ndarray) -> float:
    """The mean of macro F1, micro F1 (all rows) and the verdict's F1: what thresholds are chosen for."""
    f1 = category_f1(u.category_scores >= cuts.category, labels)
    known = np.array([g is not None for g in golds])
    truth, flags = np.array([bool(g) for g in golds])[known], (u.scores >= cuts.verdict)[known]
    tp = (truth & flags).sum()
    verdict = 2 * tp / max(1, truth.sum() + flags.sum())
    return float(np.mean([f1["macro"] or 0.0, f1["micro"] or 0.0, verdict]))


def routing_thresholds(s: Survey) -> np.ndarray:
    """For each expert the router's threshold (log-odds) with the best F1 of routing on these rows, [k]."""
    out = []
    for k in range(s.route.shape[1]):
        golds = [None if t < 0 else bool(t) for t in s.targets[:, k]]
        out.append(_logit(min(max(fit_threshold(sigmoid(s.route[:, k]), golds).value, 1e-6), 1 - 1e-6)))
    return np.array(out)


def joint_thresholds(
    s: Survey, c: Calibrated, start: np.ndarray, fallback: str = MONOLITH, second_look: bool = False
) -> np.ndarray:
    """Router thresholds [k] chosen one expert at a time for what the whole says in the end (`goodness`) on these rows.

    Not in the paper, whose router is trained to name the gold domains: an expert that is called in vain costs little
    if it then says none, and one that is not called costs its categories.
    """
    cuts_of = [
        np.unique(np.concatenate([[start[k]], np.quantile(s.route[:, k], np.linspace(0, 1, QUANTILES))]))
        for k in range(len(start))
    ]
    best, top = start.copy(), -1.0
    for _ in range(ROUNDS):
        for k in range(len(start)):
            for cut in cuts_of[k]:
                tried = best.copy()
                tried[k] = cut
                u = union(c, s.route >= tried, fallback, second_look)
                score = goodness(u, fit_cuts(u, s.golds, s.labels), s.golds, s.labels)
                if score > top + 1e-9:
                    best, top = tried, score
    return best


def set_routing(guard: RouteGuard, thresholds: np.ndarray, fallback: str, second_look: bool, cuts: Cuts) -> None:
    """Makes the guard decide so."""
    names = guard.backbone.router.names
    guard.backbone.routing = Routing(fallback, dict(zip(names, map(float, thresholds))), second_look)
    guard.calibration = type(guard.calibration)(threshold=cuts.verdict, category_threshold=cuts.category)
