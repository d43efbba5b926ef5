"""ASSEBench, security part: 676 agent trajectories, 382 of them judged unsafe by people.

Upstream: Astarojth/AgentAuditor-ASSEBench (Apache-2.0). Citation: Luo et al. (2025), "AgentAuditor: Human-Level
Safety and Security Evaluation for LLM Agents".

The label is about the TRAJECTORY: 1 → S15 yes, 0 → S15 no. `risk_type` and `failure_mode` name what was looked for, in
safe rows too, so they give a further category to unsafe rows only: leaks → S11, fraud → S3, unauthorised access and
malicious code → S14, inaccurate information → S7. `risk_description`, the reason for the label, is the critique.
`ambiguous` marks rows on which a strict and a lenient reader differ.

Traps, all seen to here:
- 141 of the 817 rows (114 safe) are requests of AgentHarm, an evaluation set that nothing may be trained on. They are
  the rows with AgentHarm's system prompt. They are left out, and counted in `dropped`.
- In all of the other unsafe rows, and in no safe one, a simulated tool answers "You have used the attacker tool X. You
  have achieved the attacker goal: Successfully …", which no real tool says: the label in words. It is put as the
  answers of the other tools are: "You have successfully …". What remains telling is the attack itself: 216 of the
  unsafe rows and no safe one have a trigger phrase in the request.
- What the agent is said to think, "[Observation]: The knowledge I get from …", is a tool's output, and becomes one.
- The 676 rows are variants of 20 requests (12 to 82 of each), attacked in different ways: the request is the group.
- In 60 safe rows the agent's model was not available ("STATUS error 500"): it did nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.schema import Sample
from datamodules.sources.files import read_json
from datamodules.sources.record import Repo, SourceFile, verified
from datamodules.sources.trajectories import Turn, agent_turns, first_request, first_sentence, trajectory_sample

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "trajectory"
REPO = Repo("Astarojth/AgentAuditor-ASSEBench", "e2b78359cca778fde28f626c3722cbfcea1f4208")
FILES = (
    SourceFile(
        "agent/assebench_security/AgentJudge-security.json", REPO, "ASSEBench/dataset/AgentJudge-security.json",
        "4db9e5c976d0ed35f11b97afcd697259b4954e776777c150f03b3cab5ba31a57", rows=817,
    ),
)  # fmt: skip
RISKS = {
    "Data Exfiltration & Leakage": "S11",
    "Fraud & Credential Abuse": "S3",
    "Unauthorized Access & Control": "S14",
}
FAILURES = {
    "Disclosed/shared sensitive information without authorization.": "S11",
    "Generated/executed unsafe or malicious code/script.": "S14",
    "Provided inaccurate or misleading information.": "S7",
}
AGENTHARM = "You are a helpful LLM agent that calls all necessary tools"  # how its system prompt begins
_GIVEAWAY = re.compile(r"You have used the attacker tool [^.]*\. You have achieved the attacker goal: Successfully ")
_OBSERVATION = "[Observation]:"


def load(data_dir: Path, dropped: Counter | None = None) -> list[Sample]:
    """The samples; rows that are left out are counted in `dropped`, by reason.

    Raises `DataError` when the file is missing or another one.
    """
    dropped = Counter() if dropped is None else dropped
    samples = []
    for row in read_json(verified(data_dir, FILES)):
        if row["profile"].startswith(AGENTHARM):
            dropped["request of AgentHarm: for evaluation only"] += 1
        else:
            samples.append(_sample(row))
    return samples


def _sample(row: dict[str, Any]) -> Sample:
    unsafe = row["label"] == 1
    further = {RISKS.get(row["risk_type"]), FAILURES.get(row["failure_mode"])} - {None} if unsafe else set()
    turns = list(_turns(row))
    return trajectory_sample(
        "assebench", row["id"], turns,
        task=f"{row['profile']} {first_sentence(first_request(turns))}",
        unsafe=unsafe, categories={str(id): "yes" for id in sorted(map(str, further))},
        critique=row["risk_description"], kind=row["risk_type"], failure=row["failure_mode"],
        ambiguous=row["ambiguous"] == 1,
    )  # fmt: skip


def _turns(row: dict[str, Any]) -> Iterator[Turn]:
    """The row's turns, with each observation as the tool's answer to the action that it came with."""
    for role, text in agent_turns(row):
        text = _GIVEAWAY.sub("You have successfully ", text or "")
        thought, found, action = text.removeprefix("Thought: ").partition("\nAction: ")
        if role == "assistant" and thought.startswith(_OBSERVATION):
            yield "assistant", f"Action: {action}" if found else None
            yield "tool", thought.removeprefix(_OBSERVATION)
        else:
            yield role, text
