"""Models by name: what is published, what a run left, and how they are loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from datamodules.labelled_text import read_labelled_text
from datamodules.schema import DataError, Policy
from datamodules.taxonomy import DEFAULT_POLICY
from zoo.core import weights
from zoo.core.backbones import build, describe
from zoo.core.guard import Calibration, Guard
from zoo.core.orders import VERDICT_FIRST, order_named
from zoo.core.tags import SourceTags
from zoo.core.wide import Wide
from zoo.debuglm import model as traced
from zoo.debuglm.model import TracedLM
from zoo.routeguard import model as routed


def list_models() -> list[str]:
    """Names of the published models that `load` takes."""
    return sorted(name for name, entry in weights.manifest().items() if entry["kind"] == "guard")


def recipe_backbone(backbone: dict[str, Any]) -> dict[str, Any]:
    """A recipe's backbone (`name` and settings) without what is the optimiser's: what `describe` takes."""
    return {k: v for k, v in backbone.items() if k != "lr"}


def create(backbone: str = "tiny", policy: Policy = DEFAULT_POLICY, cached: bool = True, **settings: Any) -> Guard:
    """A fresh guard to train: a backbone by name with its settings, e.g. `create("smollm2", lora_rank=8)`.

    `cached` keeps the features of frozen encoders on disk. Raises `DataError` for an unknown backbone or setting.
    """
    guard = Guard(build(describe(backbone, **settings), cached=cached), policy)
    return guard.train()  # what comes from a folder comes in evaluation mode, and Lightning leaves modes as they are


def load(
    name: str | Path,
    device: str | torch.device = "cpu",
    cached: bool = False,
    scan: bool = False,
    scan_data: str | Path | None = None,
) -> Guard:
    """A published guard, or that of a run's folder, verified and ready to `moderate`.

    `cached` keeps features of frozen encoders on disk. `scan` looks for a backdoor in how it judges text, on the rows
    of the file `scan_data` (text and label, 1 unsafe), or of its policy; see `zoo.backdoor.scanning`. Raises
    `CheckpointError` (a `DataError`) for an unknown name, a wrong hash, or a folder that holds no guard; with `scan`
    also `BackdoorError` for a flagged one, and `DataError` for one that cannot be scanned.
    """
    guard = _load(name, cached)
    if scan:
        from zoo.backdoor.scanning import check_guard  # scikit-learn is slow to import

        check_guard(guard, read_labelled_text(scan_data) if scan_data is not None else None)
    elif scan_data is not None:
        raise DataError("scan_data is for scan=True")
    return guard.to(device).eval()


def _load(name: str | Path, cached: bool) -> Guard:
    config, state = weights.read(weights.find(name))
    if config.get("kind") != "guard":
        raise weights.CheckpointError(f"{name} is a {config.get('method', 'model')}, not a guard: it cannot moderate")
    _check_config(config, name)
    if "routing" in config:
        return routed.from_config(config, state, str(name), cached)
    guard = Guard(
        build(config["backbone"], cached=cached),
        Policy.from_dict(config["policy"], f"{name}: policy"),
        Calibration(**config["calibration"]),
        name=config["name"],
        order=order_named(config.get("order", VERDICT_FIRST.name)),  # models from before there were several have none
        wide=_wide(config["wide"], name) if "wide" in config else None,
        tags=_tags(config["tags"], name) if "tags" in config else None,
    )
    try:
        guard.load_saved_state(state)
    except ValueError as e:
        raise weights.CheckpointError(f"{name}: {e}") from e
    if guard.wide is not None:
        _ = guard.reader  # what it lacks is said here, not at the first verdict
    return guard


def _check_config(config: dict[str, Any], name: str | Path) -> None:
    """Raises `CheckpointError` for a `config.json` that lacks something, or whose thresholds would let all pass."""
    for key, kind in (("name", str), ("backbone", dict), ("policy", dict), ("calibration", dict)):
        if not isinstance(config.get(key), kind):
            raise weights.CheckpointError(f"{name}: config.json has no usable {key!r}: get the model again")
    if not isinstance(config["backbone"].get("name"), str):
        raise weights.CheckpointError(f"{name}: config.json: its backbone has no name: get the model again")
    try:
        calibration = Calibration(**config["calibration"])
        calibration.check()
    except (TypeError, ValueError) as e:
        raise weights.CheckpointError(f"{name}: config.json: calibration: {e}: get the model again") from e


def load_model(
    name: str | Path,
    device: str | torch.device = "cpu",
    cached: bool = False,
    scan: bool = False,
    scan_data: str | Path | None = None,
) -> Guard | TracedLM:
    """Any published or trained model: a guard, as `load` gives it, or a language model that traces its answers.

    Raises what `load` raises, and `DataError` for a scan of a language model: it has no verdict that a trigger could
    turn.
    """
    folder = weights.find(name)
    if weights.kind_of(folder) != traced.KIND:
        return load(name, device, cached, scan, scan_data)
    if scan or scan_data is not None:
        raise DataError(f"{name}: a language model that traces its answers cannot be scanned: load it without scan")
    return traced.from_config(*weights.read(folder), str(name)).to(device).eval()


def _wide(settings: dict[str, Any], name: str | Path) -> Wide:
    try:
        return Wide(**settings)
    except (TypeError, ValueError) as e:
        raise weights.CheckpointError(f"{name}: wide={settings}: {e}") from e


def _tags(names: Any, name: str | Path) -> SourceTags:
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise weights.CheckpointError(f"{name}: tags={names!r}: expected a list of names")
    try:
        return SourceTags(tuple(names))
    except DataError as e:
        raise weights.CheckpointError(f"{name}: {e}") from e


def save(guard: Guard, folder: Path, method: str, card: str, extra: dict[str, Any] | None = None) -> None:
    """Writes `config.json`, `model.safetensors` and the card of a guard."""
    config = {"kind": "guard", "method": method, "name": guard.name, **guard.describe(), **(extra or {})}
    weights.write(folder, config, guard.saved_state(), card)
