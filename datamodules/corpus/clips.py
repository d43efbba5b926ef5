"""Video: a writer of MP4 files with sound, and the frames of the scenes that move."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw

from datamodules.corpus import draw
from datamodules.corpus.draw import Colour, Rng, jitter, pick, place, shade, sprite

SIZE = 160
FPS = 8
FRAMES = 24


def write_clip(path: str | Path, frames: np.ndarray, fps: int, samples: np.ndarray | None, rate: int) -> None:
    """Writes an MP4: H.264 (MPEG-4 part 2 where PyAV lacks x264) and, with `samples`, mono AAC.

    `frames` is uint8 [N, H, W, 3] with even H and W, `fps` in frames per second; `samples` is float32 [T] in -1..1 at
    `rate` Hz. One thread and fixed settings: equal frames give an equal video stream, whatever sound goes with them.
    Raises ValueError for other shapes or types.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        raise ValueError(f"frames must be uint8 [N, H, W, 3] and not empty, got {frames.dtype} {list(frames.shape)}")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        raise ValueError(f"frames must have even height and width, got {frames.shape[1]} x {frames.shape[2]}")
    if samples is not None and (samples.ndim != 1 or samples.dtype != np.float32):
        raise ValueError(f"samples must be float32 [T], got {samples.dtype} {list(samples.shape)}")
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    with av.open(str(path), "w", format="mp4") as out:
        options = {"threads": "1", **({"crf": "23", "preset": "ultrafast"} if codec == "libx264" else {"qscale": "3"})}
        video = out.add_stream(codec, rate=fps, options=options)
        video.width, video.height, video.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        audio = None
        if samples is not None:  # the default coder takes longer than the pictures
            audio = out.add_stream("aac", rate=rate, layout="mono", options={"aac_coder": "fast"})
        for n, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, fps)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        if audio is not None:
            for at in range(0, len(samples), 1024):
                piece = np.ascontiguousarray(samples[None, at : at + 1024])
                frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="mono")
                frame.sample_rate, frame.pts, frame.time_base = rate, at, Fraction(1, rate)
                out.mux(audio.encode(frame))
            out.mux(audio.encode(None))


# ------------------------------------------------------------------------------------------------------- happenings
# A happening sets up once from the generator and returns a painter of the frame at time t in 0..1.

Painter = Callable[[Image.Image, float], None]


def _ease(t: float, start: float, end: float) -> float:
    """0 before `start`, 1 after `end`, smooth between."""
    x = min(max((t - start) / (end - start), 0.0), 1.0)
    return x * x * (3 - 2 * x)


def _limb(d: ImageDraw.ImageDraw, a: tuple[float, float], b: tuple[float, float], width: int, fill: Colour) -> None:
    d.line([a, b], fill=fill, width=width)
    for x, y in (a, b):
        d.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill)


def _person(rng: Rng) -> Callable[[float, float], Image.Image]:
    """A figure of SPRITE pixels that is drawn at a phase of its step (radians) and a share of sitting (0..1)."""
    shirt = pick(rng, (200, 50, 60), (40, 110, 190), (50, 150, 90), (230, 170, 40))
    trousers, skin = pick(rng, (40, 46, 70), (90, 80, 70)), pick(rng, (240, 200, 170), (150, 100, 70), (200, 150, 110))

    def figure(phase: float, sitting: float) -> Image.Image:
        image = Image.new("RGBA", (draw.SPRITE, draw.SPRITE), (0, 0, 0, 0))
        d = ImageDraw.Draw(image)
        hip = (124.0, 150.0 + 46 * sitting)
        for s in (-1, 1):
            swing = 26 * math.sin(phase) * s * (1 - sitting)
            knee = (hip[0] + swing * 0.6 + 46 * sitting, hip[1] + 46 * (1 - sitting))
            foot = (hip[0] + swing + 46 * sitting, 246.0)
            _limb(d, hip, knee, 22, trousers)
            _limb(d, knee, foot, 20, trousers)
            hand = (hip[0] - swing + 30 * sitting, hip[1] - 10)
            _limb(d, (hip[0], hip[1] - 76), hand, 15, shade(shirt, 0.8))
        _limb(d, hip, (hip[0], hip[1] - 70), 44, shirt)
        d.ellipse((hip[0] - 27, hip[1] - 148, hip[0] + 27, hip[1] - 94), fill=skin)
        d.pieslice((hip[0] - 29, hip[1] - 152, hip[0] + 29, hip[1] - 94), 180, 360, fill=shade(trousers, 0.6))
        return image

    return figure


def _floor(canvas: Image.Image, top: float, colour: Colour) -> None:
    ImageDraw.Draw(canvas).rectangle((0, top, canvas.width, canvas.height), fill=colour)


def _ground(rng: Rng) -> Colour:
    return pick(rng, (120, 110, 96), (96, 130, 84), (130, 130, 138))


def fall(rng: Rng) -> Painter:
    person, colour, way = _person(rng), _ground(rng), int(rng.choice([-1, 1]))
    start, height, x0 = rng.uniform(0.2, 0.42), rng.uniform(88, 108), rng.uniform(0.35, 0.5)

    def paint(canvas: Image.Image, t: float) -> None:
        _floor(canvas, 126, colour)
        down = _ease(t, start, start + 0.16)
        thing = person(t * 22 if not down else 1.2, 0.0)
        x = SIZE * (x0 + 0.16 * min(t, start + 0.1))
        centre = (x + way * 18 * down, 142 - height / 2 + height * 0.34 * down)
        place(canvas, thing, round(height), centre, -88 * way * down)

    return paint


def walk(rng: Rng) -> Painter:
    person, colour, way = _person(rng), _ground(rng), int(rng.choice([-1, 1]))
    height, pace = rng.uniform(88, 108), rng.uniform(16, 26)

    def paint(canvas: Image.Image, t: float) -> None:
        _floor(canvas, 126, colour)
        x = SIZE * (0.5 + way * (t - 0.5) * 0.8)
        place(canvas, person(t * pace, 0.0), round(height), (x, 142 - height / 2), 0)

    return paint


def sit(rng: Rng) -> Painter:
    person, colour, wood = _person(rng), _ground(rng), jitter(rng, 140, 92, 50)
    start, height, x = rng.uniform(0.15, 0.45), rng.uniform(92, 108), rng.uniform(0.35, 0.6) * SIZE

    def paint(canvas: Image.Image, t: float) -> None:
        _floor(canvas, 126, colour)
        d = ImageDraw.Draw(canvas)
        d.rectangle((x - 24, 78, x - 18, 142), fill=wood)
        d.rectangle((x - 24, 118, x + 14, 124), fill=wood)
        d.rectangle((x + 8, 120, x + 14, 142), fill=wood)
        place(canvas, person(0.3, _ease(t, start, start + 0.25)), round(height), (x, 142 - height / 2), 0)

    return paint


def _cars(rng: Rng) -> tuple[Image.Image, Image.Image]:
    return sprite("car", rng), sprite("car", rng).transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def crash(rng: Rng) -> Painter:
    (left, right), hit, size, y = _cars(rng), rng.uniform(0.28, 0.48), rng.uniform(74, 88), rng.uniform(92, 104)
    spikes = rng.uniform(0.6, 1.0, 12)

    def paint(canvas: Image.Image, t: float) -> None:
        _floor(canvas, y - 8, (92, 92, 98))
        gone, after = min(t / hit, 1.0), _ease(t, hit, hit + 0.1)
        gap = size * 0.42 + (SIZE * 0.55) * (1 - gone) + 6 * after
        place(canvas, left, round(size), (SIZE / 2 - gap, y - 6 * after), -24 * after)
        place(canvas, right, round(size), (SIZE / 2 + gap, y - 6 * after), 24 * after)
        if after:
            d = ImageDraw.Draw(canvas)
            turn = t * 9
            for radius, fill in ((44, (250, 210, 60)), (24, (255, 250, 220))):
                points = []
                for k in range(24):
                    r = radius * (spikes[k // 2] if k % 2 == 0 else 0.45) * (0.75 + 0.25 * after)
                    points.append(
                        (
                            SIZE / 2 + r * math.cos(k * math.pi / 12 + turn),
                            y - 4 + r * math.sin(k * math.pi / 12 + turn),
                        )
                    )
                d.polygon(points, fill=fill)
            for k in range(4):
                r = 8 + 22 * _ease(t, hit, 1.0)
                d.ellipse((58 + 16 * k - r, 44 - r, 58 + 16 * k + r, 44 + r), fill=(70 + 8 * k,) * 3)

    return paint


def passing(rng: Rng) -> Painter:
    (left, right), size = _cars(rng), rng.uniform(64, 76)
    lag = rng.uniform(-0.15, 0.15)

    def paint(canvas: Image.Image, t: float) -> None:
        _floor(canvas, 40, (92, 92, 98))
        d = ImageDraw.Draw(canvas)
        for x in range(4, SIZE, 32):
            d.rectangle((x, 92, x + 18, 96), fill=(236, 236, 230))
        place(canvas, right, round(size), (SIZE * (1.05 - 1.1 * t + lag), 62), 0)
        place(canvas, left, round(size), (SIZE * (-0.05 + 1.1 * t), 124), 0)

    return paint


def _lamp(canvas: Image.Image, glow: float, colour: Colour, x: float, rays: bool) -> None:
    """A hanging lamp in a dark room; `glow` 0..1."""
    _floor(canvas, 0, tuple(int(20 + (0.93 if rays else 0.55) * glow * c * 0.9) for c in colour))
    d = ImageDraw.Draw(canvas)
    if rays and glow > 0.5:
        for k in range(12):
            a = k * math.pi / 6
            d.line([(x, 64), (x + 150 * math.cos(a), 64 + 150 * math.sin(a))], fill=(255, 255, 255), width=7)
    d.line([(x, 0), (x, 44)], fill=(120, 120, 120), width=3)
    d.polygon([(x - 22, 58), (x - 10, 40), (x + 10, 40), (x + 22, 58)], fill=(90, 90, 96))
    r = 15
    d.ellipse((x - r, 50, x + r, 50 + 2 * r), fill=tuple(int(60 + glow * (c - 60)) for c in colour))


def strobe(rng: Rng) -> Painter:
    colour, x = pick(rng, (255, 255, 250), (255, 235, 235), (235, 240, 255)), rng.uniform(0.3, 0.7) * SIZE
    # An irregular rhythm: a reader of every second or fourth frame must meet both states.
    pattern = np.concatenate([rng.permutation([0, 0, 1, 1]) for _ in range(FRAMES // 4)])
    return lambda canvas, t: _lamp(canvas, float(pattern[min(round(t * (FRAMES - 1)), FRAMES - 1)]), colour, x, True)


def dim(rng: Rng) -> Painter:
    colour, x = pick(rng, (255, 235, 190), (250, 245, 225), (255, 220, 170)), rng.uniform(0.3, 0.7) * SIZE
    end = rng.uniform(0.0, 0.25)

    def paint(canvas: Image.Image, t: float) -> None:
        _lamp(canvas, 0.95 + (end - 0.95) * t, colour, x, False)

    return paint


def ignite(rng: Rng) -> Painter:
    home, colour = sprite("house", rng), _ground(rng)
    flames = [sprite("fire", rng).reduce(2) for _ in range(3)]
    start, size, spots = rng.uniform(0.2, 0.4), rng.uniform(100, 120), rng.uniform(-0.22, 0.22, 3)

    def paint(canvas: Image.Image, t: float) -> None:
        _floor(canvas, 126, colour)
        place(canvas, home, round(size), (SIZE / 2, 140 - size / 2), 0)
        for k, flame in enumerate(flames):
            grow = _ease(t, start + 0.08 * k, start + 0.25 + 0.08 * k)
            height = round(size * 0.75 * grow * (1 + 0.12 * math.sin(31 * t + 2 * k)))
            if height > 4:
                place(canvas, flame, height, (SIZE / 2 + spots[k] * size, 142 - size * 0.25 * (k % 2) - height / 2), 0)

    return paint


def chimney(rng: Rng) -> Painter:
    home, colour, size = sprite("house", rng), _ground(rng), rng.uniform(100, 120)

    def paint(canvas: Image.Image, t: float) -> None:
        _floor(canvas, 126, colour)
        d = ImageDraw.Draw(canvas)
        for k in range(6):
            up = (t * 1.5 + k / 6) % 1
            x, y = SIZE / 2 + 0.22 * size + 16 * up, 140 - 0.86 * size - 46 * up
            r = 4 + 7 * up
            d.ellipse((x - r, y - r, x + r, y + r), fill=(200, 200, 206))
        place(canvas, home, round(size), (SIZE / 2, 140 - size / 2), 0)

    return paint


HAPPENING: dict[str, Callable[[Rng], Painter]] = {
    "fall": fall, "crash": crash, "strobe": strobe, "ignite": ignite,
    "walk": walk, "sit": sit, "pass": passing, "dim": dim, "chimney": chimney,
}  # fmt: skip


def objects(names: tuple[str, ...], rng: Rng) -> Painter:
    """One or two objects that drift and sway slowly."""
    parts = []
    for n, name in enumerate(names):
        size = rng.uniform(88, 126) if len(names) == 1 else rng.uniform(72, 80)
        centre = 0.5 if len(names) == 1 else 0.27 + 0.46 * n
        thing = sprite(name, rng).resize((round(size), round(size)), Image.Resampling.BICUBIC, reducing_gap=2)
        parts.append((thing, centre, rng.uniform(-0.12, 0.12, 2), rng.uniform(-18, 18), rng.uniform(4, 12)))

    def paint(canvas: Image.Image, t: float) -> None:
        for thing, centre, (dx, dy), tilt, sway in parts:
            at = (SIZE * (centre + dx * (t - 0.5)), SIZE * (0.5 + dy * (2 * t - 1)))
            place(canvas, thing, thing.width, at, tilt + sway * math.sin(6 * t))

    return paint


def frames(shown: tuple[str, ...], happening: str | None, rng: Rng) -> np.ndarray:
    """uint8 [FRAMES, SIZE, SIZE, 3] of the happening, or of the objects shown where nothing happens."""
    base = draw.background(SIZE, SIZE, rng)
    paint = HAPPENING[happening](rng) if happening else objects(shown, rng)
    gain = np.rint(np.arange(256) * rng.uniform(0.88, 1.08)).astype(np.int16)
    noise = rng.standard_normal((SIZE, SIZE, 1)) * rng.uniform(0, 3)  # of one frame: moving noise would triple the file
    noise = np.rint(noise).astype(np.int16)
    out = np.empty((FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    for n in range(FRAMES):
        canvas = base.copy()
        paint(canvas, n / (FRAMES - 1))
        out[n] = np.clip(gain[np.asarray(canvas)] + noise, 0, 255)
    return out
