"""SafeRLHF test rows: 1,989 question-answer pairs, 995 of the answers harmful.

Upstream: PKU-Alignment/PKU-SafeRLHF (CC-BY-NC-4.0), here through yueliu1999/GuardReasoner, 11 rows cut. Citation: Dai,
Pan, Sun, Ji, Xu, Liu, Wang and Yang (2024), "Safe RLHF: Safe Reinforcement Learning from Human Feedback".

The label is about the RESPONSE, by people; this copy names no category. The questions come from the pool that
BeaverTails was made from: one question has several answers, and it is the group.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources import guardreasoner
from datamodules.sources.files import text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-NC-4.0"
PERMISSIVE = False
TARGET = "response"
REPO = Repo("yueliu1999/GuardReasoner", "bb7e686dc0535884d6994de5f950a072772e7fe2")
FILES = (
    SourceFile(
        "text/guardreasoner_bench/0_9_safe_rlhf.json", REPO, "data/benchmark/0_9_safe_rlhf.json",
        "c57b79bbe3c38f6b48a8d776bd86c3b0c0ced7072ad4e19859c17cb5880ea47e", rows=1989, cut=11,
        sha256="05896bd1e7e840adca55aeed81c5b5bd4dbb7d7ccb2e32d0a11957bec3542991",
    ),
)  # fmt: skip
# The other two tasks of the instruction are not labelled in these rows.
_OUTPUT = "Answers: \nRequest: None\nCompletion: None\nResponse: "


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    labels = {_OUTPUT + "harmful": True, _OUTPUT + "unharmful": False}
    samples = []
    for n, (question, answer, unsafe) in enumerate(guardreasoner.rows(verified(data_dir, FILES), labels)):
        group = hashlib.sha256(question.lower().encode()).hexdigest()[:16]
        samples.append(text_sample("safe_rlhf", n, question, answer, unsafe=unsafe, group=group))
    return samples
