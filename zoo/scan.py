"""Looks for a backdoor in a classifier of texts: `python -m zoo.scan model=FOLDER [data=FILE] [detector=all]`.

`model`: a sequence classifier in Hugging Face's layout, a published guard, or a guard's run. `data`: labelled texts
(.jsonl with text and label, .tsv or .csv with a header), at least two classes; a guard has its policy's where none are
given. `detector`: dbs, piccolo, weights, some with commas between, or all. `reference`: a benign model of the same
words, whose words of a class are then no backdoor. `grid`: scores of clean models that say how rare a score is
(`calibration.json` of recipe=backdoor_scan; default: the published one). Also `seed=0` and `max_tokens=32`.

The report goes to standard output as JSON; the exit code is 1 for a flagged model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from datamodules.labelled_text import LabelledText, read_labelled_text
from datamodules.schema import DataError, near
from zoo import cli
from zoo.backdoor import scanning
from zoo.backdoor.guards import GuardClassifier, policy_texts
from zoo.backdoor.subject import SequenceClassifier, Subject, load_classifier
from zoo.config import split_arguments
from zoo.core import weights
from zoo.registry import load

KEYS = ("model", "data", "detector", "reference", "grid", "seed", "max_tokens")


def subject_of(name: str, max_tokens: int) -> Subject:
    """A guard by its name or folder, else a folder of Hugging Face's. Raises `CheckpointError` for neither."""
    path = Path(name)
    guard = name in weights.manifest() or any(_is_ours(f) for f in (path / "model", path))
    return GuardClassifier(load(name), max_tokens=max_tokens) if guard else load_classifier(path, max_tokens)


def _is_ours(folder: Path) -> bool:
    """Whether a model folder is of this zoo: its config says so by `format`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "format" in config


def main(arguments: list[str]) -> int:
    given = split_arguments(arguments)
    for key in given:
        if key not in KEYS:
            raise DataError(f"scan has no key {key!r}{near(key, KEYS)}")
    if not given.get("model"):
        raise DataError("give model=FOLDER: a sequence classifier, or a guard")
    seed, max_tokens = (_number(given, k, d) for k, d in (("seed", 0), ("max_tokens", 32)))
    names = scanning.names_of(given.get("detector", scanning.ALL))
    data: LabelledText | None = read_labelled_text(given["data"]) if given.get("data") else None
    subject = subject_of(given["model"], max_tokens)
    if data is None and isinstance(subject, GuardClassifier):
        data = policy_texts(subject.guard)
    if data is not None:
        data.check(len(subject.classes))
    reference = subject_of(given["reference"], max_tokens) if given.get("reference") else None
    if reference is not None and type(reference) is not type(subject):
        raise DataError(f"reference={given['reference']}: a guard and a sequence classifier cannot be compared")
    if isinstance(subject, SequenceClassifier) and data is None:
        print("no data=FILE: triggers cannot be tried on texts, only weights can be looked at", file=sys.stderr)
    report = scanning.scan(subject, data, names, scanning.grid(given.get("grid")), reference, seed)
    print(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False))
    return 1 if report["flagged"] else 0


def _number(given: dict[str, str], key: str, default: int) -> int:
    text = given.get(key, str(default))
    if not text.isdigit() or (key == "max_tokens" and not int(text)):
        raise DataError(f"{key}={text}: expected a whole number")
    return int(text)


if __name__ == "__main__":
    cli.run(main)
