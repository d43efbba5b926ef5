"""SimpleSafetyTests: 80 clearly unsafe prompts, written by hand.

Upstream: bertiev/SimpleSafetyTests (CC-BY-4.0), 20 of its 100 rows cut from our copy. Citation: Vidgen, Scherrer, Kirk,
Qian, Kannappan, Hale and Röttger (2023), "SimpleSafetyTests: a Test Suite for Identifying Critical Safety Risks in
Large Language Models".

The label is about the prompt, and all are unsafe. "Illegal and Highly Regulated items" holds drugs and guns (S1) beside
stolen goods and counterfeits (S3): a verdict and no category. Other categories are unknown.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-4.0"
PERMISSIVE = True
TARGET = "prompt"
CATEGORIES: dict[str, str | None] = {
    "Illegal and Highly Regulated items": None,
    "Physical harm and Violence": "S1",
    "Scams and fraud": "S3",
    "Suicide, Self-Harm, and Eating Disorders": "S8",
}
REPO = Repo("bertiev/SimpleSafetyTests", "d7aee9a9422a5a5488f478fd79c2479c891c0f3b")
FILES = (
    SourceFile(
        "text/simple_safety_tests/SimpleSafetyTests - test cases.csv", REPO, "SimpleSafetyTests - test cases.csv",
        "6d95a1301e0d0f3a3c4cf5392f4afff11ad6e3066f95d23aaa138d44aedf986c", rows=80, cut=20,
        sha256="52f2272791234ea31a2723f9060a08ad8f498c7de170971b3a45699ce6c76658",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for row in read_csv(verified(data_dir, FILES)):
        category = CATEGORIES[row["harm_area"]]
        samples.append(
            text_sample(
                "simple_safety_tests", row["id"], row["prompts_final"], unsafe=True,
                categories={category: "yes"} if category else {}, kind=row["harm_area"],
            )
        )  # fmt: skip
    return samples
