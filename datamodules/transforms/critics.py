"""Teachers of critiques: who says why a training row has its label. Configured as `data.critic=NAME`.

A critic is asked when a row is drawn, with the policy that was drawn for it: what is true under one policy may be
wrong under another. Rows without a critique keep their labels. Validation and test rows are left as they are.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from datamodules.sampling import process
from datamodules.schema import DataError, Policy, Sample, near
from datamodules.transforms.annotations import Annotations
from datamodules.transforms.endpoint import Endpoint

CRITICS = ("own", "annotations", "endpoint", "none")


class Critic(Protocol):
    """`prepare` sees all training rows once and counts: "accepted", and the others by reason."""

    name: str

    def prepare(self, samples: Iterable[Sample], policy_of: Callable[[Sample], Policy]) -> Counter[str]: ...
    def __call__(self, sample: Sample, policy: Policy) -> str | None: ...


class Nobody:
    """Takes the critiques away that rows bring."""

    name = "none"

    def prepare(self, samples: Iterable[Sample], policy_of: Callable[[Sample], Policy]) -> Counter[str]:
        return Counter()

    def __call__(self, sample: Sample, policy: Policy) -> str | None:
        return None


def critic_named(name: str, endpoint: Mapping[str, Any] | None = None) -> Critic | None:
    """None for `own`: rows keep what they bring. `endpoint` are the settings of that teacher.

    Raises `DataError` for an unknown name or setting.
    """
    if name not in CRITICS:
        raise DataError(f"data.critic={name}: no such teacher of critiques{near(str(name), CRITICS)}")
    if name == "own":
        return None
    return Endpoint.of(endpoint or {}) if name == "endpoint" else Annotations() if name == "annotations" else Nobody()


def prepared(
    critic: Critic | None, samples: Iterable[Sample], policy_of: Callable[[Sample], Policy]
) -> dict[str, Any] | None:
    """Prepares a critic for the training rows; says and returns how many it explains. None where nobody is asked."""
    if critic is None or isinstance(critic, Nobody):
        return None
    counts = critic.prepare(samples, policy_of)
    accepted, rows = counts.pop("accepted", 0), counts.total()
    rejected = dict(sorted(counts.items()))
    report = {"critic": critic.name, "rows": accepted + rows, "accepted": accepted, "rejected": rejected}
    if process()[0] == 0:
        why = "".join(f"; {reason}: {n}" for reason, n in rejected.items())
        print(f"critiques by {critic.name}: {accepted} of {report['rows']} training rows{why}", file=sys.stderr)
    return report
