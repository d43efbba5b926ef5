"""Pictures of the multi-image corpus: what one shows is plain data, and equal data are equal pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image

from datamodules.corpus import draw
from datamodules.schema import canonical_json

SIDE = 224  # pixels of every picture
CELLS = {
    "at the top left": (0, 0),
    "at the top": (1, 0),
    "at the top right": (2, 0),
    "on the left": (0, 1),
    "in the middle": (1, 1),
    "on the right": (2, 1),
    "at the bottom left": (0, 2),
    "at the bottom": (1, 2),
    "at the bottom right": (2, 2),
}
CORNERS = ("at the top left", "at the top right", "at the bottom left", "at the bottom right")


@dataclass(frozen=True)
class Thing:
    """An object; equal `look`s have equal colours. `x`, `y` (centre) and `size` are shares of the canvas, `tilt` is in
    degrees.
    """

    name: str
    look: str
    x: float
    y: float
    size: float
    tilt: int = 0


@dataclass(frozen=True)
class Picture:
    """`things` on the background `ground`; of them `crop` (left, top, right, bottom as shares) is what is seen."""

    things: tuple[Thing, ...]
    ground: str
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def file(self) -> str:
        """The name of its file, which says nothing about it."""
        return f"images/{hashlib.sha256(canonical_json(self.to_dict()).encode()).hexdigest()[:32]}.png"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def render(self) -> Image.Image:
        """RGB, SIDE x SIDE."""
        left, top, right, _ = self.crop  # a square
        scale = round(SIDE / (right - left))  # of the whole canvas, so that what is seen is sharp
        canvas = draw.background(scale, scale, draw.rng_of(self.ground))
        for thing in self.things:
            size = max(8, round(thing.size * scale))
            sprite = draw.sprite(thing.name, draw.rng_of(thing.look))
            draw.place(canvas, sprite, size, (thing.x * scale, thing.y * scale), float(thing.tilt))
        corner = round(left * scale), round(top * scale)
        seen = canvas.crop((*corner, corner[0] + SIDE, corner[1] + SIDE))
        return draw.finish(seen, draw.rng_of(f"{self.ground}/camera"))


def row(names: Sequence[str], key: str, rng: np.random.Generator) -> Picture:
    """Objects beside each other, from left to right, in two lines where there are more than three."""
    lines = [names] if len(names) <= 3 else [names[: (len(names) + 1) // 2], names[(len(names) + 1) // 2 :]]
    things = []
    for number, line in enumerate(lines):
        size = 0.85 / max(2, *map(len, lines)) if len(lines) > 1 or len(line) > 1 else 0.6
        for i, name in enumerate(line):
            x, y = (i + 0.5) / len(line), (number + 0.5) / len(lines)
            x, y = (round(v + float(rng.uniform(-0.02, 0.02)), 3) for v in (x, y))
            things.append(Thing(name, f"{key}/{number}{i}", x, y, round(size, 3), int(rng.integers(-15, 16))))
    return Picture(tuple(things), key)


def placed(cells: dict[str, str], key: str, rng: np.random.Generator) -> Picture:
    """Objects in the cells of a three by three grid: cell → name."""
    things = []
    for cell, name in sorted(cells.items()):
        column, line = CELLS[cell]
        x, y = (round((v + 0.5) / 3, 3) for v in (column, line))
        things.append(Thing(name, f"{key}/{cell}", x, y, 0.3, int(rng.integers(-10, 11))))
    return Picture(tuple(things), key)


def corners(names: Sequence[str], key: str, rng: np.random.Generator) -> Picture:
    """Four objects, one in each quarter, in the order of `CORNERS`."""
    places = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))
    return Picture(
        tuple(
            Thing(name, f"{key}/{n}", x, y, 0.42, int(rng.integers(-10, 11)))
            for n, (name, (x, y)) in enumerate(zip(names, places))
        ),
        key,
    )


def quarter(picture: Picture, corner: int) -> Picture:
    """What one quarter of a picture of `corners` shows, enlarged to a whole one."""
    left, top = 0.5 * (corner % 2), 0.5 * (corner // 2)
    return Picture((picture.things[corner],), picture.ground, (left, top, left + 0.5, top + 0.5))
