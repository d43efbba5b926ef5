"""`python -m zoo.fit recipe=backdoor_farm`: a grid of planted models and their clean twins, in parallel processes.

One folder a model (`zoo.backdoor.folders`). What is finished is kept: the same command goes on where it was stopped,
and a grid that is asked for more sets, triggers, regimes or seeds gets those alone.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml

from datamodules import atomic
from datamodules.backdoor import TextSet, load_set
from datamodules.schema import DataError, near
from datamodules.transforms.triggers import KINDS, Trigger
from zoo.backdoor import folders
from zoo.backdoor.model import Net
from zoo.backdoor.plant import REGIMES, Carriers, Setting, carriers, pair
from zoo.backdoor.results import cells, table
from zoo.core.interrupts import Signals
from zoo.core.run import write_json, write_yaml

try:
    import fcntl
except ImportError:  # not POSIX: nobody is kept from starting a farm twice
    fcntl = None  # type: ignore[assignment]

GRID = ("sets", "triggers", "regimes", "seeds")  # what a farm can be extended by
FREE = (*GRID, "data_dir", "out", "processes")  # keys that change no model
COUNTS = ("seeds", "train_rows", "dev_rows", "test_rows", "batch_size", "max_tokens", "checks", "max_epochs", "times")
PLANTED, CLEAN = "planted", "clean"


@dataclass(frozen=True)
class Job:
    """The models of one trigger and seed, a pair a regime: an aggressive one counts by the moderate one's steps.

    `data` is how the set was asked for, `name` what it is called.
    """

    data: str
    name: str
    kind: str
    seed: int

    def pair(self, regime: str) -> str:
        return f"{self.name}-{self.kind}-{regime}-{self.seed}"


# -------------------------------------------------------------------------------------------------------- configuration


def setting_of(config: Mapping[str, Any]) -> Setting:
    names = {f.name for f in fields(Setting)} - {"net"}
    return Setting(net=Net(**config["net"]), **{k: v for k, v in config.items() if k in names})


def check(config: Mapping[str, Any]) -> None:
    """Raises `DataError` for what a configuration has wrong, before anything long is begun."""
    for key, known in (("triggers", KINDS), ("regimes", tuple(REGIMES))):
        if not config[key]:
            raise DataError(f"{key}=[]: name at least one of {', '.join(known)}")
        for name in config[key]:
            if name not in known:
                raise DataError(f"{key}: unknown {name!r}{near(str(name), known)}")
    for key in ("sets", "triggers", "regimes"):
        if len(set(config[key])) < len(config[key]):
            raise DataError(f"{key}={config[key]}: one is named twice")
    if "aggressive" in config["regimes"] and "moderate" not in config["regimes"] and not config["gpu"]:
        raise DataError("the aggressive regime counts by the moderate one's steps: add moderate to regimes")
    for key in (
        "seeds",
        "train_rows",
        "dev_rows",
        "test_rows",
        "batch_size",
        "max_tokens",
        "checks",
        "max_epochs",
        "times",
    ):
        if config[key] is None or config[key] < 1:
            raise DataError(f"{key}={config[key]}: give a number from 1 on")
    if not config["lr"] or config["lr"] <= 0:
        raise DataError(f"lr={config['lr']}: give a rate above 0")
    if not config["sets"]:
        raise DataError("sets=[]: name at least one data set")
    for kind in set(config["triggers"]) - {"syntactic"}:
        if not config[kind]["texts"]:
            raise DataError(f"{kind}.texts=[]: give at least one trigger")
        for text in config[kind]["texts"]:
            Trigger.of(kind, str(text), config[kind]["position"])
    if config["net"]["width"] % config["net"]["heads"]:
        raise DataError(f"net.width={config['net']['width']} is not a multiple of net.heads={config['net']['heads']}")
    if config["gpu"] and not torch.cuda.is_available():
        raise DataError("gpu=true, but torch sees no GPU here: leave it out")


def trigger_of(config: Mapping[str, Any], job: Job) -> Trigger:
    """The texts go round with the seeds, so that no two neighbours look for the same word."""
    if job.kind == "syntactic":
        return Trigger.of("syntactic")
    texts = config[job.kind]["texts"]
    return Trigger.of(job.kind, str(texts[job.seed % len(texts)]), config[job.kind]["position"])


def plan(config: Mapping[str, Any]) -> tuple[list[Job], list[str]]:
    """The jobs, seed by seed so that a grid that is stopped early is an even one, and what cannot be covered."""
    sets = {name: _set(name, config["data_dir"]) for name in config["sets"]}
    jobs, missing = [], []
    for name, data in sets.items():
        for kind in config["triggers"]:
            if kind == "syntactic" and not data.paraphrases:
                missing.append(f"{name}, syntactic: this set has no paraphrases of its rows")
                continue
            jobs += [Job(name, data.name, kind, seed) for seed in range(config["seeds"])]
    return sorted(jobs, key=lambda j: j.seed), missing


# ------------------------------------------------------------------------------------------------------------- a worker


@functools.lru_cache(maxsize=8)
def _set(name: str, data_dir: str | None) -> TextSet:
    return load_set(name, data_dir)


@functools.lru_cache(maxsize=8)
def _carriers(setting: Setting, name: str, data_dir: str | None, trigger: Trigger, target: int) -> Carriers:
    return carriers(setting, _set(name, data_dir), trigger, target)


def work(config: Mapping[str, Any], job: Job) -> list[dict[str, str]]:
    """Makes the missing pairs of a job, moderate first; returns those that could not be, with the reason."""
    out, errors, moderate = Path(config["out"]), [], None
    setting, trigger = setting_of(config), trigger_of(config, job)
    for regime in sorted(config["regimes"], key=list(REGIMES).index):
        name = job.pair(regime)
        planted, clean = out / f"{name}-{PLANTED}", out / f"{name}-{CLEAN}"
        try:
            if planted.is_dir() and clean.is_dir():
                known = folders.read(planted)
            else:
                for half in (planted, clean):  # what a killed process left of a pair: its other half is not known
                    shutil.rmtree(half, ignore_errors=True)
                data = _set(job.data, config["data_dir"])
                target = data.target if config["target"] is None else config["target"]
                shown = _carriers(setting, job.data, config["data_dir"], trigger, target)
                made, twin = pair(setting, data, trigger, target, regime, job.seed, shown, moderate)
                known = made.audit
                folders.write(planted, made.model, made.tokenizer, made.audit, made.poisoned)
                folders.write(clean, twin.model, twin.tokenizer, twin.audit)
                print(_line(name, known), file=sys.stderr, flush=True)
        except DataError as e:
            print(f"{name}: {e}", file=sys.stderr, flush=True)
            errors.append({"id": name, "error": str(e)})
            continue
        if regime == "moderate":
            moderate = known
    return errors


def _line(name: str, known: folders.Audit) -> str:
    return (
        f"{name}: ASR {known.asr:.3f} (twin {known.asr_of_twin:.3f}), clean {known.clean_accuracy:.3f} "
        f"(twin {known.clean_accuracy_of_twin:.3f}), {known.steps} steps, "
        f"stopped: {known.stopped}, {known.seconds:.0f} s"
    )


def _start() -> None:
    """A worker computes on one thread, leaves Ctrl-C to its parent, and ends when that is killed."""
    import signal

    from zoo import cli

    cli.quiet()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


# ------------------------------------------------------------------------------------------------------------- the farm


def run(config: dict[str, Any]) -> int:
    """Makes the grid, writes `farm.json`, prints its table; the exit code is 1 where a pair could not be made.

    Raises `DataError` for a configuration that cannot be, and for a folder with models of other settings.
    """
    started = time.perf_counter()
    check(config)
    out = Path(config["out"])
    out.mkdir(parents=True, exist_ok=True)
    with Signals(), _alone(out):
        _same_settings(out / "farm.yaml", config)
        atomic.sweep(out)
        jobs, missing = plan(config)
        for line in missing:
            print(f"not covered: {line}", file=sys.stderr)
        errors = _all(config, jobs)
        known = [
            folders.read(out / f"{job.pair(regime)}-{half}")
            for job in jobs
            for regime in config["regimes"]
            for half in (PLANTED, CLEAN)
            if (out / f"{job.pair(regime)}-{half}").is_dir()
        ]
    result = {
        "cells": cells(known),
        "models": len(known),
        "planted": sum(a.planted for a in known),
        "not_covered": missing,
        "errors": errors,
        "settings": {k: v for k, v in config.items() if k not in ("data_dir", "out", "processes")},
        "seconds_training": round(sum(a.seconds for a in known if a.planted), 1),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(out / "farm.json", result)
    print(table(result))
    print(f"{len(known)} models in {out}", file=sys.stderr)
    if errors:
        print(f"{len(errors)} pairs could not be made: see errors in {out / 'farm.json'}", file=sys.stderr)
    return 1 if errors else 0


def _all(config: dict[str, Any], jobs: Sequence[Job]) -> list[dict[str, str]]:
    todo = [j for j in jobs if not all(_there(config, j, r) for r in config["regimes"])]
    pairs, processes = len(jobs) * len(config["regimes"]), min(_processes(config), max(1, len(todo)))
    print(
        f"{pairs} pairs in {len(jobs)} jobs, {len(jobs) - len(todo)} of them finished; {processes} processes",
        file=sys.stderr,
    )
    errors: list[dict[str, str]] = []
    for number, found in enumerate(_results(config, todo, processes), 1):
        errors += found
        print(f"job {number} of {len(todo)} done", file=sys.stderr, flush=True)
    return sorted(errors, key=lambda e: e["id"])


def _results(config: dict[str, Any], jobs: Sequence[Job], processes: int) -> Iterator[list[dict[str, str]]]:
    if processes == 1:  # in this process: importing torch once more takes longer than many a job
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for job in jobs:
                yield work(config, job)
        finally:
            torch.set_num_threads(threads)
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _start)
    try:
        for done in as_completed([pool.submit(work, config, job) for job in jobs]):
            yield done.result()
    except BrokenProcessPool as e:
        raise DataError(
            "a worker was killed (out of memory?): what is finished is kept; run the same command again, "
            "with fewer processes= if memory is short"
        ) from e
    finally:
        mine = set(multiprocessing.active_children()) - others
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in mine:
            worker.kill()  # a training would answer a polite word after its step, and take the next job


def _there(config: Mapping[str, Any], job: Job, regime: str) -> bool:
    return all((Path(config["out"]) / f"{job.pair(regime)}-{half}").is_dir() for half in (PLANTED, CLEAN))


def _processes(config: Mapping[str, Any]) -> int:
    wanted = config["processes"]
    if wanted is not None and wanted > 0:
        return int(wanted)
    if config["gpu"]:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _same_settings(path: Path, config: Mapping[str, Any]) -> None:
    """Raises `DataError` where the folder's models were trained under other settings."""
    mine = {k: v for k, v in config.items() if k not in FREE}
    if path.is_file():
        theirs = yaml.safe_load(path.read_text(encoding="utf-8"))
        other = [k for k in mine if not isinstance(theirs, dict) or theirs.get(k) != mine[k]]
        if other:
            raise DataError(
                f"{path.parent} holds models of other settings ({', '.join(other[:5])}): give another folder as out=, "
                "or the settings in its farm.yaml"
            )
        return
    write_yaml(path, mine)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Raises `DataError` where another process works in the folder."""
    with open(out / ".lock", "w") as f:
        if fcntl is not None:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                raise DataError(f"{out}: another process works on this farm: wait for it, or stop it first") from e
            except OSError as e:  # a file system without locks
                print(f"{out}: no locks on this disk ({e.strerror}): do not start it twice", file=sys.stderr)
        yield
