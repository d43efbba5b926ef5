"""Toxic spans: 10,554 toxic comments, with the characters that make them so.

Upstream: ipavlopoulos/toxic_spans (CC0-1.0), 75 rows cut from our copy. Citation: Pavlopoulos, Sorensen, Laugier and
Androutsopoulos (2021), "SemEval-2021 Task 5: Toxic Spans Detection".

The label is about the prompt (the comment). All comments had been rated toxic; in a tenth of them the annotators found
no span. Map: a comment with a span → S2 yes. One without is unknown, not a no: it may be toxic as a whole.
`meta["spans"]` holds the rationale as [start, end) pairs of characters of the text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC0-1.0"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("ipavlopoulos/toxic_spans", "beaf170538df8275c3447b2e26070f2f82e55272")
FILES = (
    SourceFile(
        "text/toxic_spans/tsd_train.csv", REPO, "SemEval2021/data/tsd_train.csv",
        "b538ea2d64ed7c306ff8f010a25a5286bef6ce61d469042482ba64efc1ddd6cd", rows=7880, cut=59,
        sha256="6f23569c41a9038382d61c491aa324b6b8bced5cfcf1ac72dda2109270874d7c",
    ),
    SourceFile(
        "text/toxic_spans/tsd_trial.csv", REPO, "SemEval2021/data/tsd_trial.csv",
        "6bb8e9a16470c0269ac8727fd8bb77df68d8fb27955d9f5ff29ad724505622e8", rows=684, cut=6,
        sha256="9fe635e8c3aa1a8186f94e0e6c9e8a927bffbbc0c60f2cc6674d2f07a6445c11",
    ),
    SourceFile(
        "text/toxic_spans/tsd_test.csv", REPO, "SemEval2021/data/tsd_test.csv",
        "74f4dd086667fdad6198539ff9201d1f25f3a94c5169da1e7643a949974bf6b8", rows=1990, cut=10,
        sha256="47fd395f06dd739e1f5951cb8eca5c7cbd14b56b5160ac722935fdc37e1aa6fb",
    ),
)  # fmt: skip


def runs(places: Sequence[int]) -> list[list[int]]:
    """Character places as [start, end) pairs: [3, 4, 7] → [[3, 5], [7, 8]]."""
    out: list[list[int]] = []
    for place in sorted(set(places)):
        if out and place == out[-1][1]:
            out[-1][1] += 1
        else:
            out.append([place, place + 1])
    return out


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for file in FILES:
        part = file.path.removesuffix(".csv").rsplit("_", 1)[-1]
        for n, row in enumerate(read_csv(verified(data_dir, FILES, file.path))):
            spans = runs(json.loads(row["spans"]))
            samples.append(
                text_sample(
                    "toxic_spans", f"{part}-{n}", row["text"], unsafe=True if spans else None,
                    categories={"S2": "yes"} if spans else {}, spans=spans,
                )
            )  # fmt: skip
    return samples
