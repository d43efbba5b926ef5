"""OmniGuard is the zoo's `Guard` over an omni-modal backbone: nothing of the flow changes."""

from __future__ import annotations

from typing import Any

from datamodules.schema import Policy
from zoo.core.backbones import build
from zoo.core.guard import Guard


def build_guard(backbone: dict[str, Any], policy: Policy, name: str, cached: bool = True) -> Guard:
    """A fresh guard. `backbone` is what `zoo.core.backbones.build` takes."""
    return Guard(build(backbone, cached=cached), policy, name=name)
