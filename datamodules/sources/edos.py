"""EDOS: 19,680 English posts, 4,800 of them sexist, in four categories and eleven kinds.

Upstream: rewire-online/edos (CC0-1.0), 320 rows cut from our copy. Citation: Kirk, Yin, Vidgen and Röttger (2023),
"SemEval-2023 Task 10: Explainable Detection of Online Sexism".

The label is about the prompt (the post). Map: sexist → S2 yes; threats and incitement of harm → S1 yes too. A post that
is not sexist may be hateful in another way, which was not annotated (they come from the same forums): no label at all.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC0-1.0"
PERMISSIVE = True
TARGET = "prompt"
CATEGORIES = {
    "none": {},
    "1. threats, plans to harm and incitement": {"S1": "yes", "S2": "yes"},
    "2. derogation": {"S2": "yes"},
    "3. animosity": {"S2": "yes"},
    "4. prejudiced discussions": {"S2": "yes"},
}
REPO = Repo("rewire-online/edos", "b1f1fbcca9d42de0395432ada8fcfb5c35f68c77")
FILES = (
    SourceFile(
        "text/edos/edos_labelled_aggregated.csv", REPO, "data/edos_labelled_aggregated.csv",
        "607bdbb766e1803a28f0eb8fc21c14b6b9dfa20039f726ba6767438584b47f9b", rows=19_680, cut=320,
        sha256="1651b07455df9e13913be4270d7febc5d7411f3ecf613abc733036c35853e74f",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for row in read_csv(verified(data_dir, FILES)):
        categories = CATEGORIES[row["label_category"]]
        samples.append(
            text_sample(
                "edos", row["rewire_id"].rsplit("-", 1)[-1], row["text"], unsafe=True if categories else None,
                categories=categories, kind=row["label_vector"],
            )
        )  # fmt: skip
    return samples
