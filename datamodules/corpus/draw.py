"""Pictures from shapes: objects drawn on a transparent sprite, then placed on a varied background.

Every object is drawn in a 256 x 256 frame, upright and in jittered colours; size, place and tilt come from the placing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Rng = np.random.Generator
Draw = ImageDraw.ImageDraw
Colour = tuple[int, ...]
SPRITE = 256


def rng_of(key: str) -> Rng:
    """A generator seeded by `key` alone."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big"))


def jitter(rng: Rng, *rgb: int, by: int = 22) -> Colour:
    return tuple(int(np.clip(c + rng.integers(-by, by + 1), 0, 255)) for c in rgb)


def shade(colour: Colour, by: float) -> Colour:
    return tuple(int(np.clip(c * by, 0, 255)) for c in colour)


def pick(rng: Rng, *colours: Colour) -> Colour:
    return jitter(rng, *colours[int(rng.integers(len(colours)))])


def _ellipse(d: Draw, x: float, y: float, rx: float, ry: float, fill: Colour, **k) -> None:
    d.ellipse((x - rx, y - ry, x + rx, y + ry), fill=fill, **k)


def fire(d: Draw, rng: Rng) -> None:
    for x in (70, 128, 186):
        d.rounded_rectangle((x - 52, 212, x + 52, 236), 10, fill=jitter(rng, 92, 58, 34))
    for size, colour in ((1.0, (214, 44, 16)), (0.74, (248, 128, 18)), (0.44, (255, 226, 92))):
        points = [(128 - 86 * size, 216)]
        tips = 5
        for k in range(tips):  # a low valley before each tongue of flame
            x = 128 + 86 * size * ((k + 0.5) / tips * 2 - 1)
            height = (70 + 125 * math.sin(math.pi * (k + 0.5) / tips)) * size * rng.uniform(0.8, 1.1)
            points += [(x - 13 * size, 216 - height * 0.45), (x + rng.uniform(-10, 10) * size, 216 - height)]
        points += [(128 + 86 * size, 216)]
        d.polygon(points, fill=jitter(rng, *colour, by=12))
        _ellipse(d, 128, 206, 84 * size, 24 * size, jitter(rng, *colour, by=12))


def tulip(d: Draw, rng: Rng) -> None:
    green, petal = jitter(rng, 52, 140, 58), pick(rng, (232, 92, 40), (244, 150, 40), (220, 50, 60))
    d.rectangle((123, 110, 133, 244), fill=green)
    d.polygon([(128, 236), (62, 150), (84, 200)], fill=green)
    d.polygon([(128, 236), (194, 140), (174, 200)], fill=shade(green, 0.85))
    _ellipse(d, 128, 88, 46, 50, petal)
    d.polygon([(82, 92), (84, 22), (116, 66)], fill=petal)
    d.polygon([(174, 92), (172, 22), (140, 66)], fill=petal)
    d.polygon([(98, 100), (128, 14), (158, 100)], fill=shade(petal, 1.15))
    d.line([(128, 24), (128, 130)], fill=shade(petal, 0.75), width=3)


def knife(d: Draw, rng: Rng) -> None:
    steel, handle = jitter(rng, 196, 204, 212, by=14), pick(rng, (42, 36, 34), (104, 60, 32), (120, 24, 28))
    d.polygon([(104, 148), (104, 36), (118, 12), (150, 66), (154, 148)], fill=steel)
    d.polygon([(104, 148), (104, 36), (112, 22), (116, 148)], fill=shade(steel, 1.22))
    d.line([(118, 12), (150, 66), (154, 148)], fill=shade(steel, 0.55), width=4)
    d.rectangle((96, 146, 160, 158), fill=shade(handle, 0.6))
    d.rounded_rectangle((108, 156, 148, 248), 12, fill=handle)
    for y in (176, 202, 228):
        _ellipse(d, 128, y, 6, 6, steel)


def spoon(d: Draw, rng: Rng) -> None:
    metal = pick(rng, (190, 196, 204), (206, 180, 130), (176, 128, 82))
    _ellipse(d, 128, 62, 42, 54, metal)
    _ellipse(d, 128, 64, 30, 42, shade(metal, 0.72))
    _ellipse(d, 118, 50, 9, 16, shade(metal, 1.25))
    d.polygon([(120, 112), (136, 112), (142, 236), (114, 236)], fill=metal)
    _ellipse(d, 128, 236, 14, 12, metal)


def cigarette(d: Draw, rng: Rng) -> None:
    paper = jitter(rng, 244, 242, 236, by=8)
    d.rectangle((24, 168, 98, 200), fill=jitter(rng, 214, 140, 62))
    d.rectangle((98, 168, 206, 200), fill=paper)
    d.rectangle((98, 192, 206, 200), fill=shade(paper, 0.8))
    d.rectangle((206, 168, 222, 200), fill=jitter(rng, 236, 70, 26))
    d.rectangle((222, 170, 238, 198), fill=jitter(rng, 96, 92, 90))
    grey = jitter(rng, 150, 150, 156, by=14)
    for k in range(15):  # curling smoke, wider towards the top
        y = 160 - 10 * k
        _ellipse(d, 226 - 2.2 * k + 13 * math.sin(k * 0.75 + rng.uniform(0, 0.3)), y, 5 + 0.75 * k, 9, grey)


def pencil(d: Draw, rng: Rng) -> None:
    paint = pick(rng, (240, 196, 40), (54, 120, 200), (60, 160, 84))
    d.rectangle((44, 112, 186, 126), fill=shade(paint, 1.12))
    d.rectangle((44, 126, 186, 140), fill=paint)
    d.rectangle((44, 140, 186, 152), fill=shade(paint, 0.75))
    d.rectangle((28, 112, 46, 152), fill=jitter(rng, 176, 180, 186))
    d.rounded_rectangle((6, 112, 32, 152), 8, fill=jitter(rng, 232, 120, 138))
    d.polygon([(186, 112), (186, 152), (244, 132)], fill=jitter(rng, 232, 200, 156))
    d.polygon([(226, 126), (226, 138), (248, 132)], fill=(38, 36, 38))


def bottle(d: Draw, rng: Rng) -> None:
    glass = pick(rng, (34, 92, 52), (108, 58, 24), (58, 28, 40))
    d.rounded_rectangle((88, 96, 168, 248), 12, fill=glass)
    d.polygon([(90, 110), (112, 72), (144, 72), (166, 110)], fill=glass)
    d.rectangle((112, 22, 144, 80), fill=glass)
    d.rectangle((108, 6, 148, 28), fill=pick(rng, (196, 160, 60), (172, 30, 36), (30, 30, 34)))
    d.rectangle((96, 108, 104, 236), fill=shade(glass, 1.8))
    d.rectangle((88, 142, 168, 208), fill=jitter(rng, 240, 228, 196, by=10))
    d.rectangle((98, 152, 158, 164), fill=pick(rng, (150, 30, 36), (30, 40, 90)))
    for y in (176, 188, 198):
        d.line([(102, y), (154, y)], fill=(80, 70, 60), width=3)


def cup(d: Draw, rng: Rng) -> None:
    glaze = pick(rng, (70, 130, 200), (236, 236, 230), (210, 80, 90), (90, 170, 130))
    d.ellipse((168, 108, 238, 190), outline=shade(glaze, 0.85), width=16)
    d.polygon([(46, 84), (194, 84), (178, 222), (62, 222)], fill=glaze)
    _ellipse(d, 120, 222, 58, 14, shade(glaze, 0.9))
    _ellipse(d, 120, 84, 74, 20, shade(glaze, 1.15))
    _ellipse(d, 120, 86, 62, 14, jitter(rng, 96, 58, 36))
    d.polygon([(60, 104), (76, 106), (86, 212), (74, 212)], fill=shade(glaze, 1.25))


def pills(d: Draw, rng: Rng) -> None:
    amber, cap = jitter(rng, 232, 122, 24, by=12), jitter(rng, 246, 246, 246, by=8)
    d.rounded_rectangle((62, 66, 172, 226), 14, fill=amber)
    d.rectangle((70, 74, 82, 218), fill=shade(amber, 1.3))
    d.rounded_rectangle((52, 24, 182, 74), 10, fill=cap)
    for x in range(60, 180, 12):
        d.line([(x, 30), (x, 68)], fill=shade(cap, 0.78), width=3)
    d.rectangle((62, 108, 172, 188), fill=(250, 250, 250))
    green = pick(rng, (40, 150, 80), (36, 96, 190))
    d.rectangle((108, 116, 124, 164), fill=green)
    d.rectangle((92, 132, 140, 148), fill=green)
    d.line([(74, 178), (160, 178)], fill=(120, 120, 120), width=4)
    for x, y in ((196, 232), (226, 206), (216, 240), (190, 206)):
        d.rounded_rectangle((x - 16, y - 8, x, y + 8), 7, fill=pick(rng, (220, 40, 60), (40, 110, 210)))
        d.rounded_rectangle((x - 4, y - 8, x + 14, y + 8), 7, fill=(250, 250, 246))


def car(d: Draw, rng: Rng) -> None:
    paint = pick(rng, (200, 36, 40), (36, 84, 180), (220, 220, 226), (60, 66, 74), (236, 186, 40))
    d.polygon([(58, 124), (92, 74), (176, 74), (214, 124)], fill=shade(paint, 0.9))
    pane = jitter(rng, 176, 216, 236, by=12)
    d.polygon([(72, 122), (98, 84), (128, 84), (128, 122)], fill=pane)
    d.polygon([(138, 122), (138, 84), (171, 84), (198, 122)], fill=pane)
    d.rounded_rectangle((12, 118, 246, 182), 22, fill=paint)
    d.line([(133, 124), (133, 176)], fill=shade(paint, 0.6), width=3)
    _ellipse(d, 238, 142, 9, 11, (255, 240, 170))
    d.rectangle((12, 134, 22, 154), fill=(170, 20, 20))
    for x in (68, 190):
        _ellipse(d, x, 184, 32, 32, (28, 28, 30))
        _ellipse(d, x, 184, 15, 15, (180, 184, 190))


def bicycle(d: Draw, rng: Rng) -> None:
    frame, tyre = pick(rng, (200, 40, 50), (30, 110, 190), (40, 150, 90)), (36, 36, 38)
    for x in (62, 194):
        d.ellipse((x - 52, 116, x + 52, 220), outline=tyre, width=8)
        for a in range(0, 180, 30):
            c, s = 48 * math.cos(math.radians(a)), 48 * math.sin(math.radians(a))
            d.line([(x - c, 168 - s), (x + c, 168 + s)], fill=(150, 150, 154), width=2)
    d.line([(62, 168), (96, 100), (174, 100), (124, 168), (62, 168)], fill=frame, width=9)
    d.line([(124, 168), (88, 82)], fill=frame, width=9)
    d.line([(194, 168), (168, 70), (194, 62)], fill=frame, width=9)
    d.line([(70, 80), (108, 80)], fill=tyre, width=12)
    _ellipse(d, 124, 168, 13, 13, (90, 90, 94))


def dog(d: Draw, rng: Rng) -> None:
    coat = pick(rng, (150, 98, 54), (196, 150, 96), (84, 60, 46), (226, 206, 176))
    dark = shade(coat, 0.6)
    d.line([(46, 130), (18, 84)], fill=coat, width=15)
    for x in (60, 88, 152, 178):
        d.rounded_rectangle((x - 11, 160, x + 11, 240), 8, fill=shade(coat, 0.85))
    d.rounded_rectangle((36, 112, 196, 186), 36, fill=coat)
    d.polygon([(150, 150), (160, 70), (206, 76), (196, 156)], fill=coat)
    d.rounded_rectangle((156, 46, 218, 106), 26, fill=coat)
    d.rounded_rectangle((196, 72, 250, 106), 14, fill=shade(coat, 1.12))
    _ellipse(d, 246, 80, 10, 9, (24, 22, 22))
    d.polygon([(158, 48), (184, 50), (180, 104), (150, 116), (146, 80)], fill=dark)
    _ellipse(d, 202, 66, 6, 6, (20, 20, 20))
    d.rounded_rectangle((152, 108, 204, 120), 5, fill=pick(rng, (210, 40, 50), (40, 90, 200)))


def cat(d: Draw, rng: Rng) -> None:
    coat = pick(rng, (120, 120, 128), (226, 150, 70), (60, 58, 62), (236, 232, 224))
    d.arc((150, 120, 250, 240), 250, 100, fill=coat, width=17)
    _ellipse(d, 122, 186, 60, 62, coat)
    d.polygon([(66, 90), (68, 16), (112, 52)], fill=coat)
    d.polygon([(178, 90), (176, 16), (132, 52)], fill=coat)
    d.polygon([(76, 66), (76, 34), (98, 54)], fill=(236, 150, 160))
    d.polygon([(168, 66), (168, 34), (146, 54)], fill=(236, 150, 160))
    _ellipse(d, 122, 90, 62, 52, coat)
    for x in (98, 146):
        _ellipse(d, x, 84, 13, 14, pick(rng, (130, 200, 80), (240, 200, 60)))
        _ellipse(d, x, 84, 4, 13, (16, 16, 16))
    d.polygon([(114, 104), (130, 104), (122, 114)], fill=(226, 110, 130))
    for s in (-1, 1):
        for y in (104, 112, 120):
            d.line([(122 + 18 * s, 110), (122 + 84 * s, y - 4)], fill=(250, 250, 250), width=2)
        _ellipse(d, 122 + 26 * s, 240, 22, 12, shade(coat, 1.12))


def ball(d: Draw, rng: Rng) -> None:
    a, b = pick(rng, (220, 40, 50), (40, 110, 210), (40, 160, 90)), pick(rng, (250, 250, 250), (250, 220, 60))
    box = (38, 38, 218, 218)
    for k in range(6):
        d.pieslice(box, k * 60, k * 60 + 60, fill=a if k % 2 else b)
    _ellipse(d, 128, 128, 24, 24, b)
    d.ellipse(box, outline=shade(a, 0.6), width=4)


def house(d: Draw, rng: Rng) -> None:
    wall, roof = pick(rng, (236, 220, 180), (220, 226, 232), (196, 150, 120)), pick(rng, (170, 60, 50), (80, 84, 96))
    d.rectangle((172, 40, 196, 96), fill=shade(roof, 0.75))
    d.rectangle((48, 116, 208, 240), fill=wall)
    d.polygon([(26, 120), (128, 34), (230, 120)], fill=roof)
    d.rectangle((108, 168, 148, 240), fill=jitter(rng, 104, 66, 40))
    for x in (62, 160):
        d.rectangle((x, 138, x + 34, 172), fill=jitter(rng, 150, 206, 236), outline=(250, 250, 250), width=4)
        d.line([(x + 17, 138), (x + 17, 172)], fill=(250, 250, 250), width=3)


DRAWERS: dict[str, Callable[[Draw, Rng], None]] = {
    f.__name__: f
    for f in (fire, knife, cigarette, bottle, pills, car, dog, tulip, spoon, pencil, cup, bicycle, cat, ball, house)
}


def sprite(name: str, rng: Rng) -> Image.Image:
    """The object, RGBA of SPRITE x SPRITE."""
    image = Image.new("RGBA", (SPRITE, SPRITE), (0, 0, 0, 0))
    DRAWERS[name](ImageDraw.Draw(image), rng)
    return image


def background(width: int, height: int, rng: Rng) -> Image.Image:
    """A two-colour gradient in a random direction with faint distractor shapes."""
    light = rng.uniform() < 0.75
    top, bottom = (rng.uniform(*((150, 245) if light else (50, 120)), 3) for _ in range(2))
    y, x = np.mgrid[0:height, 0:width]
    angle = rng.uniform(0, 2 * math.pi)
    ramp = (np.cos(angle) * x / width + np.sin(angle) * y / height + 1.5) / 3
    image = Image.fromarray(np.rint(top + (bottom - top) * ramp[..., None]).astype(np.uint8))
    d = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(rng.integers(0, 7))):
        cx, cy, r = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.03, 0.12) * width
        colour = (*(int(c) for c in rng.integers(60, 240, 3)), int(rng.integers(50, 130)))
        shape = rng.integers(4)
        if shape == 0:
            _ellipse(d, cx, cy, r, r, colour)
        elif shape == 1:
            d.rectangle((cx - r, cy - r, cx + r, cy + r), fill=colour)
        elif shape == 2:
            d.regular_polygon((cx, cy, r), 3, rotation=int(rng.integers(360)), fill=colour)
        else:
            d.line([(cx - r, cy), (cx + r, cy + rng.uniform(-r, r))], fill=colour, width=int(rng.integers(2, 6)))
    return image


def place(canvas: Image.Image, thing: Image.Image, size: int, centre: tuple[float, float], tilt: float) -> None:
    """Pastes `thing` at `size` pixels, tilted by `tilt` degrees, around `centre`."""
    if thing.width != size:
        thing = thing.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=2)
    if tilt:
        thing = thing.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    canvas.paste(thing, (round(centre[0] - thing.width / 2), round(centre[1] - thing.height / 2)), thing)


def scatter(canvas: Image.Image, names: tuple[str, ...], rng: Rng) -> None:
    """Places one or two objects; two stand beside or above each other and do not hide one another."""
    width, height = canvas.size
    side = rng.permutation(len(names))
    for n, name in enumerate(names):
        if len(names) == 1:
            size = rng.uniform(0.55, 0.92) * min(width, height)
            span_x, span_y = (0.0, width), (0.0, height)
        else:
            wide = width >= height
            half = (side[n] * 0.5, side[n] * 0.5 + 0.5)
            span_x = (half[0] * width, half[1] * width) if wide else (0.0, width)
            span_y = (0.0, height) if wide else (half[0] * height, half[1] * height)
            size = rng.uniform(0.5, 0.6) * max(width, height) * (1.0 if width != height else 0.95)
        spread = [max((b - a - size) / 2, 0.04 * size) for a, b in (span_x, span_y)]
        centre = tuple((a + b) / 2 + rng.uniform(-s, s) for (a, b), s in zip((span_x, span_y), spread))
        tilt = float(rng.uniform(-28, 28))
        thing = sprite(name, rng)
        if rng.uniform() < 0.5:
            thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        place(canvas, thing, round(size), centre, tilt)


def finish(image: Image.Image, rng: Rng) -> Image.Image:
    """Camera faults: exposure, sensor noise, and at times a slight blur."""
    if rng.uniform() < 0.25:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.1))))
    pixels = np.asarray(image, dtype=np.float64) * rng.uniform(0.82, 1.12)
    pixels += rng.standard_normal((*pixels.shape[:2], 1)) * rng.uniform(0, 5)  # grey noise keeps the PNGs small
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def picture(names: tuple[str, ...], size: tuple[int, int], rng: Rng) -> Image.Image:
    """An RGB picture of `size` (width, height) that shows the named objects."""
    canvas = background(*size, rng)
    scatter(canvas, names, rng)
    return finish(canvas, rng)
