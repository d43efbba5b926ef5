"""Splits that nothing leaks across: by group, with near-duplicate texts in one group.

A row's split depends on its group's name and the seed alone, so neither the order of the rows nor rows that are added
later move it (unless a new row is a near-duplicate of old ones, and joins their groups).
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from datamodules.keys import Keys, digest
from datamodules.lazy import own_group
from datamodules.schema import SPLITS, DataError, Sample
from datamodules.sources.similar import merge_similar, normalise, shingles

__all__ = ["FRACTIONS", "assign_splits", "near_duplicate_groups", "near_duplicates", "normalise", "shingles"]

FRACTIONS = (0.70, 0.12, 0.18)  # train, val, test


def assign_splits(
    samples: Iterable[Sample], seed: int = 0, fractions: Sequence[float] = FRACTIONS, near: float | None = 0.8
) -> list[Sample]:
    """The samples in their order, each with `split` set and `group` merged with those of its near-duplicates.

    `near` is the similarity from which texts are near-duplicates, None to leave the groups as they are. Raises
    `DataError` when the fractions (train, val, test) do not sum to 1.
    """
    check_fractions(fractions)
    samples = list(samples)
    groups = [own_group(s) for s in samples] if near is None else near_duplicates(samples, near)
    places = split_of(np.array([draw(g, seed) for g in groups]), fractions).tolist()
    return [s.replace(group=g, split=SPLITS[p]) for s, g, p in zip(samples, groups, places)]


def near_duplicates(samples: Sequence[Sample], threshold: float = 0.8) -> list[str]:
    """The group of each sample after merging groups with near-duplicate texts; named by the first in the alphabet.

    Two texts are near-duplicates when the Jaccard similarity of their character 5-grams is at least `threshold`, after
    case, accents and everything but letters and digits are dropped. Exact, not sketched. A sample without a group is
    one of its own.
    """
    own = [own_group(s) for s in samples]
    names: dict[int, str] = {}
    groups = near_duplicate_groups(samples, threshold).tolist()
    for group, name in zip(groups, own):
        names[group] = min(name, names.get(group, name))
    return [names[group] for group in groups]


def near_duplicate_groups(samples: Sequence[Sample], threshold: float = 0.8) -> np.ndarray:
    """As `near_duplicates`, with a number for each group, int [n]. Goes twice through `samples` and keeps none."""
    keys = Keys()
    labels = array("i", (keys.number(digest(own_group(s)))[0] for s in samples))
    return merge_similar(texts_of(samples), np.array(labels, np.int32), threshold)


def texts_of(samples: Iterable[Sample]) -> Iterator[str]:
    """What near-duplicates are told by, normalised.

    Samples with media are told apart by their group alone: the words beside them are often the same.
    """
    for s in samples:
        yield "" if s.media else normalise("\n".join(p.text or "" for p in s.parts))


def draw(group: str, seed: int) -> float:
    """A number in [0, 1) that the group's name and the seed decide."""
    return int.from_bytes(hashlib.sha256(f"{seed}\x1f{group}".encode()).digest()[:8], "big") / 2**64


def check_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1.0):
        raise DataError(f"split fractions {tuple(fractions)}: give three shares for train, val and test that sum to 1")


def split_of(draws: np.ndarray, fractions: Sequence[float]) -> np.ndarray:
    """Places in `SPLITS`, int8 [n], of numbers in [0, 1]."""
    train, val, _ = fractions
    return np.where(draws < train, 0, np.where(draws < train + val, 1, 2)).astype(np.int8)
