"""Files of the hub: a repository's snapshot, from its cache where that is whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datamodules.schema import DataError


def snapshot(
    repo: str,
    patterns: Sequence[str],
    fix: str,
    revision: str | None = None,
    repo_type: str | None = None,
    error: type[DataError] = DataError,
) -> Path:
    """The folder with the files of `repo` that match `patterns`; `revision` None is its main branch.

    Raises `error` for whatever goes wrong on that way, with its first line, and `fix`, which says what to do instead.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, repo_type=repo_type, allow_patterns=list(patterns)))
    except Exception as e:  # its client, the network's and the disk's errors have no common class; all are raised again
        reason = (str(e).strip().splitlines() or [""])[0][:200]
        raise error(
            f"{repo} is not in the hub's cache and cannot be fetched ({type(e).__name__}: {reason}): {fix}"
        ) from e
