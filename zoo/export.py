"""Writes a guard's language model for other programs: `python -m zoo.export MODEL --to DIR [--adapters]`.

Merged weights load with plain `AutoModelForCausalLM.from_pretrained`, adapters with `PeftModel.from_pretrained`. The
folder appears whole and checked, or not at all.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from safetensors import SafetensorError

from datamodules.schema import DataError
from zoo import cli
from zoo.core.exporting import export_size, has_adapters, write_export
from zoo.registry import load


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m zoo.export", description=__doc__.split("\n\n")[0])
    p.add_argument("model", metavar="MODEL", help="a published model's name or a run's folder")
    p.add_argument("--to", metavar="DIR", required=True, type=Path, help="a folder that is empty or not there yet")
    p.add_argument("--adapters", action="store_true", help="the LoRA weights alone, in peft's layout")
    return p


def check_target(to: Path) -> None:
    """Raises `DataError` unless `to` is an empty folder or can become one."""
    if to.is_dir():
        if any(to.iterdir()):
            raise DataError(f"{to}: not empty: name a new folder, nothing is overwritten")
    elif to.exists() or to.is_symlink():
        raise DataError(f"{to}: not a folder")


def export(model: str | Path, to: Path, adapters: bool = False) -> tuple[float, float]:
    """Exports `model` into the folder `to`; returns the largest difference of logits and what was allowed.

    Raises `DataError` for a folder that is not empty, an unknown model, no adapters to export, a disk that is full, and
    for an export that does not read back as what was written. Nothing is left then.
    """
    check_target(to)
    guard = load(model)
    parts = guard.backbone.export_parts()
    if adapters and not has_adapters(parts.model):
        raise DataError(f"{model}: its language model has no adapters: export it without --adapters")
    partial = to.with_name(f".{to.name}.{os.getpid()}.tmp")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        need, free = export_size(parts, adapters), shutil.disk_usage(to.parent).free
        if need > free:
            raise DataError(f"{to}: {need / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free: make room")
        partial.mkdir()
        found = write_export(guard, parts, partial, adapters)
        if to.is_dir():
            to.rmdir()  # still empty, or this fails
        partial.rename(to)
    except (OSError, SafetensorError) as e:
        raise DataError(f"{to}: cannot be written: {e}") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return found


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    difference, allowed = export(args.model, args.to, args.adapters)
    print(f"{args.to}: largest difference of logits {difference:.3g} (allowed {allowed:.3g})", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
