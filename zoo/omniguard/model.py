"""OmniGuard is the zoo's `Guard` over an omni-modal backbone: nothing of the flow changes."""

from __future__ import annotations

from typing import Any

from datamodules.schema import Policy
from zoo.core.guard import Guard
from zoo.registry import create


def backbone_settings(backbone: dict[str, Any]) -> dict[str, Any]:
    """A recipe's backbone (`name` and settings) without what is the optimiser's."""
    return {k: v for k, v in backbone.items() if k != "lr"}


def omniguard(backbone: dict[str, Any], policy: Policy, name: str) -> Guard:
    """A fresh guard over the backbone that a recipe describes (`name` and settings)."""
    settings = backbone_settings(backbone)
    guard = create(settings.pop("name"), policy, **settings)
    guard.name = name
    return guard
