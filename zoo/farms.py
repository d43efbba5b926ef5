"""Recipes of `python -m zoo.fit` that train many models in one go, by name. Explicit code, no import paths.

Such a recipe has no `trainer` and no run folder: `run(config)` makes what is missing, and returns the exit code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zoo.backdoor import farm as backdoor

FARMS: dict[str, Callable[[dict[str, Any]], int]] = {"backdoor_farm": backdoor.run}
