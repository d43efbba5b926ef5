"""A folder of rendered files: made whole on the first call, verified on every other."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datamodules.atomic import folder_beside, put, sweep
from datamodules.schema import DataError

NOTE = "corpus.json"


def rendered(
    root: Path,
    want: Mapping[str, Any],
    what: str,
    hash_of: Callable[[Path], str],
    write: Callable[[Path], None],
) -> Path:
    """`root`, filled by `write(folder)` unless it holds the corpus that `want` describes already.

    It is made in a folder beside `root` that takes its place when it is whole: a killed build leaves nothing that is
    trusted, and of two processes the first one's stays. `hash_of(folder)` is noted with `want`. Raises `DataError` for
    a folder that holds something else (`what` names the corpus in it), or a corpus that was changed.
    """
    if _there(root, want, what, hash_of):
        return root
    sweep(root.parent, root.name)
    with folder_beside(root) as content:
        write(content)
        (content / NOTE).write_text(json.dumps({**want, "sha256": hash_of(content)}), encoding="utf-8")
        if not _there(root, want, what, hash_of):  # another process may have been first
            if root.is_dir():
                root.rmdir()  # an empty one
            put(content, root)
    return root


def _there(root: Path, want: Mapping[str, Any], what: str, hash_of: Callable[[Path], str]) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    have = _noted(root)
    if have is None or {k: have.get(k) for k in want} != want:
        raise DataError(f"{root}: is not {what} of {dict(want)}: give another folder or remove it")
    if hash_of(root) != have["sha256"]:
        raise DataError(f"{root}: the rendered corpus was changed on disk: remove the folder to render it again")
    return True


def _noted(root: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((root / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "sha256" in found else None
