"""Which of many texts are nearly the same: exact, and in memory that hardly grows with them.

Two texts are near-duplicates when the Jaccard similarity of their character 5-grams is at least a threshold. A set of n
shingles shares one of its n - ceil(threshold n) + 1 rarest with every set that is similar enough (prefix filtering:
Bayardo, Ma and Srikant 2007), so only those are indexed. What the texts are and which shingles they are indexed by goes
to a temporary file (about 3 bytes a character); about 90 bytes a text stay in memory, 220 for texts of over 300
shingles. A shingle's rarity is counted in a table of fixed size: shingles that share a place there look more frequent
than they are, which costs time but finds the same pairs.

A pair that shares an indexed shingle is dropped by what can be known of it in turn: sizes; how many shingles come after
the shared one (positional filtering: Xiao et al. 2008); in how many bits its parity maps differ. What is left is
compared shingle by shingle.
"""

from __future__ import annotations

import tempfile
import unicodedata
from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from datamodules.keys import Keys, digest
from datamodules.schema import DataError

SHINGLE = 5  # characters
MAX_CHARS = 2_000  # of a text that are compared: longer texts with one beginning count as the same
CHARS = 1 << 15  # of the texts that are hashed in one go
COUNTERS = 1 << 22
PARTS = 256  # of the index: one is in memory at a time
BLOCK = 1 << 10  # entries of a part that are written in one go
PAIRS = 1 << 14  # that are compared in one go
SPOOL = 1 << 20  # bytes that a temporary file keeps in memory
SHORT, LONG = 256, 1024  # bits of a text's parity maps
LONG_FROM = 300  # shingles, from which on the short map cannot tell texts apart
CACHE = 1 << 19  # shingles of texts that are compared one to one
_ASCII = {c: chr(c) if chr(c).isalnum() else " " for c in range(128)}
# An entry of the index: a shingle's word, the shingle's place among those of its text, the text's number.
PLACE_BITS, TEXT_BITS = 11, 31
_PLACE, _TEXT = np.uint64((1 << PLACE_BITS) - 1), np.uint64((1 << TEXT_BITS) - 1)
_WORD = np.uint64(PLACE_BITS + TEXT_BITS)


def normalise(text: str) -> str:
    """Lower case, without accents, with single spaces for whatever is no letter or digit."""
    text = text[: 2 * MAX_CHARS].casefold()
    if text.isascii():  # the same, faster
        return " ".join(text.translate(_ASCII).split())[:MAX_CHARS]
    text = unicodedata.normalize("NFKD", text)
    kept = "".join(c if c.isalnum() else " " for c in text if not unicodedata.combining(c))
    return " ".join(kept.split())[:MAX_CHARS]


def shingles(text: str) -> np.ndarray:
    """Sorted hashes uint64 [n] of the character 5-grams of a normalised text; a shorter text is padded."""
    return np.unique(_windows([text])[1])


def merge_similar(texts: Iterable[str], labels: np.ndarray, threshold: float) -> np.ndarray:
    """Groups, int [n], after joining those of near-duplicate texts: each becomes one of those that it is joined with.

    `texts` are normalised, one for each label and gone through once; an empty one is like no other. Raises `DataError`
    where there is no room for a temporary file.
    """
    if not 0 < threshold <= 1:
        raise DataError(f"near-duplicate threshold {threshold}: give a similarity in (0, 1]")
    if not len(labels):
        return labels
    try:
        with tempfile.SpooledTemporaryFile(SPOOL) as kept, tempfile.SpooledTemporaryFile(SPOOL) as index:
            search = _Search(labels, threshold, _Texts(kept), _Spill(index))
            return search.run(texts)
    except OSError as e:
        raise DataError(
            f"{tempfile.gettempdir()}: cannot keep a temporary file for the search of near-duplicates: {e.strerror}: "
            "make room, or name another folder in TMPDIR"
        ) from e


def _windows(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(the text's place, the hash uint64) of each 5-gram of normalised texts, in order."""
    padded = [t.ljust(SHINGLE) for t in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le"), "<u4").astype(np.uint64)
    owner = np.repeat(np.arange(len(padded), dtype=np.int64), [len(t) for t in padded])
    hashed = np.zeros(len(codes) - SHINGLE + 1, np.uint64)
    for k in range(SHINGLE):  # wraps at 2^64, as it should
        hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + codes[k : len(hashed) + k]
    hashed = (hashed ^ (hashed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)  # one to one: all bits are good
    hashed ^= hashed >> np.uint64(32)
    whole = owner[: len(hashed)] == owner[SHINGLE - 1 :]  # not over the end of a text
    return owner[: len(hashed)][whole], hashed[whole]


class _Texts:
    """Normalised texts in a file, numbered from 0."""

    def __init__(self, file: tempfile.SpooledTemporaryFile):
        self.file, self.ends = file, array("q")

    def __len__(self) -> int:
        return len(self.ends)

    def add(self, text: str) -> None:
        raw = text.encode()
        self.file.write(raw)
        self.ends.append((self.ends[-1] if self.ends else 0) + len(raw))

    def __getitem__(self, n: int) -> str:
        first = self.ends[n - 1] if n else 0
        self.file.seek(first)
        return self.file.read(self.ends[n] - first).decode()

    def batches(self) -> Iterator[list[str]]:
        batch, chars = [], 0
        for n in range(len(self)):
            batch.append(self[n])
            chars += len(batch[-1])
            if chars >= CHARS:
                yield batch
                batch, chars = [], 0
        if batch:
            yield batch


class _Spill:
    """Entries uint64 by part, in a file."""

    def __init__(self, file: tempfile.SpooledTemporaryFile):
        self.file, self.end = file, 0
        self.waiting = [bytearray() for _ in range(PARTS)]
        self.blocks: list[list[tuple[int, int]]] = [[] for _ in range(PARTS)]

    def add(self, parts: np.ndarray, entries: np.ndarray) -> None:
        order = np.argsort(parts, kind="stable")
        entries, bounds = entries[order], np.searchsorted(parts[order], np.arange(PARTS + 1)).tolist()
        for part in range(PARTS):
            if bounds[part] < bounds[part + 1]:
                self.waiting[part] += entries[bounds[part] : bounds[part + 1]].tobytes()
                if len(self.waiting[part]) >= 8 * BLOCK:
                    self._write(part)

    def _write(self, part: int) -> None:
        self.file.seek(self.end)
        self.file.write(self.waiting[part])
        self.blocks[part].append((self.end, len(self.waiting[part])))
        self.end += len(self.waiting[part])
        self.waiting[part] = bytearray()

    def read(self, part: int) -> np.ndarray:
        whole = bytearray()
        for at, size in self.blocks[part]:
            self.file.seek(at)
            whole += self.file.read(size)
        return np.frombuffer(whole + self.waiting[part], np.uint64)


class _Sets:
    """Union-find over numbers."""

    def __init__(self, n: int):
        self.parent = np.arange(n, dtype=np.int32)
        self._fast = memoryview(self.parent)  # of single numbers

    def root(self, n: int) -> int:
        parent = self._fast
        while (up := parent[n]) != n:
            parent[n] = parent[up]  # the next search is short
            n = up
        return n

    def join(self, a: int, b: int) -> None:
        self._fast[self.root(a)] = self.root(b)

    def flatten(self) -> np.ndarray:
        """The root of each number, int32 [n]."""
        while True:
            up = self.parent[self.parent]
            if np.array_equal(up, self.parent):
                return self.parent
            self.parent[:] = up


class _Search:
    def __init__(self, labels: np.ndarray, threshold: float, texts: _Texts, spill: _Spill):
        self.labels, self.threshold, self.texts, self.spill = labels, threshold, texts, spill
        self.sets = _Sets(int(labels.max()) + 1)
        self.failed: set[int] = set()
        self.cached: dict[int, np.ndarray] = {}
        self.cached_size = 0

    def run(self, texts: Iterable[str]) -> np.ndarray:
        counts = self._collect(texts)
        self._index(counts)
        del counts
        for part in range(PARTS):
            self._pairs_of(self.spill.read(part))
        return self.sets.flatten()[self.labels]

    def _collect(self, texts: Iterable[str]) -> np.ndarray:
        """Keeps one of each text, joining the groups of equal ones; returns how often shingles come, by counter."""
        known, groups = Keys(), array("i")
        for label, text in zip(memoryview(self.labels), texts, strict=True):
            if text:
                number, new = known.number(digest(text))
                if new:
                    self.texts.add(text)
                    groups.append(label)
                else:
                    self.sets.join(label, groups[number])
        self.group = np.array(groups, np.int32)
        counts = np.zeros(COUNTERS, np.uint32)
        for batch in self.texts.batches():
            places, times = np.unique((_windows(batch)[1] % COUNTERS).astype(np.uint32), return_counts=True)
            counts[places] += times.astype(np.uint32)
        return counts

    def _index(self, counts: np.ndarray) -> None:
        """Writes the rarest shingles of each text to the index."""
        n = len(self.texts)
        self.size = np.zeros(n, np.int32)
        self.short = np.zeros((n, SHORT // 64), np.uint64)
        self.long = np.zeros((n, LONG // 64), np.uint64)  # takes no memory before a row is written to
        first = 0
        for batch in self.texts.batches():
            text, hashed = _windows(batch)
            order = _by(text, np.argsort(hashed))
            text, hashed = text[order], hashed[order]
            new = np.append(True, (text[1:] != text[:-1]) | (hashed[1:] != hashed[:-1]))
            text, hashed = text[new], hashed[new]
            size = np.bincount(text, minlength=len(batch))
            here = slice(first, first + len(batch))
            self.size[here] = size
            self.short[here] = _parity(text, hashed, len(batch), SHORT)
            large = np.flatnonzero(size > LONG_FROM)
            if len(large):
                self.long[first + large] = _parity(text, hashed, len(batch), LONG)[large]
            seen = np.minimum(counts[(hashed % COUNTERS).astype(np.int64)], 65_535)
            order = _by(text, _by(seen))  # the rarest first, then by hash
            text, hashed, seen = text[order], hashed[order], seen[order]
            place = np.arange(len(text)) - (np.cumsum(size) - size)[text]
            needed = size - np.ceil(self.threshold * size - 1e-9).astype(np.int64) + 1
            wanted = (place < needed[text]) & (seen > 1)  # what comes once has no other to find
            text, place, hashed = (
                (text[wanted] + first).astype(np.uint64),
                place[wanted].astype(np.uint64),
                hashed[wanted],
            )
            entries = (hashed << _WORD) | (place << np.uint64(TEXT_BITS)) | text  # the word: the hash's lower bits
            self.spill.add((hashed >> np.uint64(56)).astype(np.uint8), entries)
            first += len(batch)
        self.by_size = np.argsort(self.size, kind="stable").astype(np.int32)
        self.rank = np.empty(n, np.int32)
        self.rank[self.by_size] = np.arange(n, dtype=np.int32)

    def _pairs_of(self, entries: np.ndarray) -> None:
        """Joins the groups of near-duplicates that share an indexed shingle: all pairs of a run, the smaller first."""
        if not len(entries):
            return
        rank = self.rank[(entries & _TEXT).astype(np.int64)].astype(np.uint64)
        place = (entries >> np.uint64(TEXT_BITS)) & _PLACE
        keys = np.sort((entries >> _WORD << _WORD) | (rank << np.uint64(PLACE_BITS)) | place)
        word = keys >> _WORD
        starts = np.flatnonzero(np.append(True, word[1:] != word[:-1]))
        lengths = np.diff(np.append(starts, len(word)))
        ends = np.repeat(starts + lengths, lengths)
        text = self.by_size[((keys >> np.uint64(PLACE_BITS)) & _TEXT).astype(np.int64)]
        size, group = self.size[text], self.group[text]
        after = size - (keys & _PLACE).astype(np.int32)  # shingles of the text from this one on
        part = self.threshold / (1 + self.threshold)  # of both sizes: so many shingles must be shared
        limit = np.minimum((size + 1e-9) / self.threshold, (after + 1e-6) / part - size)  # of the larger one's size
        at, step = np.arange(len(text)), 1
        while True:
            at = at[at + step < ends[at]]
            at = at[size[at + step] <= limit[at]]  # what comes later in the run is larger still
            if not step & (step - 1):  # now and then: runs that are one group by now have nothing left to find
                roots = self.sets.flatten()[group]
                mixed = np.minimum.reduceat(roots, starts) != np.maximum.reduceat(roots, starts)
                at = at[np.repeat(mixed, lengths)[at]]
            if not len(at):
                return
            b = at + step
            maybe = after[b] >= part * (size[at] + size[b]) - 1e-6  # if it is the first shingle that they share
            maybe &= self.sets.parent[group[at]] != self.sets.parent[group[b]]
            a, b = text[at[maybe]], text[b[maybe]]
            for first in range(0, len(a), PAIRS):
                self._compare(a[first : first + PAIRS], b[first : first + PAIRS])
            step += 1

    def _compare(self, a: np.ndarray, b: np.ndarray) -> None:
        """Texts a [k] against texts b [k]: by their parity maps, then what may be similar by their shingles.

        Maps differ in at most as many bits as the sets differ in shingles.
        """
        bound = (self.size[a] + self.size[b]) * ((1 - self.threshold) / (1 + self.threshold)) + 1e-6
        maybe = np.zeros(len(a), bool)
        for maps, here in ((self.short, self.size[a] <= LONG_FROM), (self.long, self.size[a] > LONG_FROM)):
            maybe[here] = np.bitwise_count(maps[a[here]] ^ maps[b[here]]).sum(1) <= bound[here]
        a, b = a[maybe], b[maybe]
        n = len(self.texts)
        for x, y in zip(a.tolist(), b.tolist()):
            if self.sets.root(self.group[x]) == self.sets.root(self.group[y]) or x * n + y in self.failed:
                continue
            one, two = self._shingles(x), self._shingles(y)
            shared = len(np.intersect1d(one, two, assume_unique=True))
            if shared >= self.threshold * (len(one) + len(two) - shared) - 1e-9:
                self.sets.join(int(self.group[x]), int(self.group[y]))
            else:
                if len(self.failed) >= CACHE // 4:
                    self.failed.clear()
                self.failed.add(x * n + y)

    def _shingles(self, n: int) -> np.ndarray:
        found = self.cached.get(n)
        if found is None:
            found = self.cached[n] = shingles(self.texts[n])
            self.cached_size += len(found)
            while self.cached_size > CACHE:
                self.cached_size -= len(self.cached.pop(next(iter(self.cached))))
        return found


def _by(numbers: np.ndarray, order: np.ndarray | None = None) -> np.ndarray:
    """`order` sorted by numbers below 2^16, otherwise as it was: numpy's stable sort of these is linear."""
    numbers = numbers.astype(np.uint16)
    return np.argsort(numbers, kind="stable") if order is None else order[np.argsort(numbers[order], kind="stable")]


def _parity(text: np.ndarray, hashed: np.ndarray, n: int, bits: int) -> np.ndarray:
    """uint64 [n, bits / 64]: for each text whether an odd number of its shingles falls on a bit."""
    place = text * bits + ((hashed >> np.uint64(40)) % np.uint64(bits)).astype(np.int64)
    odd = (np.bincount(place, minlength=n * bits) & 1).astype(np.uint8).reshape(n, bits)
    return np.packbits(odd, axis=1).view(np.uint64)
