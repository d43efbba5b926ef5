"""Weight statistics and a random forest: the meta-classifier of arXiv 2409.00399, §4.

Of each tensor of a model: minimum, maximum, median, mean and standard deviation. A forest learns planted from clean on
a grid of models of one architecture. It never reads a text, and it knows nothing of other architectures. The grid's
statistics are kept as a table of numbers (JSON), and the forest is fitted anew from it, which takes a second or two: a
fitted forest would have to be a pickle.

Trap: clean models must have been trained at the planted ones' learning rate and for as many steps, or the forest tells
learning rates apart and nothing else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from datamodules.labelled_text import LabelledText
from datamodules.schema import DataError
from zoo.backdoor.detectors.base import Scan
from zoo.backdoor.subject import Subject
from zoo.core.weights import CheckpointError

STATISTICS = ("min", "max", "median", "mean", "std")
FEWEST = 2  # models of each kind


def statistics(parameters: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """`STATISTICS` of each tensor, by its name. `std` is that of the numbers at hand (no correction).

    Raises `CheckpointError` for a tensor with a number that is none.
    """
    out = {}
    for name, tensor in sorted(parameters.items()):
        x = tensor.detach().double().flatten()
        if not bool(torch.isfinite(x).all()):
            raise CheckpointError(f"{name} holds numbers that are not finite: the model is damaged")
        row = [x.min(), x.max(), x.median(), x.mean(), x.std(correction=0)]
        out[name] = [round(float(v), 9) for v in row]
    return out


@dataclass(frozen=True)
class WeightTable:
    """Statistics of a grid of models. `names`: the tensors, in order; `rows` [m, tensors · 5]; `planted` [m]."""

    names: tuple[str, ...]
    rows: np.ndarray
    planted: np.ndarray

    @classmethod
    def of(cls, models: Sequence[tuple[Mapping[str, Sequence[float]], bool]]) -> WeightTable:
        """Raises `DataError` for models of several architectures, and for fewer than `FEWEST` of a kind."""
        if not models:
            raise DataError("no model to learn from: scan a farm first (python -m zoo.test recipe=backdoor_scan)")
        names = tuple(sorted(models[0][0]))
        for stats, _ in models:
            if tuple(sorted(stats)) != names:
                odd = sorted(set(names) ^ set(stats))
                raise DataError(
                    f"the grid's models differ in their tensors ({', '.join(odd[:3])}): one architecture each"
                )
        planted = np.array([p for _, p in models])
        for kind, n in (("planted", int(planted.sum())), ("clean", int((~planted).sum()))):
            if n < FEWEST:
                raise DataError(f"{n} {kind} models to learn weight statistics from: give at least {FEWEST}")
        return cls(names, np.array([flat(s, names) for s, _ in models]), planted)

    @classmethod
    def read(cls, path: str | Path) -> WeightTable:
        """The models of a calibration file (`zoo.backdoor.calibration`)."""
        try:
            rows = json.loads(Path(path).read_text(encoding="utf-8"))["models"]
            return cls.of([(r["weights"], r["planted"]) for r in rows])
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(f"{path}: no table of weight statistics: {type(e).__name__}: {e}") from e


def flat(stats: Mapping[str, Sequence[float]], names: Sequence[str]) -> np.ndarray:
    """One model's numbers in the order of `names`, [tensors · 5]."""
    return np.array([v for n in names for v in stats[n]], dtype=np.float64)


def forest(table: WeightTable, trees: int = 300, seed: int = 0) -> RandomForestClassifier:
    return RandomForestClassifier(trees, random_state=seed, n_jobs=1).fit(table.rows, table.planted)


def suspicion(fitted: RandomForestClassifier, rows: np.ndarray) -> np.ndarray:
    """The share of the trees' votes for planted, [m], of rows [m, tensors · 5]."""
    return fitted.predict_proba(rows)[:, list(fitted.classes_).index(True)]


@dataclass(frozen=True)
class WeightForest:
    """`table`: the statistics of a grid; `of` says where it comes from."""

    table: WeightTable | None
    of: str = ""
    trees: int = 300
    seed: int = 0

    name = "weights"
    needs_data = False

    def settings(self) -> dict[str, Any]:
        return {"detector": self.name, "trees": self.trees, "seed": self.seed}

    def scan(self, model: Subject, data: LabelledText | None = None) -> Scan:
        """Raises `DataError` without a table, and `CheckpointError` for a model that the table's are not like."""
        if self.table is None:
            raise DataError(
                "weights compares a model with a grid of planted and clean ones, and no table of it is there"
            )
        stats = statistics(model.parameters())
        if tuple(sorted(stats)) != self.table.names:
            odd = sorted(set(self.table.names) ^ set(stats))
            raise CheckpointError(
                f"{model.name}: its tensors are not those of the grid's models ({', '.join(odd[:3])} …): weights can "
                "be compared within one architecture alone"
            )
        row = flat(stats, self.table.names)
        score = float(suspicion(forest(self.table, self.trees, self.seed), row[None])[0])
        return Scan(self.name, score, {"table": self.of, **self._oddest(row)})

    def _oddest(self, row: np.ndarray) -> dict[str, Any]:
        """The statistics that are farthest from the clean models', in standard deviations of theirs."""
        clean = self.table.rows[~self.table.planted]
        spread = clean.std(axis=0)
        far = np.divide(np.abs(row - clean.mean(axis=0)), spread, out=np.zeros_like(row), where=spread > 0)
        labels = [f"{n} {s}" for n in self.table.names for s in STATISTICS]
        top = np.argsort(-far, kind="stable")[:5]
        return {"oddest": [[labels[i], round(float(far[i]), 3)] for i in top if math.isfinite(far[i])]}
