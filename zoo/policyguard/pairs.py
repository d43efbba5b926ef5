"""Samples of the bench as pairs of rule and trajectory: texts, labels and slices, in one order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datamodules.schema import Sample
from datamodules.trajectory import prefixes_of

SLICES = ("type", "form", "domain", "cross", "wording")


@dataclass
class Pairs:
    """One list each, a pair an entry. `states` and `first` are those of `meta["prefixes"]`; `slices` by name."""

    rule: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    gold: list[bool] = field(default_factory=list)
    id: list[str] = field(default_factory=list)
    trajectory: list[str] = field(default_factory=list)
    states: list[tuple[str, ...]] = field(default_factory=list)
    first: list[int | None] = field(default_factory=list)
    slices: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in SLICES})

    def __len__(self) -> int:
        return len(self.gold)


def pairs_of(samples: Sequence[Sample]) -> Pairs:
    """Every entry of every sample's policy whose label is known, in the policy's order."""
    out = Pairs()
    for sample in samples:
        text = "\n".join(p.text or "" for p in sample.parts)
        known = prefixes_of(sample)
        facts = sample.meta.get("rules", {})
        wording = "held out" if sample.meta.get("held-out-wording") else "training"
        for entry in sample.policy.entries if sample.policy else ():
            label = sample.categories.get(entry.id, "unknown")
            if label == "unknown":
                continue
            out.rule.append(f"{entry.name} {entry.description}".strip())
            out.text.append(text)
            out.gold.append(label == "yes")
            out.id.append(entry.id)
            out.trajectory.append(sample.id)
            out.states.append(known.states.get(entry.id, ()) if known else ())
            out.first.append(known.first.get(entry.id) if known else None)
            own = facts.get(entry.id, {})
            values = (own.get("type", "unknown"), own.get("form", "unknown"), sample.meta.get("domain", "unknown"))
            crosses = {True: "across", False: "within"}.get(own.get("cross"), "unknown")
            for name, value in zip(SLICES, (*values, crosses, wording)):
                out.slices[name].append(value)
    return out
