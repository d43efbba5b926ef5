"""Trains a recipe: `python -m zoo.fit recipe=omniguard [key=value …]`.

An interrupted run goes on with `resume=true` (the recipe's newest unfinished run) or `resume=RUN_FOLDER`.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning as L

from datamodules import GuardDataModule
from datamodules.schema import DataError
from zoo import cli
from zoo.config import check_trains, compose, plain, split_arguments
from zoo.core import launch
from zoo.core.checkpointing import AtomicCheckpointIO, Checkpointer
from zoo.core.interrupts import Signals
from zoo.core.processes import Plan, plan
from zoo.core.progress import StderrProgress
from zoo.core.resume import Session, find_session, identity
from zoo.core.run import new_run, write_json, write_lines
from zoo.farms import FARMS
from zoo.methods import METHODS, Method


def build_data(config: dict[str, Any]) -> GuardDataModule:
    check_trains(config)
    return GuardDataModule(seed=config["seed"], accumulate=config["trainer"]["accumulate"], **config["data"])


def build_trainer(config: dict[str, Any], plan: Plan, run: Path, signals: Signals | None = None) -> L.Trainer:
    t = config["trainer"]
    checkpointer = Checkpointer(run / "checkpoints", t["checkpoint_every"], signals, identity(config))
    return L.Trainer(
        **plan.trainer(),
        max_epochs=t["max_epochs"],
        max_steps=t["max_steps"],
        gradient_clip_val=t["gradient_clip"],
        check_val_every_n_epoch=t["val_every"],
        logger=False,
        callbacks=[checkpointer, StderrProgress()],
        plugins=[AtomicCheckpointIO()] if plan.strategy != "deepspeed" else None,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=run,
    )


def fit(arguments: list[str]) -> tuple[Path, dict[str, Any], list[dict[str, str]]]:
    """Runs a recipe; returns the run's folder, its metrics and the rows that could not be used.

    Of several processes the main one writes the folder and returns the metrics; the others return none.
    """
    session = find_session(arguments)
    with session:
        return _fit(session)


def _fit(session: Session) -> tuple[Path, dict[str, Any], list[dict[str, str]]]:
    started = time.perf_counter()
    config = session.config
    method = METHODS[config["method"]]
    plan = plan_of(config, method)
    method.check(config)
    launch.start(plan)
    session.take()  # once processes are connected, so that one of several has the lock
    L.seed_everything(config["seed"], workers=True, verbose=False)
    data, module = launch.in_turn(lambda: _prepare(config, method))
    module.attach(data)
    run = session.run = session.run or launch.first(lambda: session.begin(new_run(config["runs"], config["recipe"])))
    prepared = time.perf_counter() - started
    if launch.is_main():
        print(f"{_counts(data)}\nprepared in {prepared:.0f} s; run folder {run}", file=sys.stderr)
    trainer = build_trainer(config, plan, run, session.signals)
    session.fit(trainer, module, data)
    if plan.strategy == "fsdp":
        module = module.whole(method.build(config, data), data)
    elif plan.strategy == "deepspeed":
        module.float()  # it trains bf16 weights; the model is judged and published in float32, like any other
    module.failed_ids = set().union(*launch.gather(module.failed_ids))
    metrics = method.finish(module, data, config, run)
    errors = data.errors + [{"id": id, "error": "could not be read while training"} for id in sorted(module.failed_ids)]
    if not launch.is_main():
        return run, metrics, errors
    saver = trainer.checkpoint_callback
    metrics["seconds"] = {
        "prepare": round(prepared, 1),
        "train": round(saver.seconds, 1),
        "total": round(time.perf_counter() - started + saver.earlier, 1),
    }
    metrics["sessions"] = saver.sessions
    if errors:
        write_lines(run / "errors.jsonl", errors)
    write_json(run / "metrics.json", metrics)
    print(method.table(metrics))
    return run, metrics, errors


def plan_of(config: dict[str, Any], method: Method) -> Plan:
    """The processes of a run, checked before anything long is begun. Raises `DataError`."""
    found = plan(config["trainer"], config["data"]["batch_size"])
    if found.processes > 1 and not method.several:
        raise DataError(
            f"recipe {config['recipe']!r} trains in one process, and {found.processes} are asked for: use trainer=cpu"
        )
    return found


def _prepare(config: dict[str, Any], method: Method) -> tuple[GuardDataModule, L.LightningModule]:
    data = build_data(config)
    data.prepare_data()
    return data, method.build(config, data)


def _counts(data: GuardDataModule) -> str:
    return "; ".join(f"{split}: " + ", ".join(f"{m} {n}" for m, n in c.items()) for split, c in data.counts().items())


def main(arguments: list[str]) -> int:
    farm = FARMS.get(split_arguments(arguments).get("recipe", ""))
    if farm is not None:
        return farm(plain(compose(arguments)))
    run, _, errors = fit(arguments)
    if not launch.is_main():
        return 0
    print(f"run folder: {run}", file=sys.stderr)
    if errors:
        print(f"{len(errors)} rows could not be used: see {run / 'errors.jsonl'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    cli.run(main)
