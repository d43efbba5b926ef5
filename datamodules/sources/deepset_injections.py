"""deepset prompt injections: 662 prompts, 263 of them injections, in English and German.

Upstream: deepset/prompt-injections (Apache-2.0), here through bigsnarfdude/wizard101. Citation: deepset (2023), "Prompt
injections" (a data set without a paper).

The label is about the prompt. 1 → S15 yes, 0 → S15 no; some benign rows mention politics, which was not annotated.
Upstream's train and test files are kept as the splits.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("bigsnarfdude/wizard101", "46c3ee4494aa2651232857ba365245443b3e6fa1")
FILES = (
    SourceFile(
        "text/deepset_prompt_injections/deepset_train.csv", REPO, "cascade_quarantine/data/raw/deepset_train.csv",
        "4cba9fb9876c13ebfb126db825694f00a42eda3fc5be9ca537d48dc3d51724bd", rows=546,
    ),
    SourceFile(
        "text/deepset_prompt_injections/deepset_test.csv", REPO, "cascade_quarantine/data/raw/deepset_test.csv",
        "22d53c822b479dd46c6ee2617a026a1f82e1190830d628d832cf9a28fcf5e6da", rows=116,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for name in ("train", "test"):
        for n, row in enumerate(read_csv(verified(data_dir, FILES, f"deepset_{name}.csv"))):
            unsafe = row["label"] == "1"
            samples.append(
                text_sample(
                    "deepset_injections", f"{name}-{n}", row["text"], unsafe=unsafe,
                    categories={"S15": "yes" if unsafe else "no"}, split="test" if name == "test" else None,
                )
            )  # fmt: skip
    return samples
