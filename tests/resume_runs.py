"""Runs of `python -m zoo.fit` with small random parts, in processes that are killed at a given moment.

A moment is (what, n): the n-th time that `what` happens. Processes are forked from a server that has imported all this.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_backbone
from PIL import Image

import zoo.fit
import zoo.methods
from datamodules import asset_sources, assets
from datamodules.corpus import scenes
from datamodules.corpus.plan import Plan
from datamodules.schema import Sample
from zoo import cli
from zoo.core import checkpointing, weights
from zoo.core.cache import FeatureCache
from zoo.core.guard import Guard
from zoo.core.module import GuardModule
from zoo.registry import save

TRAIN, BATCH = 14, 4  # 4 batches an epoch, the last one smaller


def write_data(folder: Path) -> list[str]:
    """Pictures and words with labels; returns the arguments that train on them."""
    rng = np.random.default_rng(0)
    rows = []
    for n in range(TRAIN + 3):
        red = n % 2 == 0
        pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        pixels[..., 0 if red else 1] += 180
        Image.fromarray(pixels).save(folder / f"{n}.png")
        content = [{"type": "image", "path": f"{n}.png"}] if n % 3 else [{"type": "text", "text": f"the fire {n}"}]
        rows.append(
            {
                "id": f"r{n}",
                "messages": [{"role": "user", "content": content}],
                "target": "prompt",
                "categories": {"red": "yes" if red else "no", "green": "no" if red else "yes"},
                "split": "train" if n < TRAIN else "val" if n < TRAIN + 2 else "test",
            }
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    policy = {"name": "colours", "entries": [{"id": "red", "name": "red"}, {"id": "green", "name": "green"}]}
    (folder / "policy.yaml").write_text(json.dumps(policy))
    return [
        "recipe=omniguard", "data=manifest", f"data.path={folder / 'rows.jsonl'}",
        f"data.policy={folder / 'policy.yaml'}", f"data.batch_size={BATCH}",
        "trainer.max_epochs=3", "trainer.val_every=2", "optim.lr=0.01",
    ]  # fmt: skip


def build_guard(backbone, policy, name):
    """Frozen random encoders with a feature cache; noise on what the language model is shown."""
    backbone = random_backbone(cache=FeatureCache(assets.zoo_home() / "features"))
    for projector in backbone.projectors.values():
        projector.noise = 0.2
    return Guard(backbone.train(), policy, name=name)  # noise is for training alone


def finish(module, data, config, run):
    happens("finish")
    save(module.guard, run / "model", config["method"], "# a card")
    return {"failed": len(module.failed_ids)}


# ---------------------------------------------------------------------------------------------------------- moments

MOMENT = ("", 0, "")
SEEN = 0


def happens(what: str) -> None:
    global SEEN
    if what != MOMENT[0]:
        return
    SEEN += 1
    if MOMENT[1] == SEEN:
        if MOMENT[2] == "full":  # the system refuses what goes over this: Python ignores the signal that comes with it
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        else:
            # A signal from a terminal or from SLURM reaches the loader's workers, too.
            kill = os.kill if MOMENT[2] == "SIGKILL" else os.killpg
            kill(os.getpid(), getattr(signal, MOMENT[2]))


def before(owner, name, what):
    """Makes `what` happen each time before `owner.name` is called."""
    inner = getattr(owner, name)

    def call(*args, **kw):
        happens(what(*args) if callable(what) else what)
        return inner(*args, **kw)

    setattr(owner, name, call)


def _of(suffix):
    """The moments of one kind of file: `last.ckpt` and what is being written in its place."""
    return lambda path, *_: f"{suffix} {'checkpoint' if 'last.ckpt' in str(path) else Path(path).suffix}"


def watch() -> None:
    before(GuardModule, "training_step", "step")
    before(GuardModule, "validation_step", "validation")
    before(GuardModule, "on_train_epoch_end", "epoch end")
    before(torch.optim.AdamW, "step", "optimizer")
    before(checkpointing._Noting, "write", "write checkpoint")
    before(os, "fsync", lambda fd: _of("fsync")(os.readlink(f"/proc/self/fd/{fd}")))
    before(os, "replace", _of("rename"))
    before(Path, "rename", lambda path, *_: f"rename folder {path.name}")
    before(asset_sources, "_write", "asset write")
    before(scenes, "corpus_hash", "corpus hash")
    zoo.methods.omniguard = build_guard
    method = zoo.methods.METHODS["omniguard"]
    zoo.methods.METHODS["omniguard"] = replace(method, finish=finish, table=lambda m: "done")


# --------------------------------------------------------------------------------------------------------- processes


def _child(what, arguments, moment, log, home, alive) -> None:  # `alive` is closed when all its processes are gone
    global MOMENT
    MOMENT = moment
    os.setsid()  # a group of its own
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for the loaders, as in a process that nobody forked
    os.environ["ZOO_HOME"] = home
    with open(log, "wb") as f:
        os.dup2(f.fileno(), 1)
        os.dup2(f.fileno(), 2)
    watch()
    if what != "fit":
        return globals()[what](*arguments)
    sys.argv = ["zoo.fit", *arguments]
    cli.run(zoo.fit.main)


def few_pictures(seed, scale, plan=scenes.plan):
    jobs = [j for j in plan(seed, 0.003).jobs if j.kind == "image"][:12]
    rows = [Sample.of(id=j.path, image=j.path, split="train") for j in jobs]
    return Plan(jobs=jobs, samples=rows)


def make_scenes(root):
    scenes.SERIAL, scenes.plan = 10, few_pictures  # enough for two processes
    scenes.tqdm = lambda hashes, **kw: (h for h in hashes if happens("rendered") is None)
    scenes.build(root)


def copy_asset(source, digests):
    assets.resolve(assets.Asset("tiny", "MIT", digests, (assets.Folder(source),)))


def write_weights(folder, value):
    weights.write(Path(folder), {"kind": "guard"}, {"a": torch.full((3,), value)}, "# a card")


class Processes:
    """Starts processes, one after the other, and tells how they ended. Their ZOO_HOME is `folder/home`."""

    def __init__(self, folder: Path):
        self.folder, self.home = folder, folder / "home"

    def process(self, what, arguments, at=("", 0), end="SIGKILL"):
        """Exit code and output of a process that comes to its `end` at a moment; without one, on its own."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
            forkserver.set_forkserver_preload([__name__])
            forkserver.ensure_running()
        log = self.folder / "log"
        self.alive, held = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("forkserver").Process(
            target=_child, args=(what, arguments, (*at, end), str(log), str(self.home), held)
        )
        process.start()
        held.close()
        process.join()
        return process.exitcode, log.read_text()

    def wait_for_children(self):
        """Returns when no process that the last one left behind is there any more."""
        assert self.alive.poll(60), "a process was left behind"
        with pytest.raises(EOFError):
            self.alive.recv()


class Runs(Processes):
    """Trainings by name."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.arguments = write_data(folder)

    def begin(self, name, *more, precision="32-true", **moment):
        more = (f"runs={self.folder / name}", f"trainer.precision={precision}", *more)
        return self.process("fit", [*self.arguments, *more], **moment)

    def resume(self, name, *more, **moment):
        return self.process("fit", [f"resume={self.run(name)}", *more], **moment)

    def run(self, name) -> Path:
        (run,) = (self.folder / name / "omniguard").iterdir()
        return run

    def saved(self, name):
        return torch.load(self.run(name) / "checkpoints" / "last.ckpt", weights_only=True)
