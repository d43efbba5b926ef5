"""Davidson et al.: 24,712 posts labelled hate, offensive or neither by crowd workers.

Upstream: t-davidson/hate-speech-and-offensive-language (MIT), 71 rows cut from our copy. Citation: Davidson, Warmsley,
Macy and Weber (2017), "Automated Hate Speech Detection and the Problem of Offensive Language".

The label is about the prompt (the post). Map: class 0 (hate) and 1 (offensive) → S2 yes, since S2 holds hate and toxic
abuse alike; 2 (neither) → S2 no. Nothing else was annotated. Known fault: posts in African American English are
labelled offensive more often than they should be.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("t-davidson/hate-speech-and-offensive-language", "cb50f7e9eb855a99abc51423bf40df0e26d6fe30")
FILES = (
    SourceFile(
        "text/davidson_hate/labeled_data.csv", REPO, "data/labeled_data.csv",
        "fcb8bc7c68120ae4af04a5b9acd58585513ede11e1548ebf36a5c2040b6f6281", rows=24_712, cut=71,
        sha256="870d7809f5e5a54958100e1348c19f20333c8466d6746e6655491f554229db96",
    ),
)  # fmt: skip
CLASSES = {"0": "hate", "1": "offensive", "2": "neither"}


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for n, row in enumerate(read_csv(verified(data_dir, FILES))):
        unsafe = CLASSES[row["class"]] != "neither"
        samples.append(
            text_sample(
                "davidson_hate", n, row["tweet"], unsafe=unsafe, categories={"S2": "yes" if unsafe else "no"},
                kind=CLASSES[row["class"]],
            )
        )  # fmt: skip
    return samples
