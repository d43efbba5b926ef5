"""The expert domains of RouteGuard (arXiv 2605.30693): which expert owns which category."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from datamodules.schema import DataError, Policy, near
from datamodules.taxonomy import DEFAULT_POLICY

# The paper's five disjoint experts. It gives terrorism and organised crime (S10) to none of them; here it is harm's,
# beside violence and weapons, which most of its rows are about.
DOMAINS: dict[str, tuple[str, ...]] = {
    "agent": ("S15",),
    "cyber": ("S11", "S12", "S14"),
    "harm": ("S1", "S4", "S5", "S8", "S10", "S13"),
    "non_violent": ("S3",),
    "social": ("S2", "S6", "S7", "S9"),
}


def check_domains(domains: Mapping[str, Sequence[str]], policy: Policy = DEFAULT_POLICY) -> None:
    """Raises `DataError` unless each entry of `policy` has exactly one owner, and naming what has none or several."""
    owners = Counter(id for ids in domains.values() for id in ids)
    for id in owners:
        if id not in policy.ids:
            raise DataError(f"domains: policy {policy.name!r} has no entry {id!r}{near(id, policy.ids)}")
    for id in policy.ids:
        if owners[id] != 1:
            held = ", ".join(name for name, ids in domains.items() if id in ids) or "no domain"
            raise DataError(f"domains: {id} ({policy.entry(id).name}) belongs to {held}: give it to exactly one")


def owner_of(id: str, domains: Mapping[str, Sequence[str]] = DOMAINS) -> str:
    """The domain that a category belongs to. Raises `DataError` for one that has none."""
    for name, ids in domains.items():
        if id in ids:
            return name
    raise DataError(f"domains: {id!r} belongs to no domain{near(id, [i for ids in domains.values() for i in ids])}")
