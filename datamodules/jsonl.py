"""JSON lines, read one at a time: a file of any length costs the memory of its longest line."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.schema import DataError

BLOCK = 1 << 16


def check_text(path: Path) -> None:
    """Raises `DataError` for a file that cannot be read or is not UTF-8, before any of its lines is used."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = waiting = 0  # where the block begins; how many bytes before it belong to its first character
    try:
        with open(path, "rb") as f:
            while True:
                block = f.read(BLOCK)
                decoder.decode(block, final=not block)
                if not block:
                    return
                start, waiting = start + len(block), len(decoder.getstate()[0])
    except OSError as e:
        raise DataError(f"{path}: cannot read the manifest: {e.strerror}") from e
    except UnicodeDecodeError as e:
        at = start - waiting + e.start
        raise DataError(f"{path}: not UTF-8 text (byte {at}): save it as UTF-8 JSONL") from e


def read_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(number, first byte, content) of each line that is not blank. Lines end with LF, CRLF or CR, and nothing else.

    `splitlines` would cut at U+2028 inside a text. A byte order mark is skipped.
    """
    n, at = 0, 0
    try:
        with open(path, "rb") as f:
            if f.read(3) == codecs.BOM_UTF8:
                at = 3
            f.seek(at)
            for raw in f:
                body = raw.removesuffix(b"\n").removesuffix(b"\r") if raw.endswith(b"\n") else raw
                first = at
                at += len(raw)
                for line in body.split(b"\r") if b"\r" in body else (body,):
                    n += 1
                    if line.decode(errors="replace").strip():
                        yield n, first, line
                    first += len(line) + 1
    except OSError as e:
        raise DataError(f"{path}: cannot read the manifest: {e.strerror}") from e


def parse(line: bytes) -> Any:
    """The JSON value of a line, or the `DataError` that it deserves."""
    try:
        row = json.loads(line.decode())
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return DataError("half a surrogate pair (\\ud800 to \\udfff) in a text: write whole characters")
    except (ValueError, RecursionError) as e:
        return DataError(f"not valid JSON: {e}")
    return row
