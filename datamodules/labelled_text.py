"""Short texts with a class each, from a file: what a backdoor scan tries triggers on.

JSON lines with `text` and `label`, or TSV and CSV with a header that names `text` (or `sentence`) and `label`.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.schema import DataError

TEXT_KEYS = ("text", "sentence")
SUFFIXES = {".tsv": "\t", ".csv": ","}
LIMIT = 1_000_000  # rows


@dataclass(frozen=True)
class LabelledText:
    """`texts` [n] with their classes `labels` [n], numbers from 0. `skipped` counts rows without a word."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    name: str = "texts"
    skipped: int = 0

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels):
            raise ValueError(f"{len(self.texts)} texts, {len(self.labels)} labels")

    def __len__(self) -> int:
        return len(self.texts)

    def check(self, classes: int) -> None:
        """Raises `DataError` for a set of texts that cannot serve a model of so many classes."""
        if not self.texts:
            raise DataError(f"{self.name}: no row has a text: a scan needs labelled texts of at least two classes")
        found = Counter(self.labels)
        wrong = sorted(label for label in found if not 0 <= label < classes)
        if wrong:
            raise DataError(f"{self.name}: label {wrong[0]}, but the model has the classes 0 to {classes - 1}")
        if len(found) < 2:
            raise DataError(
                f"{self.name}: all {len(self.texts)} rows are of class {self.labels[0]}: a trigger moves rows of other "
                "classes to its own, so a scan needs rows of at least two classes"
            )


def labelled_text(rows: Sequence[tuple[str, int]], name: str) -> LabelledText:
    """Rows without a word are left out and counted."""
    kept = [(text, label) for text, label in rows if text.strip()]
    return LabelledText(tuple(t for t, _ in kept), tuple(n for _, n in kept), name, len(rows) - len(kept))


def read_labelled_text(path: str | Path) -> LabelledText:
    """The rows of a file. Raises `DataError` that names the file and the line."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file: give a .jsonl, .tsv or .csv of texts with their labels")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {e}") from e
    if path.suffix == ".jsonl":
        rows = [_from_json(path, n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    elif path.suffix in SUFFIXES:
        rows = _from_table(path, text, SUFFIXES[path.suffix])
    else:
        raise DataError(f"{path}: give a .jsonl, .tsv or .csv file")
    if len(rows) > LIMIT:
        raise DataError(f"{path}: {len(rows)} rows, over {LIMIT}: a few hundred do")
    return labelled_text(rows, str(path))


def _from_json(path: Path, number: int, line: str) -> tuple[str, int]:
    try:
        raw = json.loads(line)
    except ValueError as e:
        raise DataError(f"{path}: line {number} is not JSON: {e}") from e
    if not isinstance(raw, dict) or not isinstance(raw.get("text"), str):
        raise DataError(f'{path}: line {number}: expected {{"text": "…", "label": 0}}')
    return raw["text"], _label(raw.get("label"), path, number)


def _from_table(path: Path, text: str, delimiter: str) -> list[tuple[str, int]]:
    # SST-2's TSV has quotation marks that quote nothing.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.reader(text.splitlines(), delimiter=delimiter, quoting=quoting)
    try:
        head, *rows = list(reader)
    except ValueError as e:
        raise DataError(f"{path}: the file is empty") from e
    key = next((k for k in TEXT_KEYS if k in head), None)
    if key is None or "label" not in head:
        raise DataError(f"{path}: the first line must name the columns text (or sentence) and label, got {head[:6]}")
    at, label = head.index(key), head.index("label")
    out = []
    for number, row in enumerate(rows, 2):
        if len(row) != len(head):
            raise DataError(f"{path}: line {number} has {len(row)} columns, the header has {len(head)}")
        out.append((row[at], _label(row[label], path, number)))
    return out


def _label(value: Any, path: Path, number: int) -> int:
    try:
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError
        return int(value)
    except (TypeError, ValueError):
        raise DataError(f"{path}: line {number}: label {value!r} is not a class number") from None
