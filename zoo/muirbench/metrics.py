"""What is measured on answered records: accuracy in all its slices, twins, abstention, and how answers were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.muirbench import Record
from zoo.core.bootstrap import DRAWS, Statistic, estimate, mean_of, of_rows, ratio
from zoo.core.letters import HOW
from zoo.core.tables import fmt

SLICES = ("task", "image_relation", "image_type", "images", "answer_position", "strategy")


@dataclass(frozen=True)
class Outcome:
    """One answered record. `letter` is None where the answer could not be read: that is wrong, and counted apart.

    `how` tells how the letter was found: scored, or one of the parsers' `HOW`. `text` is the written answer, if any.
    `strategy` says how the pair's unanswerable twin was made, where that is known.
    """

    record: Record
    letter: str | None
    how: str = "scored"
    text: str | None = None
    strategy: str | None = None
    truncated: bool = False

    @property
    def right(self) -> bool:
        return self.letter == self.record.answer


def summarise(outcomes: Sequence[Outcome], seed: int = 0, draws: int = DRAWS) -> dict[str, Any]:
    """The measured part of `metrics.json`. Every value has its n and a 95 % interval that resamples whole pairs.

    `micro` is the paper's overall accuracy; `macro` is the mean over tasks. `both_right`: the share of pairs of which
    both twins are answered rightly; `gap`: answerable minus unanswerable. Abstaining is to answer "None of the choices
    provided". `unparsed` and `random` are shares of answers. Slices: `by_<SLICES>`, and `answerable`, `unanswerable`.
    A value is None, with a reason, where it is undefined. Raises ValueError for a pair that is not whole.
    """
    outcomes = list(outcomes)
    pairs = Counter(o.record.pair for o in outcomes)
    if torn := [p for p, n in pairs.items() if n != 2]:
        raise ValueError(f"the pair {torn[0]} has {pairs[torn[0]]} answers: both twins must be answered, once each")
    right = np.array([o.right for o in outcomes], dtype=bool)
    answerable = np.array([o.record.answerable for o in outcomes], dtype=bool)
    says_none = np.array([o.letter == o.record.none_letter for o in outcomes], dtype=bool)
    groups = [o.record.pair for o in outcomes]
    every = np.ones(len(outcomes))

    def value(statistic: Statistic, rows: np.ndarray | None = None) -> dict[str, Any]:
        rows = np.arange(len(outcomes)) if rows is None else rows
        bounds = (-1.0, 1.0)
        got = estimate([statistic], [groups[i] for i in rows], bounds, draws, seed)
        reasons = [r for r in got.reasons if not r.startswith("seeds: 1")]
        return {
            "n": len(rows),
            "value": None if got.mean is None else round(got.mean, 6),
            "ci95": None if got.ci95 is None else [round(v, 6) for v in got.ci95],
            **({"reasons": reasons} if reasons else {}),
        }

    def accuracy(rows: np.ndarray) -> dict[str, Any]:
        return value(ratio(right[rows], every[rows]), rows)

    def sliced(names: Sequence[Any]) -> dict[str, Any]:
        places: dict[Any, list[int]] = {}
        for i, name in enumerate(names):
            if name is not None:
                places.setdefault(name, []).append(i)
        return {str(name): accuracy(np.array(places[name])) for name in sorted(places)}

    of: dict[str, Callable[[Outcome], Any]] = {
        "task": lambda o: o.record.task,
        "image_relation": lambda o: o.record.image_relation,
        "image_type": lambda o: o.record.image_type,
        "images": lambda o: len(o.record.image_list),
        "answer_position": lambda o: o.record.answer,
        "strategy": lambda o: o.strategy,
    }
    tasks = [
        [i for i, o in enumerate(outcomes) if o.record.task == t] for t in sorted({o.record.task for o in outcomes})
    ]
    by_task = [of_rows(ratio(right[t], every[t]), np.array(t)) for t in tasks]
    twins = _both(outcomes)
    shares = {how: np.array([o.how == how for o in outcomes], dtype=bool) for how in HOW}
    return {
        "n": len(outcomes),
        "pairs": len(pairs),
        "micro": value(ratio(right, every)),
        "macro": value(mean_of(by_task) if by_task else ratio(right, every)),
        "answerable": accuracy(np.flatnonzero(answerable)),
        "unanswerable": accuracy(np.flatnonzero(~answerable)),
        "gap": value(_gap(right, answerable)),
        "both_right": {**value(ratio(twins, every)), "n": len(pairs)},
        "abstention_precision": value(ratio(says_none & ~answerable, says_none)),
        "abstention_recall": value(ratio(says_none & ~answerable, ~answerable)),
        "unparsed": value(ratio(shares["unparsed"], every)),
        "random": value(ratio(shares["random"], every)),
        "truncated": sum(o.truncated for o in outcomes),
        "answered": dict(sorted(Counter(o.letter or "unparsed" for o in outcomes).items())),
        **{f"by_{name}": sliced([of[name](o) for o in outcomes]) for name in SLICES},
    }


def _gap(right: np.ndarray, answerable: np.ndarray) -> Statistic:
    yes, no = ratio(right & answerable, answerable), ratio(right & ~answerable, ~answerable)
    return lambda weights: yes(weights) - no(weights)


def _both(outcomes: Sequence[Outcome]) -> np.ndarray:
    """1.0 for a record whose pair is right in whole: over all records their mean is that over pairs. Float [n]."""
    wrong = {o.record.pair for o in outcomes if not o.right}
    return np.array([o.record.pair not in wrong for o in outcomes], dtype=float)


# --------------------------------------------------------------------------------------------------------------- table

COLUMNS = (
    ("micro", "accuracy"),
    ("macro", "macro"),
    ("answerable", "answerable"),
    ("unanswerable", "unanswerable"),
    ("both_right", "both twins"),
    ("abstention_precision", "None precision"),
    ("abstention_recall", "None recall"),
    ("unparsed", "unparsed"),
)


def arms_table(arms: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Heading and a line an arm (a model, a baseline): what `summarise` returned of each."""
    lines = [["answers of", "n", *(title for _, title in COLUMNS)]]
    for name, metrics in arms.items():
        cells = [fmt(metrics[key]["value"], metrics[key]["ci95"]) for key, _ in COLUMNS]
        lines.append([name, str(metrics["n"]), *cells])
    return lines


def slices_table(metrics: dict[str, Any]) -> list[list[str]]:
    """Heading and a line a slice of one arm."""
    lines = [["slice", "n", "accuracy"]]
    for key in SLICES:
        for name, entry in metrics[f"by_{key}"].items():
            lines.append([f"{key.replace('_', ' ')} {name}", str(entry["n"]), fmt(entry["value"], entry["ci95"])])
    return lines
