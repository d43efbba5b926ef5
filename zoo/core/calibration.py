"""From raw answers to probabilities and decisions: temperature and thresholds, fitted on validation rows.

A row is flagged when `score >= threshold`, everywhere in the zoo (`flagged`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
DEFAULT_THRESHOLD = 0.5


class Labelled(NamedTuple):
    """The rows whose label is known."""

    scores: np.ndarray  # float64 [n], P(unsafe)
    golds: np.ndarray  # bool [n]
    keep: np.ndarray  # bool [rows given]: which of them are labelled

    @property
    def masked(self) -> int:
        return int((~self.keep).sum())

    @property
    def one_class(self) -> str | None:
        """Why nothing that contrasts the classes is defined here; None when both are present."""
        if not len(self.golds):
            return "no labelled row"
        if self.golds.all():
            return "one class: every labelled row is unsafe"
        return None if self.golds.any() else "one class: every labelled row is safe"


class Fitted(NamedTuple):
    """A fitted threshold; `reason` tells why it is only a default, and is None when it was really fitted."""

    value: float
    reason: str | None = None


def labelled(scores: Any, golds: Any, ids: Sequence[str] | None = None) -> Labelled:
    """Drops the rows whose gold is None.

    `scores` [N] are probabilities, `golds` [N] true | false | None (0 and 1 will do); lists, arrays or tensors.
    Raises `ValueError`, naming the id (or the row's number), for a score that is NaN or outside [0, 1]: torchmetrics
    would take it for a logit without a word. A masked row is checked too: a NaN there is the same bug.
    """
    values = np.asarray(_plain(scores), dtype=np.float64).reshape(-1)  # [N]
    marks = list(_plain(golds))
    if len(values) != len(marks):
        raise ValueError(f"{len(values)} scores but {len(marks)} golds")
    bad = ~((values >= -1e-6) & (values <= 1 + 1e-6))  # NaN compares false, so it is bad too
    if bad.any():
        row = int(bad.argmax())
        name = f"record {ids[row]!r}" if ids is not None else f"row {row}"
        raise ValueError(f"{name}: score {values[row]} is not a probability in [0, 1]")
    keep = np.array([g is not None for g in marks], dtype=bool)
    known = [g for g in marks if g is not None]
    for g in known:
        if g not in (0, 1):
            raise ValueError(f"gold {g!r} is not true, false or None")
    return Labelled(values[keep].clip(0, 1), np.array(known, dtype=bool), keep)


def _plain(values: Any) -> Any:
    """A tensor as a NumPy array (bfloat16 has no NumPy type, hence float32), anything else unchanged."""
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()


def flagged(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The decision: bool, the shape of `scores`."""
    return np.asarray(scores) >= threshold


def fit_temperature(logits: Any, golds: Any) -> float:
    """The temperature T that minimises the NLL of softmax(logits / T) (Guo et al. 2017, section 4.2).

    `logits` [N, 2] are the log-scores of (safe, unsafe). The result lies in [0.05, 20]. With one class or no labelled
    row a temperature is not identified, and 1.0 (no change) is returned.
    Raises `ValueError` for another shape or a logit that is not finite.
    """
    z = np.asarray(_plain(logits), dtype=np.float64)  # [N, 2]
    marks = list(_plain(golds))
    if z.ndim != 2 or z.shape[1] != 2 or len(z) != len(marks):
        raise ValueError(f"logits must be [N, 2] with N golds, got {list(z.shape)} and {len(marks)} golds")
    if not np.isfinite(z).all():
        row = int((~np.isfinite(z)).any(axis=1).argmax())
        raise ValueError(f"row {row}: logits {z[row].tolist()} are not finite")
    rows = labelled(np.zeros(len(z)), marks)
    if rows.one_class:
        return 1.0
    # The NLL is convex in b = 1 / T, so the zero of its derivative is the optimum: bisection cannot miss it.
    margin = (z[rows.keep, 1] - z[rows.keep, 0]) * np.where(rows.golds, 1.0, -1.0)  # [n], > 0 where right

    def slope(b: float) -> float:
        return float(-(margin * np.exp(-np.logaddexp(0, margin * b))).mean())  # d/db mean log(1 + exp(-margin b))

    low, high = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE
    if slope(low) >= 0:
        return MAX_TEMPERATURE
    if slope(high) <= 0:
        return MIN_TEMPERATURE
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float((low * high) ** -0.5)


def _candidates(rows: Labelled) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each distinct way to cut the scores, most flagged first: thresholds, true and false positives, [cuts] each.

    A cut lies midway between two neighbouring scores, so that a score's last bit cannot change the decision. The
    first flags every row. Flagging none is left out.
    """
    distinct, index = np.unique(rows.scores, return_inverse=True)  # [cuts], [n]
    tp = np.bincount(index, rows.golds, len(distinct))[::-1].cumsum()[::-1]
    fp = np.bincount(index, ~rows.golds, len(distinct))[::-1].cumsum()[::-1]
    below = np.concatenate([[0.0], distinct[:-1]])
    cut = below + (distinct - below) / 2
    return np.where(cut > below, cut, distinct), tp, fp  # two neighbouring floats have no middle


def fit_threshold(scores: Any, golds: Any, objective: str = "f1") -> Fitted:
    """The threshold with the highest F1 on these rows; of equally good ones that nearest 0.5.

    `scores` [N], `golds` [N] as for `labelled`. With one class or no labelled row: 0.5, with the reason.
    """
    if objective != "f1":
        raise ValueError(f"unknown objective {objective!r}; known: f1")
    rows = labelled(scores, golds)
    if rows.one_class:
        return Fitted(DEFAULT_THRESHOLD, rows.one_class)
    cuts, tp, fp = _candidates(rows)
    f1 = 2 * tp / (tp + fp + rows.golds.sum())
    best = cuts[f1 >= f1.max() - 1e-12]
    return Fitted(float(best[np.abs(best - 0.5).argmin()]))


def fit_shared_threshold(scores: Any, golds: Any, groups: Sequence[str]) -> Fitted:
    """The threshold with the highest mean F1 over groups (modalities), so that the most frequent one does not decide.

    Groups without both classes are left out; where none has both, this is `fit_threshold` over all rows. Ties go to
    the threshold nearest 0.5. `scores` [N] are probabilities, `golds` true | false | None [N].
    """
    rows = labelled(scores, golds)
    kinds = np.asarray(groups)[rows.keep]
    gold = np.asarray(rows.golds, dtype=bool)
    value = np.asarray(rows.scores, dtype=np.float64)
    usable = [k for k in sorted(set(kinds)) if len(set(gold[kinds == k])) == 2]
    if not usable:
        return fit_threshold(scores, golds)
    points = np.unique(value)
    candidates = np.unique(np.concatenate([(points[1:] + points[:-1]) / 2, [0.5]]))
    total = np.zeros(len(candidates))
    for kind in usable:
        mine = kinds == kind
        ranked = [np.sort(value[mine & (gold == g)]) for g in (True, False)]
        hits, alarms = (len(r) - np.searchsorted(r, candidates, side="left") for r in ranked)
        total += 2 * hits / (hits + alarms + len(ranked[0]))
    best = np.flatnonzero(total >= total.max() - 1e-12)
    return Fitted(float(candidates[best[np.abs(candidates[best] - 0.5).argmin()]]), None)


def threshold_at_fpr(scores: Any, golds: Any, fpr: float = 0.05) -> Fitted:
    """The lowest threshold (the highest recall) that flags at most a share `fpr` of the safe rows.

    Without a safe row: 0.5, with the reason. It lies above every score, and flags nothing, where the safe rows that
    score highest are too many already.
    """
    rows = labelled(scores, golds)
    if rows.golds.all():
        return Fitted(DEFAULT_THRESHOLD, rows.one_class)
    cuts, _, fp = _candidates(rows)
    fits = fp / (~rows.golds).sum() <= fpr + 1e-12
    if fits.any():
        return Fitted(float(cuts[fits.argmax()]))
    top = float(rows.scores.max())
    return Fitted((top + 1) / 2 if (top + 1) / 2 > top else float(np.nextafter(1.0, 2.0)))


def expected_calibration_error(scores: Any, golds: Any, bins: int = 15) -> float | None:
    """Mean |share of unsafe rows - mean P(unsafe)| over equal-width bins, weighted by their rows (Naeini et al. 2015).

    It is about P(unsafe) over [0, 1], not about the confidence of the likelier class. None without a labelled row.
    """
    rows = labelled(scores, golds)
    if not len(rows.golds):
        return None
    error = binary_calibration_error(torch.from_numpy(rows.scores), torch.from_numpy(rows.golds).long(), bins, "l1")
    return float(error)


def fit_platt(odds: Any, golds: Any) -> tuple[float, float]:
    """(a, b) that minimise the NLL of sigmoid(a · odds + b) (Platt 1999), a > 0: the order of the rows stays.

    `odds` [N] are log-odds, `golds` true | false | None [N]. A weak prior at (1, 0), worth one row, keeps a separable
    or tiny set from running away; without both classes it is all there is, and (1, 0) is returned.
    """
    x = np.asarray(_plain(odds), dtype=np.float64).reshape(-1)
    rows = labelled(np.zeros(len(x)), golds)
    if rows.one_class:
        return 1.0, 0.0
    x, y = x[rows.keep], rows.golds.astype(np.float64)
    features, prior = np.stack([x, np.ones_like(x)], axis=1), np.array([1.0, 0.0])
    w = prior.copy()

    def loss(w: np.ndarray) -> float:
        z = features @ w
        return float((np.logaddexp(0, z) - y * z).sum() + 0.5 * ((w - prior) ** 2).sum())

    for _ in range(100):  # Newton with halved steps: the loss is strictly convex
        p = 1 / (1 + np.exp(-np.clip(features @ w, -500, 500)))
        slope = features.T @ (p - y) + (w - prior)
        step = np.linalg.solve(features.T @ (features * (p * (1 - p))[:, None]) + np.eye(2), slope)
        size = 1.0
        while size > 1e-8 and loss(w - size * step) > loss(w):
            size /= 2
        w = w - size * step
        if np.abs(size * step).max() < 1e-9:
            break
    return max(float(w[0]), 1 / MAX_TEMPERATURE), float(w[1])
