"""Trains a recipe: `python -m zoo.fit recipe=omniguard [key=value …]`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import GuardDataModule
from datamodules.schema import DataError
from zoo import cli
from zoo.config import compose, plain
from zoo.core import launch
from zoo.core.processes import Plan, plan
from zoo.core.progress import StderrProgress
from zoo.core.run import new_run, write_errors, write_json, write_yaml
from zoo.methods import METHODS, Method


def build_data(config: dict[str, Any]) -> GuardDataModule:
    return GuardDataModule(seed=config["seed"], accumulate=config["trainer"]["accumulate"], **config["data"])


def build_trainer(config: dict[str, Any], plan: Plan, run: Path) -> L.Trainer:
    t = config["trainer"]
    return L.Trainer(
        **plan.trainer(),
        max_epochs=t["max_epochs"],
        max_steps=t["max_steps"],
        gradient_clip_val=t["gradient_clip"],
        check_val_every_n_epoch=t["val_every"],
        logger=False,
        callbacks=[ModelCheckpoint(run / "checkpoints", filename="last", save_top_k=1), StderrProgress()],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=run,
    )


def fit(arguments: list[str]) -> tuple[Path, dict[str, Any], list[dict[str, str]]]:
    """Runs a recipe; returns the run's folder, its metrics and the rows that could not be used.

    Of several processes the main one writes the folder and returns the metrics; the others return none.
    """
    started = time.perf_counter()
    config = plain(compose(arguments))
    method = METHODS[config["method"]]
    plan = plan_of(config, method)
    launch.start(plan)
    L.seed_everything(config["seed"], workers=True, verbose=False)
    data, module = launch.in_turn(lambda: _prepare(config, method))
    module.attach(data)
    run = launch.first(lambda: _open_run(config))
    prepared = time.perf_counter() - started
    if launch.is_main():
        print(f"{_counts(data)}\nprepared in {prepared:.0f} s; run folder {run}", file=sys.stderr)
    build_trainer(config, plan, run).fit(module, datamodule=data, weights_only=True)
    trained = time.perf_counter() - started
    if plan.strategy == "fsdp":
        module = module.whole(method.build(config, data), data)
    elif plan.strategy == "deepspeed":
        module.float()  # it trains bf16 weights; the model is judged and published in float32, like any other
    module.failed_ids = set().union(*launch.gather(module.failed_ids))
    metrics = method.finish(module, data, config, run)
    errors = data.errors + [{"id": id, "error": "could not be read while training"} for id in sorted(module.failed_ids)]
    if not launch.is_main():
        return run, metrics, errors
    metrics["seconds"] = {
        "prepare": round(prepared, 1),
        "train": round(trained - prepared, 1),
        "total": round(time.perf_counter() - started, 1),
    }
    if errors:
        write_errors(run / "errors.jsonl", errors)
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


def _open_run(config: dict[str, Any]) -> Path:
    run = new_run(config["runs"], config["recipe"])
    write_yaml(run / "config.yaml", config)
    return run


def _counts(data: GuardDataModule) -> str:
    return "; ".join(f"{split}: " + ", ".join(f"{m} {n}" for m, n in c.items()) for split, c in data.counts().items())


def main(arguments: list[str]) -> int:
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
