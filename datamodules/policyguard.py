"""The DataModule of rules and agents' trajectories: `policyguardbench` makes the pairs."""

from __future__ import annotations

from typing import Any

from datamodules.base import GuardDataModule
from datamodules.policyguardbench import BLOCK, SOURCE


class PolicyGuardBench(GuardDataModule):
    """A `GuardDataModule` of the generated bench, eight rules a trajectory: `PolicyGuardBench(batch_size=16)`.

    `scale` is of 60,000 pairs; `held_out` names domains for test alone; `data_dir` adds public tasks and sites.
    """

    modality = "text"

    def __init__(self, source: str = SOURCE, *, max_entries: int = BLOCK, **options: Any):
        super().__init__(source, max_entries=max_entries, **options)
