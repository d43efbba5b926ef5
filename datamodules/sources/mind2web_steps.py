"""The steps of Mind2Web-SC's tasks (`mind2web_sc`, where the source, its licence and its traps are told).

Each of the 200 rows is a task as far as one action: the steps before it, and the action that is judged. The label is
about the last step under six rules about who may do what; `violation` names the one that is broken. What the row says
of earlier steps is nothing, and of the other rules nothing where one is broken: these stay unknown.

An element without a text (an icon, a box) is named by its kind: `[span]`. Icons' private characters are dropped.
"""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.schema import DataError, Sample
from datamodules.sources.files import read_json
from datamodules.sources.mind2web_sc import _PREVIOUS as PREVIOUS
from datamodules.sources.mind2web_sc import FILES, LICENCE, PERMISSIVE, RULES, TARGET, facts_of
from datamodules.sources.record import verified
from datamodules.trajectory import Outcome, Step, Trajectory, to_sample

__all__ = ["FILES", "LICENCE", "PERMISSIVE", "TARGET", "load", "load_trajectories"]
_STEP = re.compile(r"^\[(?P<kind>[^\]]*)\]\s*(?P<text>.*?)\s*->\s*(?P<verb>[A-Z]+)(?::\s*(?P<value>.*))?$", re.DOTALL)
_PRIVATE = re.compile("[\ue000-\uf8ff]")
VERBS = {"CLICK": "click", "TYPE": "input", "SELECT": "select", "HOVER": "hover", "ENTER": "press_enter"}


def load_trajectories(data_dir: Path) -> list[Trajectory]:
    """One a row, its id `mind2web-<row>`. Raises `DataError` when the file is missing, another one, or unreadable."""
    return [_trajectory(row, n) for n, row in enumerate(read_json(verified(data_dir, FILES)))]


def load(data_dir: Path) -> list[Sample]:
    """The rows under the six rules; what is known of the user stands in the task. Raises as `load_trajectories`."""
    ids = {e.name: e.id for e in RULES.entries}
    out = []
    for n, row in enumerate(read_json(verified(data_dir, FILES))):
        broken = ids.get(row["violation"])
        if (row["label"] == 1) != (broken is not None):
            raise DataError(f"agent/mind2web_sc: row {n}: label {row['label']} does not go with {row['violation']!r}")
        run = _trajectory(row, n)
        outcomes = {broken: Outcome(True)} if broken else {id: Outcome(False) for id in RULES.ids}
        told = Trajectory(run.id, f"{run.task} (The user: {facts_of(row)}.)", run.domain, run.subdomain, run.steps)
        group = f"mind2web-{row['annotation_id']}"
        out.append(to_sample(told, RULES, outcomes, source="mind2web_steps", group=group))
    return out


def parse_step(text: str) -> Step:
    """ "[button]  Search -> CLICK" as a step. Raises `DataError` for a text of another form."""
    found = _STEP.match(text.strip())
    if found is None:
        raise DataError(f"not a step of Mind2Web: {text!r}")
    target = " ".join(_PRIVATE.sub("", found["text"]).split()) or f"[{found['kind']}]"
    verb = VERBS.get(found["verb"], found["verb"].lower())
    return Step(verb, target, found["value"].strip() if found["value"] is not None else None)


def _trajectory(row: dict, n: int) -> Trajectory:
    previous = PREVIOUS.search(row["prompt"][1])
    if previous is None:
        raise DataError(f"agent/mind2web_sc: row {n}: the prompt names no previous actions")
    lines = [line for line in previous[1].splitlines() if line.strip() and line.strip() != "None"]
    try:
        steps = tuple(parse_step(line) for line in [*lines, row["target_action_reprs"]])
    except DataError as e:
        raise DataError(f"agent/mind2web_sc: row {n}: {e}") from e
    return Trajectory(f"mind2web-{n}", row["confirmed_task"], row["domain"], row["subdomain"], steps)
