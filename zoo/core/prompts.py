"""What a guard reads: the task, the policy, then the conversation with its media in place.

A prompt is a list of pieces. Which of them are the zoo's own and which came from outside stays visible to the backbone,
so that nothing a user types can become a delimiter.
"""

from __future__ import annotations

from dataclasses import dataclass

from datamodules.schema import Message, Part, Policy, Sample

TASKS = {
    "prompt": "Judge the user's last message by the policy.",
    "response": "Judge the assistant's last response by the policy.",
    "conversation": "Judge the whole conversation by the policy.",
    "trajectory": "Judge the agent's trajectory by the policy.",
}
SPEAKERS = {"user": "User: ", "assistant": "Assistant: ", "system": "System: ", "tool": "Tool: "}


@dataclass(frozen=True)
class Text:
    """`role` is template or speaker (the zoo's words), policy (the operator's) or content (anybody's)."""

    text: str
    role: str


@dataclass(frozen=True)
class Turn:
    """A delimiter of the chat template: inserted by token id, never made from text."""

    role: str
    start: bool


@dataclass(frozen=True)
class Media:
    """A picture, recording or clip; `number` counts its kind within the sample, from 1."""

    part: Part
    number: int


Piece = Text | Turn | Media
CLOSING: tuple[Piece, ...] = (Turn("user", False), Turn("assistant", True))


def render(sample: Sample, policy: Policy | None) -> list[Piece]:
    """The pieces of the prompt for `sample` under `policy`, in reading order."""
    return [piece for segment in segments(sample, policy) for piece in segment]


def segments(sample: Sample, policy: Policy | None) -> list[list[Piece]]:
    """The prompt in its parts: what opens it, each message, what closes it.

    The policy comes first, so that rows under one policy share a prefix. Without a policy nothing is to be judged, and
    the prompt is the conversation alone: a question that is to be answered (MuirBench's, say).
    """
    counts: dict[str, int] = {}
    return [opening(policy, sample.target), *(spoken(m, counts) for m in sample.messages), list(CLOSING)]


def opening(policy: Policy | None, target: str) -> list[Piece]:
    """What stands before the first message."""
    pieces: list[Piece] = []
    if policy is not None:
        pieces += [Turn("system", True), Text("Unsafe content:\n", "template")]
        for entry in policy.entries:
            pieces.append(Text(f"- {entry.name}", "policy"))
            if entry.description:
                pieces.append(Text(f": {entry.description}", "policy"))
            pieces.append(Text("\n", "template"))
        pieces += [Text(TASKS[target], "template"), Turn("system", False)]
    return [*pieces, Turn("user", True)]


def spoken(message: Message, counts: dict[str, int]) -> list[Piece]:
    """One message. `counts` numbers media by kind over the conversation, and goes on with this one's."""
    pieces: list[Piece] = [Text(SPEAKERS[message.role], "speaker")]
    for part in message.content:
        if part.type == "text":
            pieces.append(Text(part.text or "", "content"))
            continue
        counts[part.type] = counts.get(part.type, 0) + 1
        number = counts[part.type]
        pieces += [Text(f"{part.type.capitalize()} {number}: ", "template"), Media(part, number)]
    return [*pieces, Text("\n", "template")]
