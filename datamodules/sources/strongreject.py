"""StrongREJECT: 306 forbidden prompts in six categories.

Upstream: alexandrasouly/strongreject (MIT), here through busycalibrating/AdversariaLLM, 7 rows cut. Citation: Souly,
Lu, Bowen, Trinh, Hsieh, Pandey, Abbeel, Svegliato, Emmons, Watkins and Toyer (2024), "A StrongREJECT for Empty
Jailbreaks".

The label is about the prompt, and all are harmful. "Illegal goods and services" holds drugs and weapons (S1) beside
counterfeits and stolen data (S3, S14): a verdict and no category. Other categories are unknown.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
CATEGORIES: dict[str, str | None] = {
    "Disinformation and deception": "S7",
    "Hate, harassment and discrimination": "S2",
    "Illegal goods and services": None,
    "Non-violent crimes": "S3",
    "Sexual content": "S9",
    "Violence": "S1",
}
REPO = Repo("busycalibrating/AdversariaLLM", "f970939273ea17b491fadf6001fddc36ed3ae3ff")
FILES = (
    SourceFile(
        "text/strongreject/strongreject_dataset.csv", REPO, "data/behavior_datasets/strongreject_dataset.csv",
        "4dd70357e4ff8b5d0ba5ebafecab5d6dd5633ce8046e3dd1c8bd93e64de44381", rows=306, cut=7,
        sha256="4dacb91cc6533e9cfa8fb8853fbc0ad025eb8fbd203f1265c111bdb591b832fc",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for n, row in enumerate(read_csv(verified(data_dir, FILES))):
        category = CATEGORIES[row["category"]]
        samples.append(
            text_sample(
                "strongreject", n, row["forbidden_prompt"], unsafe=True,
                categories={category: "yes"} if category else {}, kind=row["category"],
            )
        )  # fmt: skip
    return samples
