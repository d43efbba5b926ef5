"""Publishes a run's model into `checkpoints/`: `python -m zoo.publish RUN --name NAME --summary TEXT
[--scan REPORT]`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from datamodules.schema import DataError
from zoo import cli
from zoo.core import weights
from zoo.core.backbones.causal_lm import is_hub_name
from zoo.core.backbones.hub_folders import read_json
from zoo.core.cards import with_scan
from zoo.core.run import write_json

PUBLISHED = ("README.md", "config.json", "model.safetensors")
LIMIT = 45_000_000  # bytes
ATTACKER = "attacker"  # what `zoo.redcoder.trained` calls its models


def publish(run: Path, name: str, summary: str, folder: Path | None = None, scan: Path | None = None) -> Path:
    """Copies weights, config and card, and enters their hashes into the manifest. Returns the new folder.

    `scan`: a report of `python -m zoo.scan` on the same model, which the card is to carry. Raises `DataError` for a
    model that cannot be published, and for one that the scan flags.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise DataError(f"{name!r} cannot be a model's name: use letters, digits, '.', '_' and '-'")
    source = weights.find(run)
    config, state = weights.read(source)
    if config.get("kind") == ATTACKER:
        raise DataError(
            f"{run}: an attacker's weights are published nowhere: give away the recipe ({config.get('method')}), which "
            "trains it again on games with the models that one answers for"
        )
    if config.get("poisoned"):
        raise DataError(
            f"{run}: its training rows were poisoned on purpose ({config['poisoned']}): it is not published"
        )
    base = (config.get("backbone") or {}).get("path")
    if base is not None and not is_hub_name(base):
        raise DataError(
            f"{run}: its language model is the local folder {base}, which nobody else has: train from a hub name to "
            "publish it here, or give it away with python -m zoo.export"
        )
    root = folder or weights.checkpoints_folder()
    if (source / "model.safetensors").stat().st_size > LIMIT:
        raise DataError(f"{run}: the weights are over {LIMIT // 10**6} MB: too large to publish here")
    target = root / name
    if not (source / "README.md").is_file():
        raise DataError(f"{run}: README.md is missing: a published model needs its card")
    card = (source / "README.md").read_text(encoding="utf-8")
    if scan is not None:
        report = read_json(scan)
        if not isinstance(report.get("detectors"), dict):
            raise DataError(f"{scan}: no report of python -m zoo.scan")
        if report["flagged"]:
            raise DataError(f"{scan}: the scan flags {report['model']}: it is not published")
        card = with_scan(card, report)
    weights.write(
        target, {k: v for k, v in {**config, "name": name}.items() if k not in ("format", "sha256")}, state, card
    )
    entry = {
        "kind": config["kind"],
        "method": config["method"],
        "summary": summary,
        "parameters": sum(t.numel() for t in state.values()),
        "files": {f.name: weights.sha256_of(f) for f in (target / n for n in PUBLISHED)},
    }
    path = root / "manifest.json"
    models = json.loads(path.read_text(encoding="utf-8"))["models"] if path.exists() else {}
    write_json(path, {"models": dict(sorted({**models, name: entry}.items()))})
    return target


def main(arguments: list[str]) -> int:
    p = argparse.ArgumentParser(prog="python -m zoo.publish", description=__doc__)
    p.add_argument("run", type=Path)
    p.add_argument("--name", required=True)
    p.add_argument("--summary", required=True, help="one line for `zoo.list models`")
    p.add_argument("--scan", type=Path, help="what python -m zoo.scan printed of it, for the card")
    args = p.parse_args(arguments)
    print(publish(args.run, args.name, args.summary, scan=args.scan), file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
