"""Builds the folder of public data anew, on a machine with a network, from the records of the sources' files.

A file comes from its repository at the pinned commit, is checked against upstream's hash, is cut where ours is cut, is
checked against our hash, and only then gets its name. What was fetched stays, so a fetch that broke off is simply run
again. Files that are there are never written to: right ones are left alone, wrong ones are an error that names them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import quote

from datamodules.asset_sources import AssetError, Https, safe_name, sha256_of
from datamodules.atomic import folder_beside, replacing, sweep
from datamodules.schema import DataError, inside
from datamodules.sources.cuts import cut
from datamodules.sources.record import SourceFile

RAW = "https://raw.githubusercontent.com"  # /owner/name/commit/path
MAX_BYTES = 64 << 20  # of one file; the largest known one has 5 MB
GIVE_UP = 3  # failed downloads one after another: the network or the server is gone


def rebuild(
    files: Iterable[SourceFile],
    data_dir: str | Path,
    base_url: str = RAW,
    done: Callable[[SourceFile, str], None] = lambda file, state: None,
) -> None:
    """Brings every one of `files` that is not below `data_dir` yet, and calls `done(file, "fetched" | "present")`.

    `base_url` serves repositories as GitHub does (https, or http on this machine). Raises `DataError` naming every file
    that lies there with other bytes (nothing is fetched then), every one that could not be fetched or cut, and before
    anything else a path that leaves the folder.
    """
    data_dir = Path(data_dir)
    places = _places(files, data_dir)
    missing = [file for file, path in places if not path.exists()]
    wrong = [line for file, path in places if path.exists() and (line := _difference(file, path))]
    if wrong:
        raise DataError("\n  ".join(["files of another version: move them away and run again:", *wrong]))
    failures: list[str] = []
    in_a_row = 0
    for file, path in places:
        if file not in missing:
            done(file, "present")
            continue
        try:
            _bring(file, path, base_url)
        except DataError as e:
            failures.append(str(e))
            in_a_row = in_a_row + 1 if isinstance(e, AssetError) else 0
            if in_a_row == GIVE_UP:
                failures.append(f"gave up after {GIVE_UP} failed downloads one after another")
                break
            continue
        in_a_row = 0
        done(file, "fetched")
    if failures:
        there = sum(path.is_file() for _, path in places)
        head = f"{there} of {len(places)} files are in {data_dir}; run the command again to fetch the others:"
        raise DataError("\n  ".join([head, *failures]))


def _places(files: Iterable[SourceFile], data_dir: Path) -> list[tuple[SourceFile, Path]]:
    """Each file once (sources share some) with its place. Raises `DataError` for a path that leaves the folder."""
    known: dict[str, SourceFile] = {}
    for file in files:
        safe_name(file.path)
        safe_name(file.upstream)
        if known.setdefault(file.path, file).local_sha256 != file.local_sha256:
            raise DataError(f"{file.path}: two sources expect different files there")
    return [(file, inside(data_dir, name, "fetch")) for name, file in known.items()]


def _difference(file: SourceFile, path: Path) -> str | None:
    if not path.is_file():
        return f"{path}: not a file"
    got = sha256_of(path)
    return None if got == file.local_sha256 else f"{path}: {_differs(got, file.local_sha256)}"


def _bring(file: SourceFile, path: Path, base_url: str) -> None:
    """Raises `AssetError` when the download fails, else `DataError` when the bytes are not the recorded ones."""
    url = f"{base_url.rstrip('/')}/{file.repo.name}/{file.repo.commit}/{quote(file.upstream)}"
    if path.parent.is_dir():
        sweep(path.parent, path.name)  # what a killed process left
    try:
        with folder_beside(path) as folder:
            data = _download(file, url, folder)
            got = hashlib.sha256(data).hexdigest()
            if got != file.upstream_sha256:
                raise DataError(f"{file.path}: upstream's {_differs(got, file.upstream_sha256)} ({url})")
            if file.cut:
                data = cut(file, data)
                got = hashlib.sha256(data).hexdigest()
            if got != file.local_sha256:
                why = ": this zlib compresses otherwise" if path.suffix == ".gz" else ""
                raise DataError(f"{file.path}: {file.cut} rows were cut; {_differs(got, file.local_sha256)}{why}")
            with replacing(path) as f:
                f.write(data)
    except OSError as e:
        raise DataError(f"{path}: cannot be written ({e.strerror or e}): choose another data_dir") from e


def _download(file: SourceFile, url: str, folder: Path) -> bytes:
    try:
        Https({"upstream": url}).fetch(["upstream"], folder, MAX_BYTES)
    except AssetError as e:
        raise AssetError(f"{file.path}: {str(e).removeprefix('upstream: ')} ({url})") from e
    return (folder / "upstream").read_bytes()


def _differs(got: str, expected: str) -> str:
    return f"sha256 is {got[:12]}, expected {expected[:12]}"
