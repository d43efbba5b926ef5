"""A query: the primitive of every closed answer.

A query is a suffix and its options. An option's score is the sum of its token log-probabilities, terminator included,
without length normalisation; a softmax over the options gives probabilities. All queries of a sample are branches over
one encoded prompt, blind to each other. A critique to be learned is a query with one option.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.schema import Policy, PolicyEntry

VERDICT_OPTIONS = ("safe", "unsafe")
CATEGORY_OPTIONS = ("no", "yes")
STATE_OPTIONS = ("open", "violated", "safe")  # of a rule, while the agent still acts: `datamodules.trajectory.STATES`
EXPLANATION = "- Explanation:"


class Said(str):
    """A piece of a suffix that the guard has written itself: it is read back as the tokens that it was written in."""


@dataclass(frozen=True)
class Query:
    """`suffix` pieces joined are what a language model reads after the prompt; `options` are its possible answers.

    The pieces are kept apart because a soft-token backbone encodes each phrase by itself, all but what is `Said`.
    `after` says how many of the conversation's messages it is asked after, and it sees no more (None: all of them, once
    the conversation has been closed). It closes what it sees itself, as a prompt of these messages ends; an `open`
    query does not: it is asked while the conversation still goes on.
    """

    suffix: tuple[str, ...]
    options: tuple[str, ...]
    after: int | None = None
    open: bool = False

    @property
    def text(self) -> str:
        return "".join(self.suffix)


def verdict_query(policy: Policy | None = None) -> Query:
    """Asks for the verdict after recalling the names of the policy's entries.

    The policy stands before the conversation, so its own tokens cannot look at what is judged; the recalled names can.
    A small model learns the verdict as fast as the categories that way.
    """
    names = [n for e in (policy.entries if policy else ()) for n in (", ", e.name)][1:]
    recalled = ("- Policy: ", *names, "\n") if names else ()
    return Query((*recalled, "- Safety Assessment:"), VERDICT_OPTIONS)


def category_query(entry: PolicyEntry) -> Query:
    """Asks for one entry by its *name*: ids are never scored ("S1" is a prefix of "S10")."""
    return Query(("- Is this in it: ", entry.name, "?"), CATEGORY_OPTIONS)


def critique_query(flagged: bool, names: Sequence[str], critique: str = "", says_none: bool = True) -> Query:
    """The explanation after the rendered verdict, in ThinkGuard's published order (arXiv 2502.13458).

    Without `says_none` an answer without categories has no line for them.
    """
    listed: list[str] = []
    for name in names or (("none",) if says_none else ()):
        listed += [", ", name] if listed else [name]
    lines = ("- Categories: ", *listed, "\n") if listed else ()
    suffix = (f"- Safety Assessment: {VERDICT_OPTIONS[flagged]}\n", *lines, EXPLANATION)
    return Query(suffix, (critique,) if critique else ())


def rule_query(entry: PolicyEntry) -> Query:
    """Asks whether a finished trajectory broke a rule."""
    return Query(("- Is this broken: ", entry.name, "?"), CATEGORY_OPTIONS)


def state_query(entry: PolicyEntry, after: int) -> Query:
    """Asks what can be known of a rule after so many messages, while the agent goes on."""
    return Query(("- So far: ", entry.name, "?"), STATE_OPTIONS, after, open=True)


def policy_queries(policy: Policy) -> list[Query]:
    """The verdict query, then one query an entry in the policy's order."""
    return [verdict_query(policy), *(category_query(e) for e in policy.entries)]
