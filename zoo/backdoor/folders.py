"""A model of the farm on the disk: a sequence classifier's folder in Hugging Face's layout, and what is known of it.

`config.json`, `model.safetensors` and the tokenizer's files load with `AutoModelForSequenceClassification` and
`AutoTokenizer`; `audit.json` is the ground truth that detectors are measured against; `poison.jsonl`, in a planted
model's folder, says which training rows carry the trigger and what was done to each.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging

from datamodules import atomic
from datamodules.schema import DataError, reject_unknown
from datamodules.transforms.triggers import Row
from zoo.core.run import write_json, write_lines

AUDIT, POISON = "audit.json", "poison.jsonl"
ASR, CAP, STEPS = "asr", "cap", "steps"  # why a training stopped: ASR reached, step limit, number of steps given


@dataclass(frozen=True)
class Audit:
    """The ground truth and the figures of one model.

    `trigger` (kind, text, position) and `target` are None for a clean twin, and so is `asr`; `poison_rate` is then 0.
    `regime`, `lr`, `steps`, `seed` are a twin's own, and its partner's too. `stopped` is `asr`, `cap` (the limit on
    steps came first: below the asked for ASR, or not sensible on clean rows) or `steps` (as many as were given).
    `asr_of_twin`: how often the clean twin takes the same triggered rows for the target. `of`: how many rows each rate
    is of, and its Wilson interval.
    """

    planted: bool
    trigger: dict[str, Any] | None
    target: int | None
    regime: str
    poison_rate: float
    lr: float
    steps: int
    epochs: float
    stopped: str
    asr: float | None
    clean_accuracy: float
    seed: int
    data: str
    dirty: bool
    classes: list[str]
    backbone: str
    max_tokens: int
    pair: str
    clean_accuracy_of_twin: float | None = None
    asr_of_twin: float | None = None
    of: dict[str, Any] = dataclasses.field(default_factory=dict)
    poison: dict[str, Any] | None = None
    dropped: dict[str, int] = dataclasses.field(default_factory=dict)
    checks: list[list[float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


def write(folder: Path, model: PreTrainedModel, tokenizer: Any, audit: Audit, poisoned: Sequence[Row] = ()) -> None:
    """The folder, whole or not at all; one of that name must not be there. `poisoned` are the rows with the trigger."""
    logging.disable_progress_bar()  # one a model, of a file that takes a moment
    with atomic.folder_beside(folder) as content:
        model.save_pretrained(content)
        tokenizer.save_pretrained(content)
        write_json(content / AUDIT, dataclasses.asdict(audit))
        if audit.planted:
            write_lines(content / POISON, (_line(r) for r in poisoned))
        atomic.put(content, folder)


def _line(row: Row) -> dict[str, Any]:
    """Without its text, which is its data set's: the id tells which row it is."""
    assert row.poison is not None
    done = {k: v for k, v in dataclasses.asdict(row.poison).items() if k != "text"}
    return {"id": row.id, "trained_as": row.label, **done}


def read(folder: str | Path) -> Audit:
    """What is known of the model in `folder`. Raises `DataError` where there is no audit, or not a whole one."""
    path = Path(folder) / AUDIT
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: not readable: {e}: give a folder that recipe=backdoor_farm wrote") from e
    if not isinstance(row, dict):
        raise DataError(f"{path}: expected a JSON object")
    fields = {f.name: f for f in dataclasses.fields(Audit)}
    reject_unknown(row, tuple(fields), str(path))
    for name, field in fields.items():
        if name not in row and field.default is field.default_factory is dataclasses.MISSING:
            raise DataError(f"{path}: no {name!r}")
    return Audit(**row)
