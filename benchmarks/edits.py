"""Thud's edits: files a second of sound, as a multiple of real time on one core, and waveforms against audiomentations.

audiomentations (MIT) works row by row in NumPy; both move the same rows by the same shares of their length and fill up
with silence. It comes with the `benchmark` extra.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import in_turns
from datamodules.corpus.clips import write_clip
from datamodules.soundtrack import Track, read_track, target_of, write_track
from datamodules.transforms.audio_edits import Shift

RATE, SECONDS, CLIPS, ROWS = 44_100, 10, 4, 64


def edits() -> dict[str, Any]:
    return {"files": _files(), "waveforms": _waveforms()}


def _files() -> dict[str, Any]:
    """Reading a clip, moving its sound and writing it: seconds of clip a second of processor time."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for n in range(CLIPS):
            frames = rng.integers(0, 255, (1, 120, 160, 3), dtype=np.uint8).repeat(SECONDS * 25, axis=0)
            frames[:, 40:60] += np.arange(len(frames), dtype=np.uint8)[:, None, None, None]
            paths.append(Path(folder) / f"{n}.mp4")
            write_clip(paths[-1], frames, 25, rng.normal(0, 0.1, RATE * SECONDS).astype(np.float32), RATE)

        def edit(path: Path) -> None:
            kind, track = target_of(path), read_track(path)
            moved = Shift(track.rate, 2.0)(track.wave)
            write_track(path, Path(folder) / "out.mp4", Track(moved, track.rate, track.start), kind)

        edit(paths[0])
        started = time.process_time()  # of one thread: what else runs on the machine does not count
        for path in paths:
            edit(path)
        used = time.process_time() - started
    return {"clips": CLIPS, "seconds": CLIPS * SECONDS, "processor_seconds": used, "real_time": CLIPS * SECONDS / used}


def _waveforms() -> dict[str, Any]:
    """A batch of mono sounds at 16 kHz, each row moved by its own number of seconds."""
    from audiomentations import Shift as Theirs

    rate, rng = 16_000, np.random.default_rng(0)
    batch = torch.from_numpy(rng.normal(0, 0.1, (ROWS, rate * SECONDS)).astype(np.float32))
    seconds = torch.from_numpy(rng.uniform(-2.5, 2.5, ROWS))
    shift, rows = Shift(rate), batch.numpy()
    theirs = [
        Theirs(float(s), float(s), shift_unit="seconds", rollover=False, fade_duration=0.0, p=1.0) for s in seconds
    ]

    def audiomentations() -> np.ndarray:
        """[rows, samples], as a model takes it."""
        return np.stack([move(row, sample_rate=rate) for move, row in zip(theirs, rows)])

    ours, wanted = shift(batch, seconds), torch.from_numpy(audiomentations())
    # It rounds a number of samples down to a whole one, we to the nearest: compare by where the sound is.
    apart = [int((a != 0).nonzero()[0]) - int((b != 0).nonzero()[0]) for a, b in zip(ours, wanted)]
    assert max(map(abs, apart)) <= 1, "both must move the same rows by as much"
    a, b = in_turns(lambda: shift(batch, seconds), audiomentations, rounds=9)
    return {"rows": ROWS, "seconds": SECONDS, "zoo_seconds": a, "audiomentations_seconds": b, "ratio": b / a}
