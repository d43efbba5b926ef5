"""The published PolicyGuardBench (arXiv 2510.03485): records of instruction, input and output, as samples.

`input` reads "Policy: … Trajectory Actions: … Domain: … Subdomain: …", `output` is violation or no_violation. A record
is one pair; its labels are a language model's (people agree with 89.8 % of 287), and are about the whole trajectory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.corpus.types import Corpus
from datamodules.hub import snapshot
from datamodules.policyguardbench import RuleBank
from datamodules.schema import SPLITS, DataError, Policy, PolicyEntry, Sample
from datamodules.sources.files import read_json, read_jsonl
from datamodules.sources.split import draw, split_of
from datamodules.trajectory import ALIASES, VERBS, Outcome, Step, Trajectory, to_sample

REPO = "Rakancorle1/PolicyGuardBench"
SOURCE = "policyguardbench"
FRACTIONS = (0.72, 0.08, 0.20)  # 80/20 by trajectory as published, and a tenth of the 80 is validation
OUTPUTS = {"violation": True, "no_violation": False}
_INPUT = re.compile(
    r"^\s*Policy:\s*(?P<policy>.*?)\s*Trajectory Actions:\s*(?P<actions>.*?)\s*Domain:\s*(?P<domain>.*?)"
    r"\s*Subdomain:\s*(?P<subdomain>.*?)\s*$",
    re.DOTALL,
)
_NUMBER = re.compile(r"^\s*(?:step\s*)?\d+\s*[.):]\s*|^\s*[-*]\s+", re.IGNORECASE)


def load_records(path: str | Path, seed: int = 0, max_rows: int | None = None) -> Corpus:
    """The records of a folder (*.json, *.jsonl, *.parquet), of one file, or of the hub where `path` is `owner/name`.

    Records that cannot be read are in the report's `errors`, with their file and number. Raises `DataError` where
    nothing can be read.
    """
    samples: list[Sample] = []
    errors: list[dict[str, str]] = []
    for where, row in _rows(path):
        if max_rows is not None and len(samples) >= max_rows:
            break
        try:
            samples.append(record(row, where, seed))
        except DataError as e:
            errors.append({"id": where, "error": str(e)})
    if not samples:
        raise DataError(f"{path}: no usable record" + (f": {errors[0]['error']}" if errors else ""))
    return Corpus(samples, RuleBank(), {"errors": errors})


def record(row: Any, where: str, seed: int = 0) -> Sample:
    """One record as a sample, its id `where`. Raises `DataError` that says what is wrong with it."""
    if not isinstance(row, dict) or not isinstance(row.get("input"), str):
        raise DataError(f"{where}: expected instruction, input and output")
    found = _INPUT.match(row["input"])
    if found is None:
        raise DataError(f"{where}: input is not 'Policy: … Trajectory Actions: … Domain: … Subdomain: …'")
    output = " ".join(str(row.get("output")).strip().lower().replace("_", " ").split()).replace(" ", "_")
    if output not in OUTPUTS:
        raise DataError(f"{where}: output {row.get('output')!r} is not one of {', '.join(OUTPUTS)}")
    if not found["policy"]:
        raise DataError(f"{where}: the policy is empty")
    group = hashlib.sha256("\x1f".join(found.group("actions", "domain", "subdomain")).encode()).hexdigest()[:16]
    run = Trajectory(where, "", found["domain"], found["subdomain"], tuple(steps_of(found["actions"])))
    place = int(split_of(np.array([draw(group, seed)]), FRACTIONS)[0])
    return to_sample(
        run, Policy("policyguardbench", (PolicyEntry("policy", found["policy"]),)),
        {"policy": Outcome(OUTPUTS[output])}, source=SOURCE, group=f"{SOURCE}-{group}", split=SPLITS[place],
    )  # fmt: skip


def steps_of(actions: str) -> Iterator[Step]:
    """An action a line: its first word is the verb if it is known (`Click on "Save"`), else all of it is the target.

    Numbers and bullets before it are dropped. A line without a known verb becomes a step with the verb `do`.
    """
    for line in actions.splitlines():
        text = _NUMBER.sub("", line).strip()
        if not text:
            continue
        first, _, rest = text.partition(" ")
        verb = first.strip(":,").lower()
        if verb in VERBS or verb in ALIASES:
            yield Step(verb, rest.strip())
        else:
            yield Step("do", text)


def _rows(path: str | Path) -> Iterator[tuple[str, Any]]:
    folder = Path(path).expanduser()
    if not folder.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)):
        fix = "give the folder of its files with data.path=DIR"
        folder = snapshot(str(path), ["*.json", "*.jsonl", "*.parquet"], fix, repo_type="dataset")
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.suffix in _READERS)
    if not files:
        raise DataError(f"{folder}: no *.json, *.jsonl or *.parquet there: is it PolicyGuardBench's folder?")
    for file in files:
        if file.suffix not in _READERS:
            raise DataError(f"{file}: expected .json, .jsonl or .parquet")
        rows = _READERS[file.suffix](file)
        if not isinstance(rows, list):
            raise DataError(f"{file}: expected a list of records")
        for n, row in enumerate(rows):
            yield f"{file.stem}-{n}", row


def _parquet(path: Path) -> list[Any]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path}: parquet files need pyarrow: pip install pyarrow") from None
    return pq.read_table(path).to_pylist()


_READERS = {".json": read_json, ".jsonl": read_jsonl, ".parquet": _parquet}
