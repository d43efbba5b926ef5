"""Aegis test set: 359 prompts to a chat service, 232 of them harmful, labelled by trained annotators.

Upstream: nvidia/Aegis-AI-Content-Safety-Dataset-1.0 (CC-BY-4.0), here through yueliu1999/GuardReasoner (which states no
licence of its own). Citation: Ghosh, Varshney, Galinkin and Parisien (2024), "AEGIS: Online Adaptive AI Content Safety
Moderation with Ensemble of LLM Experts".

The label is about the prompt. Upstream annotates 13 risks, but this copy has the verdict alone: no category is known.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources import guardreasoner
from datamodules.sources.files import text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-4.0"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("yueliu1999/GuardReasoner", "bb7e686dc0535884d6994de5f950a072772e7fe2")
FILES = (
    SourceFile(
        "text/guardreasoner_bench/0_1_AegisSafetyTest.json", REPO, "data/benchmark/0_1_AegisSafetyTest.json",
        "29b77db427a683103aa58b633b9118314debd96be2659cbac9234f2352e85bd1", rows=359,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    rows = guardreasoner.rows(verified(data_dir, FILES), {"harmful": True, "unharmful": False})
    return [text_sample("aegis", n, prompt, unsafe=unsafe) for n, (prompt, _, unsafe) in enumerate(rows)]
