"""A claim's result: where it is written, its picture, and its rows in tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datamodules.schema import DataError
from zoo.claims.claim import Claim, claim_names, claims_folder, load_claim
from zoo.config import recipes_folder
from zoo.core import plots
from zoo.core.run import write_json
from zoo.core.tables import fmt, markdown_table

NOT_RUN = "not run yet"


def shared_results() -> Path | None:
    """`recipes/claims/results` of a checkout; None where the package is installed elsewhere."""
    return claims_folder() / "results" if (recipes_folder().parent / "pyproject.toml").is_file() else None


def stem(name: str, backbone: str | None = None, gpu: bool = False) -> str:
    """What the files of a result are called."""
    return "-".join([name, *([backbone] if backbone else []), *(["gpu"] if gpu else [])])


def write(folder: Path, name: str, result: dict[str, Any]) -> Path:
    """Writes `<name>.json` and `<name>.png`."""
    path = folder / f"{name}.json"
    write_json(path, result)
    draw(result, folder / f"{name}.png")
    return path


def draw(result: dict[str, Any], path: Path) -> Path:
    """Each arm's metrics, and each difference with its margin. Reported figures have panels and scales of their own."""
    arms = [
        (f"{metric}: {arm['name']}", e["mean"], e["ci95"], None)
        for metric in dict.fromkeys(d["metric"] for d in result["differences"])
        for arm in result["arms"]
        if (e := arm["metrics"].get(metric)) and e["n"] is not None
    ]
    seeds = f"{result['seeds']} seed{'s' if result['seeds'] != 1 else ''}"
    panels = {f"test rows, 95 % over rows and {seeds}": arms, f"differences, 95 % over rows and {seeds}": []}
    for d in result["differences"]:
        title = f"{d['metric']}, 95 % over {seeds}" if d["n"] is None else list(panels)[1]
        panels.setdefault(title, []).append((_name(d), d["mean"], d["ci95"], _margins(d)))
    heading = f"{result['claim']}: {result['verdict']}"
    return plots.intervals({t: rows for t, rows in panels.items() if rows}, path, heading)


def _name(difference: dict[str, Any]) -> str:
    against = f" − {difference['against']}" if difference["against"] else ""
    return f"{difference['metric']}: {difference['arm']}{against}"


def _margins(d: dict[str, Any]) -> list[float]:
    """Where the verdict changes."""
    if d["direction"] == "equal":
        return [-d["margin"], d["margin"]]
    below = d["direction"] == "not_lower" or (d["direction"] == "lower" and d["against"])
    return [0.0 - d["margin"] if below else d["margin"]]


# -------------------------------------------------------------------------------------------------------------- tables


def results(folder: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """claim → its results on the CPU and on a GPU, and over its other backbones, if there are any.

    Every claim of `recipes/claims/` is there.
    """
    folder = folder or claims_folder() / "results"
    out: dict[str, list[dict[str, Any]]] = {}
    for name in claim_names():
        kinds = [(b, gpu) for b in (None, *load_claim(name).backbones) for gpu in (False, True)]
        files = (folder / f"{stem(name, *kind)}.json" for kind in kinds)
        out[name] = [_read(f) for f in files if f.is_file()]
    return out


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise DataError(f"{path}: not a result: {e}") from e


def _said(result: dict[str, Any], claim: Claim) -> str:
    changed = "" if result["claim_sha256"] == claim.sha256 else " (of another version of the claim)"
    return f"{result['verdict']}{changed}"


def list_table() -> str:
    rows = []
    for name, found in results().items():
        claim = load_claim(name)
        rows.append([name, claim.title, ", ".join(_said(r, claim) for r in found) or NOT_RUN])
    return markdown_table(["claim", "what is claimed", "verdict"], rows)


def readme_table() -> str:
    """A row a comparison, and the names of claims that were not run. A result that contradicts the paper stays."""
    rows, missing = [], []
    for name, found in results().items():
        claim = load_claim(name)
        if not found:
            missing.append(f"`{name}`")
        for result in found:
            for number, d in enumerate(result["differences"]):
                rows.append(
                    [
                        "" if number else name,
                        _name(d),
                        d["paper"] or "",
                        f"{d['n'] or ''}",
                        fmt(d["mean"], d["ci95"]),
                        _wanted(d),
                        f"**{_said(result, claim)}**, {size_of(result)}" if not number else d["verdict"],
                    ]
                )
    head = ["claim", "compared", "paper", "n", "difference [95 %]", "reproduced if", "verdict"]
    rest = (
        f"\n\n{NOT_RUN.capitalize()} (`python -m zoo.list claims` has their titles): {', '.join(missing)}."
        if missing
        else ""
    )
    return (markdown_table(head, rows) if rows else "") + rest


def size_of(result: dict[str, Any]) -> str:
    return f"{result['seeds']} seed{'s' if result['seeds'] != 1 else ''}, {result['size']}".rstrip(", ")


def _wanted(d: dict[str, Any]) -> str:
    """The rule of one comparison, about the whole interval."""
    if d["direction"] == "equal":
        return f"within ± {d['margin']:g}"
    (at,) = _margins(d)
    return f"{'<' if d['direction'] == 'lower' else '>'} {at:g}" + ("" if d["decides"] else " (does not decide)")


def summary(result: dict[str, Any]) -> str:
    """For a terminal: the differences and the verdict."""
    rows = [
        [_name(d), d["n"] or "", fmt(d["mean"], d["ci95"]), _wanted(d), d["verdict"], "; ".join(d["reasons"])]
        for d in result["differences"]
    ]
    head = ["compared", "n", "difference [95 %]", "reproduced if", "verdict", "notes"]
    return f"{markdown_table(head, rows)}\n\n{result['claim']}: {result['verdict']} ({size_of(result)})"
