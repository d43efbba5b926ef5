"""XSTest-Response: 442 answers of models to XSTest's prompts, 78 of them harmful.

Upstream: allenai/xstest-response (ODC-BY), here through yueliu1999/GuardReasoner, 4 rows cut. Citation: Han, Rao,
Ettinger, Jiang, Lin, Lambert, Choi and Dziri (2024), "WildGuard: Open One-Stop Moderation Tools for Safety Risks,
Jailbreaks, and Refusals of LLMs".

The label is about the RESPONSE. No category is known. The file beside it (0_7) labels the same answers as refusals or
not, which is no matter of safety: it is not read. For test only, as XSTest itself.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources import guardreasoner
from datamodules.sources.files import text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "ODC-BY-1.0"
PERMISSIVE = True
TARGET = "response"
EVAL_ONLY = True
REPO = Repo("yueliu1999/GuardReasoner", "bb7e686dc0535884d6994de5f950a072772e7fe2")
FILES = (
    SourceFile(
        "text/guardreasoner_bench/0_6_xstest_response_harmful.json", REPO,
        "data/benchmark/0_6_xstest_response_harmful.json",
        "c374802e7211650252d0ff71c518823e7d3ebbb0990b9093fa619e46c9709a5b", rows=442, cut=4,
        sha256="f583cd70502dd52ab1e7aaa869a85a22e56939134f7ff9812537907ba8e91ac0",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    rows = guardreasoner.rows(verified(data_dir, FILES), {"harmful": True, "unharmful": False})
    for n, (prompt, answer, unsafe) in enumerate(rows):
        samples.append(text_sample("xstest_responses", n, prompt, answer, unsafe=unsafe, split="test"))
    return samples
