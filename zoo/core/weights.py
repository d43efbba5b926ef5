"""Published models and a run's models: folders of `config.json`, `model.safetensors` and a card.

`checkpoints/manifest.json` lists the published ones with the sha256 of each file; they are verified at every load.
Nothing here is a pickle, and nothing read from a config is imported by name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import checkpoints
from datamodules.atomic import replacing_by_name, sweep, write_text
from datamodules.schema import DataError, near

FORMAT = 1


class CheckpointError(DataError):
    """A model that cannot be loaded, with what is wrong and the fix."""


def checkpoints_folder() -> Path:
    return Path(next(iter(checkpoints.__path__)))


def manifest() -> dict[str, Any]:
    """name → {files: {name: sha256}, method, summary, …} of the published models."""
    path = checkpoints_folder() / "manifest.json"
    return json.loads(path.read_text(encoding="utf-8"))["models"] if path.exists() else {}


def sha256_of(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def find(name: str | Path) -> Path:
    """The folder of a published model, of a run (its `model/`), or the given model folder; verified if published.

    Raises `CheckpointError` for an unknown name, a missing file or a wrong hash.
    """
    known = manifest()
    if str(name) in known:
        folder = checkpoints_folder() / str(name)
        for file, expected in known[str(name)]["files"].items():
            path = folder / file
            if not path.is_file():
                raise CheckpointError(f"{name}: {file} is missing from {folder}: get the checkpoint again")
            got = sha256_of(path)
            if got != expected:
                raise CheckpointError(
                    f"{name}: {file} has a wrong hash (expected {expected[:12]}…, got {got[:12]}…): "
                    "the file was changed or cut short; get the checkpoint again"
                )
        return folder
    path = Path(name)
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return folder
    if path.exists():
        raise CheckpointError(f"{name}: no model here: expected config.json and model.safetensors, or a run's folder")
    raise CheckpointError(
        f"unknown model {str(name)!r}{near(str(name), sorted(known)) if known else ''} (or give a run's folder)"
    )


def kind_of(folder: Path) -> Any:
    """What kind of model a folder says that it holds; nothing is verified, and of a damaged folder it is None."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # `read` says what is wrong with it
    return config.get("kind") if isinstance(config, dict) else None


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of a model folder. Raises `CheckpointError` for a damaged or foreign one."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{folder / 'config.json'}: not readable as JSON: {e}") from e
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder}: config.json is not of this zoo (format {FORMAT}): was it made by another version?"
        )
    path = folder / "model.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{folder}: model.safetensors is missing (pickled weights are never loaded)")
    expected, got = config.get("sha256"), sha256_of(path)
    if expected != got:
        raise CheckpointError(
            f"{path}: wrong hash (config.json says {str(expected)[:12]}…, the file has {got[:12]}…): "
            "the file was changed or cut short; get the model again"
        )
    try:
        return config, load_file(path)
    except SafetensorError as e:
        raise CheckpointError(f"{path}: not a safetensors file: {e}") from e


def write(folder: Path, config: dict[str, Any], state: dict[str, Tensor], card: str) -> None:
    """Writes a model folder, each file whole: weights first, config (which names their hash) last.

    A process killed in between leaves a folder that `read` refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    path = folder / "model.safetensors"
    with replacing_by_name(path) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, temporary)
    write_text(folder / "README.md", card)
    config = {"format": FORMAT, **config, "sha256": sha256_of(path)}
    write_text(folder / "config.json", json.dumps(config, indent=1, ensure_ascii=False) + "\n")
