"""A run's folder: what a training leaves behind."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from datamodules.atomic import write_text
from datamodules.schema import DataError


def check_runs(root: str | Path) -> None:
    """Raises `DataError` where no run folder can be made, before anything long is begun."""
    place = Path(root).absolute()
    while not (place.exists() or place.is_symlink()):
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise DataError(f"runs={root}: {place} is no folder that can be written to: give runs=FOLDER")


def new_run(root: str | Path, recipe: str) -> Path:
    """`root/<recipe>/<time>/`, made; a second run within the same second gets a suffix."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for n in range(1000):
        folder = Path(root) / recipe / (stamp if n == 0 else f"{stamp}-{n}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise OSError(f"{root}/{recipe}: cannot make a run folder for {stamp}")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def write_yaml(path: Path, value: Any) -> None:
    """Writes YAML whole or not at all."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line; whole or not at all. Bytes of a file's name that are no text are written as escapes."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_text(path, text.encode(errors="backslashreplace").decode())


def finish_test(
    config: dict[str, Any],
    model: str,
    metrics: dict[str, Any],
    answers: Iterable[Mapping[str, Any]],
    errors: list[dict[str, str]],
    tables: str,
) -> int:
    """The run folder of a benchmark's answers, and the tables on standard output; returns the command's exit code.

    `metrics.json`, `answers.jsonl` and, for rows that cannot be used, `errors.jsonl`: then the exit code is 1.
    """
    run = new_run(Path(config["runs"]) / "test", config["recipe"])
    write_yaml(run / "config.yaml", {**config, "model": model})
    write_json(run / "metrics.json", metrics)
    write_lines(run / "answers.jsonl", answers)
    print(tables)
    print(f"run folder: {run}", file=sys.stderr)
    if not errors:
        return 0
    write_lines(run / "errors.jsonl", errors)
    print(f"{len(errors)} rows could not be used: see {run / 'errors.jsonl'}", file=sys.stderr)
    return 1
