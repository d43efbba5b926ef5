"""Code in a reply: fenced blocks as CommonMark has them, and replies that are code without a fence.

One pass over the lines: a reply of any length costs time in proportion to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PYTHON = ("py", "py3", "python", "python3", "python2")
OTHER = {"c": "c", "h": "c", "js": "javascript", "node": "javascript", "sh": "bash", "shell": "bash", "c++": "cpp"}
_FENCE = re.compile(r"^[ \t]{0,64}(?:[-*+>]|\d{1,3}[.)])?[ \t]{0,64}(`{3,}|~{3,})[ \t]{0,64}([^\n]*)$")
_STATEMENT = re.compile(r"^(?:import \w|from [\w.]+ import |def \w+\(|async def \w+\(|class \w+[(:]|@\w)")


@dataclass(frozen=True)
class Block:
    """`text` of the block `index` of the reply in turn `turn`, both from 0 on; `line` is where it begins, from 1 on.

    `language`: python, another name in lower case, or "" where the fence names none. `closed` is false where the fence
    is not. Line n of the block is line `line + n - 1` of the reply.
    """

    turn: int
    index: int
    language: str
    text: str
    line: int
    closed: bool = True


def language_named(info: str) -> str:
    """What a fence's info string (`python title="a"`, `{.py}`) says: python, another name, or "" for none."""
    words = re.split(r"[\s,{}:]+", info.strip().lower().replace("{.", " "))
    name = next((w.lstrip(".") for w in words if w.strip(".")), "")
    return "python" if name in PYTHON else OTHER.get(name, name)


def code_blocks(reply: str, turn: int = 0) -> list[Block]:
    """The fenced blocks of a reply, in their order; empty ones are none.

    A fence that is never closed reaches to the end. A reply without a fence whose lines are Python statements is one
    block, its language unnamed.
    """
    out: list[Block] = []
    lines = reply.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    fence, language, start, indent = "", "", 0, 0

    def add(end: int, closed: bool) -> None:
        body = [_dedented(line, indent) for line in lines[start:end]]
        if any(line.strip() for line in body):
            out.append(Block(turn, len(out), language, "\n".join(body) + "\n", start + 1, closed))

    for n, line in enumerate(lines):
        found = _FENCE.match(line) if "```" in line or "~~~" in line else None
        if not fence:
            if found and not (found[1][0] == "`" and "`" in found[2]):  # ```x``` in a line is no fence
                fence, language, start = found[1], language_named(found[2]), n + 1
                indent = line.index(found[1])
        elif found and found[1][0] == fence[0] and len(found[1]) >= len(fence) and not found[2].strip():
            add(n, True)
            fence = ""
    if fence:
        add(len(lines), False)
    if not out and not fence and any(_STATEMENT.match(line) for line in lines):
        out.append(Block(turn, 0, "", reply.rstrip() + "\n", 1))
    return out


def _dedented(line: str, indent: int) -> str:
    """Without at most as many blanks as stand before the fence."""
    blanks = len(line) - len(line.lstrip(" \t"))
    return line[min(indent, blanks) :]
