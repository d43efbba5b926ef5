"""HarmBench responses: 599 answers of attacked models to HarmBench's behaviours, 272 of them harmful.

Upstream: the human-labelled classifier test of centerforaisafety/HarmBench (MIT), here through
yueliu1999/GuardReasoner, 3 rows cut. Citation: Mazeika, Phan, Yin, Zou, Wang, Mu, Sakhaee, Li, Basart, Li, Forsyth and
Hendrycks (2024), "HarmBench: A Standardized Evaluation Framework for Automated Red Teaming and Robust Refusal".

The label is about the RESPONSE. This copy names no category.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources import guardreasoner
from datamodules.sources.files import text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "response"
REPO = Repo("yueliu1999/GuardReasoner", "bb7e686dc0535884d6994de5f950a072772e7fe2")
FILES = (
    SourceFile(
        "text/guardreasoner_bench/0_5_harmbench_response.json", REPO, "data/benchmark/0_5_harmbench_response.json",
        "a54573438606b19e7d4183e71c303412bc0f0143b704c393e0ffa3b9ab75d972", rows=599, cut=3,
        sha256="d8aa36a8dc58563efcff89e13cb70b2ce20f897e6faaf4f14665e41bf63de033",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    rows = guardreasoner.rows(verified(data_dir, FILES), {"harmful": True, "unharmful": False})
    for n, (prompt, answer, unsafe) in enumerate(rows):
        samples.append(text_sample("harmbench_responses", n, prompt, answer, unsafe=unsafe))
    return samples
