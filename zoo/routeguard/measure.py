"""What is measured of a routing: category F1 over all rows and over unsafe ones, routing, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo.core.metrics import binary


def category_f1(flags: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """Macro and micro F1 of `flags` bool [n, c] against `labels` [n, c] (1, 0, −1: masked).

    Macro is the mean over categories with a positive label; None where there is none at all.
    """
    known = labels >= 0
    truth = labels == 1
    tp = (flags & truth).sum(0)
    fp, fn = (flags & known & ~truth).sum(0), (~flags & truth).sum(0)
    has = truth.any(0)
    if not has.any():
        return {"macro": None, "micro": None}
    each = 2 * tp[has] / (2 * tp[has] + fp[has] + fn[has])
    micro = 2 * tp.sum() / (2 * tp.sum() + fp.sum() + fn.sum())
    return {"macro": float(each.mean()), "micro": float(micro)}


def routing(calls: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Recall and precision of calling each expert: `calls` bool [n, k], `targets` [n, k] (1, 0, −1: masked)."""
    out: dict[str, Any] = {}
    for k, name in enumerate(names):
        known = targets[:, k] >= 0
        truth, called = targets[known, k] == 1, calls[known, k]
        hits = int((truth & called).sum())
        out[name] = {
            "n": int(known.sum()),
            "positives": int(truth.sum()),
            "recall": hits / int(truth.sum()) if truth.any() else None,
            "precision": hits / int(called.sum()) if called.any() else None,
        }
    return out


def measures(
    scores: np.ndarray,
    category_scores: np.ndarray,
    golds: Sequence[bool | None],
    labels: np.ndarray,
    verdict_cut: float,
    category_cut: float,
) -> dict[str, Any]:
    """Of one way to answer: F1 over categories, `all` rows and `unsafe` ones (the paper's choice), and the verdict's.

    `exact_match` is the share of rows with every label known whose categories are all right.
    """
    flags = category_scores >= category_cut
    whole = (labels >= 0).all(axis=1)
    unsafe = np.array([g is True for g in golds], dtype=bool)
    verdict = binary(scores, golds, verdict_cut)
    over = {"all": slice(None), "unsafe": unsafe}
    return {
        "n": len(golds),
        **{f"{k}_f1_{rows}": v for rows, at in over.items() for k, v in category_f1(flags[at], labels[at]).items()},
        "exact_match": float((flags == (labels == 1))[whole].all(axis=1).mean()) if whole.any() else None,
        **{k: verdict[k] for k in ("f1", "auprc", "accuracy", "fpr", "recall", "precision")},
    }
