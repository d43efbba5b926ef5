"""The order in which a guard gives its answer: which suffix the verdict, the categories and the explanation follow.

ThinkGuard (arXiv 2502.13458) puts the verdict first, so that an answer can stop there. Explanation first is the usual
chain of thought: the verdict is asked after an explanation, given in training and generated otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from datamodules.schema import DataError, Policy, PolicyEntry, near
from zoo.core.query import (
    EXPLANATION,
    VERDICT_OPTIONS,
    Query,
    Said,
    category_query,
    critique_query,
    rule_query,
    state_query,
    verdict_query,
)


@dataclass(frozen=True)
class Order:
    """`says_none`: an answer without categories has the line `- Categories: none`; otherwise it has no such line.

    `watches`: entries are rules, and the guard is asked for their states while the agent still acts, too. A verdict
    does not recall them: they are whole sentences.
    """

    name: str
    explanation_first: bool = False
    says_none: bool = False
    watches: bool = False

    def verdict(self, policy: Policy | None = None, explanation: str = "") -> Query:
        """The closed verdict query; with the explanation before it where that comes first and there is one."""
        query = verdict_query(None if self.watches else policy)
        return Query((*self._told(explanation), *query.suffix), query.options)

    def category(self, entry: PolicyEntry) -> Query:
        """The closed query for one entry."""
        return rule_query(entry) if self.watches else category_query(entry)

    def queries(self, policy: Policy) -> list[Query]:
        """What is asked of a whole conversation: the verdict, then one query an entry in the policy's order."""
        return [self.verdict(policy), *(self.category(e) for e in policy.entries)]

    def so_far(self, policy: Policy, after: int) -> list[Query]:
        """What is asked after so many messages of a conversation that goes on: as many queries, in the same order.

        An order that does not watch asks the same as of a whole one.
        """
        if not self.watches:
            return [replace(q, after=after) for q in self.queries(policy)]
        verdict = Query(("- So far:",), VERDICT_OPTIONS, after, open=True)
        return [verdict, *(state_query(e, after) for e in policy.entries)]

    def critique(self, flagged: bool, names: Sequence[str], critique: str = "") -> Query:
        """The explanation, after what precedes it; `critique` is its one option where it is to be learned."""
        if self.explanation_first:
            return Query((EXPLANATION,), (critique,) if critique else ())
        if self.watches:  # names are whole sentences, and the critique says which step broke which
            line = f"- Safety Assessment: {VERDICT_OPTIONS[flagged]}\n"
            return Query((line, EXPLANATION), (critique,) if critique else ())
        return critique_query(flagged, names, critique, self.says_none)

    def assessment(self, policy: Policy, explanation: str = "", flagged: bool | None = None) -> Query:
        """The line of the verdict as it is written out, with what it says if given. It ends where the line does."""
        suffix = self.verdict(policy, explanation).suffix
        return Query(suffix, () if flagged is None else (VERDICT_OPTIONS[flagged],))

    def categories(self, explanation: str = "", names: Sequence[str] = ()) -> Query:
        """The line of the categories of an unsafe answer, with what it says if given."""
        suffix = (*self._told(explanation), f"- Safety Assessment: {VERDICT_OPTIONS[True]}\n", "- Categories:")
        return Query(suffix, (", ".join(names),) if names else ())

    def render(self, flagged: bool, names: Sequence[str], critique: str) -> str:
        """The whole answer as text."""
        *head, explanation = critique_query(flagged, names, says_none=self.says_none).suffix
        lines = ["".join(head).rstrip("\n"), f"{explanation} {critique}".rstrip()]
        return "\n".join(reversed(lines) if self.explanation_first else lines)

    def _told(self, explanation: str) -> tuple[str, ...]:
        if not self.explanation_first or not explanation.strip():
            return ()
        return EXPLANATION, Said(" " + " ".join(explanation.split())), "\n"


VERDICT_FIRST = Order("verdict_first", says_none=True)
ORDERS = {
    o.name: o
    for o in (
        VERDICT_FIRST,  # OmniGuard's, as it is published here
        Order("policyguard", watches=True),
        Order("thinkguard"),  # the published format: categories only where it is unsafe
        Order("explanation_first", explanation_first=True),
    )
}


def order_named(name: str) -> Order:
    """Raises `DataError` with near matches for an unknown name."""
    if name not in ORDERS:
        raise DataError(f"unknown order {name!r}{near(str(name), sorted(ORDERS))}")
    return ORDERS[name]
