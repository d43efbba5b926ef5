"""Where a source's files come from and what they are: a record a file, in the `FILES` of each source's module.

A module reads only the files that its label map was written for: `verified` hashes a file once, when it is loaded. The
same records are all that is needed to build the folder of public data anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from datamodules.asset_sources import sha256_of
from datamodules.schema import DataError
from datamodules.sources.files import locate


@dataclass(frozen=True)
class Repo:
    """A repository on GitHub, `owner/name`, at a commit (40 hex digits)."""

    name: str
    commit: str


@dataclass(frozen=True)
class SourceFile:
    """One file of a source.

    `path` is its place below `data_dir`, with `/`; `upstream` its place in the repository. `upstream_sha256` is the
    hash of what the repository holds, `sha256` that of what is read here; None: the same bytes. `rows` counts the rows
    that are read here, `cut` those of upstream that were taken out (rows on the sexual abuse of children).
    """

    path: str
    repo: Repo
    upstream: str
    upstream_sha256: str
    rows: int
    cut: int = 0
    sha256: str | None = None

    @property
    def local_sha256(self) -> str:
        return self.sha256 or self.upstream_sha256


def verified(data_dir: str | Path, files: Sequence[SourceFile], name: str = "") -> Path:
    """The path of the one of `files` whose path ends with `name`, once its hash is right.

    Raises `DataError` when the file is missing, or is another one than the module was written for.
    """
    (file,) = [f for f in files if f"/{f.path}".endswith(f"/{name}" if name else "")]
    path = locate(data_dir, *file.path.split("/"))
    got = sha256_of(path)
    if got != file.local_sha256:
        cut = f", {file.cut} rows cut" if file.cut else ""
        raise DataError(
            f"{path}: sha256 is {got[:12]}, expected {file.local_sha256[:12]}: the labels of another version may mean "
            f"something else: restore the file ({file.repo.name} at {file.repo.commit[:12]}, {file.upstream}{cut})"
        )
    return path
