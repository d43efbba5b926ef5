"""ThinkGuard is the zoo's `Guard` with an order of its answer: the published one, or explanation first.

Critiques come with the data, and their weight is the loss's. Two linear readers of the text vote beside the language
model (`zoo.core.wide`), unless it is to judge alone as the paper's does.
"""

from __future__ import annotations

from typing import Any

from datamodules.schema import Policy
from zoo.core.guard import Guard
from zoo.core.orders import order_named
from zoo.registry import create, recipe_backbone


def thinkguard(
    backbone: dict[str, Any], policy: Policy, name: str, order: str = "thinkguard", wide: bool = False
) -> Guard:
    """A fresh guard over the backbone that a recipe describes, answering in `order`. Raises `DataError`.

    The wide half is fitted after the training, and has no part in it.
    """
    settings = recipe_backbone(backbone)
    guard = create(settings.pop("name"), policy, **settings)
    guard.name, guard.order = name, order_named(order)
    return guard.widen() if wide else guard
