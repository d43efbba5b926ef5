"""Experts: closed output spaces over parts of a policy, each with a calibration of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from datamodules.schema import DataError, Policy, near
from zoo.core.calibration import fit_platt, fit_threshold
from zoo.core.guard import mixed_odds

MONOLITH = "monolith"  # the reader that answers for the whole policy: baseline and fallback


@dataclass(frozen=True)
class ExpertCalibration:
    """What turns an expert's log-odds into probabilities that can be compared with those of other experts.

    P(unsafe) = sigmoid(scale · odds + bias), where odds are those of the expert's verdict mixed with its likeliest
    category's by `evidence`; categories have a scale and a bias of their own. Thresholds are the expert's own, for when
    it answers alone.
    """

    scale: float = 1.0
    bias: float = 0.0
    category_scale: float = 1.0
    category_bias: float = 0.0
    evidence: float = 0.0
    threshold: float = 0.5
    category_threshold: float = 0.5

    def verdict(self, odds: Any, likeliest: Any) -> Any:
        """Calibrated log-odds of unsafe, the shape of `odds`."""
        return self.scale * mixed_odds(odds, likeliest, self.evidence) + self.bias

    def category(self, odds: Any) -> Any:
        """Calibrated log-odds of categories, the shape of `odds`."""
        return self.category_scale * odds + self.category_bias


@dataclass
class Expert:
    """`categories` are ids of policy entries. Experts may share some: then both may be called, and the surer counts."""

    name: str
    categories: tuple[str, ...]
    calibration: ExpertCalibration = field(default_factory=ExpertCalibration)

    def policy(self, policy: Policy) -> Policy | None:
        """The part of `policy` that the expert answers for, in its order; None where there is none."""
        ids = [i for i in policy.ids if i in self.categories]
        return policy.subset(ids) if ids else None

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "categories": list(self.categories), "calibration": asdict(self.calibration)}

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Expert:
        return cls(raw["name"], tuple(raw["categories"]), ExpertCalibration(**raw["calibration"]))


def check_categories(name: str, categories: Sequence[str], policy: Policy) -> None:
    """Raises `DataError` for an expert without a category, or with one that `policy` does not have."""
    if not categories:
        raise DataError(f"expert {name!r} has no category: give at least one of {', '.join(policy.ids)}")
    for id in categories:
        if id not in policy.ids:
            raise DataError(f"expert {name!r}: policy {policy.name!r} has no entry {id!r}{near(id, policy.ids)}")


def fit_calibration(
    name: str, odds: np.ndarray, golds: Sequence[bool | None], category_odds: np.ndarray, labels: np.ndarray
) -> tuple[ExpertCalibration, dict[str, str]]:
    """Fits on rows that did not train the expert; returns the reasons for what could not be fitted.

    `odds` [n] and `golds` [n] are of its verdict, `category_odds` [n, c] and `labels` [n, c] (1, 0, −1 unknown) of its
    categories. Scales and biases by likelihood, `evidence` too; thresholds by F1. Raises `DataError` for no labelled
    row at all.
    """
    if not len(odds) or (all(g is None for g in golds) and (labels < 0).all()):
        raise DataError(f"expert {name!r}: the calibration set has no row with a label of its categories: give some")
    reasons: dict[str, str] = {}
    likeliest = category_odds.max(axis=1)  # [n]
    known = np.array([g is not None for g in golds])
    truth = np.array([bool(g) for g in golds], dtype=float)
    fits = []
    for evidence in np.arange(11) / 10:
        mixed = mixed_odds(odds, likeliest, evidence)
        scale, bias = fit_platt(mixed, golds)
        z = (scale * mixed + bias)[known]
        nll = float((np.logaddexp(0, z) - truth[known] * z).mean()) if known.any() else 0.0
        fits.append((nll, float(evidence), scale, bias))
    _, evidence, scale, bias = min(fits)
    scores = _sigmoid(scale * mixed_odds(odds, likeliest, evidence) + bias)
    threshold = fit_threshold(scores, golds)
    flat, marks = category_odds.ravel(), [None if v < 0 else bool(v) for v in labels.ravel()]
    category_scale, category_bias = fit_platt(flat, marks)
    category_threshold = fit_threshold(_sigmoid(category_scale * flat + category_bias), marks)
    for what, fitted in (("threshold", threshold), ("category_threshold", category_threshold)):
        if fitted.reason:
            reasons[what] = fitted.reason
    return (
        ExpertCalibration(
            scale, bias, category_scale, category_bias, evidence, threshold.value, category_threshold.value
        ),
        reasons,
    )


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return torch.sigmoid(torch.as_tensor(z, dtype=torch.float64)).numpy()
