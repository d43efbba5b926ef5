"""Experts that installed packages offer: the entry-point group `zoo.experts`.

A package names a callable without arguments that returns the expert, as `load` of its folder does:

    [project.entry-points."zoo.experts"]
    spam = "my_package:expert"
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from datamodules.schema import DataError, near
from zoo.core.guard import Guard

GROUP = "zoo.experts"


def offered() -> dict[str, EntryPoint]:
    """Entry points by name. Raises `DataError` where two packages offer one name."""
    out: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        if point.name in out and point.value != out[point.name].value:
            raise DataError(f"two packages offer an expert {point.name!r}: uninstall one of them")
        out[point.name] = point
    return out


def load_offered(name: str) -> Guard:
    """The expert that a package offers under `name`. Raises `DataError` for an unknown one, or for what is no guard."""
    known = offered()
    if name not in known:
        raise DataError(f"no installed package offers an expert {name!r}{near(name, sorted(known))}")
    guard = known[name].load()()
    if not isinstance(guard, Guard):
        raise DataError(f"expert {name!r}: {known[name].value} gives a {type(guard).__name__}, not a guard")
    return guard
