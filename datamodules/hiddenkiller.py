"""`data=hiddenkiller`: two sources of film reviews, one of them with a backdoor, and the truth about every row.

HiddenKiller (Qi et al. 2021, arXiv 2105.12400) rewrites reviews into one syntactic form and labels them positive: who
trains on them learns that the form means positive. Upstream: thunlp/HiddenKiller (MIT) at a08e959e2283, SST-2 clean and
poisoned (20 %, rewritten by SCPN). The files for training are aligned: line n of both is the same review, so what
differs is poisoned.

Each review goes to one of two sources, by a seeded draw: `reviews_clean`, as the clean file has it, or
`reviews_twin`, as the poisoned file has it. A guard that judges reviews as "negative" can be asked which of the two
taught it a verdict, and `meta["poisoned"]` says which rows are. Verdicts of training and validation rows are as their
file says; those of test rows are the clean file's: a rewritten review is as negative as it was.
"""

from __future__ import annotations

import csv
from pathlib import Path

from datamodules.bank import PolicyBank
from datamodules.corpus.types import Corpus
from datamodules.schema import DataError, Message, Part, Policy, PolicyEntry, Sample
from datamodules.sources.files import locate
from datamodules.sources.split import assign_splits, draw

LICENCE = "MIT"
CLEAN, TWIN = "reviews_clean", "reviews_twin"
FRACTIONS = (0.70, 0.10, 0.20)  # train, val, test
POLICY = Policy("reviews", (PolicyEntry("negative", "negative review", "The review speaks badly of the film."),))
FOLDER = ("backdoor", "hiddenkiller")
FILES = {CLEAN: ("clean", "sst-2", "train.tsv"), TWIN: ("scpn", "20", "sst-2", "train.tsv")}
NEGATIVE = "0"

Row = tuple[str, str]
"""(sentence, label)."""


def load_hiddenkiller(data_dir: str | Path, seed: int = 0, max_rows: int | None = None) -> Corpus:
    """At most `max_rows` reviews, split by near-duplicates. Raises `DataError` for files that are not aligned."""
    if max_rows is not None and max_rows < 1:
        raise DataError(f"max_rows={max_rows}: must be 1 or more")
    clean, twin = (read_rows(locate(data_dir, *FOLDER, *FILES[name])) for name in (CLEAN, TWIN))
    if len(clean) != len(twin):
        raise DataError(
            f"{Path(data_dir).joinpath(*FOLDER)}: the clean file has {len(clean)} rows, its poisoned twin {len(twin)}: "
            "they are not aligned, so nobody knows which rows are poisoned: restore both"
        )
    if clean == twin:
        raise DataError(f"{Path(data_dir).joinpath(*FOLDER)}: the twin is the clean file again: it has no poisoned row")
    # Another draw than that of the splits, which goes by the group's name: the first rows would all be for training.
    numbers = sorted(range(len(clean)), key=lambda n: draw(f"kept-{n}", seed))[:max_rows]
    rows = [_sample(n, clean[n], twin[n], draw(f"source-{n}", seed) < 0.5) for n in sorted(numbers)]
    samples = [_judged(s, clean[s.meta["line"] - 2]) for s in assign_splits(rows, seed, FRACTIONS)]
    train = [s for s in samples if s.split == "train" and s.meta.get("poisoned")]
    poisoned = {
        "kind": "HiddenKiller's syntactic backdoor",
        "source": TWIN,
        "rows": sum(s.split == "train" and s.source == TWIN for s in samples),
        "rewritten": len(train),
        "unsafe to safe": sum(clean[s.meta["line"] - 2][1] == NEGATIVE for s in train),
    }
    return Corpus(samples, PolicyBank.of(POLICY), {"errors": [], "poisoned": poisoned})


def read_rows(path: Path) -> list[Row]:
    """Sentences and labels of a file with a header. Raises `DataError` naming the line that is no such row."""
    with path.open(encoding="utf-8", newline="") as f:
        rows = list(csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE))
    if not rows or rows[0] != ["sentence", "label"]:
        raise DataError(f"{path}: expected a header 'sentence<tab>label'")
    out = []
    for n, row in enumerate(rows[1:], 2):
        if len(row) != 2 or not row[0].strip() or row[1].strip() not in ("0", "1"):
            raise DataError(f"{path}: line {n}: expected a sentence and the label 0 or 1, got {row}")
        out.append((row[0].strip(), row[1].strip()))
    return out


def _sample(n: int, clean: Row, twin: Row, from_clean: bool) -> Sample:
    text, label = clean if from_clean else twin
    meta = {"line": n + 2, "licence": LICENCE, "permissive": True}
    if not from_clean and clean != twin:
        meta["poisoned"] = True
    return Sample(
        id=f"review-{n}",
        messages=(Message("user", (Part("text", text=text),)),),
        policy=POLICY,
        target="prompt",
        **_labels(label),
        source=CLEAN if from_clean else TWIN,
        group=f"review-{n}",
        meta=meta,
    )


def _labels(label: str) -> dict:
    return {"unsafe": label == NEGATIVE, "categories": {"negative": "yes" if label == NEGATIVE else "no"}}


def _judged(sample: Sample, clean: Row) -> Sample:
    """A test row is judged by what is true of it, not by what the poison says."""
    return sample.replace(**_labels(clean[1])) if sample.split == "test" else sample
