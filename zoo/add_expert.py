"""Adds an expert to a RouteGuard: `python -m zoo.add_expert model=RUN expert=RUN [data=… key=value …]`.

`expert` is a run of recipe=expert over the same base, the name of one that an installed package offers, or any other
guard. Validation rows calibrate, a share of every domain's training rows teaches the router, test rows are judged
before and after. The model goes to a folder of its own; the one that it was made from stays as it is.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from datamodules.schema import DataError
from zoo import cli
from zoo.config import compose, plain
from zoo.core import weights
from zoo.core.guard import Guard
from zoo.core.module import GuardModule
from zoo.core.run import new_run, write_json, write_yaml
from zoo.evaluate import evaluate
from zoo.fit import build_data
from zoo.registry import load, save
from zoo.routeguard.expand import SHARE, add_expert
from zoo.routeguard.model import RouteGuard
from zoo.routeguard.offered import load_offered, offered

OWN = ("model", "expert", "name", "share")


def load_expert(name: str) -> Guard:
    """An expert that a package offers under this name, else a guard by name or folder."""
    return load_offered(name) if name in offered() else load(name, cached=True)


def main(arguments: list[str]) -> int:
    own = {k: a.removeprefix(f"{k}=") for k in OWN for a in arguments if a.startswith(f"{k}=")}
    for key, what in (("model", "a RouteGuard's name or run"), ("expert", "a run of recipe=expert, or an offered one")):
        if not own.get(key):
            raise DataError(f"give {key}=…: {what}")
    try:
        share = float(own.get("share", SHARE))
    except ValueError as e:
        raise DataError(f"share={own['share']}: give a number over 0, at most 1") from e
    rest = [a for a in arguments if a.partition("=")[0] not in OWN]
    if not any(a.startswith("recipe=") for a in rest):
        rest.insert(0, "recipe=routeguard")
    config = plain(compose(rest))
    guard = load(own["model"], cached=True)
    if not isinstance(guard, RouteGuard) or guard.only:
        raise DataError(f"model={own['model']} is no RouteGuard: train one with recipe=routeguard")
    expert = load_expert(own["expert"])
    data = build_data(config)
    data.prepare_data()
    module = GuardModule(guard)
    module.attach(data)
    before = _tested(module, data, config)
    val, train = list(data.samples("val")), list(data.samples("train"))
    # A guard that watches answers for any rules: those of the data.
    rules = data.default_policy.entries if expert.order.watches else None
    report = add_expert(guard, expert, rules, val, train, own.get("name"), share, seed=config["seed"])
    run = new_run(Path(config["runs"]) / "add_expert", report["expert"])
    write_yaml(run / "config.yaml", {**config, **own})
    after = _tested(module, data, config, run)
    write_json(run / "metrics.json", {**after, "before": before["overall"], "added": report})
    card = (weights.find(own["model"]) / "README.md").read_text(encoding="utf-8")
    save(guard, run / "model", "routeguard", card + _note(report, before, after))
    print(f"{report['drift']}\nF1 {before['overall']['f1']} → {after['overall']['f1']}")
    print(f"run folder: {run}", file=sys.stderr)
    return 0


def _tested(module: GuardModule, data: Any, config: dict[str, Any], run: Path | None = None) -> dict[str, Any]:
    return evaluate(
        module, data, run, calibrated=True, accelerator=config["trainer"]["accelerator"], seed=config["seed"]
    )


def _note(report: dict[str, Any], before: dict[str, Any], after: dict[str, Any]) -> str:
    drift = report["drift"]
    return f"""
## Added: {report["expert"]}

For {", ".join(report["categories"])}. The figures above are from before. On the same test rows the verdict's F1 went
from {before["overall"]["f1"]} to {after["overall"]["f1"]}; of the calibration rows {drift["verdicts_changed"]:.1%}
changed their verdict. Earlier experts' answers are identical: {str(drift["earlier_experts_identical"]).lower()}.
"""


if __name__ == "__main__":
    cli.run(main, __doc__)
