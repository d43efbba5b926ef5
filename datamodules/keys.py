"""Sets of names that take some 30 bytes a name, however long the names are: a hash stands for each."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable


def digest(name: str) -> tuple[int, int]:
    """BLAKE2b of a name, as two 64-bit numbers."""
    raw = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return int.from_bytes(raw[:8], "little"), int.from_bytes(raw[8:], "little")


class Keys:
    """Distinct 128-bit keys, numbered from 0 in the order in which they come. Open addressing, at most half full.

    That two names of one file share a key is less likely than a broken disk; whoever reports something on the ground
    of a key asks the names themselves all the same, through `same`.
    """

    def __init__(self) -> None:
        self.low, self.high = array("Q"), array("Q")  # of each key
        self._slots = array("I", bytes(4 * 64))  # a key's number + 1; 0 where nothing is

    def __len__(self) -> int:
        return len(self.low)

    def number(self, key: tuple[int, int], same: Callable[[int], bool] | None = None) -> tuple[int, bool]:
        """The key's number, and whether it is new. `same(n)` may deny that number n, which has this key, is meant."""
        low, high = key
        slots, mask = self._slots, len(self._slots) - 1
        at = low & mask
        while n := slots[at]:
            if self.low[n - 1] == low and self.high[n - 1] == high and (same is None or same(n - 1)):
                return n - 1, False
            at = (at + 1) & mask
        self.low.append(low)
        self.high.append(high)
        slots[at] = len(self.low)
        if 2 * len(self.low) > len(slots):
            self._grow()
        return len(self.low) - 1, True

    def _grow(self) -> None:
        slots = array("I", bytes(8 * len(self._slots)))
        mask = len(slots) - 1
        for n, low in enumerate(self.low, 1):
            at = low & mask
            while slots[at]:
                at = (at + 1) & mask
            slots[at] = n
        self._slots = slots

    @property
    def nbytes(self) -> int:
        return sum(a.itemsize * len(a) for a in (self.low, self.high, self._slots))
