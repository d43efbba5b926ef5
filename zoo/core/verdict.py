"""A verdict: what a guard says of one sample, and its rendered form. `datamodules.answers` reads free text back."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from datamodules.schema import Policy
from zoo.core.query import critique_query


@dataclass
class Verdict:
    """`score` is the calibrated P(unsafe); `categories` maps entry ids to calibrated P(yes), in the policy's order.

    `valid` is false for an output that could not be read, or a score that is not a number (then `flagged` is true: an
    unreadable guard does not pass content). `truncated` says that text over the limit was cut before the guard read it.
    """

    id: str
    model: str
    flagged: bool
    score: float
    threshold: float
    categories: dict[str, float] = field(default_factory=dict)
    critique: str | None = None
    valid: bool = True
    truncated: bool = False
    route: Any = None
    provenance: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON; what is not a number is null there."""
        row = dataclasses.asdict(self)
        row["score"] = rounded(self.score)
        row["categories"] = {k: rounded(v) for k, v in self.categories.items()}
        return row

    def decide(self, threshold: float) -> None:
        """Flags from `threshold` on, and where the score is not a number: weights that diverged must not pass all."""
        self.threshold, self.valid = threshold, math.isfinite(self.score)
        self.flagged = not self.valid or self.score >= threshold

    def listed(self, policy: Policy, threshold: float) -> list[str]:
        """Names of the violated entries: those from `threshold` on; the likeliest where none is; none if safe."""
        if not self.flagged or not self.categories:
            return []
        over = [e.name for e in policy.entries if self.categories[e.id] >= threshold]
        return over or [max(policy.entries, key=lambda e: self.categories[e.id]).name]


def rounded(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def rendered(flagged: bool, names: list[str], critique: str) -> str:
    """The published text form: assessment, categories, explanation."""
    return f"{critique_query(flagged, names).text} {critique}"
