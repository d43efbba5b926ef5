"""Files and folders that are there whole or not at all, whatever kills the process that writes them.

What is written gets a temporary name beside its target, is synchronised to the disk, and is then renamed. A temporary
is locked as long as its writer lives, so `sweep` can tell what a killed process left from what another still writes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from datamodules.schema import DataError

try:
    import fcntl
except ImportError:  # not POSIX: nothing is locked there, and so nothing is swept
    fcntl = None  # type: ignore[assignment]

FILE, FOLDER = ".tmp", ".part"  # how temporary names end; they begin with a dot
_LOCK = ".lock"
_FULL = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}


class DiskFullError(DataError):
    """A file that the disk had no room for. Nothing half-written is left, and a former file is as it was."""


# ------------------------------------------------------------------------------------------------------------ files


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends; after an exception `path` is as before.

    A device or a pipe (/dev/null, /dev/stdout) is written to: a file in its place would break it for everybody. Raises
    `DiskFullError` where the disk is full.
    """
    path = Path(path)
    if is_device(path):
        with open(path, "wb") as f:
            yield f
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{FILE}")
    try:
        with _disk_of(path), open(_create_locked(temporary), "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
            if fcntl is not None:
                os.replace(temporary, path)  # still locked: no sweep comes between
        if fcntl is None:  # an open file cannot be renamed there
            os.replace(temporary, path)
        fsync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_device(path: Path) -> bool:
    """Whether `path` is no place for a file: a device, a pipe, or /dev/stdout, which may be a link to a file."""
    link = path.is_symlink() and path.absolute().parent in (Path("/dev"), Path("/dev/fd"))
    return path.exists() and (link or not (path.is_file() or path.is_dir()))


@contextlib.contextmanager
def replacing_by_name(path: str | Path) -> Iterator[Path]:
    """As `replacing`, for writers that want a name. Some rename a file of their own to it, so a folder is locked."""
    path = Path(path)
    with folder_beside(path) as folder:
        temporary = folder / path.name
        yield temporary
        temporary.chmod(0o666 & folder.stat().st_mode)  # those give it to the owner alone
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """Writes `text` whole or not at all. Makes the folder if it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as f:
        f.write(text.encode())


# ---------------------------------------------------------------------------------------------------------- folders


@contextlib.contextmanager
def folder_beside(target: str | Path) -> Iterator[Path]:
    """An empty folder on the disk of `target` to fill and `put` in its place; removed when the block ends."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{FOLDER}")
    temporary.mkdir()
    lock = _create_locked(temporary / _LOCK)
    try:
        content = temporary / "content"
        content.mkdir()
        with _disk_of(target):
            yield content
    finally:
        os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)


def put(content: Path, target: Path) -> None:
    """Renames the folder `content` to `target`, which must not exist. All of it is on the disk before."""
    for path in [*content.rglob("*"), content]:
        fsync(path)
    content.rename(target)
    fsync(target.parent)


def sweep(folder: str | Path, name: str = "*") -> None:
    """Removes what dead processes left in `folder` of targets called `name` (a glob pattern)."""
    if fcntl is None:
        return
    for path in Path(folder).glob(f".{name}.*{FILE}"):
        with _if_dead(path) as dead:
            if dead:
                path.unlink()
    for path in Path(folder).glob(f".{name}.*{FOLDER}"):
        with _if_dead(path / _LOCK) as dead:
            if dead:
                shutil.rmtree(path, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------- helpers


def fsync(path: str | Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name == "nt" and Path(path).is_dir():  # Windows cannot open a folder
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _create_locked(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if fcntl is None:
            return fd
        # A file system without locks (some cluster's) is written to all the same, and is never swept.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        if path.exists():
            return fd
        os.close(fd)  # a sweep came between the file and its lock


@contextlib.contextmanager
def _if_dead(path: Path) -> Iterator[bool]:
    """Whether no process has `path` locked; it stays locked for the block, so that nobody else sweeps it."""
    try:
        fd = os.open(path, os.O_RDWR)
    except (FileNotFoundError, PermissionError):  # swept by another process; or another user's
        yield False
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            dead = path.exists()
        except OSError:  # its writer lives, or the file system has no locks
            dead = False
        yield dead
    finally:
        os.close(fd)


@contextlib.contextmanager
def _disk_of(path: Path) -> Iterator[None]:
    """Turns what a writer raises on a full disk into a `DiskFullError`."""
    try:
        yield
    except Exception as e:
        reason = full_disk(e)
        if reason is None:
            raise
        disk = path.resolve().parent
        free = shutil.disk_usage(disk).free
        while not os.path.ismount(disk):
            disk = disk.parent
        raise DiskFullError(
            f"{path}: {reason} on the disk {disk} ({free / 1e6:.0f} MB free): make room and run again; "
            "nothing half-written is left"
        ) from e


def full_disk(e: BaseException) -> str | None:
    """The system's words if `e` says that there was no room, else None. Rust libraries give the number in the text."""
    number = getattr(e, "errno", None)
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(e))):
        number = int(found[1])
    return os.strerror(number).lower() if number in _FULL else None
