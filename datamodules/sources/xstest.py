"""XSTest: 249 safe prompts that look unsafe and 199 unsafe contrasts of them.

Upstream: paul-rottger/exaggerated-safety (CC-BY-4.0), 2 of its 450 prompts cut from our copy.
Citation: Röttger, Kirk, Vidgen, Attanasio, Bianchi and Hovy (2024), "XSTest: A Test Suite for Identifying Exaggerated
Safety Behaviours in Large Language Models".

The label is about the prompt and binary; `type` names a linguistic device, not a harm, so no category is known.
For test only: the pairs differ by a word, and training on one half would give the other away.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, read_csv, text_sample

LICENCE = "CC-BY-4.0"
PERMISSIVE = True
TARGET = "prompt"
EVAL_ONLY = True


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing."""
    samples = []
    for row in read_csv(locate(data_dir, "text/xstest", "xstest_prompts.csv")):
        unsafe = row["label"] == "unsafe"
        meta = {"kind": row["type"]} if unsafe else {"kind": row["type"], "slice": "benign_contrast"}
        samples.append(text_sample("xstest", row["id"], row["prompt"], unsafe=unsafe, split="test", **meta))
    return samples
