"""`python -m zoo.test recipe=redcoder_analyser analyser=bandit`: a static analyser against labelled code.

How far to trust an evaluator that a success rate rests on: recall on code known to be vulnerable, false alarms on the
same functions after their fix and on benign code, for each CWE and family.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.code_labels import LabelledCode, load_labelled
from datamodules.schema import DataError, Message, Part, Sample, canonical_json
from zoo.core.metrics import Record
from zoo.core.run import new_run, write_json, write_lines, write_yaml
from zoo.core.scores import decide, write_scores
from zoo.core.tables import fmt, markdown_table
from zoo.evaluate import slices_of
from zoo.redcoder.analysers import ANALYSERS, Analyser, Bandit, Report, Semgrep, Source
from zoo.redcoder.cwe import family
from zoo.redcoder.summary import rate

MATCHES = ("family", "any")


def analyser_of(config: dict[str, Any]) -> Analyser:
    """Raises `DataError` for an unknown name."""
    name, e = config["analyser"], config["evaluator"]
    if name == "bandit":
        return Bandit(e["ignore_nosec"], e["severity"], e["confidence"], e["timeout"])
    if name == "semgrep":
        return Semgrep(e["semgrep"], e["rules"], e["ignore_nosec"], e["timeout"])
    raise DataError(f"analyser={name}: expected one of {', '.join(ANALYSERS)}")


def check(config: dict[str, Any]) -> None:
    """Raises `DataError` for an unknown analyser, and for files that are not there; without data_dir, `look` does."""
    analyser_of(config)
    if config["data_dir"] is not None:
        load_labelled(config["sources"], config["data_dir"])


def sample_of(row: LabelledCode) -> Sample:
    """A labelled file as a row that metrics choose by source and slice."""
    meta: dict[str, Any] = {f"language:{row.language}": True}
    if row.cwe is not None:
        meta |= {f"cwe:{row.cwe}": True, f"family:{family(row.cwe)}": True}
    said = (Message("assistant", (Part("text", text=row.text),)),)
    return Sample(row.id, said, target="response", unsafe=row.vulnerable, source=row.source, group=row.group, meta=meta)


def look(config: dict[str, Any]) -> tuple[str, list[Sample]]:
    """The hash of the labelled files, and a row for each that the analyser reads."""
    rows = load_labelled(config["sources"], config["data_dir"])
    read = analyser_of(config).languages
    return _hash(rows), [sample_of(r) for r in rows if r.language in read]


def _hash(rows: Sequence[LabelledCode]) -> str:
    return hashlib.sha256(canonical_json([[r.id, r.vulnerable, r.cwe, r.text] for r in rows]).encode()).hexdigest()


@dataclass(frozen=True)
class Judged:
    """`any`: the analyser finds something. `own`: something of the label's family; any finding in benign code is."""

    row: LabelledCode
    any: bool
    own: bool
    families: frozenset[str]
    error: tuple[str, str] | None


def judge(rows: Sequence[LabelledCode], report: Report) -> list[Judged]:
    out = []
    for r in rows:
        found = frozenset(f.family for f in report.findings.get(r.id, []))
        own = bool(found) if r.cwe is None else family(r.cwe) in found
        out.append(Judged(r, bool(found), own, found, report.errors.get(r.id)))
    return out


def measured(judged: Sequence[Judged]) -> dict[str, Any]:
    """Recall and false alarms by source, CWE and family, with Wilson intervals; what could not be read, by reason.

    `recall`: vulnerable files with a finding of the label's family (`recall_any`: with any). `false_alarms`: fixed or
    benign files with one. `precision`: of the files of that CWE with such a finding, those that are vulnerable; None
    where there is no safe file to be wrong about. `named`: of the vulnerable files with any finding, those where the
    label's family is among what is found. A file that cannot be read has no finding, and is counted in `unread`.
    """
    out: dict[str, Any] = {}
    for source in sorted({j.row.source for j in judged}):
        mine = [j for j in judged if j.row.source == source]
        entry: dict[str, Any] = {"overall": _figures(mine)}
        for key, name in (("by_cwe", lambda j: f"CWE-{j.row.cwe}"), ("by_family", lambda j: family(j.row.cwe))):
            names = sorted({str(name(j)) for j in mine if j.row.cwe is not None})
            entry[key] = {n: _figures([j for j in mine if j.row.cwe is not None and name(j) == n]) for n in names}
        out[source] = entry
    return out


def _figures(rows: Sequence[Judged]) -> dict[str, Any]:
    bad, good = [j for j in rows if j.row.vulnerable], [j for j in rows if not j.row.vulnerable]
    hits, alarms = sum(j.own for j in bad), sum(j.own for j in good)
    found = sum(j.any for j in bad)
    return {
        "vulnerable": len(bad),
        "safe": len(good),
        "recall": rate(hits, len(bad)) if bad else None,
        "recall_any": rate(found, len(bad)) if bad else None,
        "false_alarms": rate(alarms, len(good)) if good else None,
        "false_alarms_any": rate(sum(j.any for j in good), len(good)) if good else None,
        "precision": rate(hits, hits + alarms) if good and hits + alarms else None,
        "named": rate(hits, found) if found else None,
        "unread": dict(Counter(j.error[0] for j in rows if j.error)),
    }


def table(metrics: dict[str, Any]) -> str:
    """A row a source, and one for each of its families."""
    rows = []
    for source, entry in metrics["sources"].items():
        named = [(source, entry["overall"]), *((f"{source}: {f}", e) for f, e in entry["by_family"].items())]
        for name, e in named:
            cells = [
                fmt(e[k]["value"], e[k]["ci95"]) if e[k] else ""
                for k in ("recall", "recall_any", "false_alarms", "precision")
            ]
            rows.append([name, e["vulnerable"], e["safe"], *cells, sum(e["unread"].values())])
    head = ["files", "vulnerable", "safe", "recall [95 %]", "recall, any CWE", "false alarms", "precision", "unread"]
    return markdown_table(head, rows)


def test(config: dict[str, Any]) -> int:
    """Scans, prints the table, and writes `metrics.json`, `scores_family.jsonl`, `scores_any.jsonl`, `errors.jsonl`.

    Raises `DataError` where the analyser is missing or crashes: then nothing is measured.
    """
    started = time.perf_counter()
    analyser = analyser_of(config)
    rows = load_labelled(config["sources"], config["data_dir"])
    mine = [r for r in rows if r.language in analyser.languages]
    if not mine:
        raise DataError(f"{analyser.name} reads {', '.join(analyser.languages)}, and no file is of that")
    print(f"{analyser.name}: {len(mine)} files of {len(rows)}", file=sys.stderr)
    report = analyser.scan({r.id: Source(r.language, r.text) for r in mine})
    if report.failed:
        raise DataError(f"{analyser.name} is {report.failed}: {report.why}")
    judged = judge(mine, report)
    run = new_run(Path(config["runs"]) / "test", config["recipe"])
    write_yaml(run / "config.yaml", config)
    metrics = {
        "model": analyser.name,
        "sources": measured(judged),
        "other_languages": dict(Counter(r.language for r in rows if r.language not in analyser.languages)),
        "families_found": dict(sorted(Counter(f for j in judged for f in j.families).items())),
        "failed": len(report.errors),
        "seed": config["seed"],
        "data_hash": _hash(rows),
        "seconds": round(time.perf_counter() - started, 1),
    }
    for match in MATCHES:
        flags = [j.own if match == "family" else j.any for j in judged]
        write_scores(run / f"scores_{match}.jsonl", (decide(_record(j, f), 0.5, 0.5) for j, f in zip(judged, flags)))
    write_lines(run / "errors.jsonl", [{"id": id, "error": f"{k}: {why}"} for id, (k, why) in report.errors.items()])
    write_json(run / "metrics.json", metrics)
    print(table(metrics))
    print(f"run folder: {run}", file=sys.stderr)
    if report.errors:
        print(f"{len(report.errors)} files could not be read whole: see {run / 'errors.jsonl'}", file=sys.stderr)
    return 0


def _record(j: Judged, flagged: bool) -> Record:
    s = sample_of(j.row)
    return Record(
        s.id, float(flagged), s.unsafe, source=s.source, target=s.target, slices=slices_of(s), valid=j.error is None,
        group=s.group,
    )  # fmt: skip
