"""OmniGuard is the zoo's `Guard` over an omni-modal backbone: nothing of the flow changes."""

from __future__ import annotations

from typing import Any

from datamodules.schema import Policy
from zoo.core.guard import Guard
from zoo.registry import create, recipe_backbone


def omniguard(backbone: dict[str, Any], policy: Policy, name: str) -> Guard:
    """A fresh guard over the backbone that a recipe describes (`name` and settings)."""
    settings = recipe_backbone(backbone)
    guard = create(settings.pop("name"), policy, **settings)
    guard.name = name
    return guard
