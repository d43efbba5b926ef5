"""A file of JSON lines that a killed process leaves whole: one line a game, on the disk before the next is begun."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from datamodules.schema import DataError

try:
    import fcntl
except ImportError:  # not POSIX: nobody is kept from writing twice
    fcntl = None  # type: ignore[assignment]


class Journal:
    """`ids` are those of the games that are in it. What a kill left of a last line is cut off when it is opened."""

    def __init__(self, path: Path):
        """Raises `DataError` where another process writes it, or a whole line is not one of these."""
        self.path = path
        self._file: IO[bytes] = open(path, "ab+")  # noqa: SIM115
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as e:
                self._file.close()
                raise DataError(f"{path.parent}: another process plays it: wait for it, or stop it first") from e
            except OSError as e:  # a file system without locks
                print(f"{path}: no locks on this disk ({e.strerror}): do not continue it twice", file=sys.stderr)
        self.ids: set[str] = set()
        end = 0
        for number, line in enumerate(self._lines(), 1):
            if not line.endswith(b"\n"):
                print(f"{path}: line {number} was not finished: it is cut off and played again", file=sys.stderr)
                self._file.truncate(end)
                break
            id = _parsed(path, number, line)["id"]
            if id in self.ids:
                raise DataError(f"{path}: line {number}: game {id!r} is there twice")
            self.ids.add(id)
            end += len(line)

    def _lines(self) -> Iterator[bytes]:
        self._file.seek(0)
        for line in self._file:  # noqa: UP028 (`yield from` would close the file with the generator)
            yield line

    def add(self, row: dict[str, Any]) -> None:
        """Appends a game and waits until it is on the disk. Raises ValueError for an id that is there."""
        if row["id"] in self.ids:
            raise ValueError(f"game {row['id']!r} is in the journal")
        self._file.write((json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.ids.add(row["id"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, line in enumerate(self._lines(), 1):
            yield _parsed(self.path, number, line)

    def close(self) -> None:
        self._file.close()


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row["id"], str):
            raise TypeError("its id is not a text")
    except (ValueError, KeyError, TypeError) as e:
        raise DataError(f"{path}: line {number} is no game ({type(e).__name__}: {e})") from e
    return row
