"""What was said in one attempt: exchanges of a prompt and a reply, and how each of them ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from datamodules.games import BLOCKED

OK, EMPTY, TOO_LONG = "ok", "empty", "too-long"
TIMED_OUT, ERROR = "timed-out", "victim-error"
STATUSES = (OK, EMPTY, TOO_LONG, TIMED_OUT, ERROR, BLOCKED)
ENDS = (TIMED_OUT, ERROR)  # without an answer there is nothing to go on from
REFUSAL = "I cannot help with that."  # what the attacker sees where a guard stops a prompt or a reply


@dataclass(frozen=True)
class Exchange:
    """One turn. `reply` is what the attacker sees: REFUSAL where `status` is blocked, "" where there is no answer.

    `detail` is the reason of a status, `score` the guard's P(unsafe) where one judged; `cut`: it read a part alone.
    """

    prompt: str
    reply: str
    status: str = OK
    detail: str = ""
    score: float | None = None
    cut: bool = False

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Exchange:
        return cls(**row)


def messages(exchanges: Sequence[Exchange], prompt: str | None = None) -> list[dict[str, str]]:
    """The chat so far, with the next `prompt` where given: what a victim and a guard read."""
    out = []
    for e in exchanges:
        out += [{"role": "user", "content": e.prompt}, {"role": "assistant", "content": e.reply}]
    return out if prompt is None else [*out, {"role": "user", "content": prompt}]


def lesson_of(outcome: str, exchanges: Sequence[Mapping[str, Any]]) -> str:
    """How an attempt without a success ended, for the attacker's next one; `exchanges` as a journal has them."""
    blocked = sum(e["status"] == BLOCKED for e in exchanges)
    stopped = f"; a guard stopped {blocked} of its {len(exchanges)} turns" if blocked else ""
    return f"no success: {outcome}{stopped}"


def turn_of(turn: int, turns: int) -> str:
    """The place of a turn (from 0 on) in a conversation, in words for an attacker."""
    return f"{turn + 1} of {turns}"
