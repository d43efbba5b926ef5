"""Wordings of policy entries, and policies drawn from them.

A guard must answer for the policy in its prompt, so training never shows one fixed policy: every time a sample is
read, a subset of the entries it is labelled for is drawn, in a new order and in one of several wordings. Validation
and test policies are drawn once, from a seed, in wordings and with entries that training may never have seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from datamodules.lazy import repeated_id
from datamodules.schema import DataError, Policy, PolicyEntry, Sample


@dataclass
class PolicyBank:
    """`train[id]` and `test[id]` list the wordings of an entry; `held_out` ids appear in no training policy.

    An id without test wordings is tested in its training wordings.
    """

    train: dict[str, list[PolicyEntry]] = field(default_factory=dict)
    test: dict[str, list[PolicyEntry]] = field(default_factory=dict)
    held_out: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for id in self.held_out:
            if id not in self.train:
                raise DataError(f"policy bank: held-out entry {id!r} has no wording")

    @classmethod
    def of(cls, policy: Policy) -> PolicyBank:
        """One wording per entry: a policy that a user gave."""
        return cls({e.id: [e] for e in policy.entries})

    @property
    def ids(self) -> list[str]:
        return list(self.train)

    def merge(self, other: PolicyBank) -> PolicyBank:
        """Both banks' entries. An id that both have keeps the wordings of both, without repeats."""
        out = PolicyBank({k: list(v) for k, v in self.train.items()}, {k: list(v) for k, v in self.test.items()})
        for mine, theirs in ((out.train, other.train), (out.test, other.test)):
            for id, wordings in theirs.items():
                have = mine.setdefault(id, [])
                have += [w for w in wordings if w not in have]
        out.held_out = self.held_out | other.held_out
        return out

    def wordings(self) -> list[PolicyEntry]:
        """Every wording of every entry, for filling a feature cache."""
        return [w for side in (self.train, self.test) for ws in side.values() for w in ws]

    def draw(self, sample: Sample, rng: random.Random, *, test: bool = False, max_entries: int = 8) -> Policy:
        """A policy under which `sample` has a verdict, if its labels allow one.

        A sample with a broken entry gets a policy with one of them three times out of four, so that
        the verdict cannot be read off the sample alone. Entries whose label is unknown join only where the verdict is
        decided without them.
        """
        allowed = [i for i in self.train if test or i not in self.held_out]
        labels = {i: sample.categories.get(i, "unknown") for i in allowed}
        own = set(sample.policy.ids) if sample.policy else set()
        if sample.unsafe is False:  # safe under its own policy: no entry of that policy is broken
            labels |= {i: "no" for i in allowed if i in own and labels[i] == "unknown"}
        yes, no = ([i for i in allowed if labels[i] == v] for v in ("yes", "no"))
        rest = [i for i in allowed if labels[i] == "unknown" and i in own]
        explained = "yes" in sample.categories.values()  # perhaps by an entry that is held out
        if not yes and (not no or (sample.unsafe and not explained)):
            # only a binary label, or none: it holds under its own policy alone
            if sample.policy is None:
                raise DataError(
                    f"sample {sample.id!r}: none of its categories is in the policy bank and it has no policy"
                )
            ids = [i for i in sample.policy.ids if test or i not in self.held_out]
            rng.shuffle(ids)
            return self._worded(ids, sample, rng, test)
        size = 2 * max_entries if rng.random() < 0.1 else rng.randint(1, max_entries)
        picked: list[str] = []
        if yes and (not no or rng.random() < 0.75):
            picked = rng.sample(yes, min(len(yes), rng.choice((1, 1, 2))))
            no = no + rest
        if rng.random() < 0.7:  # what the sample could be mistaken for
            picked += [i for i in sample.meta.get("contrast", ()) if i in no and i not in picked]
        no = [i for i in no if i not in picked]
        picked += rng.sample(no, min(len(no), max(size - len(picked), 0 if picked else 1)))
        rng.shuffle(picked)
        return self._worded(picked, sample, rng, test)

    def _worded(self, ids: list[str] | tuple[str, ...], sample: Sample, rng: random.Random, test: bool) -> Policy:
        """Entries in one of their wordings each; an id that the bank lacks keeps the sample's own wording.

        In training a name may stand with another wording's description, or without one: policies of users do.
        """
        entries: list[PolicyEntry] = []
        names: set[str] = set()
        for id in ids:
            choices = (self.test.get(id) if test else None) or self.train.get(id)
            entry = rng.choice(choices) if choices else sample.policy.entry(id)
            if choices and not test:
                description = rng.choice(choices).description if rng.random() < 0.85 else ""
                entry = PolicyEntry(id, entry.name, description)
            if entry.name not in names:  # two ids may share a wording; one policy may not
                names.add(entry.name)
                entries.append(entry)
        return Policy("drawn", tuple(entries))


def rng_for(*key: object) -> random.Random:
    """A generator seeded by `key` alone: the same in every process, whatever was drawn before."""
    return random.Random("\x1f".join(map(str, key)))


def unique_ids(samples: Sequence[Sample]) -> None:
    """Raises `DataError` for the first repeated sample id."""
    if (id := repeated_id(samples)) is not None:
        raise DataError(f"duplicate sample id {id!r}: make ids unique")
