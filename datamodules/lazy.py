"""Samples that stay in their file until somebody asks for one: of a row there is only where it stands and what it is.

A `LazySamples` is a view: an index into rows that all its views share. Taking a split, or leaving samples out, makes
another index and reads nothing. The functions below do the same for a plain list, so that nobody has to ask which of
the two it was given.
"""

from __future__ import annotations

import bisect
import json
import operator
import os
import weakref
import zlib
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from datamodules.keys import digest
from datamodules.schema import SPLITS, DataError, Policy, Sample

UNSPLIT = -1


class FileRows:
    """The rows of a manifest, some 45 bytes each. A row is parsed and checked again whenever it is read.

    All arrays have one number a row: `offsets` and `lengths` in bytes, `lines` from 1, `checks` (CRC-32 of the bytes),
    `keys` (half of the id's digest), `splits` (place in `SPLITS`, or `UNSPLIT`), `modalities` (place in `names`) and
    `owners`: the row whose group this one has been put into, or −1 where the row says it itself. Rows without a policy
    get `policy`.
    """

    def __init__(self, path: Path, root: Path, policy: Policy, names: list[str], **columns: np.ndarray):
        self.path, self.root, self.policy, self.names = path.absolute(), root.absolute(), policy, names
        self.offsets, self.lengths = columns["offsets"], columns["lengths"]
        self.lines, self.checks, self.keys = columns["lines"], columns["checks"], columns["keys"]
        self.splits, self.modalities, self.owners = columns["splits"], columns["modalities"], columns["owners"]
        self._file: int | None = None

    def __len__(self) -> int:
        return len(self.offsets)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    @property
    def nbytes(self) -> int:
        return sum(v.nbytes for v in self.__dict__.values() if isinstance(v, np.ndarray))

    def read(self, row: int) -> Sample:
        sample, owner = self.parsed(row), int(self.owners[row])
        group = sample.group if owner < 0 else own_group(sample if owner == row else self.parsed(owner))
        split = int(self.splits[row])
        return sample.replace(
            policy=sample.policy or self.policy, group=group, split=None if split == UNSPLIT else SPLITS[split]
        )

    def parsed(self, row: int) -> Sample:
        """A row as it stands in the file. Raises `DataError` if it is not what was loaded.

        Whether its files are there is left to who opens them: one that has gone costs its own sample only.
        """
        where = f"{self.path.name} line {self.lines[row]}"
        line = self._bytes(int(self.offsets[row]), int(self.lengths[row]))
        if zlib.crc32(line) != self.checks[row]:
            raise DataError(f"{where}: the file has changed since it was loaded: leave it alone while it is used")
        return Sample.from_dict(json.loads(line.decode()), self.root, where, files=False)

    def _bytes(self, offset: int, length: int) -> bytes:
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_RDONLY)
                weakref.finalize(self, os.close, self._file)
            return os.pread(self._file, length, offset)  # moves no file position: forked workers share the handle
        except OSError as e:
            raise DataError(f"{self.path}: cannot read the manifest any more: {e.strerror}") from e


class JoinedRows:
    """The samples of several sources, one source after the other."""

    def __init__(self, parts: Sequence[Sequence[Sample]]):
        self.parts = list(parts)
        self.starts = np.cumsum([0, *map(len, parts)]).tolist()
        self.splits = np.concatenate([splits_of(p) for p in parts])
        self.keys = np.concatenate([keys_of(p) for p in parts])
        numbers: dict[str, int] = {}
        codes = array("i", (numbers.setdefault(m, len(numbers)) for p in parts for m in modalities_of(p)))
        self.modalities, self.names = np.frombuffer(codes, np.intc), list(numbers)

    def __len__(self) -> int:
        return self.starts[-1]

    def read(self, row: int) -> Sample:
        part = bisect.bisect_right(self.starts, row) - 1
        return self.parts[part][row - self.starts[part]]


class LazySamples(Sequence[Sample]):
    """Samples `index` [n] of `rows`, in that order. Cheap to pickle, and safe in forked and in spawned workers."""

    def __init__(self, rows: FileRows | JoinedRows, index: np.ndarray | None = None):
        self.rows = rows
        self.index = np.arange(len(rows), dtype=np.int32) if index is None else np.asarray(index, np.int32)

    def __len__(self) -> int:
        return len(self.index)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> LazySamples: ...
    def __getitem__(self, at: int | slice) -> Sample | LazySamples:
        if isinstance(at, slice):
            return self.take(at)
        return self.rows.read(int(self.index[operator.index(at)]))

    def __iter__(self) -> Iterator[Sample]:
        return (self.rows.read(int(row)) for row in self.index)

    def __repr__(self) -> str:
        return f"LazySamples({len(self)} of {len(self.rows)} rows)"

    def take(self, which: slice | np.ndarray) -> LazySamples:
        """A view of a slice, of places [k] or of a mask bool [n]."""
        return LazySamples(self.rows, self.index[which])

    @property
    def splits(self) -> np.ndarray:
        return self.rows.splits[self.index]

    @property
    def keys(self) -> np.ndarray:
        return self.rows.keys[self.index]

    @property
    def modalities(self) -> np.ndarray:
        """Places in `rows.names`."""
        return self.rows.modalities[self.index]


# ------------------------------------------------------------------------------------------- of lists and of lazy ones


def own_group(sample: Sample) -> str:
    """The group that a sample is in before near-duplicates are joined: without one it is alone."""
    return sample.group if sample.group is not None else f"{sample.source}-{sample.id}"


def splits_of(samples: Sequence[Sample]) -> np.ndarray:
    """Places in `SPLITS`, int8 [n]; `UNSPLIT` where there is none."""
    if isinstance(samples, LazySamples):
        return samples.splits
    return np.array([UNSPLIT if s.split is None else SPLITS.index(s.split) for s in samples], np.int8)


def keys_of(samples: Sequence[Sample]) -> np.ndarray:
    """64-bit hashes of the ids, uint64 [n]: different ids may share one."""
    if isinstance(samples, LazySamples):
        return samples.keys
    return np.array([digest(s.id)[0] for s in samples], np.uint64)


def modalities_of(samples: Sequence[Sample]) -> Iterator[str]:
    """The modality of each sample, without reading it."""
    if isinstance(samples, LazySamples):
        return (samples.rows.names[code] for code in samples.modalities)
    return (s.modality for s in samples)


def joined(parts: Sequence[Sequence[Sample]]) -> Sequence[Sample]:
    """All samples, part by part: a list, unless one of the parts is lazy."""
    if any(isinstance(p, LazySamples) for p in parts):
        return LazySamples(JoinedRows(parts))
    return [s for p in parts for s in p]


def taken(samples: Sequence[Sample], mask: np.ndarray) -> Sequence[Sample]:
    """The samples where `mask` bool [n] is true."""
    if isinstance(samples, LazySamples):
        return samples.take(mask)
    return [samples[at] for at in np.flatnonzero(mask)]


def in_split(samples: Sequence[Sample], split: str) -> Sequence[Sample]:
    if isinstance(samples, LazySamples):
        return samples.take(samples.splits == SPLITS.index(split))
    return [s for s in samples if s.split == split]


def of_modalities(samples: Sequence[Sample], wanted: Collection[str]) -> Sequence[Sample]:
    if isinstance(samples, LazySamples):
        codes = [code for code, name in enumerate(samples.rows.names) if name in wanted]
        return samples.take(np.isin(samples.modalities, codes))
    return [s for s in samples if s.modality in wanted]


def keep(samples: Sequence[Sample], wanted: Callable[[Sample], bool]) -> Sequence[Sample]:
    """The samples that `wanted` is true of; each is read once."""
    if isinstance(samples, LazySamples):
        return samples.take(np.fromiter((bool(wanted(s)) for s in samples), bool, len(samples)))
    return [s for s in samples if wanted(s)]


def without_ids(samples: Sequence[Sample], ids: Collection[str]) -> Sequence[Sample]:
    """The samples but for those with one of `ids`."""
    if isinstance(samples, LazySamples):
        gone = np.isin(samples.keys, np.array([digest(id)[0] for id in ids], np.uint64))
        for at in np.flatnonzero(gone):
            gone[at] = samples[at].id in ids
        return samples.take(~gone)
    return [s for s in samples if s.id not in ids]


def repeated_id(samples: Sequence[Sample]) -> str | None:
    """The first id that a sample before has too."""
    if not isinstance(samples, LazySamples):
        seen: set[str] = set()
        return next((s.id for s in samples if s.id in seen or seen.add(s.id)), None)
    keys = samples.keys
    order = np.argsort(keys, kind="stable")
    twice = keys[order[1:]] == keys[order[:-1]]
    suspects = np.unique(np.concatenate([order[1:][twice], order[:-1][twice]]))
    return repeated_id([samples[at] for at in suspects])
