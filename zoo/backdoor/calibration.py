"""How often a clean model scores as high: p-values against the clean models of a grid.

The clean twins of a farm were trained as its planted models were, without poison. A model's false-positive rate at its
own score is (1 + clean models that score as high) / (1 + clean models): under exchangeability a clean model falls under
α with a probability of at most α, however few there are (a conformal p-value). It holds for models of the grid's kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.schema import DataError
from zoo.backdoor.detectors.weights import WeightTable
from zoo.backdoor.subject import Subject
from zoo.config import recipes_folder

ALPHA = 0.05  # flagged from here on down
UNCALIBRATED = 0.9  # the score from which a model is flagged where nothing is known of clean ones


def published() -> Path:
    """Where the published grid's scores lie; the file may not be there."""
    return recipes_folder() / "backdoor" / "calibration.json"


def p_value(score: float, clean: Sequence[float]) -> float:
    """Of scores [n] of clean models. Raises ValueError for none."""
    if not clean:
        raise ValueError("no clean model")
    return (1 + sum(c >= score for c in clean)) / (1 + len(clean))


@dataclass(frozen=True)
class Calibration:
    """A grid's models with their scores, `models`, the `settings` of its detectors, and its `architecture`."""

    models: tuple[Mapping[str, Any], ...]
    settings: Mapping[str, Mapping[str, Any]]
    architecture: Mapping[str, Any]
    name: str

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Raises `DataError` for a file that is not one of these."""
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
            models = tuple(raw["models"])
            if not all(isinstance(m["scores"], dict) and isinstance(m["planted"], bool) for m in models):
                raise TypeError("a model without its scores")
            return cls(models, dict(raw["settings"]), dict(raw["architecture"]), Path(path).name)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(f"{path}: no calibration of a grid: {type(e).__name__}: {e}") from e

    def clean(self, detector: str) -> list[float]:
        return [m["scores"][detector] for m in self.models if not m["planted"] and detector in m["scores"]]

    def table(self) -> WeightTable:
        """Raises `DataError` for too few models."""
        return WeightTable.of([(m["weights"], m["planted"]) for m in self.models if "weights" in m])

    def why_not(self, subject: Subject, settings: Mapping[str, Any]) -> str | None:
        """Why its clean scores say nothing of this model, or of a detector with these settings; None where they do."""
        name = settings["detector"]
        apart = [k for k in self.architecture if subject.architecture.get(k) != self.architecture[k]]
        if apart:
            return f"the grid's models are others ({apart[0]} {self.architecture[apart[0]]!r})"
        if name not in self.settings or not self.clean(name):
            return f"the grid has no clean model scanned by {name}"
        if self.settings[name] != settings:
            other = [k for k in settings if settings[k] != self.settings[name].get(k)]
            return f"the grid was scanned with another {', '.join(other[:3])}"
        return None
