"""GSM8K test set: 1,319 word problems of school mathematics.

Upstream: openai/grade-school-math (MIT). Citation: Cobbe, Kosaraju, Bavarian, Chen, Jun, Kaiser, Plappert, Tworek,
Hilton, Nakano, Hesse and Schulman (2021), "Training Verifiers to Solve Math Word Problems".

Benign prompts: safe as a whole under the default policy, no category annotated.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_jsonl, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("openai/grade-school-math", "3101c7d5072418e28b9008a6636bde82a006892c")
FILES = (
    SourceFile(
        "text_benign/gsm8k_test/test.jsonl", REPO, "grade_school_math/data/test.jsonl",
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14", rows=1319,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    rows = read_jsonl(verified(data_dir, FILES))
    return [text_sample("gsm8k", n, row["question"], unsafe=False) for n, row in enumerate(rows)]
