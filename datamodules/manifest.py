"""A user's JSONL manifest: one sample a line. A bad row costs itself only, with a message that names it and the fix."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.bank import PolicyBank
from datamodules.corpus.types import Corpus
from datamodules.schema import SPLITS, DataError, Policy, Sample, near
from datamodules.sources.split import FRACTIONS, assign_splits
from datamodules.taxonomy import DEFAULT_POLICY


def read_samples(path: str | Path, data_dir: str | Path | None = None) -> Iterator[tuple[int, str, Sample | DataError]]:
    """(line number, id, sample or what is wrong with it) for each row. Raises `DataError` for an unreadable file."""
    path = Path(path)
    seen: set[str] = set()
    for n, row in read_rows(path):
        where = f"{path.name} line {n}"
        named = isinstance(row, dict) and row.get("id") not in (None, "")
        id = str(row["id"]) if named else f"line {n}"
        try:
            if isinstance(row, DataError):
                raise DataError(f"{where}: {row}")
            sample = Sample.from_dict(row, data_dir or path.parent, where)
            if sample.id in seen:
                raise DataError(f"{where} (id {sample.id!r}): duplicate id: make ids unique")
        except DataError as e:
            yield n, id, e
            continue
        seen.add(sample.id)
        yield n, id, sample


def load_manifest(
    path: str | Path | None, data_dir: str | Path | None, policy: Policy | None, seed: int, max_rows: int | None = None
) -> Corpus:
    """Samples to train and test on. Bad rows are listed in the report's `errors` and left out.

    Rows without a split are assigned one by group; a manifest whose rows all say `train` gives up some groups for
    validation and test.
    """
    if path is None:
        raise DataError("source 'manifest' needs data.path=FILE.jsonl")
    path = Path(path)
    policy = policy or DEFAULT_POLICY
    samples: list[Sample] = []
    errors: list[dict[str, str]] = []
    names = {e.id: e.name for e in policy.entries}
    sides: dict[str, str] = {}
    for n, id, sample in read_samples(path, data_dir):
        try:
            if isinstance(sample, DataError):
                raise sample
            own = sample.policy or policy
            _check(sample, own, names, sides, f"{path.name} line {n} (id {sample.id!r})")
        except DataError as e:
            errors.append({"id": id, "error": str(e)})
            continue
        samples.append(sample.replace(policy=own))
        if max_rows is not None and len(samples) >= max_rows:
            break
    bank = PolicyBank.of(policy)
    for s in samples:
        if not set(s.policy.ids) <= set(bank.train):
            bank = bank.merge(PolicyBank.of(s.policy))
    return Corpus(_split(samples, seed), bank, {"errors": errors})


def _check(sample: Sample, own: Policy, names: dict[str, str], sides: dict[str, str], where: str) -> None:
    """What a row must not contradict: its own policy, and the rows before it. `names` and `sides` remember those."""
    for category in sample.categories:
        if category not in own.ids:
            raise DataError(
                f"{where}: category {category!r} is not in the policy {own.name!r}{near(category, own.ids)}; "
                "give data.policy=FILE.yaml or a `policy` in the row"
            )
    if sample.unsafe and all(sample.categories.get(i) == "no" for i in own.ids):
        raise DataError(f"{where}: `unsafe` is true but every category of the policy is no: correct one of them")
    for entry in own.entries:
        if names.setdefault(entry.id, entry.name) != entry.name:
            raise DataError(
                f"{where}: policy entry {entry.id!r} is named {entry.name!r} here and {names[entry.id]!r} before: "
                "give different rules different ids"
            )
    if (
        sample.group is not None
        and sample.split is not None
        and sides.setdefault(sample.group, sample.split) != sample.split
    ):
        raise DataError(
            f"{where}: group {sample.group!r} is in {sample.split} here and in {sides[sample.group]} before: a group "
            "belongs to one split"
        )


def read_rows(path: Path) -> list[tuple[int, Any]]:
    """The number and the JSON value of each non-empty line, or the `DataError` that it deserves."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines() would cut at U+2028 inside a text
    except OSError as e:
        raise DataError(f"{path}: cannot read the manifest: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not UTF-8 text (byte {e.start}): save it as UTF-8 JSONL") from e
    rows: list[tuple[int, Any]] = []
    for n, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                row = DataError("half a surrogate pair (\\ud800 to \\udfff) in a text: write whole characters")
            except (ValueError, RecursionError) as e:
                row = DataError(f"not valid JSON: {e}")
            rows.append((n, row))
    return rows


def _split(samples: list[Sample], seed: int) -> list[Sample]:
    """Rows that name a split keep it, and so does their group; other groups are assigned one."""
    named = {s.group: s.split for s in samples if s.split and s.group}
    samples = [s.replace(split=named.get(s.group)) if s.split is None and s.group in named else s for s in samples]
    free = iter(assign_splits([s for s in samples if s.split is None], seed=seed, fractions=FRACTIONS))
    samples = [s if s.split else next(free) for s in samples]
    counts = Counter(s.split for s in samples)
    missing = [s for s in SPLITS[1:] if not counts[s]]
    if missing and counts["train"] > 2:
        fractions = (1 - 0.15 * len(missing), *(0.15 if s in missing else 0.0 for s in SPLITS[1:]))
        train = assign_splits([s for s in samples if s.split == "train"], seed=seed, fractions=fractions)
        samples = [*train, *(s for s in samples if s.split != "train")]
        print(f"the manifest has no rows for {' and '.join(missing)}: some training groups are taken", file=sys.stderr)
    return samples
