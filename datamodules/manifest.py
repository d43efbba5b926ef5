"""A user's JSONL manifest: one sample a line. A bad row costs itself only, with a message that names it and the fix.

The file is gone through line by line and never held: what stays of a row is listed in `datamodules.lazy`.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.bank import PolicyBank
from datamodules.corpus.types import Corpus
from datamodules.jsonl import check_text, parse, read_lines
from datamodules.keys import Keys, digest
from datamodules.lazy import UNSPLIT, FileRows, LazySamples, own_group
from datamodules.schema import SPLITS, DataError, Policy, Sample, near
from datamodules.sources.similar import merge_similar
from datamodules.sources.split import FRACTIONS, draw, split_of, texts_of
from datamodules.taxonomy import DEFAULT_POLICY


def read_rows(path: str | Path) -> Iterator[tuple[int, Any]]:
    """The number and the JSON value of each non-empty line, or the `DataError` that it deserves."""
    path = Path(path)
    check_text(path)
    return ((n, parse(line)) for n, _, line in read_lines(path))


def read_samples(path: str | Path, data_dir: str | Path | None = None) -> Iterator[tuple[int, str, Sample | DataError]]:
    """(line number, id, sample or what is wrong with it) for each row. Raises `DataError` for an unreadable file."""
    for n, _, id, sample in _read(Path(path), data_dir, _Seen(Path(path))):
        yield n, id, sample


def _read(path: Path, data_dir: str | Path | None, seen: _Seen) -> Iterator[tuple[int, bytes, str, Sample | DataError]]:
    """As `read_samples`, with the line. A good row has just become the last of `seen`."""
    check_text(path)
    for n, offset, line in read_lines(path):
        where = f"{path.name} line {n}"
        row = parse(line)
        named = isinstance(row, dict) and row.get("id") not in (None, "")
        id = str(row["id"]) if named else f"line {n}"
        try:
            if isinstance(row, DataError):
                raise DataError(f"{where}: {row}")
            sample = Sample.from_dict(row, data_dir or path.parent, where)
            if not seen.add(sample.id, offset, len(line)):
                raise DataError(f"{where} (id {sample.id!r}): duplicate id: make ids unique")
        except DataError as e:
            yield n, line, id, e
            continue
        yield n, line, id, sample


class _Seen:
    """Which ids a file has had so far, and where: a hash tells what may be a duplicate, the file what is one."""

    def __init__(self, path: Path):
        self.path = path
        self.ids, self.offsets, self.lengths = Keys(), array("q"), array("q")

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, id: str, offset: int, length: int) -> bool:
        """False if a row before has this id."""
        _, new = self.ids.number(digest(id), lambda row: str(self.row(row)["id"]) == id)
        if new:
            self.offsets.append(offset)
            self.lengths.append(length)
        return new

    def row(self, row: int) -> Any:
        with open(self.path, "rb") as f:
            f.seek(self.offsets[row])
            value = parse(f.read(self.lengths[row]))
        if not isinstance(value, dict) or "id" not in value:
            raise DataError(f"{self.path}: the file changes while it is read: leave it alone")
        return value


def load_manifest(
    path: str | Path | None, data_dir: str | Path | None, policy: Policy | None, seed: int, max_rows: int | None = None
) -> Corpus:
    """Samples to train and test on. Bad rows are listed in the report's `errors` and left out.

    Rows without a split are assigned one by group; a manifest whose rows all say `train` gives up some groups for
    validation and test. The samples stay in the file: see `datamodules.lazy`.
    """
    if path is None:
        raise DataError("source 'manifest' needs data.path=FILE.jsonl")
    path = Path(path)
    policy = policy or DEFAULT_POLICY
    errors: list[dict[str, str]] = []
    names = {e.id: e.name for e in policy.entries}
    wordings = PolicyBank.of(policy).train
    seen = _Seen(path)
    columns, groups, good = _Columns(), _Groups(seen, seed), array("i")
    for n, line, id, sample in _read(path, data_dir, seen):
        try:
            if isinstance(sample, DataError):
                raise sample
            columns.add(sample, n, line)
            own, where = sample.policy or policy, f"{path.name} line {n} (id {sample.id!r})"
            _check(sample, own, names, where)
            groups.add(sample, len(seen) - 1, where)
        except DataError as e:
            errors.append({"id": id, "error": str(e)})
            continue
        good.append(len(seen) - 1)
        if sample.policy is not None and not wordings.keys() >= set(own.ids):
            for e in own.entries:
                if e not in wordings.setdefault(e.id, []):
                    wordings[e.id].append(e)
        if max_rows is not None and len(good) >= max_rows:
            break
    rows = columns.rows(path, Path(data_dir or path.parent), policy, seen)
    samples = _split(LazySamples(rows, np.array(good, np.int32)), groups)
    return Corpus(samples, PolicyBank(wordings), {"errors": errors})


class _Columns:
    """What is kept of each row that has become a sample: see `FileRows`."""

    def __init__(self) -> None:
        self.lines, self.checks, self.splits, self.modalities = array("I"), array("I"), array("b"), array("i")
        self.numbers: dict[str, int] = {}

    def add(self, sample: Sample, n: int, line: bytes) -> None:
        self.lines.append(n)
        self.checks.append(zlib.crc32(line))
        self.splits.append(UNSPLIT if sample.split is None else SPLITS.index(sample.split))
        self.modalities.append(self.numbers.setdefault(sample.modality, len(self.numbers)))

    def rows(self, path: Path, root: Path, policy: Policy, seen: _Seen) -> FileRows:
        return FileRows(
            path,
            root,
            policy,
            list(self.numbers),
            offsets=np.array(seen.offsets, np.int64),
            lengths=np.array(seen.lengths, np.int64),
            lines=np.array(self.lines, np.uint32),
            checks=np.array(self.checks, np.uint32),
            keys=np.array(seen.ids.low, np.uint64),
            splits=np.array(self.splits, np.int8),
            modalities=np.array(self.modalities, np.int32),
            owners=np.full(len(self.lines), -1, np.int32),
        )


class _Groups:
    """The groups of good samples, by number: `labels` and `named` (whether the row names one) by sample.

    By group: `first`, its first row; `sided`, the first row that puts it on a side, or −1; `draws`, which decide its
    side where no row does.
    """

    def __init__(self, seen: _Seen, seed: int):
        self.seen, self.seed, self.keys = seen, seed, Keys()
        self.labels, self.named = array("i"), array("b")
        self.first, self.sided, self.sides, self.draws = array("i"), array("i"), array("b"), array("d")

    def add(self, sample: Sample, row: int, where: str) -> None:
        """Raises `DataError` where a row before puts the group on another side: by the hash, then by the file."""
        name = own_group(sample)
        key = digest(name)
        label = self._number(self.keys.number(key), name, row)
        side = UNSPLIT if sample.group is None or sample.split is None else SPLITS.index(sample.split)
        if self._parted(label, side) and self.seen.row(self.sided[label]).get("group") != name:
            label = self._number(self.keys.number(key, lambda n: self.name(n) == name), name, row)
        if self._parted(label, side):
            raise DataError(
                f"{where}: group {name!r} is in {sample.split} here and in {SPLITS[self.sides[label]]} before: a group "
                "belongs to one split"
            )
        if side != UNSPLIT and self.sided[label] < 0:
            self.sided[label], self.sides[label] = row, side
        self.labels.append(label)
        self.named.append(bool(sample.group))

    def _number(self, found: tuple[int, bool], name: str, row: int) -> int:
        label, new = found
        if new:
            self.first.append(row)
            self.sided.append(-1)
            self.sides.append(UNSPLIT)
            self.draws.append(draw(name, self.seed))
        return label

    def _parted(self, label: int, side: int) -> bool:
        return side != UNSPLIT and self.sides[label] not in (UNSPLIT, side)

    def name(self, label: int) -> str:
        row = self.seen.row(self.first[label])
        return row["group"] if row.get("group") is not None else f"{row.get('source') or 'user'}-{row['id']}"


def _check(sample: Sample, own: Policy, names: dict[str, str], where: str) -> None:
    """What a row must not contradict: its own policy, and the names of rules before it, which `names` remembers."""
    ids = own.ids
    for category in sample.categories:
        if category not in ids:
            raise DataError(
                f"{where}: category {category!r} is not in the policy {own.name!r}{near(category, ids)}; "
                "give data.policy=FILE.yaml or a `policy` in the row"
            )
    if sample.unsafe and all(sample.categories.get(i) == "no" for i in ids):
        raise DataError(f"{where}: `unsafe` is true but every category of the policy is no: correct one of them")
    for entry in own.entries:
        if names.setdefault(entry.id, entry.name) != entry.name:
            raise DataError(
                f"{where}: policy entry {entry.id!r} is named {entry.name!r} here and {names[entry.id]!r} before: "
                "give different rules different ids"
            )


def _split(samples: LazySamples, groups: _Groups) -> LazySamples:
    """Rows that name a split keep it, and so does their group; other groups are assigned one."""
    rows, splits = samples.rows, samples.splits
    labels, named = np.array(groups.labels, np.int32), np.array(groups.named, bool)
    own, assigned = labels.copy(), np.zeros(len(labels), bool)
    side = np.full(len(groups.keys), UNSPLIT, np.int8)
    side[labels[named & (splits != UNSPLIT)]] = splits[named & (splits != UNSPLIT)]
    splits = np.where(named & (splits == UNSPLIT), side[labels], splits)

    def assign(which: np.ndarray, fractions: tuple[float, ...]) -> None:
        """Joins the groups of near-duplicates among these samples, and draws a split for each."""
        at = np.flatnonzero(which)
        texts = texts_of(rows.parsed(row) for row in samples.index[at].tolist())
        labels[at] = _first_names(labels[at], merge_similar(texts, labels[at], 0.8), groups)
        splits[at] = split_of(np.array(groups.draws)[labels[at]], fractions)
        assigned[at] = True

    assign(splits == UNSPLIT, FRACTIONS)
    order, train = samples, splits == SPLITS.index("train")
    missing = [s for n, s in enumerate(SPLITS) if n and not (splits == n).any()]
    if missing and train.sum() > 2:
        assign(train, (1 - 0.15 * len(missing), *(0.15 if s in missing else 0.0 for s in SPLITS[1:])))
        order = samples.take(np.argsort(~train, kind="stable"))
        print(f"the manifest has no rows for {' and '.join(missing)}: some training groups are taken", file=sys.stderr)
    rows.splits[samples.index] = splits
    owners = np.where(labels == own, samples.index, np.array(groups.first, np.int32)[labels])
    rows.owners[samples.index] = np.where(assigned, owners, -1)
    return order


def _first_names(labels: np.ndarray, merged: np.ndarray, groups: _Groups) -> np.ndarray:
    """`labels` with one label for the groups that `merged` joins: that whose name is the first in the alphabet."""
    old, place = np.unique(labels, return_index=True)
    _, root, size = np.unique(merged[place], return_inverse=True, return_counts=True)
    joined = np.flatnonzero(size[root] > 1)
    joined = joined[np.argsort(root[joined], kind="stable")]
    new = old.copy()
    for members in np.split(joined, np.flatnonzero(np.diff(root[joined])) + 1):
        if len(members):
            new[members] = min(old[members].tolist(), key=groups.name)
    return new[np.searchsorted(old, labels)]
