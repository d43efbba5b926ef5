"""What a model sees of a conversation that is too long for it, decided message by message.

What comes later changes nothing of what was read before, so a trajectory that is read as it grows and one that is read
whole are seen alike after each of their steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from datamodules.schema import MediaError, Sample
from zoo.core.backbones.cutting import cut_texts
from zoo.core.backbones.readers import plain_ids
from zoo.core.backbones.sources import ReadLimits

QUERY_WORDS = 64  # tokens of a query beside the policy's names


class Sight(NamedTuple):
    """What is in sight after so many messages: the first `head` and those from `start` on.

    `truncated` says that anything of the messages is not: cut from one of them, or one that is too old.
    """

    head: int
    start: int
    truncated: bool


@dataclass
class Window:
    """Messages of a conversation within `room` tokens: the head, and those from `start` on.

    The head is what stands before the agent's first message (the task, say), as far as it takes no more than half of
    the room; it always stays. When a message does not fit, the oldest of the others go until half of what the head
    leaves is free, or the new one alone is left.
    """

    room: int
    lengths: list[int] = field(default_factory=list)
    head: int = 0
    start: int = 0
    begun: bool = False

    def add(self, length: int, agent: bool) -> bool:
        """One more message of `length` tokens, the agent's or another's. Whether older ones went out of sight."""
        self.lengths.append(length)
        kept = sum(self.lengths[: self.head])
        if not self.begun and not agent and kept + length <= self.room // 2:
            self.head = self.start = len(self.lengths)
            return False
        self.begun = True
        first = self.start
        used = sum(self.lengths[self.start :])
        if kept + used > self.room:
            while self.start < len(self.lengths) - 1 and used > (self.room - kept) // 2:
                used -= self.lengths[self.start]
                self.start += 1
        return self.start > first

    @property
    def shown(self) -> list[int]:
        """The messages in sight, by number from 0."""
        return [*range(self.head), *range(self.start, len(self.lengths))]

    @property
    def tokens(self) -> int:
        return sum(self.lengths[i] for i in self.shown)


def grows(sample: Sample, limits: ReadLimits) -> bool:
    """Whether `sample` is read as a stream would have read it: a trajectory, with `limits.step_tokens` set."""
    return limits.step_tokens is not None and sample.target == "trajectory"


def message_limit(limits: ReadLimits) -> int:
    """Tokens of one message's texts where it is cut by itself: at most a quarter of the whole limit."""
    most = max(1, limits.text_tokens // 4)
    return most if limits.step_tokens is None else min(limits.step_tokens, most)


def content_ids(
    tokenizer: Any, sample: Sample, limits: ReadLimits, apart: bool
) -> tuple[list[list[list[int]]], list[bool]]:
    """Token ids of each message's texts, cut to the limits, and whether anything of the message was cut.

    Texts share `limits.text_tokens`; or each message is cut by itself (`apart`), whatever the others are.
    """
    ids = [[plain_ids(tokenizer, p.text or "") for p in m.content if p.type == "text"] for m in sample.messages]
    if apart:
        cut = [cut_texts(texts, message_limit(limits)) for texts in ids]
        return [texts for texts, _ in cut], [was for _, was in cut]
    flat, _ = cut_texts([t for texts in ids for t in texts], limits.text_tokens)
    left = iter(flat)
    out = [[next(left) for _ in texts] for texts in ids]
    return out, [sum(map(len, a)) < sum(map(len, b)) for a, b in zip(out, ids)]


def room(text_tokens: int, context: int | None, opening: int) -> int:
    """Tokens for messages after an opening of `opening` tokens, of a model that reads `context` tokens (None: any).

    A query takes no more than the opening, which has all names of the policy, and a few words. Raises `MediaError`
    where hardly any are left.
    """
    if context is None:
        return text_tokens
    free = context - 2 * opening - QUERY_WORDS
    if free < 4 * QUERY_WORDS:
        raise MediaError(
            f"the policy takes {opening} tokens, and the language model reads {context} with queries and steps: give a "
            "shorter policy"
        )
    return min(free, text_tokens)
