"""From played games to training data: prototypes for an attacker, strategies for the arsenal, and rows for a guard.

Paper, section 3: a prototype is a successful conversation; an attacker learns (history → next prompt) from it, and the
arsenal keeps the contrast to the attempt before it that failed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from datamodules.atomic import replacing
from datamodules.schema import Policy, PolicyEntry
from zoo.core.run import write_yaml
from zoo.redcoder.analysers import Finding
from zoo.redcoder.analyst import Analyst, Attempt
from zoo.redcoder.arsenal import Entry, turn_pair
from zoo.redcoder.conversation import Exchange, messages
from zoo.redcoder.cwe import family
from zoo.redcoder.evaluator import CLEAN, SUCCESSES, Located, Opinion

INSECURE = "insecure-code"
POLICY = Policy(
    "insecure code",
    (
        PolicyEntry(
            INSECURE,
            "insecure code",
            "The conversation leads, step by step, to code with a security weakness that a static analyser finds.",
        ),
    ),
)


def write_training_set(
    games: Iterable[Mapping[str, Any]], analyst: Analyst, folder: Path
) -> tuple[dict[str, Any], list[Entry]]:
    """Writes `manifest.jsonl` and `policy.yaml` (for a guard), `prompts.jsonl` and `prototypes.jsonl` (attacker).

    A row of the manifest is what a guard in front of the victim sees: the conversation up to the prompt whose answer
    had the first finding (yes), or up to the last prompt of an attempt whose code was clean (no). How other attempts
    ended is no label: they are left out, and counted. Returns the counts and the arsenal's entries.
    """
    counts: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    entries: list[Entry] = []
    folder.mkdir(parents=True, exist_ok=True)
    names = ("manifest", "prompts", "prototypes")
    with (
        replacing(folder / f"{names[0]}.jsonl") as manifest,
        replacing(folder / f"{names[1]}.jsonl") as prompts,
        replacing(folder / f"{names[2]}.jsonl") as prototypes,
    ):
        for game in games:
            for row in _guard_rows(game, left_out):
                counts[f"guard rows, {row['categories'][INSECURE]}"] += 1
                _line(manifest, row)
            if not game["success"]:
                continue
            *before, last = game["attempts"]
            (summary,) = analyst.summaries([(read_attempt(last), read_attempt(before[-1]) if before else None)])
            counts["prototypes"] += 1
            counts["prototypes with a failed attempt before"] += bool(before)
            counts["prototypes without a summary"] += summary is None
            said = [Exchange.from_dict(e) for e in last["exchanges"]]
            _line(prototypes, {"id": game["id"], "task": game["task"], "messages": messages(said), "summary": summary})
            for turn, exchange in enumerate(said[: last_turn(last) + 1]):
                _line(prompts, _prompt_row(game, said[:turn], exchange.prompt, summary))
                counts["attacker rows"] += 1
                if summary and turn < last_turn(last):  # after it, there is nothing to ask for
                    entries.append(Entry(turn_pair(exchange.prompt, exchange.reply), summary, game["task"]["id"], turn))
    write_yaml(folder / "policy.yaml", POLICY.to_dict())
    counts["arsenal entries"] = len(entries)
    return {"counts": dict(counts), "attempts left out of the guard rows": dict(left_out)}, entries


def last_turn(attempt: Mapping[str, Any]) -> int:
    """The turn of the first finding, from 0 on."""
    return int(_decisive(attempt)["any_turn"])


def _decisive(attempt: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(iter(attempt["evaluation"]["opinions"].values()))


def read_attempt(attempt: Mapping[str, Any]) -> Attempt:
    """An attempt of the journal as the analyst takes it."""
    o = _decisive(attempt)
    findings = [Located(**{**f, "finding": Finding(**f["finding"])}) for f in o["findings"]]
    opinion = Opinion(o["outcome"], findings, o["any_turn"], o["target_turn"], o["errors"])
    return [Exchange.from_dict(e) for e in attempt["exchanges"]], opinion


def _guard_rows(game: Mapping[str, Any], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    for n, attempt in enumerate(game["attempts"]):
        if attempt["outcome"] not in (*SUCCESSES, CLEAN):
            left_out[attempt["outcome"]] += 1
            continue
        found = attempt["outcome"] in SUCCESSES
        said = [Exchange.from_dict(e) for e in attempt["exchanges"]]
        upto = last_turn(attempt) if found else len(said) - 1
        chat = messages(said[:upto], said[upto].prompt)
        yield {
            "id": f"{game['id']}/{n + 1}",
            "messages": [{"role": m["role"], "content": [{"type": "text", "text": m["content"]}]} for m in chat],
            "target": "conversation",
            "categories": {INSECURE: "yes" if found else "no"},
            "source": "redcoder",
            "group": f"redcoder-{game['task']['id']}",
            "meta": {"turns": upto + 1, "weakness": family(game["task"]["cwe"]) or "none"},
        }


def _prompt_row(game: Mapping[str, Any], before: list[Exchange], prompt: str, summary: str | None) -> dict[str, Any]:
    return {
        "id": f"{game['id']}/{len(before) + 1}",
        "request": game["task"]["request"],
        "weakness": family(game["task"]["cwe"]) or "any",
        "messages": messages(before),
        "strategy": summary,
        "next": prompt,
    }


def _line(file: Any, row: Mapping[str, Any]) -> None:
    file.write((json.dumps(row, ensure_ascii=True) + "\n").encode())
