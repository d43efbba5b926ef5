"""Folders of models in the hub's layout: what can be wrong with one is found before a weight is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from datamodules.schema import canonical_json
from zoo.core.weights import CheckpointError, sha256_of

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `CheckpointError` for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path}: not readable as JSON: {e}") from e
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return value


def check_folder(folder: Path, families: Sequence[str], what: str) -> dict[str, Any]:
    """The config of a model folder of one of `families` (config.json's `model_type`) whose weights are all there.

    `what` names the model in errors. Raises `CheckpointError`: no folder, another architecture, no weights, pickled
    weights only, a shard that is missing or cut short.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder: give the one that {what} lies in")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json: expected the folder of {what} as the hub has it")
    config = read_json(folder / "config.json")
    if config.get("model_type") not in families:
        raise CheckpointError(
            f"{folder}: its config.json says model_type {config.get('model_type')!r}, and {what} is one of "
            f"{', '.join(families)}: give another folder or another backbone"
        )
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt"):  # reads the header, which says how long the file must be
                pass
        except (SafetensorError, OSError) as e:
            raise CheckpointError(f"{path}: damaged or cut short ({e}): get the file again") from e
    return config


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises `CheckpointError` where they are not all there."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
        if pickles:
            raise CheckpointError(
                f"{folder}: pickled weights only ({', '.join(pickles[:3])}): they can run code and are never loaded; "
                "convert them to safetensors (save_pretrained does)"
            )
        raise CheckpointError(f"{folder}: no weights: expected {SINGLE} or {INDEX} with its shards")
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{folder / INDEX}: no weight_map: get the file again")
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{folder / INDEX}: {name!r} is not the name of a file beside it")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing: get the file again")
    return [folder / name for name in names]


def weights_hash(folder: Path) -> str:
    """sha256 over the names of the weight files and their own sha256, 64 hex digits. Reads every byte."""
    files = {path.name: sha256_of(path) for path in weight_files(folder)}
    return hashlib.sha256(canonical_json(files).encode()).hexdigest()
