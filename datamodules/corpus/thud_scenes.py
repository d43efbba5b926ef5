"""Scenes with one visible event that makes one sound, at a known time: things that fall, are struck, burst or slam.

What is seen decides what is heard: each kind has its own look and its own sound. That is the correlation of natural
clips, by which a model can answer about the sound from the pictures alone (Thud, arXiv 2605.16403). Without an event
the thing stays as it is before it, and the track is silent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

from datamodules.corpus import draw
from datamodules.corpus.draw import Rng, jitter, pick, shade
from datamodules.corpus.sounds import RATE, band, put, times, tone

SIZE, FPS, SECONDS = 160, 8, 12.0
FLOOR = 132  # the row of pixels that things stand on
PLACES = {"left": 46.0, "middle": 80.0, "right": 114.0}  # columns of pixels

Painter = Callable[[ImageDraw.ImageDraw, float], None]
"""(a canvas, seconds since the event; negative before it) → nothing."""


@dataclass(frozen=True)
class Kind:
    """`seen` and `heard` are what a person would call it; `event` is impact, bounce, flash or drum."""

    seen: str
    heard: str
    event: str
    look: Callable[[Rng, float], Painter]
    sound: Callable[[Rng], np.ndarray]


def _fallen(since: float, fall: float) -> float:
    """The share of a fall of `fall` seconds that is done when it ends at the event: 0 before, 1 after."""
    return min(max(1 + since / fall, 0.0), 1.0) ** 2


def _disc(d: ImageDraw.ImageDraw, x: float, y: float, rx: float, ry: float, fill: draw.Colour) -> None:
    d.ellipse((x - rx, y - ry, x + rx, y + ry), fill=fill)


# --------------------------------------------------------------------------------------------------------------- looks


def _drum(rng: Rng, x: float) -> Painter:
    body, skin = pick(rng, (190, 50, 50), (40, 80, 170), (60, 140, 80)), jitter(rng, 236, 228, 206)
    r, stick = rng.uniform(26, 32), jitter(rng, 150, 100, 50)

    def paint(d: ImageDraw.ImageDraw, since: float) -> None:
        down = min(max(1 + since / 0.2, 0.0), 1.0)  # the stick stays where it struck
        d.rectangle((x - r, 94, x + r, FLOOR), fill=body)
        _disc(d, x, FLOOR, r, 10, body)
        _disc(d, x, 94, r, 10, skin)
        if 0 <= since < 0.6:  # the skin swings
            s = r * (1 - since / 0.6)
            _disc(d, x, 94, s, s / 3, (120, 110, 100))
        tip = (x + 6 + 10 * (1 - down), 92 - 46 * (1 - down))
        d.line([(x + 56, 52), tip], fill=stick, width=6)
        _disc(d, *tip, 6, 6, shade(stick, 0.7))

    return paint


def _ball(rng: Rng, x: float) -> Painter:
    colour, r = pick(rng, (230, 120, 30), (210, 40, 60), (60, 160, 220)), rng.uniform(13, 17)

    def paint(d: ImageDraw.ImageDraw, since: float) -> None:
        top, floor = 24.0, FLOOR - r
        y = top + (floor - top) * _fallen(since, 0.6)
        if since >= 0:  # it bounces up to a shelf and stays there
            y = floor - 48 * (1 - (1 - min(since / 0.6, 1.0)) ** 2)
            d.rectangle((x - 24, FLOOR - 46, x + 24, FLOOR - 42), fill=(90, 90, 96))
        _disc(d, x, y, r, r, colour)
        d.line([(x - r, y), (x + r, y)], fill=shade(colour, 0.5), width=2)
        d.rectangle((x - 12, 0, x + 12, 6), fill=(90, 90, 96))

    return paint


def _vase(rng: Rng, x: float) -> Painter:
    colour, h = pick(rng, (150, 200, 230), (190, 150, 220), (160, 220, 180)), rng.uniform(30, 36)
    shards = rng.uniform(-1, 1, (12, 3))

    def paint(d: ImageDraw.ImageDraw, since: float) -> None:
        d.rectangle((x - 30, 60, x + 30, 66), fill=(120, 84, 52))
        if since >= 0:
            out = min(since / 0.3, 1.0)
            for a, b, c in shards:
                cx, cy, s = x + 44 * a * out, FLOOR - 3 - 20 * abs(b) * (1 - out), 5 + 3 * c
                d.polygon([(cx - s, cy + 4), (cx, cy - s), (cx + s, cy + 4)], fill=colour)
            return
        y = 60 + (FLOOR - 60) * _fallen(since, 0.5)
        d.polygon(
            [(x - 8, y - h), (x + 8, y - h), (x + 15, y - h / 2), (x + 7, y), (x - 7, y), (x - 15, y - h / 2)], colour
        )

    return paint


def _bell(rng: Rng, x: float) -> Painter:
    metal, w = pick(rng, (220, 180, 60), (200, 200, 210), (190, 120, 60)), rng.uniform(26, 32)
    side = 1 if x < SIZE / 2 else -1  # where there is room for the hammer

    def paint(d: ImageDraw.ImageDraw, since: float) -> None:
        swing = 0.0 if since < 0 else 14 * math.sin(11 * since) * math.exp(-1.2 * since)
        d.line([(x, 0), (x, 34)], fill=(80, 80, 84), width=4)
        low = x + swing
        d.polygon([(x - 10, 34), (x + 10, 34), (low + w, 92), (low - w, 92)], fill=metal)
        _disc(d, low, 92, w, 7, shade(metal, 0.75))
        away = 1 - min(max(1 + since / 0.25, 0.0), 1.0)
        dropped = 0.0 if since < 0 else min(since / 0.4, 1.0)
        hammer, y = x + side * (w + 10 + 26 * away), 82 + 42 * dropped
        d.line([(hammer, y), (hammer + side * 30, y + 36 * (1 - dropped))], fill=(120, 80, 44), width=6)
        d.rectangle((hammer - 9, y - 9, hammer + 9, y + 9), fill=(70, 72, 78))

    return paint


def _lamp(rng: Rng, x: float) -> Painter:
    light = pick(rng, (255, 236, 170), (250, 250, 230), (255, 220, 190))

    def paint(d: ImageDraw.ImageDraw, since: float) -> None:
        d.line([(x, 0), (x, 40)], fill=(60, 60, 60), width=3)
        d.rectangle((x - 8, 36, x + 8, 48), fill=(90, 90, 90))
        if since < 0:
            _disc(d, x, 66, 20, 20, light)
            return
        if since < 0.9:  # the flash fills more than half of the picture, and fades
            r = 110 * (1 - since / 0.9)
            _disc(d, x, 66, r, r, (255, 255, 255))
        _disc(d, x, 66, 20, 20, (44, 40, 38))

    return paint


def _crate(rng: Rng, x: float) -> Painter:
    wood, s = jitter(rng, 170, 120, 64), rng.uniform(20, 25)

    def paint(d: ImageDraw.ImageDraw, since: float) -> None:
        y = 36 + (FLOOR - s - 36) * _fallen(since, 0.6)
        d.line([(x, 0), (x, 14)], fill=(110, 100, 90), width=3)
        if since >= 0:
            out = min(since / 0.8, 1.0)
            for k in (-1, 1):
                _disc(d, x + k * (s + 22 * out), FLOOR - 6, 5 + 9 * out, 3 + 6 * out, (196, 186, 170))
        d.rectangle((x - s, y - s, x + s, y + s), fill=wood, outline=shade(wood, 0.6), width=4)
        d.line([(x - s, y - s), (x + s, y + s)], fill=shade(wood, 0.6), width=4)

    return paint


def _door(rng: Rng, x: float) -> Painter:
    wood, frame = pick(rng, (130, 80, 44), (60, 90, 120), (150, 40, 44)), (230, 226, 216)

    def paint(d: ImageDraw.ImageDraw, since: float) -> None:
        open_ = 1 - min(max(1 + since / 0.4, 0.0), 1.0)
        d.rectangle((x - 28, 30, x + 28, FLOOR), fill=frame)
        d.rectangle((x - 23, 36, x + 23, FLOOR), fill=(22, 22, 26))
        edge = x - 23 + 46 * (1 - 0.7 * open_)
        d.polygon([(x - 23, 36), (edge, 36 + 8 * open_), (edge, FLOOR + 12 * open_), (x - 23, FLOOR)], fill=wood)
        _disc(d, edge - 6, 88, 3, 3, (230, 200, 90))

    return paint


def _rocket(rng: Rng, x: float) -> Painter:
    colour, n = pick(rng, (255, 90, 80), (110, 220, 255), (255, 220, 90)), int(rng.integers(9, 14))

    def paint(d: ImageDraw.ImageDraw, since: float) -> None:
        d.rectangle((0, FLOOR, SIZE, SIZE), fill=(40, 44, 56))
        if since < 0:
            up = min(max(1 + since / 0.8, 0.0), 1.0)
            y = FLOOR - 12 - (FLOOR - 62) * up
            d.rectangle((x - 4, y - 14, x + 4, y + 8), fill=(200, 60, 60))
            if up:
                d.polygon([(x - 4, y + 8), (x + 4, y + 8), (x, y + 22)], fill=(255, 200, 80))
            return
        fade = min(since / 1.2, 1.0)
        _disc(d, x, 50, 30, 18, (170, 170, 178))
        for k in range(n if fade < 1 else 0):
            a, r = 2 * math.pi * k / n, 58 * (1 - fade / 2)
            ends = [(x + q * math.cos(a), 50 + q * math.sin(a)) for q in (r * fade, r)]
            d.line(ends, fill=colour, width=1 + round(5 * (1 - fade)))

    return paint


# -------------------------------------------------------------------------------------------------------------- sounds
# Each returns float64 samples whose first one is heard at the event. After 0.5 s little is left of any.


def _drum_beat(rng: Rng) -> np.ndarray:
    t = times(0.8)
    pitch = rng.uniform(85, 130) * (1 + 0.6 * np.exp(-t * 30))
    return tone(pitch, (1.0, 0.3)) * np.exp(-t * 9) + 0.35 * band(rng.standard_normal(len(t)), 200, 3000) * np.exp(
        -t * 45
    )


def _thud(rng: Rng) -> np.ndarray:
    t = times(0.5)
    pitch = rng.uniform(240, 330) * (1 + 0.25 * np.exp(-t * 20))
    return tone(pitch, (1.0, 0.5, 0.2)) * np.exp(-t * 16)


def _shatter(rng: Rng) -> np.ndarray:
    t = times(0.8)
    out = 0.9 * band(rng.standard_normal(len(t)), 2500, 7800) * np.exp(-t * 18)
    for _ in range(int(rng.integers(25, 45))):
        s = times(0.2)
        ping = np.sin(2 * np.pi * rng.uniform(2800, 7500) * s) * np.exp(-s * rng.uniform(20, 60))
        put(out, rng.uniform(0.2, 0.8) * ping, rng.exponential(0.12))
    return out


def _ring(rng: Rng) -> np.ndarray:
    t, pitch = times(1.0), rng.uniform(520, 760)
    parts = ((0.5, 0.5, 4), (1.0, 1.0, 5), (1.19, 0.6, 6), (2.0, 0.7, 8), (3.01, 0.4, 11))
    return sum(a * np.sin(2 * np.pi * pitch * f * t) * np.exp(-t * decay) for f, a, decay in parts)


def _pop(rng: Rng) -> np.ndarray:
    t = times(0.6)
    crackle = band(rng.standard_normal(len(t)), 3000, 7900) * (rng.uniform(size=len(t)) < 0.02) * np.exp(-t * 6)
    return 1.2 * np.exp(-t * 160) * np.sin(2 * np.pi * 900 * t) + 2.5 * crackle


def _crash(rng: Rng) -> np.ndarray:
    t = times(0.5)
    knocks = np.zeros(len(t))
    for at in (0.0, rng.uniform(0.04, 0.08)):
        s = times(0.2)
        put(knocks, tone(np.full(len(s), rng.uniform(420, 620)), (1.0, 0.7, 0.5)) * np.exp(-s * 40), at)
    return knocks + 0.5 * band(rng.standard_normal(len(t)), 300, 1800) * np.exp(-t * 22)


def _slam(rng: Rng) -> np.ndarray:
    t = times(0.7)
    boom = band(rng.standard_normal(len(t)), 40, 400) * np.exp(-t * 14)
    return boom + 0.5 * band(rng.standard_normal(len(t)), 400, 4000) * np.exp(-t * 60)


def _bang(rng: Rng) -> np.ndarray:
    t = times(1.0)
    noise = rng.standard_normal(len(t))
    return band(noise, 30, 7800) * np.exp(-t * rng.uniform(7, 10)) + 1.5 * band(noise, 30, 250) * np.exp(-t * 6)


KINDS: dict[str, Kind] = {
    "drum": Kind("a drum", "a drum beat", "drum", _drum, _drum_beat),
    "ball": Kind("a ball", "a ball bouncing", "bounce", _ball, _thud),
    "vase": Kind("a glass vase", "glass breaking", "impact", _vase, _shatter),
    "bell": Kind("a bell", "a bell ringing", "impact", _bell, _ring),
    "lamp": Kind("a lamp", "an electric pop", "flash", _lamp, _pop),
    "crate": Kind("a wooden crate", "wood crashing down", "impact", _crate, _crash),
    "door": Kind("a door", "a door slamming", "impact", _door, _slam),
    "rocket": Kind("a rocket", "an explosion", "flash", _rocket, _bang),
}


def frames(kind: str, place: str, at: float | None, rng: Rng) -> np.ndarray:
    """uint8 [SECONDS x FPS, SIZE, SIZE, 3]: the event shows from the frame at `at` seconds on; None: never."""
    base = draw.background(SIZE, SIZE, rng)
    ImageDraw.Draw(base).rectangle(
        (0, FLOOR, SIZE, SIZE), fill=pick(rng, (120, 110, 96), (96, 130, 84), (130, 130, 138))
    )
    paint = KINDS[kind].look(rng, PLACES[place] + rng.uniform(-4, 4))
    out = np.empty((round(SECONDS * FPS), SIZE, SIZE, 3), dtype=np.uint8)
    for n in range(len(out)):
        canvas = base.copy()
        paint(ImageDraw.Draw(canvas), -math.inf if at is None else n / FPS - at)
        out[n] = np.asarray(canvas)
    return out


def sound(kind: str, at: float | None, rng: Rng) -> np.ndarray:
    """float32 samples [SECONDS x RATE] in -1..1: the kind's sound from `at` seconds on over noise; None: zeros."""
    n = round(SECONDS * RATE)
    if at is None:
        return np.zeros(n, np.float32)
    out = np.zeros(n)
    piece = KINDS[kind].sound(rng)
    put(out, rng.uniform(0.4, 0.9) * piece / np.abs(piece).max(), at)
    out += band(rng.standard_normal(n), 40, rng.uniform(2000, 7800)) * 10 ** rng.uniform(-3.0, -2.5)
    return np.clip(out, -1, 1).astype(np.float32)
