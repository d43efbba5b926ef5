"""When a clip's event is seen and when it is heard: from annotations, or estimated from the file.

Thud (arXiv 2605.16403) annotates each clip with a visual and an audio event and its time, with tolerances of 0.8 s and
0.5 s. Here annotations lie beside the clips in `events.jsonl`; without them times are estimated: the strongest rise of
the sound's energy, and the strongest change of the difference between frames. The same estimates check annotations.
What is not consistent is not used, and the reason is told.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.jsonl import check_text, parse, read_lines
from datamodules.media import read_video
from datamodules.schema import DataError, MediaError, reject_unknown

EVENTS = "events.jsonl"
VISUAL_TOLERANCE, AUDIO_TOLERANCE = 0.8, 0.5  # seconds (the paper's)
CLEAR = 0.3  # of the strongest: a weaker onset confirms no annotation
FRAMES, MOST_FPS, SIDE = 64, 12.0, 48
HOP, RISE = 0.01, 5  # seconds of a step of the sound's energy; steps over which it rises
RATE = 16_000
REASONS = (
    "unreadable",
    "no sound",
    "nothing moves",
    "nothing heard",
    "too long",
    "seen and heard apart",
    "no annotated time",
    "annotation not seen",
    "annotation not heard",
    "silenced by the edit",
)
_FIELDS = ("file", "t_v", "t_a", "seen", "heard", "place")


class Unfit(MediaError):
    """A clip whose event cannot be used; `reason` is one of `REASONS`, to be counted by."""

    def __init__(self, path: str | Path, reason: str, detail: str):
        super().__init__(f"{path}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class Event:
    """`t_v` and `t_a` are seconds since the clip's start; None: nothing is seen, or heard. `seen` and `heard` name what
    it is, `place` where it is seen, where that is known. `by` is manifest or estimate.
    """

    t_v: float | None
    t_a: float | None
    seen: str | None = None
    heard: str | None = None
    place: str | None = None
    by: str = "manifest"

    def to_dict(self) -> dict[str, Any]:
        return {k: v for k, v in asdict(self).items() if v is not None}

    @classmethod
    def from_dict(cls, row: Any, where: str) -> Event:
        """Raises `DataError` that names `where` for an unknown field or a bad value."""
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
        reject_unknown(row, (*_FIELDS[1:], "by"), where)
        for key in ("t_v", "t_a"):
            value = row.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise DataError(f"{where}: {key} must be seconds since the clip's start, got {value!r}")
        for key in ("seen", "heard", "place", "by"):
            if row.get(key) is not None and not isinstance(row[key], str):
                raise DataError(f"{where}: {key} must be a string")
        times = {k: None if row.get(k) is None else float(row[k]) for k in ("t_v", "t_a")}
        return cls(**times, **{k: row[k] for k in ("seen", "heard", "place", "by") if row.get(k) is not None})


def read_events(folder: str | Path) -> dict[str, Event]:
    """`events.jsonl` of a folder of clips: the name of a file in it → its event; empty where there is no such file.

    A line: `{"file": "a.mp4", "t_v": 2.5, "t_a": 2.6, "seen": "drum", "heard": "drum"}`; all but `file` may be left
    out. Raises `DataError` that names the line.
    """
    folder = Path(folder)
    path = folder / EVENTS
    if not path.is_file():
        return {}
    check_text(path)
    out: dict[str, Event] = {}
    for n, _, line in read_lines(path):
        where = f"{path}: line {n}"
        try:
            row = parse(line)
        except DataError as e:
            raise DataError(f"{where}: {e}") from e
        if not isinstance(row, dict) or not isinstance(row.get("file"), str) or not row["file"]:
            raise DataError(f"{where}: expected an object with `file`, the name of a clip in the folder")
        name = row.pop("file")
        if name in out:
            raise DataError(f"{where}: {name!r} has an event already")
        if not (folder / name).is_file():
            raise DataError(f"{where}: {name!r} is not in the folder")
        out[name] = Event.from_dict(row, where)
    return out


# ----------------------------------------------------------------------------------------------------------- estimates


@dataclass(frozen=True, eq=False)
class Onsets:
    """Times [n] in seconds and strengths [n] of the local maxima of an onset curve, and the curve's own resolution."""

    times: np.ndarray
    strengths: np.ndarray
    step: float

    @property
    def strongest(self) -> float | None:
        return float(self.times[self.strengths.argmax()]) if len(self.times) else None

    def near(self, time: float, tolerance: float) -> bool:
        """Whether a clear one lies within `tolerance` seconds of `time`; half a step is the curve's own error."""
        clear = self.strengths >= CLEAR * self.strengths.max(initial=0.0)
        return bool((clear & (np.abs(self.times - time) <= tolerance + self.step / 2)).any())


def sound_onsets(wave: np.ndarray, rate: int = RATE, start: float = 0.0) -> Onsets:
    """Rises of the energy of a sound [samples]: of its root mean square in steps of 10 ms, over 50 ms."""
    hop = round(HOP * rate)
    steps = len(wave) // hop
    level = np.sqrt(np.square(wave[: steps * hop].reshape(steps, hop), dtype=np.float64).mean(1))  # [steps]
    before = np.concatenate([np.zeros(RISE), level])[:steps]
    return _peaks(np.maximum(level - before, 0.0), start + HOP * np.arange(steps), HOP)


def picture_onsets(frames: list[Image.Image], times: list[float]) -> Onsets:
    """Changes of the mean difference between one frame and the next: something begins to move, flashes or stops."""
    grey = np.stack([np.asarray(f.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float64) for f in frames])
    moved = np.abs(np.diff(grey, axis=0)).mean((1, 2)) / 255  # [n - 1], at times[1:]
    change = np.abs(np.diff(moved, prepend=0.0))
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return _peaks(change, np.asarray(times[1:]), step)


def _peaks(curve: np.ndarray, times: np.ndarray, step: float) -> Onsets:
    padded = np.concatenate([[-1.0], curve, [-1.0]])
    top = (curve > 1e-4) & (curve > padded[:-2]) & (curve >= padded[2:])
    return Onsets(times[top], curve[top], step)


def onsets_of(path: str | Path) -> tuple[Onsets, Onsets]:
    """Of a clip's pictures and of its sound. Raises `MediaError` for a damaged clip, and `Unfit` for one that is
    silent or still, or so long that its frames lie too far apart to be timed.
    """
    clip = read_video(path, MOST_FPS, FRAMES, rate=RATE)
    if clip.sound is None:
        raise Unfit(path, "no sound", "no sound track")
    if clip.duration / len(clip.frames) > VISUAL_TOLERANCE / 2:
        most = FRAMES * VISUAL_TOLERANCE / 2
        detail = f"{clip.duration:.0f} s are too long to find an event in: cut it to {most:.0f} s"
        raise Unfit(path, "too long", detail)
    seen = picture_onsets(clip.frames, clip.times)
    heard = sound_onsets(clip.sound.numpy(), RATE, clip.sound_start)
    if not len(seen.times):
        raise Unfit(path, "nothing moves", "nothing moves in it")
    if not len(heard.times):
        raise Unfit(path, "nothing heard", "nothing is heard in it")
    return seen, heard


def event_of(path: str | Path, known: Event | None = None) -> Event:
    """The event of an unedited clip: `known` if the estimates confirm it, else the estimate if it is consistent.

    An annotation needs a clear onset within 0.8 s of its visual and within 0.5 s of its audio time. An estimate needs
    the strongest onsets of both within 0.8 s of each other. Raises `Unfit` with the reason otherwise.
    """
    if known is not None and (known.t_v is None or known.t_a is None):
        raise Unfit(path, "no annotated time", "its annotation has no time of an event that is seen and heard")
    seen, heard = onsets_of(path)
    if known is None:
        t_v, t_a = seen.strongest, heard.strongest
        if abs(t_v - t_a) > VISUAL_TOLERANCE:
            detail = f"what is seen most clearly is at {t_v:.2f} s and what is heard at {t_a:.2f} s: over "
            raise Unfit(path, "seen and heard apart", f"{detail}{VISUAL_TOLERANCE:g} s apart")
        return Event(t_v, t_a, by="estimate")
    for time, onsets, tolerance, what in (
        (known.t_v, seen, VISUAL_TOLERANCE, "seen"),
        (known.t_a, heard, AUDIO_TOLERANCE, "heard"),
    ):
        if not onsets.near(time, tolerance):
            detail = f"nothing clear is {what} within {tolerance:g} s of its annotation, {time:.2f} s"
            raise Unfit(path, f"annotation not {what}", detail)
    return known
