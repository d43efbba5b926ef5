"""Tables of numbers, for a README (Markdown) and for a terminal. A blank stands for what is not known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_COLUMNS = (
    ("n", "n"),
    ("f1", "F1"),
    ("auprc", "AUPRC"),
    ("precision", "precision"),
    ("recall", "recall"),
    ("fpr", "FPR"),
    ("accuracy", "accuracy"),
)
_SECTIONS = ("modality", "source", "target", "category", "slice")


def fmt(value: Any, ci: Sequence[float] | None = None) -> str:
    """One cell: `0.912`, or `0.912 [0.880, 0.940]` with an interval. None and NaN are blank."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" + (f" [{ci[0]:.3f}, {ci[1]:.3f}]" if ci else "")


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; columns of numbers align right. Raises `ValueError` for a row of another length."""
    rows = [list(r) for r in rows]
    for number, row in enumerate(rows, 1):
        if len(row) != len(headers):
            raise ValueError(f"row {number} has {len(row)} cells, the table has {len(headers)} columns")
    right = [_numeric([row[c] for row in rows]) for c in range(len(headers))]
    lines = [[_escape(h) for h in headers], ["---:" if r else "---" for r in right]]
    lines += [[_escape(fmt(cell)) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _numeric(cells: list[Any]) -> bool:
    known = [c for c in cells if c is not None]
    return bool(known) and all(isinstance(c, (int, float)) and not isinstance(c, bool) for c in known)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


def text_table(metrics: dict[str, Any]) -> str:
    """What `summarise` returned, as a table for a terminal: one line a slice, F1 and AUPRC with their intervals."""
    lines = [["slice", *(title for _, title in _COLUMNS)]]
    if metrics.get("overall"):
        lines.append(_line("overall", metrics["overall"]))
    for section in _SECTIONS:
        # With one modality, source or target the line would repeat `overall`.
        entries = metrics.get(f"by_{section}") or {}
        if len(entries) > 1 or section in ("category", "slice"):
            lines += [_line(f"{section} {name}", entry) for name, entry in entries.items()]
    return aligned(lines)


def _line(name: str, entry: dict[str, Any]) -> list[str]:
    return [name, *(fmt(entry.get(key), entry.get(f"{key}_ci95")) for key, _ in _COLUMNS)]


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: names on the left, numbers on the right."""
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    lines = [lines[0], ["-" * w for w in widths], *lines[1:]]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:]))]).rstrip()
        for line in lines
    )
