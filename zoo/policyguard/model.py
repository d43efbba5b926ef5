"""PolicyGuard is the zoo's `Guard` with an order that watches: one query a rule, after each step and at the end.

Nothing else of the flow changes. The published one (arXiv 2510.03485, section 4) asks a 4B model about one policy and
one finished trajectory at a time; here rules share a pass, and so do the prefixes of a trajectory.
"""

from __future__ import annotations

from typing import Any

from datamodules.schema import Policy
from zoo.core.guard import Guard
from zoo.core.orders import order_named
from zoo.registry import create, recipe_backbone


def policyguard(backbone: dict[str, Any], policy: Policy, name: str) -> Guard:
    """A fresh guard over the backbone that a recipe describes. Raises `DataError`."""
    settings = recipe_backbone(backbone)
    guard = create(settings.pop("name"), policy, **settings)
    guard.name, guard.order = name, order_named("policyguard")
    return guard
