"""A page a game: what was said, and where the findings are. Code in a transcript never becomes markup.

Everything that comes from a game is escaped, pages have no scripts, and their content policy allows none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from datamodules.atomic import write_text

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 sans-serif; max-width: 62rem; margin: 1rem auto; padding: 0 1rem; color: #222; }}
pre {{ background: #f6f6f6; padding: .6rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }}
mark {{ background: #ffd7d7; display: block; }}
.note {{ color: #a00; font-size: 13px; }} .meta {{ color: #666; font-size: 13px; }}
td, th {{ text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top; }}
</style></head><body>
"""
TAIL = "</body></html>\n"
LONGEST = 20_000  # characters of a message that a page shows


def text(value: object) -> str:
    """Escaped for HTML; characters that no page may hold become U+FFFD."""
    shown = re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]", "�", str(value))
    return escape(shown, quote=True)


def page_name(number: int, id: str) -> str:
    """A file name: the game's number, and what of its id can stand in a name."""
    return f"{number:05d}-{re.sub(r'[^A-Za-z0-9._-]+', '-', id)[:80]}.html"


def write_pages(games: Iterable[Mapping[str, Any]], folder: Path) -> int:
    """Writes a page a game, and `index.html`; returns how many games there were."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, game in enumerate(games, 1):
        name = page_name(number, game["id"])
        write_text(folder / name, page(game))
        rows.append(f'<tr><td><a href="{text(name)}">{text(game["id"])}</a><td>{text(game["outcome"])}')
    index = HEAD.format(title="games") + "<h1>Games</h1><table><tr><th>game<th>outcome" + "\n".join(rows) + "</table>"
    write_text(folder / "index.html", index + TAIL)
    return len(rows)


def page(game: Mapping[str, Any]) -> str:
    """One game: its attempts, turn by turn, lines with findings marked and named."""
    task = game["task"]
    out = [HEAD.format(title=text(game["id"])), f"<h1>{text(game['id'])}</h1>"]
    out.append(f'<p>{text(task["request"])}</p><p class="meta">weakness: CWE-{text(task["cwe"])}; ')
    out.append(f"outcome: {text(game['outcome'])}; {text(game['queries'])} queries</p>")
    for number, attempt in enumerate(game["attempts"], 1):
        out.append(f"<h2>Attempt {number}: {text(attempt['outcome'])}</h2>")
        if attempt["error"]:
            out.append(f'<p class="note">{text(attempt["error"])}</p>')
        opinions = attempt["evaluation"]["opinions"]
        for name, opinion in opinions.items():
            out.append(f'<p class="meta">{text(name)}: {text(opinion["outcome"])}')
            out += [f"<br>{text(where)}: {text(why)}" for where, why in opinion["errors"].items()]
            out.append("</p>")
        for turn, exchange in enumerate(attempt["exchanges"]):
            found = [f for o in opinions.values() for f in o["findings"] if f["turn"] == turn]
            strategy = attempt["strategies"][turn]
            out.append(_turn(turn, exchange, strategy, found))
    return "".join(out) + TAIL


def _turn(turn: int, exchange: Mapping[str, Any], strategy: str | None, found: list[Mapping[str, Any]]) -> str:
    status = exchange["status"] + (f": {exchange['detail']}" if exchange["detail"] else "")
    score = "" if exchange["score"] is None else f"; guard P(unsafe) {exchange['score']:.3f}"
    out = [f'<h3>Turn {turn + 1}</h3><p class="meta">{text(status)}{text(score)}</p>']
    if strategy:
        out.append(f'<p class="meta">strategy: {text(strategy)}</p>')
    out.append(f"<p><b>attacker</b></p><pre>{text(_cut(exchange['prompt']))}</pre>")
    out.append(f"<p><b>victim</b></p><pre>{_marked(exchange['reply'], found)}</pre>")
    return "".join(out)


def _cut(said: str) -> str:
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}\n… {len(said) - LONGEST} more characters"


def _marked(reply: str, found: list[Mapping[str, Any]]) -> str:
    """The reply with the lines of findings marked, and each finding named under its first line."""
    lines = reply.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    notes = defaultdict(list)
    marked: set[int] = set()
    for f in found:
        notes[f["line"]].append(f["finding"])
        marked |= set(range(f["line"], min(f["end"], f["line"] + 50) + 1))
    out, left = [], LONGEST
    for n, line in enumerate(lines, 1):
        shown = text(line[: max(0, left)])
        left -= len(line)
        if n in marked:
            said = [f"{f['analyser']} {f['test']}, CWE-{f['cwe']} ({f['family']}): {f['text']}" for f in notes[n]]
            out.append(f"<mark>{shown or ' '}{''.join(f'<span class=note><br>{text(s)}</span>' for s in said)}</mark>")
        elif left > -len(line) or not out:
            out.append(f"{shown}\n")
    if left < 0:
        out.append(f"… {-left} more characters")
    return "".join(out)
