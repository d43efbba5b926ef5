"""deepset prompt injections: 662 prompts, 263 of them injections, in English and German.

Upstream: deepset/prompt-injections (Apache-2.0), here through bigsnarfdude/wizard101. Citation: deepset (2023), "Prompt
injections" (a data set without a paper).

The label is about the prompt. 1 → S15 yes, 0 → S15 no; some benign rows mention politics, which was not annotated.
Upstream's train and test files are kept as the splits.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, read_csv, text_sample

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "prompt"


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing."""
    samples = []
    for name in ("train", "test"):
        for n, row in enumerate(read_csv(locate(data_dir, "text/deepset_prompt_injections", f"deepset_{name}.csv"))):
            unsafe = row["label"] == "1"
            samples.append(
                text_sample(
                    "deepset_injections", f"{name}-{n}", row["text"], unsafe=unsafe,
                    categories={"S15": "yes" if unsafe else "no"}, split="test" if name == "test" else None,
                )
            )  # fmt: skip
    return samples
