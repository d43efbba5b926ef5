"""Timing shared by the benchmarks: both sides in one process, in turns, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds(what: Callable[[], object], rounds: int = 5) -> float:
    """Median seconds of `what()` after one call that is not counted."""
    what()
    return statistics.median(_once(what) for _ in range(rounds))


def in_turns(first: Callable[[], object], second: Callable[[], object], rounds: int = 5) -> tuple[float, float]:
    """Median seconds of both, called alternately after one call each that is not counted."""
    first(), second()
    pairs = [(_once(first), _once(second)) for _ in range(rounds)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def _once(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started
