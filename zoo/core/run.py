"""A run's folder: what a training leaves behind."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import yaml


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
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def write_yaml(path: Path, value: Any) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_errors(path: Path, errors: list[dict[str, str]]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(e, ensure_ascii=False) + "\n" for e in errors), encoding="utf-8")
