"""GuardZoo's report as tables: sources × categories, and what was left out with the reason."""

from __future__ import annotations

from typing import Any

from datamodules.schema import SPLITS
from datamodules.taxonomy import DEFAULT_POLICY
from zoo.core.tables import markdown_table

_HEAD = ("source", "role", "target", "rows", "safe", "unsafe", *SPLITS)


def source_tables(report: dict[str, Any]) -> str:
    """`report` is that of `load_guardzoo`. A category without positive rows is named below the tables."""
    parts = [_rows(report), _categories(report), _dropped(report), *_notes(report)]
    return "\n\n".join(parts)


def _rows(report: dict[str, Any]) -> str:
    """Rows, verdicts and splits, and the licence."""
    rows = [
        [
            name,
            s["role"],
            ", ".join(s["targets"]),
            s["rows"],
            s["safe"],
            s["unsafe"],
            *s["splits"].values(),
            s["licence"],
        ]
        for name, s in report["sources"].items()
    ]
    t = report["total"]
    rows.append(["all", "", "", t["rows"], t["safe"], t["unsafe"], *t["splits"].values(), ""])
    return markdown_table([*_HEAD, "licence"], rows)


def _categories(report: dict[str, Any]) -> str:
    """Positive rows by source and category; no number where the source gives none."""
    ids = DEFAULT_POLICY.ids
    rows = [
        [name, *(s["yes"][id] or None for id in ids)] for name, s in report["sources"].items() if any(s["yes"].values())
    ]
    t = report["total"]
    rows.append(["all, yes", *(t["yes"][id] for id in ids)])
    rows += [[f"of these, {split}", *(t["yes_by_split"][split][id] for id in ids)] for split in SPLITS]
    rows.append(["all, no", *(t["no"][id] for id in ids)])
    return markdown_table(["rows that are yes", *ids], rows)


def _dropped(report: dict[str, Any]) -> str:
    """Rows read, kept and left out by source."""
    rows = [
        [name, s["read"], s["rows"], "; ".join(f"{n} {reason}" for reason, n in s["dropped"].items())]
        for name, s in report["sources"].items()
    ]
    rows.append(["all", report["total"]["read"], report["total"]["rows"], f"{report['total']['dropped']} left out"])
    return markdown_table(["source", "read", "kept", "left out"], rows)


def _notes(report: dict[str, Any]) -> list[str]:
    t = report["total"]
    count = sum(bool(n) for n in t["yes"].values())
    names = ", ".join(f"{id} ({DEFAULT_POLICY.entry(id).name})" for id in report["without_positives"])
    notes = [f"{t['rows']} rows; {count} of {len(t['yes'])} categories have positive rows."]
    if names:
        notes.append(f"Without any positive row: {names}.")
    slices = ", ".join(f"{name} {n}" for name, n in report["slices"].items())
    return [*notes, f"Test slices: {slices}. Licences: {report['licences']}."]
