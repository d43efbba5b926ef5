"""ThinkGuard is the zoo's `Guard` with an order of its answer: the published one, or explanation first.

Nothing else of the flow changes: critiques come with the data, and their weight is the loss's.
"""

from __future__ import annotations

from typing import Any

from datamodules.schema import Policy
from zoo.core.guard import Guard
from zoo.core.orders import order_named
from zoo.registry import create, recipe_backbone


def thinkguard(backbone: dict[str, Any], policy: Policy, name: str, order: str = "thinkguard") -> Guard:
    """A fresh guard over the backbone that a recipe describes, answering in `order`. Raises `DataError`."""
    settings = recipe_backbone(backbone)
    guard = create(settings.pop("name"), policy, **settings)
    guard.name, guard.order = name, order_named(order)
    return guard
