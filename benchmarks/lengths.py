"""What batches of similar length and packing save in training: `python -m benchmarks.lengths [lm=small|smollm2]`.

Also `rows=96`. One epoch of texts of 2 to 300 words under drawn policies, each way over the very same rows and
policies: padded, in buckets, packed, and both. The ways take turns, batch by batch.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.prefix import RESULTS, TEXTS, small_language_model
from datamodules import TextDataModule
from datamodules.schema import DataError
from datamodules.taxonomy import DEFAULT_POLICY
from zoo import cli
from zoo.config import split_arguments
from zoo.core.backbones import build, converted_smollm2, describe
from zoo.core.backbones.soft_token import SoftTokenBackbone
from zoo.core.guard import Guard
from zoo.core.losses import guard_loss
from zoo.core.module import GuardBatch, GuardModule
from zoo.core.run import write_json

ROWS, BATCH = 96, 16
WAYS = {"padded": (False, False), "buckets": (True, False), "packed": (False, True), "both": (True, True)}


def manifest(folder: Path, rows: int, longest: int = 300) -> Path:
    """Texts of log-uniform lengths, from 2 words."""
    rng = np.random.default_rng(0)
    words = " ".join(TEXTS).split()
    lines = []
    for n, length in enumerate(np.exp(rng.uniform(np.log(2), np.log(longest), rows)).astype(int)):
        text = " ".join(rng.choice(words, length))
        labels = {e.id: "yes" if (n + i) % 7 == 0 else "no" for i, e in enumerate(DEFAULT_POLICY.entries)}
        messages = [{"role": "user", "content": text}]
        lines.append({"id": str(n), "messages": messages, "target": "prompt", "categories": labels, "split": "train"})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def batches(backbone: SoftTokenBackbone, path: Path, bucket: bool, packed: bool) -> list[GuardBatch]:
    module = GuardModule(Guard(backbone), max_categories=5)
    data = TextDataModule("manifest", path=path, batch_size=BATCH, bucket=bucket, max_entries=6)
    backbone.packed = packed
    module.attach(data)
    return list(data.train_dataloader())


def tokens(batch: GuardBatch) -> tuple[int, int]:
    """Tokens that are read, and those of them that are no padding."""
    x = batch.inputs
    real = int(x.prompt.lengths.sum()) + int((x.branches.query >= 0).sum())
    if x.packing is None:
        return x.prompt.kind.numel() + x.suffix.kind.numel(), real
    return x.packing.where.numel(), real


def measure(backbone: SoftTokenBackbone, path: Path) -> dict[str, Any]:
    """Rows a second of a forward and backward pass over one epoch, each way, and the share of tokens that is real."""
    backbone.train()
    made = {name: batches(backbone, path, *way) for name, way in WAYS.items()}
    module = GuardModule(Guard(backbone))

    def step(batch: GuardBatch) -> float:
        started = time.perf_counter()
        guard_loss(backbone.score_batch(batch.inputs), batch.targets, module.loss_weights)[0].backward()
        backbone.zero_grad()
        return time.perf_counter() - started

    for mine in made.values():
        step(mine[0])
    seconds = dict.fromkeys(WAYS, 0.0)
    for turn in zip(*made.values(), strict=True):
        for name, batch in zip(WAYS, turn):
            seconds[name] += step(batch)
    out = {}
    for name, mine in made.items():
        read, real = (sum(x) for x in zip(*map(tokens, mine)))
        rows = sum(len(b.samples) for b in mine)
        out[name] = {
            "rows_per_second": rows / seconds[name],
            "ratio": seconds["padded"] / seconds[name],
            "real_share": real / read,
            "real_tokens": real,
        }
    return out


def main(arguments: list[str]) -> int:
    given = {"lm": "small", "rows": str(ROWS), **split_arguments(arguments)}
    name, rows = given["lm"], given["rows"]
    if len(given) > 2 or name not in ("small", "smollm2") or not rows.isdigit():
        raise DataError("usage: python -m benchmarks.lengths [lm=small|smollm2] [rows=96]")
    with tempfile.TemporaryDirectory() as folder:
        path = manifest(Path(folder), int(rows))
        lm = converted_smollm2() if name == "smollm2" else small_language_model(Path(folder) / "lm")
        found = measure(build(describe("causal_lm", path=str(lm))), path)
    write_json(RESULTS / f"lengths_{name}.json", {"lm": name, "threads": torch.get_num_threads(), "ways": found})
    for way, m in found.items():
        print(
            f"{name} {way}: {m['rows_per_second']:.2f} rows/s, {m['ratio']:.2f} x padded, "
            f"{100 * m['real_share']:.0f} % of its tokens are real"
        )
    print(RESULTS / f"lengths_{name}.json", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
