"""A guard's answer as free text, read as a verdict: anchored, and fail-closed.

Teachers of critiques answer in this form, and so do guards that are asked to write their answer out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.schema import Policy


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
    r"^\s*(?:-\s*)?(?:explanation|assessment|critique)\s*:(?!\s*\**(?:safe|unsafe)\**\s*\.?\s*$)\s*(.+?)\s*"
    r"(?:\Z|^\s*(?:-\s*)?safety assessment\s*:)",  # which comes after it where the explanation is first
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


def entries_named(names: Sequence[str], policy: Policy) -> tuple[list[str], list[str]]:
    """Ids of the entries that an answer's `categories` name, by name or id in any case, and what names no entry.

    A name that has commas itself comes in several parts.
    """
    known = {label.casefold(): e.id for e in policy.entries for label in (e.id, e.name)}
    ids: list[str] = []
    unknown: list[str] = []
    at = 0
    while at < len(names):
        ends = range(len(names), at, -1)  # the longest name first
        end = next((n for n in ends if ", ".join(names[at:n]).casefold() in known), None)
        if end is None:
            unknown.append(names[at])
            end = at + 1
        elif (id := known[", ".join(names[at:end]).casefold()]) not in ids:
            ids.append(id)
        at = end
    return ids, unknown
