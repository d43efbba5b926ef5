"""What is measured on a probe's answers: accuracies, the gap between originals and edits, and eight ways to fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.thud import DIMENSIONS, LABELS, Item
from zoo.core.bootstrap import DRAWS, Statistic, difference, estimate, mean_of, ratio
from zoo.core.tables import fmt
from zoo.thud.questions import SIZES

UNPARSED = "unparsed"
FAILURES = (
    "mute_hallucination",  # of muted clips: something is said to be heard
    "swap_false_match",  # of swapped clips: the sound is said to be that of what is seen
    "offset_blindness",  # of shifted clips: said to be in sync
    "direction_confusion",  # of shifted clips: said to be shifted the other way
    "false_sync_alarm",  # of originals: said to be shifted
    "false_mute_alarm",  # of originals: said to be silent
    "false_swap_alarm",  # of originals: said to have another's sound
    "offset_error",  # of shifted clips whose direction is said rightly: off by more than 0.5 s
)


@dataclass(frozen=True)
class Outcome:
    """What was said of an item: a label of its dimension, or `UNPARSED`, which is wrong and counted apart.

    `size` is how many seconds sound and picture are said to lie apart, if that was asked and could be read. `how` and
    `text` are those of the written answer, if any.
    """

    item: Item
    said: str
    size: float | None = None
    how: str = "scored"
    text: str | None = None
    truncated: bool = False

    @property
    def right(self) -> bool:
        return self.said == self.item.label

    @property
    def offset(self) -> float | None:
        """The said Δ in seconds, later > 0: 0 for in sync, else the size with the sign of what was said."""
        if self.said == "synced":
            return 0.0
        if self.size is None or self.said not in ("delay", "early"):
            return None
        return self.size if self.said == "delay" else -self.size


def summarise(outcomes: Sequence[Outcome], seed: int = 0, draws: int = DRAWS) -> dict[str, Any]:
    """The measured part of `metrics.json`. Every value has its n and a 95 % interval that resamples source clips.

    Of each dimension: `original` and `edited` accuracy, `combined` (the mean over the labels of the accuracy on each,
    so that a model which always says the same has 1 / labels), and `gap`, original minus edited. `gap` and `combined`
    are also given as means over the dimensions. Of sync also `direction` (of shifted clips said to be shifted, how many
    the right way), `offset_mae` in seconds and the shares within 0.5 and 1 s (of shifted clips; in sync means 0), and
    `bands`: the edited accuracy by |Δ|. `unparsed` is a share of all answers. A value is None, with a reason, where it
    is undefined.
    """
    outcomes = list(outcomes)
    right = np.array([o.right for o in outcomes], dtype=bool)
    edited = np.array([o.item.edited for o in outcomes], dtype=bool)
    dimension = np.array([o.item.dimension for o in outcomes])
    label = np.array([o.item.label for o in outcomes])
    said = np.array([o.said for o in outcomes])
    groups = [o.item.clip for o in outcomes]
    deltas = np.array([o.item.delta for o in outcomes], dtype=float)

    def value(statistic: Statistic, rows: np.ndarray, bounds: tuple[float, float] = (-1.0, 1.0)) -> dict[str, Any]:
        got = estimate([statistic], groups, bounds, draws, seed)
        reasons = [r for r in got.reasons if not r.startswith("seeds: 1")]
        return {
            "n": int(rows.sum()),
            "value": None if got.mean is None else round(got.mean, 6),
            "ci95": None if got.ci95 is None else [round(v, 6) for v in got.ci95],
            **({"reasons": reasons} if reasons else {}),
        }

    def share(what: np.ndarray, rows: np.ndarray) -> dict[str, Any]:
        return value(ratio(what & rows, rows), rows)

    gaps, combined = [], []
    out: dict[str, Any] = {"n": len(outcomes), "clips": len(set(groups))}
    for name in DIMENSIONS:
        own = dimension == name
        before, after = own & ~edited, own & edited
        gap = difference(ratio(right & before, before), ratio(right & after, after))
        labels = [own & (label == x) for x in LABELS[name]]
        balanced = _all_of([ratio(right & rows, rows) for rows in labels])
        gaps.append(gap)
        combined.append(balanced)
        out[name] = {
            "original": share(right, before),
            "edited": share(right, after),
            "combined": value(balanced, own),
            "gap": value(gap, own),
            "said": dict(sorted(Counter(said[own].tolist()).items())),
        }
    every = np.ones(len(outcomes), dtype=bool)
    out["gap"] = value(_all_of(gaps), every)
    out["combined"] = value(_all_of(combined), every)
    shifted = (dimension == "sync") & edited
    moved = np.isin(said, ("delay", "early"))
    out["sync"]["direction"] = share(right, shifted & moved)
    offsets = np.array([np.nan if o.offset is None else o.offset for o in outcomes], dtype=float)
    told = shifted & ~np.isnan(offsets)
    off = np.where(told, np.abs(offsets - deltas), 0.0)
    out["sync"]["offset_mae"] = value(ratio(off * told, told), told, (0.0, np.inf))
    for within in (0.5, 1.0):
        out["sync"][f"offset_within_{within:g}"] = share(off <= within, told)
    out["sync"]["bands"] = {
        band: share(right, shifted & np.array([band_of(d) == band for d in deltas], dtype=bool))
        for band in _bands(deltas)
    }
    of: dict[str, Callable[[], dict[str, Any]]] = {
        "mute_hallucination": lambda: share(said == "sound", (dimension == "existence") & edited),
        "swap_false_match": lambda: share(said == "match", (dimension == "consistency") & edited),
        "offset_blindness": lambda: share(said == "synced", shifted),
        "direction_confusion": lambda: share(moved & ~right, shifted),
        "false_sync_alarm": lambda: share(moved, (dimension == "sync") & ~edited),
        "false_mute_alarm": lambda: share(said == "silent", (dimension == "existence") & ~edited),
        "false_swap_alarm": lambda: share(said == "mismatch", (dimension == "consistency") & ~edited),
        "offset_error": lambda: share(off > 0.5, told & right),
    }
    out["failures"] = {name: of[name]() for name in FAILURES}
    out["unparsed"] = share(said == UNPARSED, every)
    out["truncated"] = sum(o.truncated for o in outcomes)
    return out


def _all_of(parts: Sequence[Statistic]) -> Statistic:
    """The mean over all parts, undefined on a draw where one of them is: over some labels it is another figure."""
    every = mean_of(parts)

    def values(weights: np.ndarray) -> np.ndarray:
        missing = np.isnan(np.stack([p(weights) for p in parts], axis=1)).any(axis=1)
        return np.where(missing, np.nan, every(weights))

    return values


def band_of(delta: float) -> str | None:
    """The band of |Δ|: the nearest of 0.4, 0.8, 1.2, 1.6 and 2.0 s, `other` over 0.2 s from all; None for 0."""
    if not delta:
        return None
    size = min(SIZES, key=lambda s: abs(float(s) - abs(delta)))
    return size if abs(float(size) - abs(delta)) <= 0.2 + 1e-9 else "other"


def _bands(deltas: np.ndarray) -> list[str]:
    """The five, and `other` where there are such."""
    return [*SIZES, *(["other"] if "other" in {band_of(d) for d in deltas} else [])]


# --------------------------------------------------------------------------------------------------------------- table


def arms_table(arms: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Heading and a line an arm: original and edited accuracy of each dimension, all three combined ones, the gap."""
    heads = [f"{name} {part}" for name in DIMENSIONS for part in ("original", "edited", "combined")]
    lines = [["answers of", "clips", *heads, "gap", "unparsed"]]
    for arm, m in arms.items():
        cells = [m[name][part] for name in DIMENSIONS for part in ("original", "edited", "combined")]
        shown = [fmt(c["value"]) for c in cells]
        gap = fmt(m["gap"]["value"], m["gap"]["ci95"])
        lines.append([arm, str(m["clips"]), *shown, gap, fmt(m["unparsed"]["value"])])
    return lines


def details_table(metrics: dict[str, Any]) -> list[list[str]]:
    """Heading and a line a figure of one arm, with its interval."""
    lines = [["figure", "n", "value [95 %]"]]

    def add(name: str, entry: dict[str, Any]) -> None:
        lines.append([name, str(entry["n"]), fmt(entry["value"], entry["ci95"])])

    for name in DIMENSIONS:
        for part in ("original", "edited", "combined", "gap"):
            add(f"{name} {part}", metrics[name][part])
    for part in ("direction", "offset_mae", "offset_within_0.5", "offset_within_1"):
        add(f"sync {part.replace('_', ' ')}", metrics["sync"][part])
    for band, entry in metrics["sync"]["bands"].items():
        add(f"sync shifted by {band} s" if band != "other" else "sync shifted by others", entry)
    for name in FAILURES:
        add(name.replace("_", " "), metrics["failures"][name])
    return lines
