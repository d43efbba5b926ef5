"""The order of samples, and each process's part of it.

Every process draws the same global order; a global batch is parted among the processes and, where gradients are
accumulated, among the parts of a step. So one process and eight train on the same batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch.distributed as dist
from torch.utils.data import DataLoader, Sampler

from datamodules.lazy import modalities_of
from datamodules.schema import DataError, Sample


def process() -> tuple[int, int]:
    """This process's rank, and how many processes there are: (0, 1) where no process group is."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def check_batch_size(batch_size: int, processes: int, accumulate: int) -> None:
    """Raises `DataError` unless a global batch parts evenly."""
    parts = processes * accumulate
    if batch_size < 1 or batch_size % parts:
        below = batch_size // parts * parts
        fit = " or ".join(str(n) for n in (below, below + parts) if n > 0)
        raise DataError(
            f"data.batch_size={batch_size} is the whole batch of a step: it cannot be parted evenly among "
            f"{processes} process{'es' if processes > 1 else ''} × {accumulate} accumulated "
            f"part{'s' if accumulate > 1 else ''}: set data.batch_size={fit}"
        )


class BalancedSampler(Sampler[tuple[int, int]]):
    """As many samples of each modality an epoch, in an order that (seed, epoch) alone decides.

    A modality with fewer samples than its share is gone through several times, each time in a new order, before any
    sample comes once more; `power` 1 keeps the natural shares, 0 makes them equal. `shares` then multiplies them: a
    modality that takes longer to learn may come more often. With `stages`, a number for each sample, those of a lower
    stage come first.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        seed: int = 0,
        size: int | None = None,
        power: float = 0.0,
        shares: Mapping[str, float] | None = None,
        stages: Sequence[int] | None = None,
    ):
        self.seed, self.epoch, self.stages = seed, 0, stages
        self.buckets: dict[str, list[int]] = {}
        for i, modality in enumerate(modalities_of(samples)):
            self.buckets.setdefault(modality, []).append(i)
        self.size = size or len(samples)
        weights = {m: len(b) ** power * (shares or {}).get(m, 1.0) for m, b in sorted(self.buckets.items())}
        total = sum(weights.values())
        shares = {m: int(self.size * w / total) for m, w in weights.items()}
        for m in list(shares)[: self.size - sum(shares.values())]:
            shares[m] += 1
        self.shares = shares
        self._skip = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def start_at(self, epoch: int, samples: int) -> None:
        """The next iteration is that of `epoch`, without its first `samples`: nothing is read to get there."""
        self.epoch, self._skip = epoch, samples

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        out: list[int] = []
        for modality, share in self.shares.items():
            bucket = self.buckets[modality]
            first = self.epoch * share  # go on where the last epoch stopped, so that all samples come equally often
            for n in range(first, first + share):
                lap, place = divmod(n, len(bucket))
                out.append(bucket[self._lap(modality, lap, len(bucket))[place]])
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(out))
        if self.stages is not None:
            order = order[np.argsort([self.stages[out[i]] for i in order], kind="stable")]
        order, self._skip = order[self._skip :], 0
        return iter([(out[i], self.epoch) for i in order])

    def _lap(self, modality: str, lap: int, n: int) -> np.ndarray:
        key = (modality, lap)
        if getattr(self, "_lap_key", None) != key:
            entropy = [self.seed, lap, *modality.encode()]
            self._lap_key, self._lap_order = key, np.random.default_rng(entropy).permutation(n)
        return self._lap_order


class ProcessBatches(Sampler[list[Any]]):
    """The batches of process `rank` of `processes`: its part of every global batch of `batch_size`.

    A global batch becomes `accumulate` batches of each process; together they are the batches of a single one. The last
    global batch may be short: every item still comes once, and nothing is repeated. Some parts of it are then smaller,
    or empty: all processes make the same number of steps.

    It is no torch `BatchSampler`, and has no attributes of one: Lightning would then put a sampler of its own in here.
    """

    def __init__(self, sampler: Sampler, batch_size: int, rank: int = 0, processes: int = 1, accumulate: int = 1):
        check_batch_size(batch_size, processes, accumulate)
        self.sampler = sampler
        self.global_batch, self.rank, self.processes, self.accumulate = batch_size, rank, processes, accumulate

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.global_batch) * self.accumulate

    def __iter__(self) -> Iterator[list[Any]]:
        items = iter(self.sampler)
        while batch := list(itertools.islice(items, self.global_batch)):
            for part in range(self.accumulate):
                yield batch[part + self.accumulate * self.rank :: self.accumulate * self.processes]


class StepLoader(DataLoader):
    """A loader that reads the batches of one step before it yields the first: `group` sees them together.

    A mean over a step can only be parted when its denominator is known.
    """

    def __init__(self, *args: Any, batches: int, group: Callable[[list[Any]], None], **kw: Any):
        super().__init__(*args, **kw)
        self.batches, self.group = batches, group

    def __iter__(self) -> Iterator[Any]:
        loaded = super().__iter__()
        while step := list(itertools.islice(loaded, self.batches)):
            self.group(step)
            yield from step
