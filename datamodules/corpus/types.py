"""What a corpus builder hands to a DataModule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from datamodules.bank import PolicyBank
from datamodules.schema import Sample


@dataclass
class Corpus:
    """`samples` have their split set; those for validation and test carry a policy under which they have a verdict.

    `bank` words the entries that training policies are drawn from. `report` counts what is here and what was left out.
    """

    samples: list[Sample]
    bank: PolicyBank
    report: dict[str, Any] = field(default_factory=dict)

    def split(self, name: str) -> list[Sample]:
        """The samples of one split, in order."""
        return [s for s in self.samples if s.split == name]
