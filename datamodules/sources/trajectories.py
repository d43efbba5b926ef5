"""What the sources of agents' trajectories have in common: a trajectory is one sample, judged as a whole.

Who said what stays: the agent's instructions are `system`, the person is `user`, the agent `assistant`, and what a tool
or an environment returned `tool`. The last is untrusted text: it may hold an injected instruction. The label is about
what the agent did, so an injection that the agent did not follow is a safe trajectory.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from datamodules.schema import Message, Part, Sample
from datamodules.taxonomy import DEFAULT_POLICY

ROLES = {"user": "user", "agent": "assistant", "environment": "tool"}  # of R-Judge's format
Turn = tuple[str, "str | None"]  # role, text


def trajectory_sample(
    source: str,
    key: object,
    turns: Iterable[Turn],
    *,
    task: str,
    unsafe: bool,
    categories: dict[str, str] | None = None,
    critique: str | None = None,
    **meta: Any,
) -> Sample:
    """One trajectory. Turns without text are left out.

    `task` is what all variants of one task share (the person's request, a task's number): it makes the group, so that a
    split never parts them. S15 is yes or no as `unsafe` says; `categories` are those beyond it.
    """
    messages = tuple(Message(role, (Part("text", text=text.strip()),)) for role, text in turns if text and text.strip())
    return Sample(
        id=f"{source}-{key}",
        messages=messages,
        policy=DEFAULT_POLICY,
        target="trajectory",
        unsafe=unsafe,
        categories={"S15": "yes" if unsafe else "no", **(categories or {})},
        critique=critique,
        source=source,
        group=f"{source}-{hashlib.sha256(' '.join(task.lower().split()).encode()).hexdigest()[:16]}",
        meta=meta,
    )


def agent_turns(row: dict[str, Any]) -> Iterator[Turn]:
    """The turns of a row in R-Judge's format, which ASSEBench took over.

    `profile` is the agent's instruction; `contents` are sessions of turns by user, agent (`thought` and `action`) and
    environment.
    """
    yield "system", row["profile"]
    for session in row["contents"]:
        for turn in session:
            role = ROLES[turn["role"]]
            yield role, agent_text(turn["thought"], turn["action"]) if role == "assistant" else turn["content"]


def agent_text(thought: str | None, action: str | None) -> str:
    """ "Thought: …" and "Action: …", each on lines of its own; what is missing is left out."""
    named = (("Thought", thought), ("Action", action))
    return "\n".join(f"{name}: {text.strip()}" for name, text in named if text and text.strip())


def first_request(turns: Iterable[Turn]) -> str:
    """The first thing that was said after the agent's instructions: the person's request, where there is one."""
    return next(text for role, text in turns if role != "system" and text and text.strip())


def first_sentence(text: str) -> str:
    """`text` up to the end of its first sentence."""
    return re.split(r"(?<=[.?!])\s", text.strip(), maxsplit=1)[0]
