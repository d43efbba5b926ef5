"""tau-bench: two written policies (airline, retail), 200 runs of an agent under the first, 88 conversations shown as
examples.

Upstream: sierra-research/tau-bench (MIT). Citation: Yao, Shinn, Razavi and Narasimhan (2024), "tau-bench: A Benchmark
for Tool-Agent-User Interaction in Real-World Domains".

No run has a label: `reward` 0 says that the database ended in another state than expected, which is not the same as a
broken rule, and reward 1 is no proof that none was. It stands in `meta`. The example conversations lack the names of
the tools that were called ("assistant: None"): these steps are calls without a target.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from datamodules.sources.files import read_json, read_jsonl
from datamodules.sources.record import Repo, SourceFile, verified
from datamodules.trajectory import Step, Trajectory, to_sample

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "trajectory"
REPO = Repo("sierra-research/tau-bench", "59a200c6d575d595120f1cb70fea53cef0632f6b")
FILES = (
    SourceFile(
        "agent/tau_bench/gpt-4o-airline.json", REPO, "historical_trajectories/gpt-4o-airline.json",
        "e9e6c0297660c537f83d4fd9c476ce7a9a86ecd2784874b7bfc13be598e37bfa", rows=200,
    ),
    SourceFile(
        "agent/tau_bench/airline/wiki.md", REPO, "tau_bench/envs/airline/wiki.md",
        "56c335801c16e26b54f600f9db99eb04d31db477e86eb160341d5c66b796c5c8", rows=1,
    ),
    SourceFile(
        "agent/tau_bench/retail/wiki.md", REPO, "tau_bench/envs/retail/wiki.md",
        "d539fd2a46a8b8dd2e934ff9ed92f43e9f6b56bc7a718db8d2803ba8ad8f6bf7", rows=1,
    ),
    SourceFile(
        "agent/tau_bench/MockAirlineDomainEnv-few_shot.jsonl", REPO,
        "few_shot_data/MockAirlineDomainEnv-few_shot.jsonl",
        "7b14cd22355cd8245662e6d2b54e5dcad7e7e7e14f2e2e009a5649f915d9ac11", rows=19,
    ),
    SourceFile(
        "agent/tau_bench/MockRetailDomainEnv-few_shot.jsonl", REPO, "few_shot_data/MockRetailDomainEnv-few_shot.jsonl",
        "091066a735d3d2605441764e0a2c6dcc93fb6595b400ff5e354416e6c8ba4a3a", rows=69,
    ),
)  # fmt: skip
DOMAINS = ("airline", "retail")
_SPEAKER = re.compile(r"^(user|assistant|tool): ", re.MULTILINE)


def load_policies(data_dir: Path) -> dict[str, Policy]:
    """Domain → its written policy, a rule a bullet point; points below a point belong to it.

    Raises `DataError` when a file is missing or another one.
    """
    out = {}
    for domain in DOMAINS:
        points: list[str] = []
        text = verified(data_dir, FILES, f"{domain}/wiki.md").read_text(encoding="utf-8")
        for line in text.splitlines():
            if line.startswith("- "):
                points.append(line[2:].strip())
            elif line.startswith("  - "):
                points[-1] += " " + line[4:].strip()
        named = dict.fromkeys(points)
        out[domain] = Policy(
            f"tau-bench {domain}", tuple(PolicyEntry(f"{domain}-{n}", p) for n, p in enumerate(named, 1))
        )
    return out


def load(data_dir: Path) -> list[Sample]:
    """The runs under their domain's policy, without labels. Raises `DataError` when a file is missing or changed."""
    policies = load_policies(data_dir)
    out = []
    for row in read_json(verified(data_dir, FILES, "gpt-4o-airline.json")):
        run = _run(f"tau-airline-{row['task_id']}-{row['trial']}", "airline", _messages(row["traj"]))
        out.append(
            to_sample(
                run, policies["airline"], {}, source="tau_bench", group=f"tau-airline-{row['task_id']}",
                kind="run", reward=float(row["reward"]),
            )
        )  # fmt: skip
    for domain in DOMAINS:
        rows = read_jsonl(verified(data_dir, FILES, f"Mock{domain.capitalize()}DomainEnv-few_shot.jsonl"))
        for n, row in enumerate(rows):
            run = _run(f"tau-{domain}-example-{n}", domain, _displayed(row["messages_display"]))
            out.append(to_sample(run, policies[domain], {}, source="tau_bench", kind="example"))
    return out


Said = tuple[str, str, "str | None", "str | None"]  # speaker, text, and of a call its tool and its arguments


def _messages(rows: list[dict[str, Any]]) -> Iterator[Said]:
    for row in rows:
        if row["role"] == "assistant" and row.get("tool_calls"):
            for call in row["tool_calls"]:
                yield (
                    "assistant",
                    row["content"] or "",
                    call["function"]["name"],
                    arguments(call["function"]["arguments"]),
                )
        elif row["role"] != "system":
            yield row["role"], row["content"] or "", None, None


def _displayed(text: str) -> Iterator[Said]:
    parts = _SPEAKER.split(text)[1:]
    for speaker, said in zip(parts[::2], parts[1::2]):
        silent = speaker == "assistant" and said.strip() == "None"
        yield speaker, "" if silent else said.strip(), "" if silent else None, None


def arguments(text: str) -> str | None:
    """A call's JSON arguments as `name: value, …`; what is no JSON object stays as it is; none is None."""
    try:
        given = json.loads(text)
    except json.JSONDecodeError:
        return text
    if not isinstance(given, dict):
        return text
    said = (v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in given.values())
    return ", ".join(f"{k}: {v}" for k, v in zip(given, said)) or None


def _run(id: str, domain: str, said: Iterator[Said]) -> Trajectory:
    """The first thing that the user says is the task; each later one, and each tool's output, is what came back."""
    task: str | None = None
    steps: list[Step] = []
    for speaker, text, tool, args in said:
        if speaker == "assistant":
            if text:
                steps.append(Step("say", "", text))
            if tool is not None:
                steps.append(Step("call", tool, args))
        elif task is None and speaker == "user":
            task = text
        elif not steps or steps[-1].observation is not None:
            raise DataError(f"{id}: a {speaker} speaks twice, or before anything was done")
        else:
            last = steps.pop()
            steps.append(Step(last.verb, last.target, last.value, text))
    return Trajectory(id, task or "", domain, "", tuple(steps))
