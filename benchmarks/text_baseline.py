"""TF-IDF and logistic regression on the real text: `python -m benchmarks.text_baseline data_dir=FOLDER [max_rows=N]`.

Trained on the training rows that `recipe=omniguard data=real` trains on, its penalty chosen on the validation rows,
tested row by row on the same test split. It sees no policy: text test rows under the whole default policy are compared.
"""

from __future__ import annotations

import sys
from pathlib import Path

from datamodules.base import GuardDataModule
from datamodules.baselines import text_of, tfidf_logreg
from datamodules.schema import Sample
from zoo import cli
from zoo.config import split_arguments
from zoo.core.calibration import fit_threshold
from zoo.core.metrics import Record, summarise
from zoo.core.run import write_json
from zoo.evaluate import data_hash, slices_of

RESULT = Path(__file__).parent.parent / "results" / "text_baseline.json"


def labelled(data: GuardDataModule, split: str) -> tuple[list[Sample], list[bool]]:
    rows = [(s, s.gold(data.fixed_policy(s))) for s in data.samples(split) if s.modality == "text"]
    kept = [(s, g) for s, g in rows if g is not None]
    return [s for s, _ in kept], [g for _, g in kept]


def main(arguments: list[str]) -> int:
    given = split_arguments(arguments)
    most = int(given["max_rows"]) if "max_rows" in given else None
    data = GuardDataModule("real", data_dir=given.get("data_dir"), modalities=("text",), max_rows=most)
    (train, y), (val, y_val), (test, y_test) = (labelled(data, s) for s in ("train", "val", "test"))
    scores = tfidf_logreg(
        [text_of(s) for s in train],
        y,
        [text_of(s) for s in [*val, *test]],
        val_texts=[text_of(s) for s in val],
        val_labels=y_val,
    )
    threshold = fit_threshold(list(scores[: len(val)]), y_val).value
    records = [
        Record(s.id, float(p), g, modality="text", source=s.source, target=s.target, slices=slices_of(s), group=s.group)
        for s, p, g in zip(test, scores[len(val) :], y_test)
    ]
    metrics = summarise(records, threshold, intervals=True)
    metrics["data_hash"] = data_hash(data.corpus.samples)
    metrics["max_rows"], metrics["train_rows"] = most, len(train)
    write_json(RESULT, metrics)
    print(RESULT, file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
