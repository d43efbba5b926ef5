"""Which rows train which reader: a plan made once, seeded, with the same number of rows for every reader."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.bank import rng_for
from datamodules.schema import DataError, Policy, Sample
from zoo.core.losses import CATEGORY, VERDICT
from zoo.core.query import Query, category_query, verdict_query
from zoo.routeguard.experts import MONOLITH, Expert

READER, STAGE = "reader", "stage"  # keys in a training copy's `meta`


@dataclass(frozen=True)
class Shares:
    """Of an expert's rows: unsafe in its own domain, safe, and unsafe in other domains alone.

    Where a share has no row, the others take its place. The monolith's unsafe rows are all its own.
    """

    own: float = 0.5
    safe: float = 0.3
    other: float = 0.2

    def __post_init__(self) -> None:
        if min(self.own, self.safe, self.other) < 0 or self.own + self.safe + self.other <= 0:
            raise DataError(f"shares {self}: give numbers from 0, not all 0")


def plan(
    samples: Sequence[Sample], readers: Iterable[Expert], policy: Policy, rows: int, shares: Shares, seed: int
) -> tuple[list[Sample], dict[str, dict[str, int]]]:
    """Copies of training samples, `rows` for each reader, marked with it; and how many rows stand behind each share.

    A sample whose verdict in a reader's domain is unknown is left out for that reader. Rows of a share come equally
    often. Raises `DataError` for an expert without a row of its own domain.
    """
    if rows < 1:
        raise DataError(f"rows={rows}: give at least 1 for each reader")
    out: list[Sample] = []
    counts: dict[str, dict[str, int]] = {}
    whole = [s.gold(policy) for s in samples]
    for stage, reader in enumerate(readers):
        part = reader.policy(policy)
        pools: dict[str, list[int]] = {"own": [], "safe": [], "other": []}
        for i, s in enumerate(samples):
            gold = s.gold(part)
            if gold is not None:
                pools["own" if gold else "other" if whole[i] or s.unsafe else "safe"].append(i)
        counts[reader.name] = {k: len(v) for k, v in pools.items()}
        if not pools["own"]:
            raise DataError(
                f"expert {reader.name!r}: no training row is unsafe under {', '.join(part.ids)}: give some, or leave "
                "it out"
            )
        rng = np.random.default_rng([seed, *reader.name.encode()])
        for n, i in enumerate(_drawn(pools, shares, rows, rng)):
            s = samples[i]
            out.append(s.replace(id=f"{s.id}@{reader.name}{n}", meta={**s.meta, READER: reader.name, STAGE: stage}))
    return out, counts


def _drawn(pools: Mapping[str, list[int]], shares: Shares, rows: int, rng: np.random.Generator) -> list[int]:
    wanted = {k: getattr(shares, k) for k, pool in pools.items() if pool}
    total = sum(wanted.values())
    if total <= 0:  # only pools that nothing was wanted of
        wanted, total = dict.fromkeys(wanted, 1.0), float(len(wanted))
    sizes = {k: int(rows * w / total) for k, w in wanted.items()}
    sizes[next(iter(sizes))] += rows - sum(sizes.values())
    out: list[int] = []
    for k, size in sizes.items():
        pool = np.array(pools[k])
        laps = [rng.permutation(pool) for _ in range(-(-size // len(pool)))]
        out += np.concatenate(laps)[:size].tolist() if laps else []
    return out


def reader_queries(
    sample: Sample, reader: Expert, policy: Policy, most: int | None, seed: int = 0
) -> tuple[list[Query], list[int], list[int]]:
    """The queries that train `reader` on `sample`, with their right options and kinds. Unknown labels are not asked.

    At most `most` categories, those with a yes first, the others in an order drawn for the sample.
    """
    part = reader.policy(policy)
    queries: list[Query] = []
    options: list[int] = []
    kinds: list[int] = []
    gold = sample.gold(part)
    if gold is not None:
        queries.append(verdict_query(part))
        options.append(int(gold))
        kinds.append(VERDICT)
    known = [(e, answer) for e in part.entries if (answer := sample.label(e.id)) is not None]
    rng_for(seed, sample.id).shuffle(known)
    for entry, answer in sorted(known, key=lambda x: not x[1])[:most]:
        queries.append(category_query(entry))
        options.append(int(answer))
        kinds.append(CATEGORY)
    return queries, options, kinds


def route_targets(sample: Sample, experts: Iterable[Expert], policy: Policy) -> list[int]:
    """For each expert: 1 where its domain holds something unsafe in the sample, 0 where not, −1 unknown."""
    out = []
    for expert in experts:
        part = expert.policy(policy)
        gold = None if part is None else sample.gold(part)
        out.append(-1 if gold is None else int(gold))
    return out


def reader_of(sample: Sample) -> str:
    """The reader that a training copy is for."""
    return str(sample.meta.get(READER, MONOLITH))


def stage_of(sample: Sample) -> int:
    """The place of a training copy's reader in the plan."""
    return int(sample.meta[STAGE])
