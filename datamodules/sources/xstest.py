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
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-4.0"
PERMISSIVE = True
TARGET = "prompt"
EVAL_ONLY = True
REPO = Repo("paul-rottger/exaggerated-safety", "d7bb5bd738c1fcbc36edd83d5e7d1b71a3e2d84d")
FILES = (
    SourceFile(
        "text/xstest/xstest_prompts.csv", REPO, "xstest_prompts.csv",
        "11783fb294ed017473ee53c207d71f2161c7672c8d0b037501e78387f801cb5a", rows=448, cut=2,
        sha256="0c03d5a94460432a863bfb8be746f0f5acb1fb163c74d64c8c1bf7c2ae7015ed",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for row in read_csv(verified(data_dir, FILES)):
        unsafe = row["label"] == "unsafe"
        meta = {"kind": row["type"]} if unsafe else {"kind": row["type"], "slice": "benign_contrast"}
        samples.append(text_sample("xstest", row["id"], row["prompt"], unsafe=unsafe, split="test", **meta))
    return samples
