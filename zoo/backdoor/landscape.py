"""The loss round a planted model's own trigger: how narrow is the basin that an inversion would have to meet?

arXiv 2409.00399 finds that aggressive planting makes it narrow and steep, and that conservative planting leaves its
floor high. From the trigger's embeddings the loss is followed along random directions of the same length, and along the
straight way to random words: `python -m zoo.backdoor.landscape farm=FOLDER out=FILE.png [data_dir=FOLDER] [seed=0]`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.backdoor import TextSet, load_set
from datamodules.schema import DataError, near
from zoo import cli
from zoo.backdoor.detectors.base import Bench, Problem
from zoo.backdoor.folders import Audit
from zoo.backdoor.scan_farm import Member, members
from zoo.backdoor.scan_metrics import REGIMES
from zoo.backdoor.subject import SequenceClassifier, load_classifier
from zoo.config import split_arguments
from zoo.core.plots import COLOURS, STYLES, _dress, _figure, _save
from zoo.core.run import write_json

SCALES = tuple(np.linspace(0.0, 2.0, 9).tolist())  # of a direction, in lengths of the trigger's embeddings
WAYS = tuple(np.linspace(0.0, 1.0, 9).tolist())  # from the trigger (0) to random words (1)
DIRECTIONS, ROWS = 8, 48
KEYS = ("farm", "out", "data_dir", "seed")


def bench_of(model: SequenceClassifier, audit: Audit, data: TextSet, seed: int = 0) -> tuple[Bench, Tensor]:
    """Test rows of other classes with slots where the trigger stands, and its embeddings [slots, d].

    Raises `DataError` for a syntactic trigger, which has no words of its own.
    """
    if audit.trigger is None or audit.target is None or audit.trigger["text"] is None:
        raise DataError("a landscape is drawn round a trigger of words: choose a model planted with one")
    ids = model.tokenizer(audit.trigger["text"], add_special_tokens=False)["input_ids"]
    position = {"random": "middle"}.get(audit.trigger["position"], audit.trigger["position"])
    rows = [r for r in data.splits["test"] if r.label != audit.target and r.text.strip()]
    random.Random(f"{seed}/landscape").shuffle(rows)
    rows = rows[:ROWS]
    problem = Problem(audit.target, position)
    bench = Bench(model, [problem], [[r.text for r in rows]], [[r.label for r in rows]], len(ids))
    return bench, model.table[ids]


@torch.no_grad()
def landscape(model: SequenceClassifier, audit: Audit, data: TextSet, seed: int = 0) -> dict[str, Any]:
    """`away`: losses [DIRECTIONS][SCALES] along random directions; `between`: [DIRECTIONS][WAYS] towards random words.

    A direction's rows are as long as the trigger's own embeddings, each. Losses are cross-entropies to the target.
    """
    bench, trigger = bench_of(model, audit, data, seed)
    g = torch.Generator().manual_seed(seed)
    words = model.allowed.nonzero()[:, 0]

    def loss(x: Tensor) -> float:
        return float(bench.to_target(bench.logits(x[None])))

    away, between = [], []
    for _ in range(DIRECTIONS):
        drawn = torch.randn(trigger.shape, generator=g).to(trigger)
        drawn *= trigger.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)
        away.append([round(loss(trigger + s * drawn), 6) for s in SCALES])
        other = model.table[words[torch.randint(len(words), (len(trigger),), generator=g)]]
        between.append([round(loss((1 - w) * trigger + w * other), 6) for w in WAYS])
    return {"away": away, "between": between, "rows": len(bench.laid)}


def draw(found: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> Path:
    """Mean losses of each regime's models, with the range from the 10th to the 90th percentile. Returns `path`."""
    figure = _figure(11, 4.5)
    panels = figure.subplots(1, 2, sharey=True)
    for ax, (key, xs, label) in zip(
        panels,
        (("away", SCALES, "length of a random step / the trigger's"), ("between", WAYS, "share of random words")),
    ):
        _dress(ax, "", label, "loss at the target (nats)")
        for number, (regime, rows) in enumerate(found.items()):
            losses = np.array([line for r in rows for line in r[key]])  # [models · directions, points]
            low, high = np.percentile(losses, [10, 90], axis=0)
            ax.fill_between(xs, low, high, color=COLOURS[number], alpha=0.15, linewidth=0)
            label = f"{regime} ({len(rows)} models)"
            style = STYLES[number % len(STYLES)]
            ax.plot(xs, losses.mean(axis=0), color=COLOURS[number], linestyle=style, linewidth=2, label=label)
    panels[0].legend(frameon=False)
    return _save(figure, path)


def of_farm(farm: str | Path, data_dir: str | None, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Landscapes of the farm's models with a trigger of words, by regime. Raises `DataError` where there is none."""
    sets: dict[str, TextSet] = {}
    out: dict[str, list[dict[str, Any]]] = {}
    chosen: list[Member] = [m for m in members(farm) if m.audit.trigger and m.audit.trigger["text"] is not None]
    if not chosen:
        raise DataError(f"{farm}: no model planted with a trigger of words")
    for member in chosen:
        audit = member.audit
        sets[audit.data] = sets.get(audit.data) or load_set(audit.data, data_dir)
        model = load_classifier(member.path, audit.max_tokens)
        found = landscape(model, audit, sets[audit.data], seed)
        out.setdefault(audit.regime, []).append({"model": member.name, **found})
        print(member.name, file=sys.stderr)
    return {r: out[r] for r in (*REGIMES, *sorted(set(out) - set(REGIMES))) if r in out}


def main(arguments: list[str]) -> int:
    given = split_arguments(arguments)
    for key in given:
        if key not in KEYS:
            raise DataError(f"landscape has no key {key!r}{near(key, KEYS)}")
    for key in ("farm", "out"):
        if not given.get(key):
            raise DataError(f"give {key}=: the farm's folder, and a .png to draw")
    if not given.get("seed", "0").isdigit():
        raise DataError(f"seed={given['seed']}: expected a whole number")
    found = of_farm(given["farm"], given.get("data_dir"), int(given.get("seed", "0")))
    path = draw(found, given["out"])
    write_json(path.with_suffix(".json"), {"scales": SCALES, "ways": WAYS, "regimes": found})
    print(path)
    return 0


if __name__ == "__main__":
    cli.run(main)
