"""Which rows of the real data are used, and on which side: splits by group, a cap on each source, duplicates out.

The order of the sides is train < val < test: where a group or a text is on two of them, the earlier side loses it, so
that nothing in a test set is known from training.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from datamodules.bank import rng_for
from datamodules.schema import SPLITS, Sample
from datamodules.sources.split import FRACTIONS, near_duplicates

RANK = {name: n for n, name in enumerate(SPLITS)}


def latest(splits: Iterable[str | None]) -> str | None:
    """The side that a group on several sides belongs to: the one nearest to test; None where none is set."""
    return max((s for s in splits if s is not None), key=RANK.__getitem__, default=None)


def assign_text(samples: list[Sample], held_out: frozenset[str], seed: int, dropped: Counter) -> list[Sample]:
    """Splits whole groups: to test those with a held-out positive, else as upstream did, else by a seeded hash.

    Upstream rows whose group is on a later side are dropped, and counted in `dropped`.
    """
    groups: dict[str, list[Sample]] = defaultdict(list)
    for s in samples:
        groups[str(s.group)].append(s)
    chosen: dict[str, str] = {}
    forced: set[str] = set()
    for name, rows in groups.items():
        preset = latest(s.split for s in rows)
        if any(s.categories.get(id) == "yes" for s in rows for id in held_out):
            chosen[name] = "test"
            forced.add(name)
        elif preset is not None:
            chosen[name] = preset
        else:
            u = int(hashlib.sha256(f"{seed}|{name}".encode()).hexdigest()[:13], 16) / 16**13
            chosen[name] = SPLITS[(u >= FRACTIONS[0]) + (u >= FRACTIONS[0] + FRACTIONS[1])]
    out = []
    for s in samples:
        side = chosen[str(s.group)]
        if s.split not in (None, side) and str(s.group) not in forced:
            dropped["group on a later split"] += 1
        else:
            out.append(s.replace(split=side))
    return out


def assign_media(samples: list[Sample], held_out: frozenset[str], seed: int) -> list[Sample]:
    """Splits files within the classes that their labels make, so that a class of few files is on every side.

    A file that is positive for a held-out entry goes to test, whatever its own split says.
    """
    classes: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    side: dict[str, str] = {}
    for s in samples:
        if any(s.categories.get(id) == "yes" for id in held_out):
            side[s.id] = "test"
        elif s.split is not None:
            side[s.id] = s.split
        else:
            classes[tuple(sorted(i for i, label in s.categories.items() if label == "yes"))].append(s)
    for key, rows in classes.items():
        rows = sorted(rows, key=lambda s: s.id)
        rng_for(seed, "media", *key).shuffle(rows)
        test = round(0.25 * len(rows)) or int(len(rows) == 2)
        val = max(round(0.15 * len(rows)), int(len(rows) >= 4))
        for n, s in enumerate(rows):
            side[s.id] = "test" if n < test else "val" if n < test + val else "train"
    return [s.replace(split=side[s.id]) for s in samples]


def _stratum(sample: Sample) -> str:
    yes = sorted(i for i, label in sample.categories.items() if label == "yes")
    rare = yes[-1] if yes else ""  # the last of several: S1 to S3 are on most rows and say least
    return f"{sample.unsafe}|{rare}"


def cap(samples: list[Sample], limit: int, held_out: frozenset[str], seed: int, dropped: Counter) -> list[Sample]:
    """At most about `limit` rows: `FRACTIONS` of them per split, shared out between safe and unsafe, then strata.

    Rows with a held-out positive are all kept: they are few, and the test of unseen entries rests on them.
    """
    if len(samples) <= limit:
        return samples
    sides: dict[str, list[Sample]] = defaultdict(list)
    for s in samples:
        sides[str(s.split)].append(s)
    keep: set[str] = {s.id for s in samples if any(s.categories.get(i) == "yes" for i in held_out)}
    only = len(sides) == 1
    for side, rows in sides.items():
        room = limit if only else round(limit * FRACTIONS[RANK[side]])
        rows = [s for s in rows if s.id not in keep]
        halves = [[s for s in rows if s.unsafe is True], [s for s in rows if s.unsafe is not True]]
        small = min(halves, key=len)
        taken = min(len(small), room // 2)
        for half in halves:
            keep |= _round_robin(half, taken if half is small else room - taken, _stratum, seed)
    dropped["over the cap"] += len(samples) - len(keep)
    return [s for s in samples if s.id in keep]


def _round_robin(rows: list[Sample], room: int, key: Callable[[Sample], str], seed: int) -> set[str]:
    strata: dict[str, list[str]] = defaultdict(list)
    for s in rows:
        strata[key(s)].append(s.id)
    for name, ids in strata.items():
        ids.sort()
        rng_for(seed, "cap", name).shuffle(ids)
    out: list[str] = []
    queue = sorted(strata)
    while queue and len(out) < room:
        for name in list(queue):
            if len(out) < room:
                out.append(strata[name].pop())
            if not strata[name]:
                queue.remove(name)
    return set(out)


# ---------------------------------------------------------------------------------------------------------- duplicates


def drop_duplicates(samples: list[Sample], dropped: dict[str, Counter]) -> list[Sample]:
    """Leaves one of each exact text, and of near-duplicates on several sides only those on the latest.

    Near-duplicates on one side stay: contrast pairs are such. `dropped` is counted by source.
    """
    samples = sorted(samples, key=lambda s: -RANK[str(s.split)])  # stable: the later side is met first and stays
    texts: set[str] = set()
    kept = []
    for s in samples:
        text = whole_text(s)
        if text in texts:
            dropped[s.source]["exact duplicate"] += 1
        else:
            texts.add(text)
            kept.append(s)
    clusters = near_duplicates([s.replace(group=s.id) for s in kept])
    side: dict[str, str] = {}
    for s, cluster in zip(kept, clusters):
        side.setdefault(cluster, str(s.split))
    out = []
    for s, cluster in zip(kept, clusters):
        if s.split == side[cluster]:
            out.append(s)
        else:
            dropped[s.source]["near-duplicate on a later split"] += 1
    return out


def whole_text(sample: Sample) -> str:
    """All words of its texts, in lower case: two samples with the same are one."""
    return " ".join(re.findall(r"\w+", " ".join(p.text or "" for p in sample.parts).lower()))
