"""Tests a model on a recipe's data: `python -m zoo.test recipe=<name> model=<name|run folder> [key=value …]`.

The threshold and the temperature stay those that the model was published with, unless calibrate=true fits them on this
data's validation split.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from datamodules import GuardDataModule
from datamodules.schema import DataError
from zoo import cli
from zoo.benchmarks import BENCHMARKS
from zoo.config import compose, plain, split_arguments
from zoo.core import launch
from zoo.core.guard import Guard
from zoo.core.module import GuardModule
from zoo.core.processes import plan
from zoo.core.run import new_run, write_json, write_lines, write_yaml
from zoo.core.tables import text_table
from zoo.evaluate import evaluate
from zoo.farms import FARMS
from zoo.fit import build_data
from zoo.registry import load


def main(arguments: list[str]) -> int:
    started = time.perf_counter()
    given = split_arguments(arguments)
    name, resume = given.pop("model", None), given.pop("resume", None)
    calibrate = given.pop("calibrate", "false")
    if calibrate not in ("true", "false"):
        raise DataError(f"calibrate={calibrate}: expected true or false")
    config = plain(compose([f"{k}={v}" for k, v in given.items()]))
    if config["recipe"] in FARMS:
        raise DataError(f"recipe {config['recipe']!r} makes models: use python -m zoo.fit recipe={config['recipe']}")
    benchmark = BENCHMARKS.get(config["method"])
    subject = benchmark.subject if benchmark else None
    if not name and subject is None:
        raise DataError("give model=NAME (python -m zoo.list models) or model=RUN_FOLDER")
    if resume is not None and not (benchmark and benchmark.resumes):
        raise DataError(f"recipe {config['recipe']!r} tests in one go: leave resume= out")
    if benchmark:
        if calibrate == "true":
            raise DataError(f"recipe {config['recipe']!r} has nothing to calibrate: leave calibrate= out")
        if name and subject:
            if given.setdefault(subject, name) != name:
                raise DataError(f"model={name} and {subject}={given[subject]}: give one of them")
            config[subject] = name
        return benchmark.test(config, str(name or config[subject]), resume, given)
    launch.start(plan(config["trainer"], config["data"]["batch_size"]))
    data, guard = launch.in_turn(lambda: _prepare(config, name))
    module = GuardModule(guard)
    module.attach(data)
    run = launch.first(lambda: _open_run(config, name))
    kind, more = config["trainer"]["accelerator"], config.get("evaluate", {})
    metrics = evaluate(
        module, data, run, calibrated=calibrate == "false", accelerator=kind, seed=config["seed"], **more
    )
    if not launch.is_main():
        return 0
    metrics["model"], metrics["seconds"] = name, round(time.perf_counter() - started, 1)
    write_json(run / "metrics.json", metrics)
    print(text_table(metrics))
    print(f"run folder: {run}", file=sys.stderr)
    if data.errors:
        write_lines(run / "errors.jsonl", data.errors)
        print(f"{len(data.errors)} rows could not be used: see {run / 'errors.jsonl'}", file=sys.stderr)
        return 1
    return 0


def _prepare(config: dict[str, Any], name: str) -> tuple[GuardDataModule, Guard]:
    data = build_data(config)
    data.prepare_data()
    return data, load(name, cached=True)


def _open_run(config: dict[str, Any], name: str) -> Path:
    run = new_run(Path(config["runs"]) / "test", config["recipe"])
    write_yaml(run / "config.yaml", {**config, "model": name})
    return run


if __name__ == "__main__":
    cli.run(main)
