"""Reading: video frames against bare decord, and the share of an epoch that training waits for data."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import decord
import lightning as L
import numpy as np

from benchmarks.timing import in_turns
from datamodules.base import GuardDataModule
from datamodules.corpus.clips import write_clip
from datamodules.media import frame_indices, read_video
from zoo.config import compose, plain
from zoo.core.cache import FeatureCache
from zoo.fit import build_data
from zoo.methods import METHODS

CLIPS, SECONDS, FPS, SIZE, SAMPLED, MOST = 12, 8, 24, 256, 2.0, 16


def video_frames() -> dict[str, Any]:
    """Sampled frames a second: `read_video` without its sound against decord alone, the same frames of each file."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [_clip(Path(folder) / f"{n}.mp4", n) for n in range(CLIPS)]
        picks = frame_indices([n / FPS for n in range(SECONDS * FPS)], SECONDS, SAMPLED, MOST)
        counted = [len(read_video(p, fps=SAMPLED, max_frames=MOST, sound=False).frames) for p in paths]
        assert set(counted) == {len(picks)}, "both must read the same number of frames"

        def ours() -> None:
            for p in paths:
                read_video(p, fps=SAMPLED, max_frames=MOST, sound=False)

        def theirs() -> None:
            for p in paths:
                decord.VideoReader(str(p), num_threads=1).get_batch(picks).asnumpy()

        zoo, bare = in_turns(ours, theirs)
    return {"clips": CLIPS, "frames": sum(counted), "zoo_seconds": zoo, "bare_seconds": bare, "ratio": bare / zoo}


def _clip(path: Path, seed: int) -> Path:
    """A moving square over a gradient: pictures that a codec has to work for."""
    rng = np.random.default_rng(seed)
    frames = np.tile(np.linspace(0, 255, SIZE, dtype=np.uint8)[None, None, :, None], (SECONDS * FPS, SIZE, 1, 3))
    for n, frame in enumerate(frames):
        x, y = (n * 3 + seed * 7) % (SIZE - 48), (n * 2) % (SIZE - 48)
        frame[y : y + 48, x : x + 48] = rng.integers(0, 255, 3)
    write_clip(path, frames, FPS, None, 16_000)
    return path


class _Waiting(L.Callback):
    """Seconds between the end of a step and the start of the next: what the loader takes."""

    def __init__(self) -> None:
        self.waited, self.started = 0.0, 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.began = self.ready = time.perf_counter()

    def on_train_batch_start(self, *_: Any) -> None:
        self.waited += time.perf_counter() - self.ready

    def on_train_batch_end(self, *_: Any) -> None:
        self.ready = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        self.total = time.perf_counter() - self.began


def waiting(workers: int = 1) -> dict[str, Any]:
    """The share of an epoch that the training loop waits for data, with a filled cache and from the files."""
    out: dict[str, Any] = {"workers": workers}
    for name in ("cached", "uncached"):
        config = plain(compose(["recipe=omniguard", "data.scale=0.1", "data.epoch_size=320"]))
        config["data"]["workers"] = workers
        data: GuardDataModule = build_data(config)
        L.seed_everything(0, verbose=False)
        module = METHODS["omniguard"].build(config, data)
        with tempfile.TemporaryDirectory() as folder:
            module.guard.backbone.cache = FeatureCache(folder) if name == "cached" else None
            module.attach(data)
            data.prepare_data()
            out[name] = _share(module, data, config)
    return out


def _share(module: Any, data: GuardDataModule, config: dict[str, Any]) -> float:
    watch = _Waiting()
    trainer = L.Trainer(
        accelerator="cpu", devices=1, precision=config["trainer"]["precision"], max_epochs=1, logger=False,
        callbacks=[watch], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data, weights_only=True)
    return watch.waited / watch.total
