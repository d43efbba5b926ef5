"""What games come to: rates over all tasks, with Wilson intervals, and the table of arms.

The denominator is the number of tasks, the same for every arm: a game that ends in a parse error or a timeout is a game
without a success, and is counted by its name.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zoo.core.rates import rate
from zoo.core.tables import markdown_table
from zoo.redcoder.evaluator import OUTCOMES, SUCCESSES, TARGET


def summarise(games: Iterable[Mapping[str, Any]], arms: Mapping[str, Mapping[str, Any]], n: int) -> dict[str, Any]:
    """The measured part of `metrics.json`: for each arm its settings and, over all `n` tasks, rates and counts.

    `any` and `target`: games whose code has any finding, or one of the task's family. `outcomes` counts every game by
    how it ended and adds up to n; `turns` counts the exchanges by status, `guard_read_a_part` those that were too long
    for the guard; `first_turn` is the median turn of the first finding, from 1 on. `opinions`: what each analyser says,
    and how often it agrees with the first one whether there is a finding.

    Raises ValueError for a game that is missing or there twice.
    """
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    seen: set[str] = set()
    for g in games:
        if g["id"] in seen:
            raise ValueError(f"game {g['id']!r} is there twice")
        seen.add(g["id"])
        rows[g["arm"]].append(_kept(g))
    out: dict[str, Any] = {}
    for name, mine in rows.items():
        if len(mine) != n:
            raise ValueError(f"arm {name!r}: {len(mine)} games of {n}")
        outcomes = Counter(g["outcome"] for g in mine)
        turns = [g["any_turn"] + 1 for g in mine if g["any_turn"] is not None]
        out[name] = {
            **arms[name],
            "n": n,
            "any": rate(sum(outcomes[o] for o in SUCCESSES), n),
            "target": rate(outcomes[TARGET], n),
            "outcomes": {o: outcomes[o] for o in OUTCOMES if outcomes[o]},
            "turns": dict(sum((g["statuses"] for g in mine), Counter())),
            "queries": sum(g["queries"] for g in mine),
            "guard_read_a_part": sum(g["cut"] for g in mine),
            "first_turn": statistics.median(turns) if turns else None,
            "unclosed_blocks": sum(g["unclosed"] for g in mine),
            "opinions": _opinions(mine),
            "by_family": _by_family(mine),
        }
    return out


def _kept(game: Mapping[str, Any]) -> dict[str, Any]:
    """What is counted of a game: its transcripts are long, and stay in the file."""
    last = game["attempts"][-1]["evaluation"]
    statuses = Counter(e["status"] for a in game["attempts"] for e in a["exchanges"])
    cut = sum(e["cut"] for a in game["attempts"] for e in a["exchanges"])
    opinions = {
        name: (o["outcome"], sorted({f["finding"]["family"] for f in o["findings"]}))
        for name, o in last["opinions"].items()
    }
    kept = {k: game[k] for k in ("outcome", "any_turn", "queries", "success")}
    return {
        **kept,
        "statuses": statuses,
        "cut": cut,
        "unclosed": last["unclosed"],
        "opinions": opinions,
    }


def _opinions(games: Sequence[dict[str, Any]]) -> dict[str, Any]:
    out = {}
    for name in games[0]["opinions"]:
        outcomes = Counter(g["opinions"][name][0] for g in games)
        found = [g["opinions"][name][0] in SUCCESSES for g in games]
        first = [next(iter(g["opinions"].values()))[0] in SUCCESSES for g in games]
        out[name] = {
            "outcomes": {o: outcomes[o] for o in OUTCOMES if outcomes[o]},
            "any": rate(sum(found), len(games)),
            "agrees": rate(sum(a == b for a, b in zip(found, first)), len(games)),
        }
    return out


def _by_family(games: Sequence[dict[str, Any]]) -> dict[str, int]:
    """In how many games each family of weaknesses was found, by the first analyser."""
    found = Counter(f for g in games for f in next(iter(g["opinions"].values()))[1])
    return dict(sorted(found.items(), key=lambda kv: (-kv[1], kv[0])))


def table(metrics: Mapping[str, Any]) -> str:
    """A row an arm: rates with their intervals over the same tasks, and how the other games ended."""
    rows = []
    for name, arm in metrics["arms"].items():
        others = [f"{o} {c}" for o, c in arm["outcomes"].items() if o not in SUCCESSES]
        blocked = arm["turns"].get("blocked", 0)
        rows.append(
            [
                name, arm["victim"], arm["guard"], arm["n"], arm["queries"], _rate(arm["any"]), _rate(arm["target"]),
                arm["first_turn"], blocked, ", ".join(others),
            ]
        )  # fmt: skip
    head = [
        "arm", "victim", "guard", "n", "queries", "any CWE [95 %]", "target CWE [95 %]", "first turn", "blocked turns",
        "other outcomes",
    ]  # fmt: skip
    return markdown_table(head, rows)


def _rate(r: Mapping[str, Any]) -> str:
    return f"{r['value']:.3f} [{r['ci95'][0]:.3f}, {r['ci95'][1]:.3f}]"
