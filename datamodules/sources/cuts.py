"""Which rows of an upstream file are read here, without a word of any of them.

Rows on the sexual abuse of children were taken out of some public files, by label and by a keyword filter. The list of
words is not known, and the rows themselves do not belong here, so a cut is written down by what stays: `kept_rows/`
has for each cut file the first `WIDTH` bytes of the sha256 of each kept row, in order. What of the upstream file is not
next in that list goes. The rest is written as our copies were: CSV with the fewest quotes and LF, JSON with an indent
of one, JSON lines as they are, gzip at level 9 without a name or a time. Whether it came out right, the file's own hash
tells.

`python -m datamodules.sources.cuts DATA_DIR` writes the records of GuardZoo's files anew: for whoever adds a source.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datamodules.atomic import replacing
from datamodules.schema import DataError
from datamodules.sources.record import SourceFile, verified

WIDTH = 3  # bytes: of a thousand rows that go, one is taken for the row after it with a chance of 1 in 17,000
FOLDER = Path(__file__).parent / "kept_rows"
Rows = tuple[list[bytes], Callable[[Sequence[bool]], bytes]]  # the rows, and what writes the file with some of them


def record_path(file: SourceFile, folder: Path = FOLDER) -> Path:
    """Where the kept rows of a cut file are written down."""
    return folder / (file.path.replace("/", "-").replace(" ", "_") + ".rows")


def write_record(file: SourceFile, local: bytes, folder: Path = FOLDER) -> Path:
    """Writes down the rows of our copy of `file`, whose content is `local`. Returns the record's path."""
    rows, _ = rows_of(file.path, local)
    folder.mkdir(exist_ok=True)
    with replacing(record_path(file, folder)) as f:
        f.write(b"".join(map(_digest, rows)))
    return record_path(file, folder)


def cut(file: SourceFile, upstream: bytes, folder: Path = FOLDER) -> bytes:
    """The content of `file` here, made of what is `upstream`.

    Raises `DataError` where there is no record of the cut, or `upstream` does not have the rows that it names.
    """
    path = record_path(file, folder)
    if not path.is_file():
        raise DataError(f"{file.path}: {file.cut} rows were cut, and {path.name} that says which is missing")
    record = path.read_bytes()
    wanted = [record[i : i + WIDTH] for i in range(0, len(record), WIDTH)]
    rows, write = rows_of(file.path, upstream)
    found = 0
    keep = []
    for row in rows:
        keep.append(found < len(wanted) and _digest(row) == wanted[found])
        found += keep[-1]
    if found < len(wanted) or len(rows) - found != file.cut:
        raise DataError(
            f"{file.path}: {found} of the {len(wanted)} rows that are read here were found among upstream's {len(rows)}"
        )
    return write(keep)


def rows_of(name: str, content: bytes) -> Rows:
    """The rows of a file, each as bytes that equal rows share, and what writes it anew with some of them.

    A CSV's header is its first row. The rows of a JSON file are the items of its lists, at any depth of mappings; what
    has no items left goes too.
    """
    if name.endswith(".gz"):
        rows, write = rows_of(name.removesuffix(".gz"), gzip.decompress(content))
        return rows, lambda keep: _gzip(write(keep))
    text = content.decode("utf-8-sig")
    if name.endswith(".csv"):
        return _csv_rows(text)
    if name.endswith(".jsonl"):
        lines = [line for line in text.split("\n") if line.strip()]
        return [line.encode() for line in lines], lambda keep: "".join(f"{x}\n" for x in _some(lines, keep)).encode()
    if name.endswith(".json"):
        value = json.loads(text)
        items = [json.dumps(item, ensure_ascii=False).encode() for item in _items(value)]
        return items, lambda keep: json.dumps(_without(value, iter(keep)), ensure_ascii=False, indent=1).encode()
    raise DataError(f"{name}: rows can be cut out of .csv, .json and .jsonl files, gzipped or not")


def _csv_rows(text: str) -> Rows:
    table = list(csv.reader(io.StringIO(text, newline="")))

    def write(keep: Sequence[bool]) -> bytes:
        out = io.StringIO(newline="")
        csv.writer(out, lineterminator="\n").writerows(_some(table, keep))
        return out.getvalue().encode()

    return [json.dumps(row, ensure_ascii=False).encode() for row in table], write


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _items(part)


def _without(value: Any, keep: Iterator[bool]) -> Any:
    """`value` with the items that `keep` says, in the order of `_items`."""
    if isinstance(value, list):
        return [item for item in value if next(keep)]
    if not isinstance(value, dict):
        return value
    parts = {key: (part, _without(part, keep)) for key, part in value.items()}
    return {key: new for key, (old, new) in parts.items() if new == old or new not in ([], {})}


def _some(rows: Sequence[Any], keep: Sequence[bool]) -> list[Any]:
    return [row for row, kept in zip(rows, keep) if kept]


def _gzip(content: bytes) -> bytes:
    """As Python 3.11's gzip.compress(…, 9, mtime=0): later ones write another header."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(content) + deflate.flush()
    tail = struct.pack("<II", zlib.crc32(content), len(content) & 0xFFFFFFFF)
    return b"\x1f\x8b\x08\0\0\0\0\0\x02\x03" + body + tail


def _digest(row: bytes) -> bytes:
    return hashlib.sha256(row).digest()[:WIDTH]


def write_records(data_dir: str | Path) -> None:
    """Writes the record of each cut file of GuardZoo. Raises `DataError` for a file that is missing or another one."""
    from datamodules.sources.registry import GUARDZOO

    for source in GUARDZOO.values():
        for file in source.module.FILES:
            if file.cut:
                print(write_record(file, verified(data_dir, [file]).read_bytes()))


if __name__ == "__main__":
    write_records(*sys.argv[1:])
