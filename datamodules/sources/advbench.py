"""AdvBench: 514 harmful requests, written by a model.

Upstream: llm-attacks/llm-attacks (MIT), here through busycalibrating/AdversariaLLM, 6 rows cut. Citation: Zou, Wang,
Carlini, Nasr, Kolter and Fredrikson (2023), "Universal and Transferable Adversarial Attacks on Aligned Language
Models".

The label is about the prompt, and all are harmful. No category was annotated.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("busycalibrating/AdversariaLLM", "f970939273ea17b491fadf6001fddc36ed3ae3ff")
FILES = (
    SourceFile(
        "text/advbench/advbench_behaviors.csv", REPO,
        "data/behavior_datasets/extra_behavior_datasets/advbench_behaviors.csv",
        "0e635254df9065ae6f8d074534b660fa7a361d1ad269e2c8e1b7377961802a86", rows=514, cut=6,
        sha256="fcf402825e2fe267c694a3d0c876fdb31b445eced2f2aa37204a6fe554fa888e",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    rows = read_csv(verified(data_dir, FILES))
    return [text_sample("advbench", row["BehaviorID"], row["Behavior"], unsafe=True) for row in rows]
