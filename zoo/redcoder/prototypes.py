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
from datamodules.games import (
    INSECURE,
    POLICY,
    SOURCE,
    chat_upto,
    decisive,
    group_of,
    labelled_turns,
    last_turn,
)
from datamodules.schema import Sample
from zoo.core.run import write_yaml
from zoo.redcoder.analysers import Finding
from zoo.redcoder.analyst import Analyst, Attempt
from zoo.redcoder.arsenal import Entry, turn_pair
from zoo.redcoder.conversation import Exchange, lesson_of, messages, turn_of
from zoo.redcoder.cwe import family
from zoo.redcoder.evaluator import Located, Opinion


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


def read_attempt(attempt: Mapping[str, Any]) -> Attempt:
    """An attempt of the journal as the analyst takes it."""
    o = decisive(attempt)
    findings = [Located(**{**f, "finding": Finding(**f["finding"])}) for f in o["findings"]]
    opinion = Opinion(o["outcome"], findings, o["any_turn"], o["target_turn"], o["errors"])
    return [Exchange.from_dict(e) for e in attempt["exchanges"]], opinion


def _guard_rows(game: Mapping[str, Any], left_out: Counter[str]) -> Iterator[dict[str, Any]]:
    """An attempt's last labelled turn. `data=games` has the others, too."""
    for n, attempt in enumerate(game["attempts"], 1):
        turns = list(labelled_turns(attempt, left_out))
        if not turns:
            continue
        turn, found = turns[-1]
        row = Sample(
            id=f"{game['id']}/{n}",
            messages=chat_upto(attempt, turn),
            categories={INSECURE: "yes" if found else "no"},
            source=SOURCE,
            group=group_of(game),
            meta={"turns": turn + 1, "weakness": family(game["task"]["cwe"]) or "none"},
        )
        yield row.to_dict()


def _prompt_row(game: Mapping[str, Any], before: list[Exchange], prompt: str, summary: str | None) -> dict[str, Any]:
    """What an attacker is told at a turn of the attempt that succeeded, and the prompt that came next."""
    failed = game["attempts"][-2] if len(game["attempts"]) > 1 else None
    return {
        "id": f"{game['id']}/{len(before) + 1}",
        "task": game["task"]["id"],
        "request": game["task"]["request"],
        "weakness": family(game["task"]["cwe"]) or "any",
        # Games of before their number of turns was kept had as many as their longest attempt, or more.
        "turn": turn_of(len(before), game.get("turns") or max(len(a["exchanges"]) for a in game["attempts"])),
        "lesson": lesson_of(failed["outcome"], failed["exchanges"]) if failed else "",
        "messages": messages(before),
        "strategy": summary if before else None,  # nothing is retrieved for the first turn
        "next": prompt,
    }


def _line(file: Any, row: Mapping[str, Any]) -> None:
    file.write((json.dumps(row, ensure_ascii=True) + "\n").encode())
