"""Places made of public data: the tasks of WebArena, the steps of Mind2Web, for the generator of `policyguardbench`.

Only what an agent was asked and where it acted is taken; trajectories and rules over it are drawn as for made-up
places.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from datamodules.corpus.agent_sites import Action, Place
from datamodules.rules import Rule
from datamodules.schema import DataError
from datamodules.sources import mind2web_steps, st_webagentbench, webarena

LICENCES = ("all", "permissive")
FEWEST = 12  # actions that a place must have
MOST_WORDS = 4  # alternatives in a rule of public data
LONGEST = 60  # characters of a target or a value


def with_real(places: Sequence[Place], data_dir: Path, licences: str = "all") -> list[Place]:
    """The places, those of WebArena's sites with its tasks and values (Apache-2.0), and places of Mind2Web beside them.

    `licences="permissive"` leaves Mind2Web-SC out (for research). Raises `DataError` for a missing or changed file.
    """
    if licences not in LICENCES:
        raise DataError(f"licences={licences!r}: one of {', '.join(LICENCES)}")
    out = with_webarena(places, webarena.load_tasks(data_dir))
    return out if licences == "permissive" else out + mind2web_places(data_dir)


def with_webarena(places: Sequence[Place], tasks: Sequence[webarena.Task]) -> list[Place]:
    """Places with the intents of their site's tasks, and with the tasks' own values in fields of free text.

    A site's tasks go to its parts in turn: they do not say which part they are about.
    """
    by_site: dict[str, list[webarena.Task]] = defaultdict(list)
    for task in tasks:
        if len(task.sites) == 1:
            by_site[task.sites[0]].append(task)
    parts: dict[str, list[str]] = defaultdict(list)
    for place in places:
        parts[place.domain].append(place.name)
    out = []
    for place in places:
        own = by_site[place.domain][parts[place.domain].index(place.name) :: len(parts[place.domain])]
        values = tuple(dict.fromkeys(v for t in own for v in t.values if 0 < len(v) <= LONGEST))
        if not own or len(values) < 3:
            out.append(place)
            continue
        actions = tuple(
            dataclasses.replace(a, values=values)
            if a.verb == "input" and not any(any(c.isdigit() for c in v) for v in a.values)
            else a
            for a in place.actions
        )
        out.append(dataclasses.replace(place, actions=actions, tasks=tuple(t.intent for t in own), things=()))
    return out


def real_rules(data_dir: Path) -> dict[str, list[Rule]]:
    """Domain → the distinct rules of ST-WebAgentBench that few words say (Apache-2.0)."""
    out: dict[str, dict[Rule, None]] = defaultdict(dict)
    for published in st_webagentbench.load_rules(data_dir):
        if all(len(p.words) + len(p.contains) <= MOST_WORDS for p in published.rule.patterns):
            out[published.site][published.rule] = None
    return {site: list(rules) for site, rules in out.items()}


def mind2web_places(data_dir: Path) -> list[Place]:
    """A place for each kind of site that has enough steps: what people really clicked, typed and chose there."""
    actions: dict[tuple[str, str], dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    tasks: dict[tuple[str, str], list[str]] = defaultdict(list)
    for trajectory in mind2web_steps.load_trajectories(data_dir):
        place = (trajectory.domain, trajectory.subdomain)
        tasks[place].append(trajectory.task)
        for step in trajectory.steps:
            if step.target and len(step.target) <= LONGEST and len(step.value or "") <= LONGEST:
                actions[place][step.verb, step.target] += [step.value] if step.value else []
    out = []
    for (domain, subdomain), found in sorted(actions.items()):
        named = [
            Action(verb, target, tuple(dict.fromkeys(values)), risky=verb == "click" and _commits(target))
            for (verb, target), values in sorted(found.items())
        ]
        if len(named) >= FEWEST:
            intents = tuple(dict.fromkeys(tasks[domain, subdomain]))
            out.append(Place(f"web_{domain.lower()}", subdomain.lower(), tuple(named), intents, ()))
    return out


def _commits(target: str) -> bool:
    words = set(target.casefold().split())
    return bool(
        words & {"submit", "book", "buy", "pay", "confirm", "reserve", "checkout", "add", "apply", "continue", "save"}
    )
