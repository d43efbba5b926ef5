"""R-Judge: 564 agent trajectories, 298 of them judged unsafe by people.

Upstream: Lordog/R-Judge, here through Astarojth/AgentAuditor-ASSEBench (Apache-2.0; R-Judge's own licence was not
verified). Citation: Yuan, He, Dong, Wang, Zhao, Xia, Xu, Zhou, Li, Zhang, Wang and Liu (2024), "R-Judge: Benchmarking
Safety Risk Awareness for LLM Agents".

The label is about the TRAJECTORY: 1 → S15 yes, 0 → S15 no. Of the 414 rows with an instruction that a tool's output
injects 214 are safe, because the agent did not follow it. No other category is annotated. `risk_description` is a
person's reason for the label: it is the critique, and never part of the messages. `goal`, the same question to a judge
in every row, is left out.

Traps: 14 rows have no request and 125 tools returned nothing (null, left out). One request with many injections is many
rows (97 about one laptop): the request is the group. Three pairs have the same trajectory twice.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json
from datamodules.sources.record import Repo, SourceFile, verified
from datamodules.sources.trajectories import agent_turns, first_request, trajectory_sample

LICENCE = "not verified (mirror: Apache-2.0)"
PERMISSIVE = False
TARGET = "trajectory"
REPO = Repo("Astarojth/AgentAuditor-ASSEBench", "e2b78359cca778fde28f626c3722cbfcea1f4208")
FILES = (
    SourceFile(
        "agent/rjudge/rjudge.json", REPO, "AgentAuditor/data/rjudge.json",
        "523efcafdb167c8d3ed03aebc196e662f42b75c76eef622dfd32cee9a35ebbca", rows=564,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for row in read_json(verified(data_dir, FILES)):
        turns = list(agent_turns(row))
        samples.append(
            trajectory_sample(
                "rjudge", row["id"], turns, task=first_request(turns), unsafe=row["label"] == 1,
                critique=row["risk_description"], kind=row["scenario"] or "injection",
            )
        )  # fmt: skip
    return samples
