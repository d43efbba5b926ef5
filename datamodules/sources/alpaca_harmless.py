"""Alpaca, harmless part: 18,793 instructions.

Upstream: tatsu-lab/stanford_alpaca (CC-BY-NC-4.0), the split of andyrdt/refusal_direction. Citation: Taori, Gulrajani,
Zhang, Dubois, Li, Guestrin, Liang and Hashimoto (2023), "Stanford Alpaca: An Instruction-following LLaMA model".

Benign prompts, written by a model: safe as a whole under the default policy, no category annotated.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-NC-4.0"
PERMISSIVE = False
TARGET = "prompt"
REPO = Repo("andyrdt/refusal_direction", "9d852fae1a9121c78b29142de733cb1340770cc3")
FILES = (
    SourceFile(
        "text_benign/alpaca_harmless_NC/harmless_train.json", REPO, "dataset/splits/harmless_train.json",
        "86623b1f8a25aa35df153fc97a556dbcebb6a7c881538ae43ee479ca17f2e002", rows=18_793,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    rows = read_json(verified(data_dir, FILES))
    return [text_sample("alpaca_harmless", n, row["instruction"], unsafe=False) for n, row in enumerate(rows)]
