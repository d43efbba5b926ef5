"""Trains a recipe: `python -m zoo.fit recipe=omniguard [key=value …]`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint

from datamodules import GuardDataModule
from datamodules.loading import MODALITIES
from datamodules.schema import DataError
from zoo import cli
from zoo.config import compose, plain
from zoo.core.backbones import check, modalities_of
from zoo.core.progress import StderrProgress
from zoo.core.run import new_run, write_errors, write_json, write_yaml
from zoo.methods import METHODS


def build_data(config: dict[str, Any]) -> GuardDataModule:
    return GuardDataModule(seed=config["seed"], **config["data"])


def build_trainer(config: dict[str, Any], run: Path) -> L.Trainer:
    t = config["trainer"]
    return L.Trainer(
        accelerator=t["accelerator"],
        devices=t["devices"],
        precision=t["precision"],
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


def check_backbone(config: dict[str, Any]) -> None:
    """Raises `DataError` for a backbone that cannot be built or cannot take the data, before any data is made."""
    if "backbone" not in config:
        return
    check({k: v for k, v in config["backbone"].items() if k != "lr"})
    takes, data = modalities_of(config["backbone"]["name"]), config["data"]
    if data["modalities"] is None and data["source"] == "manifest":
        return  # its rows decide, when they are read
    wanted = set(data["modalities"] or MODALITIES)
    if len(takes) == 1 and wanted - takes:
        raise DataError(
            f"backbone {config['backbone']['name']} takes only {', '.join(takes)}, and data.source={data['source']} "
            f"brings {', '.join(sorted(wanted - takes))} too: set data.modalities=[{', '.join(takes)}]"
        )


def fit(arguments: list[str]) -> tuple[Path, dict[str, Any], list[dict[str, str]]]:
    """Runs a recipe; returns the run's folder, its metrics and the rows that could not be used."""
    started = time.perf_counter()
    config = plain(compose(arguments))
    L.seed_everything(config["seed"], workers=True, verbose=False)
    method = METHODS[config["method"]]
    check_backbone(config)
    data = build_data(config)
    data.prepare_data()
    module = method.build(config, data)
    module.attach(data)
    run = new_run(config["runs"], config["recipe"])
    write_yaml(run / "config.yaml", config)
    prepared = time.perf_counter() - started
    print(f"{_counts(data)}\nprepared in {prepared:.0f} s; run folder {run}", file=sys.stderr)
    build_trainer(config, run).fit(module, datamodule=data, weights_only=True)
    trained = time.perf_counter() - started
    metrics = method.finish(module, data, config, run)
    metrics["seconds"] = {
        "prepare": round(prepared, 1),
        "train": round(trained - prepared, 1),
        "total": round(time.perf_counter() - started, 1),
    }
    errors = data.errors + [{"id": id, "error": "could not be read while training"} for id in sorted(module.failed_ids)]
    if errors:
        write_errors(run / "errors.jsonl", errors)
    write_json(run / "metrics.json", metrics)
    print(method.table(metrics))
    return run, metrics, errors


def _counts(data: GuardDataModule) -> str:
    return "; ".join(f"{split}: " + ", ".join(f"{m} {n}" for m, n in c.items()) for split, c in data.counts().items())


def main(arguments: list[str]) -> int:
    run, _, errors = fit(arguments)
    print(f"run folder: {run}", file=sys.stderr)
    if errors:
        print(f"{len(errors)} rows could not be used: see {run / 'errors.jsonl'}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    cli.run(main)
