"""A run's folder: what a training leaves behind."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import yaml

from datamodules.atomic import write_text


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


def write_errors(path: Path, errors: list[dict[str, str]]) -> None:
    """One JSON object a line; whole or not at all."""
    write_text(path, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in errors))
