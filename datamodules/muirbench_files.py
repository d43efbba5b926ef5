"""Where MuirBench's records lie: the hub's parquet files, or JSONL with pictures beside it (the rendered corpus).

A folder is read by what is in it: `records.jsonl`, or `*.parquet` in it or in its `data/`. Pictures inside parquet are
written to ZOO_HOME once, named by their sha256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.assets import zoo_home
from datamodules.atomic import replacing
from datamodules.hub import snapshot
from datamodules.jsonl import check_text, parse, read_lines
from datamodules.media import content_hash
from datamodules.muirbench import FIELDS, Record, checked_pairs
from datamodules.schema import DataError, canonical_json

REPO = "MUIRBENCH/MUIRBENCH"
RECORDS, TWINS = "records.jsonl", "twins.jsonl"
ROWS = 8  # of a parquet file that are decoded at a time: a record's pictures are some megabytes
SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"}


@dataclass
class Loaded:
    """`records` in pairs that hold; an `{"id", "error"}` for each row that cannot be used.

    `strategies` maps a pair to how its unanswerable twin was made (image | question | option), where that is recorded:
    the release does not say. `sha256` is of the records and of their pictures' bytes.
    """

    records: list[Record]
    errors: list[dict[str, str]] = field(default_factory=list)
    strategies: dict[str, str] = field(default_factory=dict)
    sha256: str = ""


def load_muirbench(path: str | Path | None = None, revision: str | None = None) -> Loaded:
    """The records of a local folder, or of the hub's `revision` (None: its main branch).

    Raises `DataError` where there is no such folder, nothing to read in it, no usable record, no pyarrow for parquet,
    or no way to the hub. Rows that cannot be used are in `errors`, with their twins.
    """
    if path is None:
        fix = "run once with a network, or give the folder of its parquet files with records.path=DIR"
        folder = snapshot(REPO, ["*.parquet", "data/*.parquet"], fix, revision, "dataset")
    else:
        folder = Path(path).expanduser()
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: give the one of MuirBench's parquet files, or of a rendered corpus")
    if (folder / RECORDS).is_file():
        rows = _jsonl(folder)
    elif files := sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet")):
        rows = _parquet(files)
    else:
        raise DataError(f"{folder}: neither {RECORDS} nor *.parquet in it or in its data/: is it MuirBench's folder?")
    records: list[Record] = []
    errors: list[dict[str, str]] = []
    for where, root, row in rows:
        try:
            if isinstance(row, DataError):
                raise DataError(f"{where}: {row}")
            records.append(Record.from_dict(row, root, where))
        except DataError as e:
            idx = row.get("idx") if isinstance(row, dict) else None
            errors.append({"id": where if idx is None else str(idx), "error": str(e)})
    good, unpaired = checked_pairs(records)
    if not good:
        first = (errors + unpaired)[0]["error"] if errors or unpaired else "there is no row"
        raise DataError(f"{folder}: no usable record: {first}")
    return Loaded(good, errors + unpaired, _strategies(folder, good), records_hash(good))


def records_hash(records: list[Record]) -> str:
    """sha256 over all nine fields of all records, pictures by content: the same from parquet and from JSONL."""
    digest = hashlib.sha256()
    known: dict[str, str] = {}
    for r in records:
        pictures = [known.get(p) or known.setdefault(p, content_hash(p)) for p in r.image_list]
        row = {key: getattr(r, key) for key in FIELDS} | {"image_list": pictures}
        digest.update(f"{canonical_json(row)}\n".encode())
    return digest.hexdigest()


# --------------------------------------------------------------------------------------------------------------- JSONL


def _jsonl(folder: Path) -> Iterator[tuple[str, Path, Any]]:
    path = folder / RECORDS
    check_text(path)
    for n, _, line in read_lines(path):
        yield f"{path.name} line {n}", folder, parse(line)


def _strategies(folder: Path, records: list[Record]) -> dict[str, str]:
    """How twins were made, from `twins.jsonl` beside the records: a corpus says it, the release does not."""
    path = folder / TWINS
    if not path.is_file():
        return {}
    check_text(path)
    found: dict[str, str] = {}
    for n, _, line in read_lines(path):
        row = parse(line)
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("pair"), str)
            or not isinstance(row.get("strategy"), str)
        ):
            raise DataError(f"{path} line {n}: expected an object with pair and strategy")
        found[row["pair"]] = row["strategy"]
    pairs = {r.pair for r in records}
    return {pair: strategy for pair, strategy in found.items() if pair in pairs}


# ------------------------------------------------------------------------------------------------------------- parquet


def _parquet(files: list[Path]) -> Iterator[tuple[str, Path, Any]]:
    """Rows of the hub's layout, where a picture is `{bytes, path}`; the pictures go to ZOO_HOME."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as e:
        raise DataError(
            f"{files[0]}: reading parquet needs pyarrow: python -m pip install 'guardrail-zoo[muirbench]'"
        ) from e
    root = zoo_home() / "muirbench"
    (root / "images").mkdir(parents=True, exist_ok=True)
    for file in files:
        n = 0
        try:
            table = pq.ParquetFile(file)
            lacking = [name for name in FIELDS if name not in table.schema_arrow.names]
            if lacking:
                raise DataError(f"{file}: no column {lacking[0]!r}: MuirBench's files have {', '.join(FIELDS)}")
            for batch in table.iter_batches(batch_size=ROWS, columns=list(FIELDS)):
                for row in batch.to_pylist():
                    n += 1
                    where = f"{file.name} row {n}"
                    try:
                        row["image_list"] = [_keep(p, root) for p in row["image_list"] or []]
                    except DataError as e:
                        row = DataError(f"(idx {row['idx']!r}): {e}")
                    yield where, root, row
        except pa.ArrowException as e:
            raise DataError(f"{file}: not readable as parquet: {' '.join(str(e).split())[:200]}") from e


def _keep(picture: Any, root: Path) -> str:
    """Writes a picture's bytes under `root` unless they are there; its path relative to `root`."""
    data = picture.get("bytes") if isinstance(picture, dict) else None
    if not isinstance(data, bytes) or not data:
        raise DataError("an entry of image_list has no bytes: the pictures must lie inside the parquet file")
    suffix = next((s for magic, s in SUFFIXES.items() if data.startswith(magic)), ".img")
    name = f"images/{hashlib.sha256(data).hexdigest()}{suffix}"
    path = root / name
    if not path.is_file() or path.stat().st_size != len(data):
        with replacing(path) as f:
            f.write(data)
    return name
