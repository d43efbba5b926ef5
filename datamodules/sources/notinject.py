"""NotInject: 339 benign prompts built around words that injections use ("ignore", "system", …).

Upstream: leolee99/PIGuard (MIT). Citation: Li and Liu (2024), "InjecGuard: Benchmarking and Mitigating Over-defense in
Prompt Injection Guardrail Models".

The label is about the prompt: none of them is an injection, so S15 is no. For test only, as a false-positive rate. The
folder's `valid.json` repeats 48 of these rows beside other sets' and is not read.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, read_json, text_sample

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
EVAL_ONLY = True


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing."""
    samples = []
    for words in ("one", "two", "three"):
        rows = read_json(locate(data_dir, "text/piguard_notinject", f"NotInject_{words}.json"))
        for n, row in enumerate(rows):
            samples.append(
                text_sample(
                    "notinject", f"{words}-{n}", row["prompt"], unsafe=False, categories={"S15": "no"}, split="test",
                    kind=row["category"], slice="benign_contrast",
                )
            )  # fmt: skip
    return samples
