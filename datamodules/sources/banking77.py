"""BANKING77: 13,083 questions of bank customers in 77 intents, all benign.

Upstream: PolyAI-LDN/task-specific-datasets (CC-BY-4.0). Citation: Casanueva, Temčinas, Gerz, Henderson and Vulić
(2020), "Efficient Intent Detection with Dual Sentence Encoders".

Benign prompts: safe as a whole under the default policy, no category annotated. Stolen cards and lost money make them
look like fraud. Upstream's test file is kept as the test split.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-4.0"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("PolyAI-LDN/task-specific-datasets", "57ec275d8078af65b7731c2a98be812d844a6d6b")
FILES = (
    SourceFile(
        "text_benign/banking77/train.csv", REPO, "banking_data/train.csv",
        "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b", rows=10_003,
    ),
    SourceFile(
        "text_benign/banking77/test.csv", REPO, "banking_data/test.csv",
        "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d", rows=3080,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    return [
        text_sample("banking77", f"{name}-{n}", row["text"], unsafe=False, split="test" if name == "test" else None)
        for name in ("train", "test")
        for n, row in enumerate(read_csv(verified(data_dir, FILES, f"{name}.csv")))
    ]
