"""Answers of nobody: random letters and "None of the choices provided" every time. They stand in every table."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from datamodules.muirbench import Record
from zoo.muirbench.metrics import Outcome


def random_letters(records: Sequence[Record], strategies: Mapping[str, str], seed: int = 0) -> list[Outcome]:
    """A letter of each record's options, all equally likely; its expected accuracy is the mean of 1 / options."""
    draws = random.Random(f"muirbench-random-{seed}")
    return [Outcome(r, draws.choice(r.letters), "random", strategy=strategies.get(r.pair)) for r in records]


def always_none(records: Sequence[Record], strategies: Mapping[str, str]) -> list[Outcome]:
    """Right on every unanswerable record and on no other: half of the benchmark, and no pair."""
    return [Outcome(r, r.none_letter, strategy=strategies.get(r.pair)) for r in records]


def chance(records: Sequence[Record]) -> float:
    """What random letters are expected to reach (23.99 % on the release, the paper's table 2)."""
    return sum(1 / len(r.options) for r in records) / len(records)
