"""Which run `resume=` means, whether it can go on, and from where: all of it known before any long work starts."""

from __future__ import annotations

import hashlib
import pickle
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import lightning as L
import torch
import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from datamodules.atomic import sweep
from datamodules.schema import DataError, canonical_json
from zoo.config import check_trains, compose, plain, split_arguments
from zoo.core.checkpointing import check_every, find_checkpoint
from zoo.core.interrupts import Interrupted, Signals
from zoo.core.run import write_yaml
from zoo.core.weights import CheckpointError

try:
    import fcntl
except ImportError:  # not POSIX: nobody is kept from continuing a run twice
    fcntl = None  # type: ignore[assignment]

FREE = ("runs", "trainer.checkpoint_every")  # keys that change where and when files are written, and no weight


def identity(config: Mapping[str, Any]) -> str:
    """Hash of what decides a run's weights."""
    deciding = {k: v for k, v in leaves(config).items() if k not in FREE}
    return hashlib.sha256(canonical_json(deciding).encode()).hexdigest()[:16]


def find_session(arguments: Sequence[str]) -> Session:
    """A new run of a recipe, or the unfinished one that `resume=true` (the recipe's newest) or `resume=FOLDER` means.

    Raises `DataError` for a run that is of another recipe, finished, damaged or without a configuration, and for a
    given key that would change what the run computes.
    """
    given = split_arguments(arguments)
    wanted = given.pop("resume", "false")
    if wanted == "false":
        config = _composed(given)
        check_trains(config)
        check_every(config["trainer"]["checkpoint_every"])
        return Session(config)
    if not wanted:
        raise DataError("resume=: give resume=true or resume=FOLDER_OF_A_RUN")
    if wanted == "true":
        defaults = _composed(given)
        check_trains(defaults)
        run = newest_unfinished(Path(defaults["runs"]) / defaults["recipe"], defaults["recipe"])
    else:
        run = Path(wanted)
    config = _config_of(run)
    if (run / "metrics.json").exists():
        raise DataError(f"{run}: the run is finished: there is nothing to resume; start a new one without resume=")
    if given.setdefault("recipe", config["recipe"]) != config["recipe"]:
        raise DataError(f"{run} is a run of recipe {config['recipe']!r}, not of {given['recipe']!r}")
    config = _with_free(given, config, run)
    check_every(config["trainer"]["checkpoint_every"])
    return Session(config, run, _checkpoint_of(run, config))


def _composed(given: Mapping[str, str]) -> dict[str, Any]:
    return plain(compose([f"{k}={v}" for k, v in given.items()]))


def newest_unfinished(folder: Path, recipe: str) -> Path:
    """By name: a run is called after the time it was begun at, with a number after it in a busy second."""
    runs = [p.parent for p in folder.glob("*/config.yaml") if not (p.parent / "metrics.json").exists()]
    if not runs:
        raise DataError(f"no unfinished run of recipe {recipe!r} under {folder}: start one without resume=")
    return max(runs, key=lambda p: [int(n) if n.isdigit() else -1 for n in p.name.split("-")])


def _config_of(run: Path) -> dict[str, Any]:
    path = run / "config.yaml"
    if not path.is_file():
        why = "there is no config.yaml in it" if run.is_dir() else "there is no such folder"
        raise DataError(f"{run}: no run to resume: {why}")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise DataError(f"{path}: cannot be read: {e}") from e
    trainer = config.get("trainer") if isinstance(config, dict) else None
    if not isinstance(trainer, dict) or not isinstance(config.get("recipe"), str) or "model" in config:
        raise DataError(f"{path}: not the configuration of a training")  # a test's names its model
    if "checkpoint_every" not in trainer:
        raise DataError(f"{run}: begun by a version that could not resume: start a new run")
    return config


def _with_free(given: Mapping[str, str], config: dict[str, Any], run: Path) -> dict[str, Any]:
    """The run's configuration. What is given again must be what it was begun with, but for what decides no weight."""
    if set(given) == {"recipe"}:
        return config
    composed = _composed(given)
    check_unchanged(given, composed, config, run)
    if "trainer.checkpoint_every" not in given:
        return config
    return {**config, "trainer": {**config["trainer"], "checkpoint_every": composed["trainer"]["checkpoint_every"]}}


def check_unchanged(
    given: Mapping[str, str], composed: Mapping[str, Any], config: Mapping[str, Any], run: Path
) -> None:
    """Raises `DataError` for a given key that means something else than in the configuration that `run` began with."""
    want, have = leaves(composed), leaves(config)
    for key in given:
        for leaf in (k for k in {**want, **have} if k == key or k.startswith(f"{key}.")):
            if leaf not in FREE and want.get(leaf) != have.get(leaf):
                raise DataError(
                    f"{leaf} is {have.get(leaf)!r} in {run} and would be {want.get(leaf)!r}: a resumed run cannot be "
                    f"changed; leave {key}= out, or start a new run"
                )


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            out |= leaves(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def _checkpoint_of(run: Path, config: Mapping[str, Any]) -> Path | None:
    """The run's last checkpoint, looked into; None if it was stopped before its first."""
    path = find_checkpoint(run / "checkpoints")
    if path is None:
        return None
    inside = path / "meta.pt" if path.is_dir() else path  # a sharded one keeps all but the tensors there
    if inside.exists():  # DeepSpeed's has no such file
        try:
            saved = torch.load(inside, map_location="cpu", weights_only=True, mmap=True)["callbacks"]["Checkpointer"]
        except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as e:
            reason = str(e).strip().split("\n")[0][:120] or type(e).__name__
            raise CheckpointError(
                f"{path}: damaged, or not a checkpoint of this zoo ({reason}): remove it to begin at step 0"
            ) from e
        if saved["identity"] != identity(config):
            raise CheckpointError(
                f"{path}: not a checkpoint of this run's config.yaml: one of the two is another run's, or was changed"
            )
    return path


# ------------------------------------------------------------------------------------------------------- while it runs


class Session:
    """One process's work on a run, new or unfinished. While entered, signals end it in order (see `interrupts`).

    `run` is the run's folder (None until `begin`), `checkpoint` where it goes on from (None: at step 0).
    """

    def __init__(self, config: dict[str, Any], run: Path | None = None, checkpoint: Path | None = None):
        self.config, self.run, self.checkpoint = config, run, checkpoint
        self.signals = Signals()
        self._lock: IO[str] | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that has the lock and tells, of several processes that train together."""
        return getattr(rank_zero_only, "rank", 0) == 0

    def __enter__(self) -> Session:
        self.signals.__enter__()
        return self

    def __exit__(self, kind: Any, value: BaseException | None, trace: Any) -> None:
        self.signals.__exit__()
        if isinstance(value, Interrupted) and self.first and self.run is not None:
            print(f"interrupted: go on with\n  python -m zoo.fit resume={self.run}", file=sys.stderr)
        if self._lock is not None:
            self._lock.close()

    def begin(self, run: Path) -> Path:
        """Makes the new folder `run` this session's, to be resumed if need be."""
        self.run = run
        self.take()
        write_yaml(run / "config.yaml", self.config)
        return run

    def fit(self, trainer: L.Trainer, module: L.LightningModule, data: L.LightningDataModule) -> None:
        """`trainer.fit`, from the checkpoint on if there is one."""
        if self.checkpoint is not None and self.first:
            print(f"going on from {self.checkpoint}", file=sys.stderr)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=self.checkpoint, weights_only=True)
        except RuntimeError:
            if self.signals.signum:  # sent to the whole group, it takes the loader's workers before the step is done
                raise Interrupted(self.signals.signum) from None
            raise

    def take(self) -> None:
        """Keeps others from continuing an unfinished run. Raises `DataError` if one is at it.

        The lock is this process's alone: workers that outlive it for a moment do not have it.
        """
        if self.run is None or not self.first:
            return
        sweep(self.run)
        if fcntl is None:
            return
        self._lock = open(self.run / ".lock", "w")  # noqa: SIM115
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as e:
            raise DataError(f"{self.run}: another process is training it: wait for it, or stop it first") from e
        except OSError as e:  # a file system without locks
            print(f"{self.run}: no locks on this disk ({e.strerror}): do not continue it twice", file=sys.stderr)
