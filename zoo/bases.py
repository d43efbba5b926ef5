"""What a training starts from: a guard that a recipe's `base` names, or a fresh one over its backbone."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from datamodules.schema import DataError, Policy
from zoo.config import compose, plain
from zoo.core import weights
from zoo.core.backbones import build, check, modalities_of
from zoo.core.guard import Guard
from zoo.registry import create, load, recipe_backbone


def check_base(config: dict[str, Any], needs: Set[str], why: str) -> None:
    """Raises `DataError` unless a recipe's `base`, or without one its backbone, can be trained on what it `needs`."""
    name = config["backbone"]["name"]
    if config["base"] is None:
        _takes(name, needs, "backbone", why)
        check(**recipe_backbone(config["backbone"]))
        return
    held, _ = weights.read(weights.find(config["base"]))
    if held.get("kind") != "guard" or "routing" in held:
        raise DataError(f"base={config['base']}: expected an omni guard with one backbone, not a {held.get('method')}")
    own = held["backbone"]["name"]
    _takes(own, needs, f"base={config['base']}: backbone", why)
    if name not in (own, plain(compose([f"recipe={config['recipe']}"]))["backbone"]["name"]):
        raise DataError(f"base={config['base']} brings its own backbone, {own}: for backbone={name} set base=null")


def _takes(name: str, needs: Set[str], what: str, why: str) -> None:
    if lacking := sorted(needs - modalities_of(name)):
        raise DataError(f"{what} {name} takes no {' and no '.join(lacking)}: {why}")


def guard_of(config: dict[str, Any], policy: Policy) -> Guard:
    """A recipe's `base` (a published name or a run's folder) with its `limits` on what is read of a sample, or, without
    one, a fresh guard over its backbone with `policy`. It is called after the recipe.

    A base keeps its policy and its weights; its calibration does not hold after more training and is left behind.
    """
    if config["base"] is None:
        settings = recipe_backbone(config["backbone"])
        settings["limits"] = {**(settings.get("limits") or {}), **config["limits"]}
        guard = create(settings.pop("name"), policy, **settings)
    else:
        base = load(config["base"])
        description = base.backbone.describe()
        limits = {**description["limits"], **config["limits"]}
        backbone = build({**description, "limits": limits}, cached=True)
        backbone.load_saved_state(base.backbone.saved_state())
        guard = Guard(backbone, base.policy, order=base.order)
    guard.name = config["recipe"]
    return guard
