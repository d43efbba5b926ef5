"""What a corpus builder hands to a DataModule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datamodules.bank import PolicyBank
from datamodules.lazy import in_split
from datamodules.schema import Policy, Sample


@dataclass
class Corpus:
    """`samples`, a list or lazy, have their split set; validation and test samples also carry a policy under which
    they have a verdict.

    `bank` words the entries that training policies are drawn from. `report` counts what is here and what was left out.
    `policy` is what rows are judged under where the user gives none; None: the 15 categories.
    """

    samples: Sequence[Sample]
    bank: PolicyBank
    report: dict[str, Any] = field(default_factory=dict)
    policy: Policy | None = None

    def split(self, name: str) -> Sequence[Sample]:
        """The samples of one split, in order."""
        return in_split(self.samples, name)
