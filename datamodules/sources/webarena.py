"""WebArena: 812 tasks on six self-hosted web sites.

Upstream: web-arena-x/webarena (Apache-2.0). Citation: Zhou, Xu, Zhu, Zhou, Lo, Sridhar, Cheng, Ou, Bisk, Fried, Alon
and Neubig (2023), "WebArena: A Realistic Web Environment for Building Autonomous Agents".

Tasks alone: an intent, its sites, and what its template was filled with. There are no trajectories and no labels; the
reference answers are not read. 48 tasks are on two sites.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datamodules.schema import DataError
from datamodules.sources.files import read_json
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "trajectory"
REPO = Repo("web-arena-x/webarena", "f62e0b99bc7d9e0cd996d0cf5ebb2225780ec279")
FILES = (
    SourceFile(
        "agent/webarena_tasks/test.raw.json", REPO, "config_files/test.raw.json",
        "7b50386fd69163dbc05d615d834df4c6ed2c35596e97a1b10d17451c02537652", rows=812,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """`values`: what the intent's template was filled with, as texts."""

    id: str
    sites: tuple[str, ...]
    intent: str
    values: tuple[str, ...]


def load_tasks(data_dir: Path) -> list[Task]:
    """Raises `DataError` when the file is missing or another one, or a task has no site."""
    out = []
    for row in read_json(verified(data_dir, FILES)):
        if not row["sites"]:
            raise DataError(f"agent/webarena_tasks: task {row['task_id']} names no site")
        filled = (row["instantiation_dict"] or {}).values()
        values = [str(v) for given in filled for v in (given if isinstance(given, list) else [given])]
        intent = " ".join(row["intent"].split())
        out.append(Task(f"webarena-{row['task_id']}", tuple(row["sites"]), intent, tuple(v.strip() for v in values)))
    return out
