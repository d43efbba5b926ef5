"""What a run said of each test row, in `scores.jsonl`: what intervals over rows, and pairs of runs, are computed from.

One JSON object a line, with the fields of `metrics.Record`, the decisions at the run's own thresholds, and the
categories as `id: [P(yes), flagged, yes | no | unknown]`. Texts are not in it. Scores are written in full: the metrics
of the lines are those of `metrics.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.atomic import replacing
from datamodules.schema import DataError
from zoo.core.calibration import DEFAULT_THRESHOLD
from zoo.core.metrics import Record

_PLAIN = ("id", "group", "source", "modality", "target", "slices", "valid", "truncated", "score", "gold")


@dataclass(frozen=True)
class Judged:
    """A record with what was decided: `flagged` for the verdict, `categories` for each entry that was scored."""

    record: Record
    flagged: bool
    categories: Mapping[str, bool]


def decide(record: Record, threshold: float, category_threshold: float | Mapping[str, float]) -> Judged:
    """The decisions of one record: flagged when `score >= threshold`, everywhere in the zoo."""

    def cut(name: str) -> float:
        if isinstance(category_threshold, Mapping):
            return category_threshold.get(name, DEFAULT_THRESHOLD)
        return category_threshold

    flags = {name: score >= cut(name) for name, score in record.category_scores.items()}
    return Judged(record, record.score >= threshold, flags)


def write_scores(path: str | Path, rows: Iterable[Judged]) -> None:
    """Writes the lines whole or not at all."""
    with replacing(path) as f:
        for row in rows:
            f.write((json.dumps(_line(row), ensure_ascii=False, allow_nan=False) + "\n").encode())


def _line(row: Judged) -> dict[str, Any]:
    r = row.record
    line = {name: getattr(r, name) for name in _PLAIN}
    line["flagged"] = bool(row.flagged)
    line["categories"] = {
        name: [score, bool(row.categories[name]), r.category_gold.get(name, "unknown")]
        for name, score in r.category_scores.items()
    }
    return line


def read_scores(path: str | Path) -> Iterator[Judged]:
    """The lines of a run. Raises `DataError` naming the file, and the line that is not one of these."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise DataError(f"{path}: cannot read the judged rows: {e.strerror}") from e
    for number, line in enumerate(text.splitlines(), 1):
        try:
            raw = json.loads(line)
            categories = raw.pop("categories")
            flagged = raw.pop("flagged")
            record = Record(
                **{**raw, "slices": tuple(raw["slices"])},
                category_scores={k: v[0] for k, v in categories.items()},
                category_gold={k: v[2] for k, v in categories.items()},
            )
            row = Judged(record, flagged, {k: v[1] for k, v in categories.items()})
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as e:
            raise DataError(f"{path}: line {number} is no judged row ({type(e).__name__}: {e})") from e
        yield row
