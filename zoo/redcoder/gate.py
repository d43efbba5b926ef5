"""A guard in front of a victim: any guard of the zoo, over the prompt alone or over the conversation so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.schema import DataError, Message, Part, Policy, Sample
from zoo.core.guard import Guard
from zoo.redcoder.conversation import Exchange, messages

SCOPES = ("turn", "conversation")
JUDGED = ("prompt", "reply", "both")


@dataclass(frozen=True)
class Judgement:
    flagged: bool
    score: float  # P(unsafe)
    truncated: bool = False  # text over the guard's limit was cut before it was read


class Gate:
    """`scope` turn: the guard sees the new message alone; conversation: all of it. `judges` says what it is asked
    about.

    `policy` and `threshold` replace the guard's own. A flagged prompt never reaches the victim; a flagged reply never
    reaches the attacker, nor the evaluator.
    """

    def __init__(
        self,
        guard: Guard,
        scope: str = "conversation",
        judges: str = "prompt",
        policy: Policy | None = None,
        threshold: float | None = None,
    ):
        """Raises `DataError` for an unknown `scope` or `judges`."""
        for key, value, known in (("scope", scope, SCOPES), ("judges", judges, JUDGED)):
            if value not in known:
                raise DataError(f"guarding.{key}={value}: expected one of {', '.join(known)}")
        self.guard, self.scope, self.judges = guard.eval(), scope, judges
        self.policy, self.threshold = policy, threshold
        self.name = guard.name

    def prompts(self, histories: Sequence[Sequence[Exchange]], prompts: Sequence[str]) -> list[Judgement | None]:
        """What it says of each new prompt; None where it is not asked about prompts."""
        if self.judges == "reply":
            return [None] * len(prompts)
        chats = [messages((), p) if self.scope == "turn" else messages(h, p) for h, p in zip(histories, prompts)]
        return self._judged(chats, "conversation" if self.scope == "conversation" else "prompt")

    def replies(
        self, histories: Sequence[Sequence[Exchange]], prompts: Sequence[str], replies: Sequence[str]
    ) -> list[Judgement | None]:
        """What it says of each reply; None where it is not asked about replies."""
        if self.judges == "prompt":
            return [None] * len(prompts)
        chats = []
        for history, prompt, reply in zip(histories, prompts, replies):
            before = messages((), prompt) if self.scope == "turn" else messages(history, prompt)
            chats.append([*before, {"role": "assistant", "content": reply}])
        return self._judged(chats, "conversation" if self.scope == "conversation" else "response")

    def _judged(self, chats: Sequence[Sequence[dict[str, str]]], target: str) -> list[Judgement | None]:
        if not chats:
            return []
        samples = [sample_of(f"{n}", chat, target) for n, chat in enumerate(chats)]
        verdicts = self.guard.moderate(samples, policy=self.policy, threshold=self.threshold)
        return [Judgement(v.flagged, v.score, v.truncated) for v in verdicts]


def threshold_for(scores: Sequence[float], share: float) -> float:
    """The lowest threshold at which at most `share` of these scores are flagged (score ≥ threshold).

    Raises `DataError` where even the highest one flags more.
    """
    allowed = int(share * len(scores))
    if allowed >= len(scores):
        return 0.0
    highest = sorted(scores, reverse=True)[allowed]  # the first that must not be flagged
    if (threshold := math.nextafter(highest, math.inf)) > 1.0:
        raise DataError(f"guarding.benign_rate={share:g}: the guard gives more benign prompts than that the score 1")
    return threshold


def sample_of(id: str, chat: Sequence[dict[str, str]], target: str, **fields: object) -> Sample:
    """A chat as the record that guards read; a message without words stays one."""
    said = tuple(Message(m["role"], (Part("text", text=m["content"]),)) for m in chat)
    return Sample(id=id, messages=said, target=target, **fields)
