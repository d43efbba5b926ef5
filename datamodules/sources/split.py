"""Splits that nothing leaks across: by group, with near-duplicate texts in one group.

A row's split depends on its group's name and the seed alone, so neither the order of the rows nor rows that are added
later move it (unless a new row is a near-duplicate of old ones, and joins their groups).
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from datamodules.schema import SPLITS, DataError, Sample

FRACTIONS = (0.70, 0.12, 0.18)  # train, val, test
SHINGLE = 5  # characters
MAX_CHARS = 2_000  # of a text that are compared: longer texts with one beginning count as the same


def assign_splits(
    samples: Iterable[Sample], seed: int = 0, fractions: Sequence[float] = FRACTIONS, near: float | None = 0.8
) -> list[Sample]:
    """The samples in their order, each with `split` set and `group` merged with those of its near-duplicates.

    `near` is the similarity from which texts are near-duplicates, None to leave the groups as they are. Raises
    `DataError` when the fractions (train, val, test) do not sum to 1.
    """
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1.0):
        raise DataError(f"split fractions {tuple(fractions)}: give three shares for train, val and test that sum to 1")
    samples = list(samples)
    groups = [_own(s) for s in samples] if near is None else near_duplicates(samples, near)
    return [s.replace(group=g, split=_split(g, seed, fractions)) for s, g in zip(samples, groups)]


def near_duplicates(samples: Sequence[Sample], threshold: float = 0.8) -> list[str]:
    """The group of each sample after merging groups with near-duplicate texts; named by the first in the alphabet.

    Two texts are near-duplicates when the Jaccard similarity of their character 5-grams is at least `threshold`, after
    case, accents and everything but letters and digits are dropped. Exact, not sketched: prefix filtering (Bayardo, Ma
    and Srikant 2007) finds every such pair. A sample without a group is one of its own.
    """
    if not 0 < threshold <= 1:
        raise DataError(f"near-duplicate threshold {threshold}: give a similarity in (0, 1]")
    sets = _Sets()
    first: dict[str, str] = {}  # normalised text -> a group that has it
    own = [_own(s) for s in samples]
    for sample, group in zip(samples, own):
        text = "" if sample.media else normalise("\n".join(p.text or "" for p in sample.parts))
        if text:  # samples with media are told apart by their group alone: the words beside them are often the same
            sets.join(first.setdefault(text, group), group)
    texts = sorted(first)
    for a, b in _similar_pairs(texts, [first[t] for t in texts], threshold, sets):
        sets.join(first[texts[a]], first[texts[b]])
    members: dict[str, list[str]] = defaultdict(list)
    for group in set(own):
        members[sets.root(group)].append(group)
    names = {root: min(groups) for root, groups in members.items()}
    return [names[sets.root(g)] for g in own]


def normalise(text: str) -> str:
    """Lower case, without accents, with single spaces for whatever is no letter or digit."""
    text = unicodedata.normalize("NFKD", text[: 2 * MAX_CHARS].casefold())
    kept = "".join(c if c.isalnum() else " " for c in text if not unicodedata.combining(c))
    return " ".join(kept.split())[:MAX_CHARS]


def shingles(text: str) -> np.ndarray:
    """Sorted hashes uint64 [n] of the character 5-grams of a normalised text; a shorter text is padded."""
    codes = np.frombuffer(text.ljust(SHINGLE).encode("utf-32-le"), "<u4").astype(np.uint64)
    hashed = np.zeros(len(codes) - SHINGLE + 1, np.uint64)
    for k in range(SHINGLE):  # wraps at 2^64, as it should
        hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + codes[k : len(codes) - SHINGLE + 1 + k]
    return np.unique(hashed)


def _similar_pairs(texts: list[str], groups: list[str], threshold: float, sets: _Sets) -> Iterable[tuple[int, int]]:
    """Pairs of texts with a similarity of at least `threshold`, but for those whose groups are merged already.

    A set of n shingles shares one of its n - ceil(threshold n) + 1 rarest with every set that is similar enough: only
    those are indexed and looked up. Texts come by length, so that the index holds none longer than the one looked up.
    """
    rows = [shingles(t) for t in texts]
    if not rows:
        return
    known, where, counts = np.unique(np.concatenate(rows), return_inverse=True, return_counts=True)
    rank = np.empty(len(known), np.int64)
    rank[np.lexsort((known, counts))] = np.arange(len(known))  # the rarest first
    ends = np.cumsum([len(r) for r in rows])
    ranked = [np.sort(r) for r in np.split(rank[where], ends[:-1])]
    index: dict[int, list[int]] = defaultdict(list)
    for i in sorted(range(len(rows)), key=lambda i: (len(rows[i]), texts[i])):
        size = len(ranked[i])
        prefix = ranked[i][: size - math.ceil(threshold * size - 1e-9) + 1].tolist()
        for j in {j for shingle in prefix for j in index.get(shingle, ())}:
            short = len(ranked[j])
            if short < threshold * size - 1e-9 or sets.root(groups[i]) == sets.root(groups[j]):
                continue
            shared = len(np.intersect1d(ranked[i], ranked[j], assume_unique=True))
            if shared >= threshold * (size + short - shared) - 1e-9:
                yield i, j
        for shingle in prefix:
            index[shingle].append(i)


class _Sets:
    """Union-find over group names."""

    def __init__(self) -> None:
        self.parent: dict[str, str] = {}

    def root(self, name: str) -> str:
        top = name
        while (up := self.parent.get(top, top)) != top:
            top = up
        while name != top:  # the next search is short
            self.parent[name], name = top, self.parent.get(name, name)
        return top

    def join(self, a: str, b: str) -> None:
        self.parent[self.root(a)] = self.root(b)


def _own(sample: Sample) -> str:
    return sample.group if sample.group is not None else f"{sample.source}-{sample.id}"


def _split(group: str, seed: int, fractions: Sequence[float]) -> str:
    draw = int.from_bytes(hashlib.sha256(f"{seed}\x1f{group}".encode()).digest()[:8], "big") / 2**64
    return SPLITS[0] if draw < fractions[0] else SPLITS[1] if draw < fractions[0] + fractions[1] else SPLITS[2]
