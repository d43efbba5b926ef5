"""Checkpoints that a run can be continued from as if nothing had happened: whole on the disk, and with all that decides
the next step.

Lightning saves the loops, the optimiser, the schedule and the precision; the DataModule saves its place in the epoch.
Here are the random states, the moments at which to save, and the writing.
"""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path
from typing import IO, Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from datamodules.atomic import DiskFullError, fsync, replacing, sweep
from datamodules.schema import DataError
from zoo.core.interrupts import Interrupted, Signals

LAST, NEXT, FORMER = "last.ckpt", "next.ckpt", "former.ckpt"
SHARDED = (FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy)  # these write folders, in their own way


# ---------------------------------------------------------------------------------------------------------- random


def random_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators as numbers and tensors: `weights_only=True` reads them."""
    version, internal, gauss = random.getstate()
    legacy = np.random.get_state(legacy=False)
    states: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [legacy["state"]["key"].tolist(), legacy["state"]["pos"], legacy["has_gauss"], legacy["gauss"]],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random(states: dict[str, Any], device: torch.device) -> None:
    """Puts back what `random_states` gave. Raises `DataError` if a CUDA run goes on without CUDA, or the reverse."""
    if ("cuda" in states) != (device.type == "cuda"):
        raise DataError(f"the run was begun on another kind of device than {device.type}: continue it on the same kind")
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    key, pos, has_gauss, normal = states["numpy"]
    np.random.set_state(("MT19937", np.array(key, dtype=np.uint32), pos, has_gauss, normal))
    torch.set_rng_state(states["torch"].cpu())
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


# --------------------------------------------------------------------------------------------------------- writing


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, synchronises and renames it: till then the former one stays whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises `DiskFullError` where the disk is full: the former checkpoint is still there."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as f:
            torch.save(checkpoint, file := _Noting(f))
            file.check()


class _Noting:
    """A file for `torch.save`, whose archive writer covers an `OSError` with an error about positions of its own."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                return self.file.write(data)
            except OSError as e:
                self.error = e
        return len(data)  # the rest of the archive goes nowhere; `check` tells

    def flush(self) -> None:
        if self.error is None:
            self.file.flush()

    def check(self) -> None:
        if self.error is not None:
            raise self.error


def find_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint of a run's `checkpoints` folder; None if there is none yet."""
    return next((folder / name for name in (LAST, FORMER) if (folder / name).exists()), None)


def replace_folder(fresh: Path, target: Path) -> None:
    """Puts a sharded checkpoint in the place of the last one. `find_checkpoint` has a whole one at every moment."""
    for path in [*fresh.rglob("*"), fresh]:
        fsync(path)
    former = target.with_name(FORMER)
    if target.exists():
        _remove(former)
        target.rename(former)
    fresh.rename(target)
    fsync(target.parent)
    _remove(former)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------------- when


def check_every(every: Any) -> None:
    """Raises `DataError` for what is not a number of steps."""
    if not isinstance(every, int) or every < 1:
        raise DataError(f"trainer.checkpoint_every={every}: expected a number of steps, at least 1")


class Checkpointer(Checkpoint):
    """Saves `folder/last.ckpt` every `every` steps and at each epoch's end, and when `signals` noted one.

    A checkpoint is taken where Lightning's loops can be continued exactly: after a step that is not an epoch's last, or
    after an epoch with its validation. `identity` says whose checkpoint it is (see `zoo.core.resume`).
    """

    def __init__(self, folder: Path, every: int, signals: Signals | None = None, identity: str = ""):
        self.folder, self.every, self.identity = Path(folder), every, identity
        self.signals = signals or Signals()
        self.earlier, self.own, self.sessions = 0.0, 0.0, 1  # seconds of training, in earlier sessions and this one
        self._since = time.perf_counter()
        self._random: list[dict[str, Any]] | None = None
        self._between_epochs = False
        self._step = 0

    # ------------------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        seconds = self.seconds + time.perf_counter() - self._since
        return {"identity": self.identity, "seconds": seconds, "sessions": self.sessions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.earlier, self.sessions = state["seconds"], state["sessions"] + 1
        self._random = state["random"]

    def on_save_checkpoint(self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        device = trainer.strategy.root_device
        states = [random_states(device)]
        if trainer.world_size > 1:  # every process comes here, one of them writes
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, random_states(device))
        checkpoint["callbacks"][self.state_key]["random"] = states
        if self._between_epochs:
            _close_epoch(checkpoint["loops"]["fit_loop"])

    @property
    def seconds(self) -> float:
        """Of training, over all sessions of the run."""
        return self.earlier + self.own

    # ------------------------------------------------------------------------------------------------ moments

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            sweep(self.folder)

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """The loaders have been made by now, which draws numbers: the next to be drawn are the first step's."""
        self._restore(trainer)
        self._step = trainer.global_step
        self._since = time.perf_counter()
        self.signals.claim()
        self.signals.waiting = True

    def _restore(self, trainer: L.Trainer) -> None:
        if self._random is not None:
            if len(self._random) != trainer.world_size:
                raise DataError(
                    f"the run was begun with {len(self._random)} processes and cannot go on with {trainer.world_size}"
                )
            restore_random(self._random[trainer.global_rank], trainer.strategy.root_device)
            self._random = None

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if trainer.global_step == self._step or index + 1 >= trainer.num_training_batches:
            return  # gradients are being accumulated; or the epoch's end follows
        self._step = trainer.global_step
        asked = self._asked(trainer)
        if asked or self._step % self.every == 0:
            self.save(trainer)
        if asked:
            self._stop(asked)

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Validation takes long and leaves nothing to save: one process stops at once, several stop after it."""
        if self.signals.waiting and trainer.world_size == 1:
            self.signals.waiting = False
            if self.signals.signum:
                self._stop(self.signals.signum)

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.signals.waiting = trainer.state.fn == "fit"

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._between_epochs = True
        self.save(trainer)
        self._between_epochs = False
        if asked := self._asked(trainer):
            self._stop(asked)

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._restore(trainer)  # where training was over already
        self.own = time.perf_counter() - self._since
        self.signals.waiting = False
        if self.signals.signum:
            self._stop(self.signals.signum)

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self.signals.waiting = False

    def _asked(self, trainer: L.Trainer) -> int:
        """The signal that any process noted; 0 for none. All processes must stop after the same step."""
        if trainer.world_size == 1:
            return self.signals.signum
        noted = torch.tensor(self.signals.signum, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(noted, reduce_op="max"))

    def _stop(self, signum: int) -> None:
        self.signals.waiting = False
        raise Interrupted(signum)

    def save(self, trainer: L.Trainer) -> None:
        """Every process calls it. Raises `DiskFullError`."""
        try:
            if not isinstance(trainer.strategy, SHARDED):
                trainer.save_checkpoint(self.folder / LAST, weights_only=False)
                return
            if trainer.is_global_zero:
                _remove(self.folder / NEXT)  # of a process that was killed while writing it
            trainer.strategy.barrier("checkpoint")
            trainer.save_checkpoint(self.folder / NEXT, weights_only=False)
            if trainer.is_global_zero:
                replace_folder(self.folder / NEXT, self.folder / LAST)
            trainer.strategy.barrier("checkpoint")
        except DiskFullError as e:
            found = find_checkpoint(self.folder)
            kept = f"the checkpoint before is whole ({found})" if found else "there is no checkpoint yet"
            raise DiskFullError(f"{e}; {kept}: go on with resume={self.folder.parent}") from e


def _close_epoch(loop: dict[str, Any]) -> None:
    """Counters as they stand between two epochs.

    At an epoch's end Lightning saves them as they stand within the hook. With `max_steps` it then takes the epoch for
    unfinished: a resumed run trains one batch more in it and skips the next epoch's data.
    """
    for counter in loop["epoch_progress"].values():
        counter["completed"] = counter["processed"]
    batches = loop["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False
