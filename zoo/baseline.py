"""The baselines of a recipe's text: `python -m zoo.baseline recipe=<name> model=tfidf|minilm [key=value …]`.

Each is a logistic regression that is fitted to the recipe's training rows and judges its test rows: over TF-IDF of
words and pairs of words, or over what frozen MiniLM makes of a text. They see no policy. The penalty and the threshold
come from validation rows. A run folder is written as `zoo.test` writes it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from datamodules import GuardDataModule
from datamodules.assets import resolve
from datamodules.baselines import logreg, text_of, tfidf
from datamodules.schema import DataError, Sample, near
from zoo import cli
from zoo.config import compose, plain
from zoo.core.calibration import DEFAULT_THRESHOLD, expected_calibration_error, fit_threshold
from zoo.core.encoders.text import TextEncoder, load_minilm
from zoo.core.metrics import Record, summarise
from zoo.core.run import new_run, write_json, write_yaml
from zoo.core.scores import decide, write_scores
from zoo.core.tables import text_table
from zoo.evaluate import data_hash, slices_of
from zoo.fit import build_data

Split = tuple[list[Sample], list[bool | None]]
BATCH = 512  # texts that are encoded in one go


def minilm(texts: Sequence[str]) -> np.ndarray:
    """Mean token state of each text's first 254 word pieces, float32 [n, 384], to unit length, as the model is used."""
    bert, tokenizer = load_minilm(resolve("minilm"))
    encoder = TextEncoder(bert, tokenizer.cls_token_id, tokenizer.sep_token_id, pool="phrase").freeze()
    out = []
    with torch.no_grad():
        for start in tqdm(range(0, len(texts), BATCH), desc="MiniLM", unit="batch", leave=False):
            part = list(texts[start : start + BATCH])
            ids = tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]
            out += [f[0, :-1] for f in encoder.encode([torch.tensor(i, dtype=torch.long) for i in ids])]
    return torch.nn.functional.normalize(torch.stack(out), dim=-1).numpy()


def _tfidf_features(train: list[str], *others: list[str]) -> list[Any]:
    return tfidf(train, *others)


def _minilm_features(*splits: list[str]) -> list[Any]:
    return [minilm(texts) for texts in splits]


BASELINES: dict[str, Callable[..., list[Any]]] = {"tfidf": _tfidf_features, "minilm": _minilm_features}


def check_baseline(name: str) -> None:
    """Raises `DataError` with near matches for an unknown name."""
    if name not in BASELINES:
        raise DataError(f"unknown baseline {name!r}{near(str(name), list(BASELINES))}")


def judge(name: str, data: GuardDataModule, run: Path, seed: int = 0) -> dict[str, Any]:
    """Fits a baseline, writes `scores.jsonl` into `run` and returns the metrics of the test split.

    Raises `DataError` where the training or the validation rows have one class, and for test rows without text.
    """
    train, val = (_labelled(_rows(data, split)) for split in ("train", "val"))
    test, golds = _rows(data, "test")
    texts = [[text_of(s) for s in rows] for rows in (train[0], val[0], test)]
    fitted, validation, asked = BASELINES[name](*texts)
    scores = logreg(fitted, train[1], [validation, asked], validation, val[1])
    threshold = fit_threshold(scores[0], val[1]).value
    records = [
        Record(
            s.id, float(p), g, modality=s.modality, source=s.source, target=s.target, slices=slices_of(s), group=s.group
        )
        for s, p, g in zip(test, scores[1], golds)
    ]
    metrics = summarise(records, threshold, intervals=True, seed=seed)
    metrics["ece"] = expected_calibration_error(scores[1], golds)
    metrics["train_rows"] = len(train[0])
    metrics["seed"], metrics["data_hash"] = seed, data_hash(data.corpus.samples)
    write_scores(run / "scores.jsonl", (decide(r, threshold, DEFAULT_THRESHOLD) for r in records))
    return metrics


def _rows(data: GuardDataModule, split: str) -> Split:
    rows = [s for s in data.samples(split) if any(p.type == "text" and p.text for p in s.parts)]
    return rows, [s.gold(data.fixed_policy(s)) for s in rows]


def _labelled(split: Split) -> tuple[list[Sample], list[bool]]:
    kept = [(s, g) for s, g in zip(*split) if g is not None]
    return [s for s, _ in kept], [g for _, g in kept]


def main(arguments: list[str]) -> int:
    started = time.perf_counter()
    name = next((a.removeprefix("model=") for a in arguments if a.startswith("model=")), "")
    check_baseline(name)
    config = plain(compose([a for a in arguments if not a.startswith("model=")]))
    data = build_data(config)
    data.prepare_data()
    run = new_run(Path(config["runs"]) / "baseline", config["recipe"])
    write_yaml(run / "config.yaml", {**config, "model": name})
    metrics = judge(name, data, run, config["seed"])
    metrics["model"], metrics["seconds"] = name, {"total": round(time.perf_counter() - started, 1)}
    write_json(run / "metrics.json", metrics)
    print(text_table(metrics))
    print(f"run folder: {run}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main, __doc__)
