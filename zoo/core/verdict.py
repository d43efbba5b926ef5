"""A verdict: what a guard says of one sample, its rendered form, and a parser for other people's."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

from datamodules.schema import Policy
from zoo.core.query import critique_query


@dataclass
class Verdict:
    """`score` is the calibrated P(unsafe); `categories` maps entry ids to calibrated P(yes), in the policy's order.

    `valid` is false for an output that could not be read (then `flagged` is true: an unreadable guard does not
    pass content). `truncated` says that text over the limit was cut before the guard read it.
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
        row = dataclasses.asdict(self)
        row["score"] = round(self.score, 6)
        row["categories"] = {k: round(v, 6) for k, v in self.categories.items()}
        return row

    def listed(self, policy: Policy, threshold: float) -> list[str]:
        """Names of the violated entries: those from `threshold` on; the likeliest where none is; none if safe."""
        if not self.flagged or not self.categories:
            return []
        over = [e.name for e in policy.entries if self.categories[e.id] >= threshold]
        return over or [max(policy.entries, key=lambda e: self.categories[e.id]).name]


def rendered(flagged: bool, names: list[str], critique: str) -> str:
    """The published text form: assessment, categories, explanation."""
    return f"{critique_query(flagged, names).text} {critique}"


@dataclass(frozen=True)
class Parsed:
    """Free text read as a verdict. Text that does not follow the form is not `valid` and counts as flagged."""

    flagged: bool
    categories: tuple[str, ...]
    critique: str | None
    valid: bool


# Anchored at line starts and ends: "not unsafe" or "safe to say it is unsafe" must not match.
_ASSESSMENT = re.compile(
    r"^\s*(?:-\s*)?(?:safety assessment|assessment)\s*:\s*\**(safe|unsafe)\**\s*\.?\s*$", re.I | re.M
)
_LONE = re.compile(r"^\s*\**(safe|unsafe)\**\s*\.?\s*$", re.I | re.M)
_BARE = re.compile(r"\A\s*(safe|unsafe)\s*(?:\n(?P<rest>.*))?\Z", re.I | re.S)
_CATEGORIES = re.compile(r"^\s*(?:-\s*)?categor(?:y|ies)\s*:[ \t]*(.*)$", re.I | re.M)
_EXPLANATION = re.compile(
    r"^\s*(?:-\s*)?(?:explanation|assessment|critique)\s*:(?!\s*\**(?:safe|unsafe)\**\s*\.?\s*$)\s*(.+)\Z",
    re.I | re.M | re.S,
)


def parse(text: str) -> Parsed:
    """Reads another guard's output: the labelled form, or `safe|unsafe` on the first line and categories after.

    Two different assessments, or none, make it invalid.
    """
    found = {m.lower() for m in _ASSESSMENT.findall(text)}
    rest = text
    if not found:
        bare = _BARE.match(text)
        if bare:
            found, rest = {bare.group(1).lower()}, bare.group("rest") or ""
    if len(found) != 1 or {m.lower() for m in _LONE.findall(text)} - found:
        return Parsed(True, (), None, valid=False)
    listed = _CATEGORIES.search(rest)
    if listed:
        names = listed.group(1)
    elif rest is not text:
        names = rest.split("\n", 1)[0]
        names = "" if ":" in names else names  # another field's line
    else:
        names = ""
    categories = tuple(n.strip() for n in names.split(",") if n.strip() and n.strip().lower() not in ("none", "n/a"))
    said = _EXPLANATION.search(rest)
    return Parsed(found == {"unsafe"}, categories, said.group(1).strip() if said else None, valid=True)
