"""Sounds from formulas: each function returns float64 samples of `SECONDS` at `RATE`, without background.

Pitch, tempo, level and start vary with the generator. float64 throughout: rounding differences between processors then
never reach the 16 bits that are stored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

RATE = 16_000
SECONDS = 3.0
N = int(RATE * SECONDS)

Rng = np.random.Generator


def tone(freq: np.ndarray, harmonics: tuple[float, ...] = (1.0,)) -> np.ndarray:
    """A tone of `freq` Hz at each sample with the given harmonic levels; what lies above Nyquist is left out."""
    phase = 2 * np.pi * np.cumsum(freq) / RATE
    top = float(freq.max())
    parts = [a * np.sin(k * phase) for k, a in enumerate(harmonics, 1) if k * top < RATE / 2]
    return np.sum(parts, axis=0)


def band(noise: np.ndarray, low: float, high: float) -> np.ndarray:
    """`noise` between `low` and `high` Hz, scaled to a standard deviation of 1."""
    spectrum = np.fft.rfft(noise)
    freq = np.fft.rfftfreq(len(noise), 1 / RATE)
    spectrum[(freq < low) | (freq > high)] = 0
    out = np.fft.irfft(spectrum, len(noise))
    return out / (out.std() + 1e-9)


def put(out: np.ndarray, piece: np.ndarray, at: float) -> None:
    """Adds `piece` at `at` seconds; what does not fit is cut."""
    start = int(at * RATE)
    piece = piece[: max(0, len(out) - start)]
    out[start : start + len(piece)] += piece


def times(seconds: float) -> np.ndarray:
    return np.arange(int(seconds * RATE)) / RATE


def _arch(t: np.ndarray) -> np.ndarray:
    """0 → 1 → 0 over the length of `t`."""
    return np.sin(np.pi * np.arange(len(t)) / max(len(t), 1))


def alarm(rng: Rng) -> np.ndarray:
    start = rng.uniform(0, 0.4)
    t = times(SECONDS - start)
    low, high, rate = rng.uniform(550, 750), rng.uniform(1150, 1600), rng.uniform(1.0, 3.0)
    cycle = (t * rate + rng.uniform()) % 1
    swing = np.abs(2 * cycle - 1) if rng.uniform() < 0.5 else (cycle < 0.5).astype(float)
    out = np.zeros(N)
    put(out, tone(low + (high - low) * swing, (1.0, 0.4, 0.3, 0.15)), start)
    return out


def bark(rng: Rng) -> np.ndarray:
    out, at = np.zeros(N), rng.uniform(0.05, 0.4)
    pitch, gap = rng.uniform(330, 520), rng.uniform(0.3, 0.6)
    while at < SECONDS - 0.2:
        t = times(rng.uniform(0.12, 0.18))
        voice = tone(pitch * (1.25 - 0.6 * t / t[-1]), (0.6, 1.0, 0.9, 0.5, 0.25))
        put(out, (voice + 0.6 * band(rng.standard_normal(len(t)), 500, 2500)) * _arch(t) ** 0.5, at)
        at += gap * rng.uniform(0.8, 1.3)
    return out


def glass(rng: Rng) -> np.ndarray:
    out, at = np.zeros(N), rng.uniform(0.1, 1.0)
    for _ in range(int(rng.integers(1, 3))):
        t = times(0.25)
        put(out, 0.9 * band(rng.standard_normal(len(t)), 2500, 7800) * np.exp(-t * 18), at)
        for _ in range(int(rng.integers(25, 45))):
            t = times(0.2)
            ping = np.sin(2 * np.pi * rng.uniform(2800, 7500) * t) * np.exp(-t * rng.uniform(20, 60))
            put(out, rng.uniform(0.2, 0.8) * ping, at + rng.exponential(0.22))
        at += rng.uniform(0.8, 1.4)
    return out


def engine(rng: Rng) -> np.ndarray:
    t = times(SECONDS)
    base = rng.uniform(55, 110) * (1 + rng.uniform(0, 0.35) * np.sin(2 * np.pi * rng.uniform(0.15, 0.6) * t))
    saw = tone(base, tuple(1 / k**0.7 for k in range(1, 24)))
    chop = 0.6 + 0.4 * np.sign(np.sin(2 * np.pi * rng.uniform(14, 28) * t))
    return (saw + 0.5 * band(rng.standard_normal(N), 80, 2500)) * chop


def bang(rng: Rng) -> np.ndarray:
    out, at = np.zeros(N), rng.uniform(0.1, 0.7)
    for _ in range(int(rng.integers(1, 4))):
        t = times(0.9)
        noise = rng.standard_normal(len(t))
        blast = band(noise, 30, 7800) * np.exp(-t * rng.uniform(9, 14))
        boom = 1.5 * band(noise, 30, 250) * np.exp(-t * rng.uniform(5, 8))
        put(out, blast + boom, at)
        at += rng.uniform(0.6, 1.0)
    return out


def cry(rng: Rng) -> np.ndarray:
    out, at = np.zeros(N), rng.uniform(0, 0.3)
    pitch = rng.uniform(380, 560)
    while at < SECONDS - 0.5:
        t = times(rng.uniform(0.55, 0.9))
        vibrato = 1 + 0.03 * np.sin(2 * np.pi * rng.uniform(5, 8) * t)
        voice = tone(pitch * (0.85 + 0.4 * _arch(t)) * vibrato, (0.7, 0.9, 1.0, 0.8, 0.5, 0.4, 0.2))
        put(out, voice * _arch(t) ** 0.4, at)
        at += len(t) / RATE + rng.uniform(0.1, 0.3)
    return out


def _note(pitch: float, seconds: float, decay: float) -> np.ndarray:
    t = times(seconds)
    return tone(np.full(len(t), pitch), (1.0, 0.35, 0.12)) * np.exp(-t * decay) * np.minimum(t / 0.01, 1)


def doorbell(rng: Rng) -> np.ndarray:
    out, at, pitch = np.zeros(N), rng.uniform(0.1, 0.6), rng.uniform(560, 760)
    for _ in range(int(rng.integers(1, 3))):
        put(out, _note(pitch, 1.0, 4.5), at)
        put(out, _note(pitch * 0.794, 1.2, 3.5), at + rng.uniform(0.38, 0.5))
        at += 1.3
    return out


def music(rng: Rng) -> np.ndarray:
    out, at, root = np.zeros(N), rng.uniform(0, 0.2), rng.uniform(196, 294)
    beat = rng.uniform(0.22, 0.38)
    while at < SECONDS - 0.1:
        step = int(rng.choice([0, 2, 4, 7, 9, 12]))
        put(out, _note(root * 2 ** (step / 12), 0.8, 4.0), at)
        if rng.uniform() < 0.4:
            put(out, 0.7 * _note(root / 2, 1.0, 2.5), at)
        at += beat
    return out


def knock(rng: Rng) -> np.ndarray:
    out, at = np.zeros(N), rng.uniform(0.1, 0.5)
    pitch = rng.uniform(180, 320)
    while at < SECONDS - 0.6:
        for _ in range(int(rng.integers(2, 5))):
            t = times(0.08)
            put(out, (np.sin(2 * np.pi * pitch * t) + 0.5 * np.sin(5.1 * np.pi * pitch * t)) * np.exp(-t * 65), at)
            at += rng.uniform(0.14, 0.2)
        at += rng.uniform(0.4, 0.8)
    return out


def rain(rng: Rng) -> np.ndarray:
    out = 0.5 * band(rng.standard_normal(N), 900, 7800)
    for _ in range(int(rng.integers(60, 140))):
        t = times(0.02)
        put(
            out,
            rng.uniform(0.3, 1.2) * band(rng.standard_normal(len(t)), 1000, 6000) * np.exp(-t * 220),
            rng.uniform(0, SECONDS - 0.05),
        )
    return out


def hum(rng: Rng) -> np.ndarray:
    t = times(SECONDS)
    level = 1 + 0.2 * np.sin(2 * np.pi * rng.uniform(0.2, 0.8) * t)
    return level * tone(np.full(N, rng.uniform(100, 190)), (1.0, 0.3))


def whistle(rng: Rng) -> np.ndarray:
    out, at = np.zeros(N), rng.uniform(0.05, 0.5)
    while at < SECONDS - 0.5:
        t = times(rng.uniform(0.5, 1.0))
        start, end = rng.uniform(900, 2300, 2)
        put(out, tone(start + (end - start) * t / t[-1]) * _arch(t) ** 0.3, at)
        at += len(t) / RATE + rng.uniform(0.15, 0.4)
    return out


MAKERS: dict[str, Callable[[Rng], np.ndarray]] = {
    f.__name__: f for f in (alarm, bark, glass, engine, bang, cry, doorbell, music, knock, rain, hum, whistle)
}


def sound(names: tuple[str, ...], rng: Rng) -> np.ndarray:
    """float32 samples [N] in -1..1 of the named sounds over background noise; the first is the loudest."""
    background = band(rng.standard_normal(N), 40, rng.uniform(2000, 7800))
    out = background * 10 ** rng.uniform(-3.0, -2.1)
    peak = rng.uniform(0.3, 0.9)
    for n, name in enumerate(names):
        piece = MAKERS[name](rng)
        out = out + peak * (0.65 if n else 1.0) * piece / np.abs(piece).max()
    return np.clip(out, -1, 1).astype(np.float32)
