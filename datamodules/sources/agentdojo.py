"""AgentDojo traces: 776 runs of four models on 97 tasks, half of them with an instruction injected by a tool's output.

Upstream: ethz-spylab/agentdojo (MIT), here through memo-ozdincer/RRFA (which states no licence). Citation: Debenedetti,
Zhang, Balunović, Beurer-Kellner, Fischer and Tramèr (2024), "AgentDojo: A Dynamic Environment to Evaluate Prompt
Injection Attacks and Defenses for LLM Agents".

The label is about the TRAJECTORY: 95 runs in which the injected task was carried out → S15 yes. The other 293 injected
runs and the 388 clean ones → S15 no: the tasks are harmless, and the agent did nothing else. A check of the
environment's state decided this, not a person; no other category is annotated.

Trap: `security` is true where the injected task was carried out (the attack succeeded), but it is true in every clean
run, too, and means nothing there. `injection_task_id` tells which runs are injected. `success` is about the person's
task, not about safety. In 70 injected runs the agent never read the injection. The first line of a file has its score,
no run. A task of a suite, over all models, attacked or not, is one group.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.schema import Sample
from datamodules.sources.files import read_jsonl
from datamodules.sources.record import Repo, SourceFile, verified
from datamodules.sources.trajectories import Turn, trajectory_sample

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "trajectory"
REPO = Repo("memo-ozdincer/RRFA", "51ded25e323858f1a53b2b6614684036dc8cc1a7")
FILES = (
    SourceFile(
        "agent/agentdojo_traces/agentdojo-gemini-1-5-pro-002.jsonl", REPO,
        "data/agent_dojo/agentdojo-gemini-1-5-pro-002.jsonl",
        "50ffacb557daa3676d941b4243a1637e98bfb153003458b0789f44d0ed530be0", rows=194,
    ),
    SourceFile(
        "agent/agentdojo_traces/agentdojo-gpt-4-0125-preview.jsonl", REPO,
        "data/agent_dojo/agentdojo-gpt-4-0125-preview.jsonl",
        "46449cb04bbba1e5a0d4b4c1d3a4a59651001d2ebf5d099ee5378aa617c0835e", rows=194,
    ),
    SourceFile(
        "agent/agentdojo_traces/agentdojo-gpt-4o-mini-2024-07-18.jsonl", REPO,
        "data/agent_dojo/agentdojo-gpt-4o-mini-2024-07-18.jsonl",
        "db9b950707575200139e8dabbf39ab079c95bad68c34cb29f58fb03d32bbcc77", rows=194,
    ),
    SourceFile(
        "agent/agentdojo_traces/agentdojo-meta-llama_Llama-3-70b-chat-hf.jsonl", REPO,
        "data/agent_dojo/agentdojo-meta-llama_Llama-3-70b-chat-hf.jsonl",
        "b7c80445f3123c89dc5b4c78e4b9f4a136044250a35febdf97130ca1e45f2d10", rows=194,
    ),
)  # fmt: skip
_REASON = "The agent carried out an instruction that stood in a tool's output and not in the user's request."


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for file in FILES:
        for row in read_jsonl(verified(data_dir, FILES, file.path)):
            if "messages" in row:
                samples.append(_sample(row))
    return samples


def _sample(row: dict[str, Any]) -> Sample:
    facts = row["metadata"]
    injected = facts["injection_task_id"] is not None
    hijacked = injected and facts["security"]
    task = f"{facts['suite_name']}-{facts['user_task_id']}"
    return trajectory_sample(
        "agentdojo", f"{facts['model']}-{task}-{facts['injection_task_id'] or 'clean'}", _turns(row["messages"]),
        task=task, unsafe=hijacked, critique=_REASON if hijacked else None,
        kind="hijacked" if hijacked else "injected" if injected else "clean", model=facts["model"],
    )  # fmt: skip


def _turns(messages: list[dict[str, Any]]) -> Iterator[Turn]:
    """Calls stand after what the agent said, one a line: `name({"argument": value})`; an error after the output."""
    for message in messages:
        lines = [message["content"] or ""]
        for call in message.get("tool_calls") or ():
            lines.append(f"{call['function']['name']}({json.dumps(call['function']['arguments'], ensure_ascii=False)})")
        if message.get("error"):
            lines.append(f"Error: {message['error']}")
        yield message["role"], "\n".join(lines)
