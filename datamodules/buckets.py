"""Batches of texts of similar length: little of a batch is padding then."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from datamodules.schema import DataError, Policy, Sample

Item = tuple[int, int]  # (index, epoch)


class BucketOrder(Sampler[Item]):
    """The items of `sampler` in an order whose every `batch_size` of them are of similar length.

    They are sorted by length within windows of `window` batches; whole batches then come in random order, and a short
    one comes last. An epoch holds what the sampler draws, no more and no less. Lengths are blurred by a tenth, so that
    a small set does not meet in the same batches every epoch. Everything is decided by (seed, epoch).
    """

    def __init__(
        self, sampler: Sampler[Item], batch_size: int, length: Callable[[Item], float], seed: int = 0, window: int = 50
    ):
        self.sampler, self.batch_size = sampler, batch_size
        self.length, self.seed, self.window = length, seed, window
        self._skip = 0

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def start_at(self, epoch: int, samples: int) -> None:
        """The next iteration is that of `epoch`, without its first `samples`."""
        self.sampler.set_epoch(epoch)
        self._skip = samples

    def __iter__(self) -> Iterator[Item]:
        skip, self._skip = self._skip, 0
        return itertools.islice(self._ordered(), skip, None)

    def _ordered(self) -> Iterator[Item]:
        items: list[Item] = list(self.sampler)
        rng = np.random.default_rng([self.seed, items[0][1] if items else 0, 1])
        blurred = np.array([self.length(i) for i in items]) * rng.uniform(0.9, 1.1, len(items))
        size, batches = self.batch_size, []
        for first in range(0, len(items), self.window * size):
            part = np.arange(first, min(len(items), first + self.window * size))
            part = part[np.argsort(blurred[part], kind="stable")]
            batches += [[items[i] for i in part[n : n + size]] for n in range(0, len(part), size)]
        short = [b for b in batches if len(b) < size]
        whole = [b for b in batches if len(b) == size]
        for n in rng.permutation(len(whole)):
            yield from whole[n]
        for batch in short:
            yield from batch


def characters(sample: Sample, policy: Policy) -> int:
    """Characters that a guard reads, about: it needs no tokenizer to tell long from short."""
    texts = sum(len(p.text or "") for p in sample.parts)
    return texts + sum(2 * len(e.name) + len(e.description) for e in policy.entries)  # names are asked for again


def text_alone(samples: Sequence[Sample]) -> None:
    """Raises `DataError` for the first sample with media: characters say nothing of their length."""
    for sample in samples:
        if sample.media:
            raise DataError(
                f"bucket=true is for text alone, and sample {sample.id!r} holds {sample.media[0].type}: set "
                "modalities=[text], or bucket=false"
            )
