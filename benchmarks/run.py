"""All speed benchmarks, each as a ratio within one run: `python -m benchmarks.run [NAME …]` → results/benchmarks.json.

Names left out keep the figures that the file has. `sft` and `edits` need the `benchmark` extra.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from datamodules.schema import DataError, near
from zoo import cli
from zoo.core.run import write_json

RESULT = Path(__file__).parent.parent / "results" / "benchmarks.json"


def _step() -> dict[str, Any]:
    from benchmarks.step import training_step

    return training_step()


def _sft() -> dict[str, Any]:
    from benchmarks.sft import sft

    return sft()


def _verdicts() -> dict[str, Any]:
    from benchmarks.verdicts import verdicts

    return verdicts()


def _video() -> dict[str, Any]:
    from benchmarks.reading import video_frames

    return video_frames()


def _waiting() -> dict[str, Any]:
    from benchmarks.reading import waiting

    return waiting()


def _routeguard() -> dict[str, Any]:
    from benchmarks.routeguard import routing_cost

    return routing_cost()


def _edits() -> dict[str, Any]:
    from benchmarks.edits import edits

    return edits()


def _inversion() -> dict[str, Any]:
    from benchmarks.inversion import inversion

    return inversion()


BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {
    "step": _step,
    "video": _video,
    "waiting": _waiting,
    "verdicts": _verdicts,
    "sft": _sft,
    "routeguard": _routeguard,
    "edits": _edits,
    "inversion": _inversion,
}


def main(arguments: list[str]) -> int:
    for name in arguments:
        if name not in BENCHMARKS:
            raise DataError(f"unknown benchmark {name!r}{near(name, sorted(BENCHMARKS))}")
    results = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    for name in arguments or BENCHMARKS:
        started = time.perf_counter()
        results[name] = {"threads": torch.get_num_threads(), **BENCHMARKS[name]()}
        print(f"{name}: {time.perf_counter() - started:.0f} s {results[name]}", file=sys.stderr)
        write_json(RESULT, results)
    print(RESULT, file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
