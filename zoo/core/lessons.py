"""Lessons: questions with right answers that a guard is trained on beside, or instead of, its own rows.

A method makes rows of them (clips with Thud's questions, MuirBench's records); `plan` lays the rows of its stages one
after the other in one epoch of the trainer. A stage ends with a whole batch, so that no step belongs to two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datamodules.bank import rng_for
from datamodules.schema import DataError, Policy, Sample
from zoo.core.query import Query

GENERAL = "general"  # the kind of a guard's own rows


@dataclass(frozen=True)
class Lesson:
    """What is asked of a row. Of a pair the query's options are (chosen, rejected), and `right` is 0.

    `policy` is what the row is read under: none of a question. `pair` is the pair's id, None of an answer. `written` is
    how the right answer is written out, None where that is the option itself.
    """

    query: Query
    right: int
    policy: Policy | None = None
    pair: str | None = None
    written: str | None = None


Row = tuple[Sample, Lesson | None, str]
"""(a sample, its lesson, what kind of row it is). Without a lesson it is taught as a guard's rows always are."""


@dataclass(frozen=True)
class Plan:
    """`rows` of training, their `lessons` by the row's id, and each row's place among the epochs of the stages.

    `steps` are those of each stage; `counts` its rows by kind in its first epoch, and `repeated` those that fill up its
    last batch.
    """

    rows: list[Sample]
    lessons: dict[str, Lesson]
    order: dict[str, int]
    steps: dict[str, int]
    counts: dict[str, dict[str, int]]

    @property
    def pairs(self) -> dict[str, Sample]:
        """One row of each preference pair, by the pair's id."""
        out: dict[str, Sample] = {}
        for row in self.rows:
            lesson = self.lessons.get(row.id)
            if lesson is not None and lesson.pair is not None:
                out.setdefault(lesson.pair, row)
        return out


def plan(parts: dict[str, Sequence[Sequence[Row]]], batch_size: int) -> Plan:
    """The rows of each stage, in the order of `parts`, as one epoch of the trainer: `parts[stage][n]` are those of the
    stage's own epoch n. Raises `DataError` for a stage without rows.
    """
    rows: list[Sample] = []
    lessons: dict[str, Lesson] = {}
    order: dict[str, int] = {}
    steps: dict[str, int] = {}
    counts: dict[str, dict[str, int]] = {}
    place = 0
    for name, epochs in parts.items():
        copies = [(n, row) for n, given in enumerate(epochs) for row in given]
        if not copies:
            raise DataError(f"stage {name} has no row to train on")
        first = epochs[0]
        short = -len(copies) % batch_size
        copies += [(len(epochs) + n // len(first), first[n % len(first)]) for n in range(short)]
        for n, (sample, lesson, _) in copies:
            row = sample.replace(id=f"{sample.id}/{name}/{n}")
            rows.append(row)
            order[row.id] = place + min(n, len(epochs) - 1)
            if lesson is not None:
                lessons[row.id] = lesson
        steps[name] = len(copies) // batch_size
        kinds = Counter(kind for _, _, kind in first)
        counts[name] = {**dict(sorted(kinds.items())), "repeated": short}
        place += len(epochs)
    return Plan(rows, lessons, order, steps, counts)


def check_stages(config: dict[str, Any], stages: Sequence[str]) -> None:
    """Raises `DataError` for settings of a recipe that are not those of stages that are planned: each of them has
    `epochs` and a share of `general` rows, and one epoch of the trainer holds all.
    """
    for name in stages:
        if not isinstance(config[name]["epochs"], int) or config[name]["epochs"] < 1:
            raise DataError(f"{name}.epochs={config[name]['epochs']}: expected a whole number from 1 on")
        if not 0 <= config[name][GENERAL] < 1:
            raise DataError(f"{name}.general={config[name][GENERAL]}: expected a share from 0 to below 1")
    if config["trainer"]["max_epochs"] != 1 or config["data"]["balance"] != 1 or config["data"]["epoch_size"]:
        raise DataError(
            f"one epoch of the trainer holds each row of {' and '.join(stages)} once: leave trainer.max_epochs=1, "
            f"data.balance=1 and data.epoch_size=null, and set {' and '.join(f'{name}.epochs' for name in stages)}"
        )
    if config["data"]["bucket"] or set((config["data"]["shares"] or {}).values()) - {1.0}:
        raise DataError("rows are gone through as planned: leave data.bucket=false and data.shares at 1")


def rows_for(share: float, others: int) -> int:
    """How many general rows make up `share` of the rows, beside `others`."""
    return round(others * share / (1 - share))


def general_rows(samples: Sequence[Sample], n: int, seed: int, method: str, stage: str) -> list[Sample]:
    """`n` of a guard's own training rows in a random order, each as often as any other, with ids of their own.

    Raises `DataError` where there is none.
    """
    if n and not len(samples):
        raise DataError(f"stage {stage}: the data has no training row to keep general skill by: set general to 0")
    out: list[Sample] = []
    while len(out) < n:
        lap = len(out) // len(samples)
        order = list(range(len(samples)))
        rng_for(seed, method, stage, lap).shuffle(order)  # whole: the first rows are the same whatever n is
        out += [(s := samples[i]).replace(id=f"{s.id}/{GENERAL}/{lap}") for i in order[: n - len(out)]]
    return out
