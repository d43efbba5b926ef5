"""BANKING77: 13,083 questions of bank customers in 77 intents, all benign.

Upstream: PolyAI-LDN/task-specific-datasets (CC-BY-4.0). Citation: Casanueva, Temčinas, Gerz, Henderson and Vulić
(2020), "Efficient Intent Detection with Dual Sentence Encoders".

Benign prompts: safe as a whole under the default policy, no category annotated. Stolen cards and lost money make them
look like fraud. Upstream's test file is kept as the test split.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, read_csv, text_sample

LICENCE = "CC-BY-4.0"
PERMISSIVE = True
TARGET = "prompt"


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing."""
    return [
        text_sample("banking77", f"{name}-{n}", row["text"], unsafe=False, split="test" if name == "test" else None)
        for name in ("train", "test")
        for n, row in enumerate(read_csv(locate(data_dir, "text_benign/banking77", f"{name}.csv")))
    ]
