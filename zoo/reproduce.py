"""Runs a paper's claim again: `python -m zoo.reproduce claim=<name> [seeds=3] [key=value …]`.

Every arm is trained (or tested) with every seed, figures get 95 % intervals over test rows and seeds, and the verdict
follows the rule in `recipes/claims/<name>.yaml`. What is finished is kept under `runs/claims/<name>/`: the same command
goes on where it was stopped. `gpu=true` takes the claim's settings for a GPU, `backbone=NAME` those that its page has
for that backbone; other key=value words go to every arm.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zoo
from datamodules.schema import DataError
from zoo import cli
from zoo.claims import measure, report
from zoo.claims.claim import RESERVED, Claim, claim_names, load_claim
from zoo.claims.runs import ArmError, Launch, Unit, carry_out, plan_units, run_process
from zoo.claims.survey import survey
from zoo.config import split_arguments
from zoo.core.interrupts import Interrupted, Signals

# Words that do not make another experiment of it.
NEUTRAL = ("data_dir", "farm", "processes", "data.workers", "trainer.checkpoint_every")
PRIVATE = ("data_dir", "farm", "runs", "results")  # folders of this machine


def reproduce(arguments: list[str], launch: Launch = run_process) -> tuple[dict[str, Any] | None, Path | None]:
    """Carries a claim out; returns its result and the file that it was written to, None where an arm failed.

    Raises `DataError` for what the command or the claim has wrong, before anything long is begun.
    """
    given = split_arguments(arguments)
    name = given.pop("claim", None)
    if not name:
        raise DataError(f"give claim=NAME; known: {', '.join(claim_names())}")
    claim = load_claim(name)
    backbone = given.pop("backbone") if given.get("backbone") in claim.backbones else None
    if backbone is not None:
        claim = claim.over(backbone)
    seeds = _number(given.pop("seeds", str(claim.seeds)))
    gpu = _switch(given.pop("gpu", "false"))
    if gpu and claim.gpu is None and not any(a.gpu for a in claim.arms.values()):
        raise DataError(f"claim {claim.name!r} has no `gpu` settings: give them as key=value")
    root = Path(given.pop("runs", "runs")) / "claims" / claim.name
    results = given.pop("results", None)
    for key in RESERVED:
        if key in given:
            instead = "give seeds=NUMBER" if key == "seed" else "leave it out"
            raise DataError(f"{key}= is set by the runner: {instead}")
    units = plan_units(claim, seeds, given, gpu, root)
    folder = _results_folder(claim, name, seeds, given, results, root)
    with Signals():
        print("looking at the data", file=sys.stderr)
        survey(units, claim)
        failed = _carry_out_all(claim, units, launch)
    if failed:
        print(f"{len(failed)} of {len(units)} runs have no result, so the claim has none:", file=sys.stderr)
        for unit, why in failed:
            print(f"  {unit.name}: {why}", file=sys.stderr)
        print("the others are kept: the same command runs the missing ones", file=sys.stderr)
        return None, None
    result = _result(claim, units, seeds, _command(arguments))
    path = report.write(folder, report.stem(claim.name, backbone, gpu), result)
    return result, path


def _number(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise DataError(f"seeds={text}: give a number from 1 on")
    return int(text)


def _switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise DataError(f"gpu={text}: expected true or false")
    return text == "true"


def _results_folder(
    claim: Claim, name: str, seeds: int, overrides: Mapping[str, str], given: str | None, root: Path
) -> Path:
    """`results=`; else the checkout's, for the experiment that the YAML says; else the claim's run folder."""
    if given is not None:
        return Path(given)
    shared = report.shared_results()
    other = [k for k in overrides if k not in NEUTRAL]
    if shared is None or name != claim.name or other or seeds < claim.seeds:
        if other or seeds < claim.seeds:
            print(
                f"not the experiment that the claim's YAML says ({', '.join(other) or f'seeds={seeds}'}): its result "
                f"is written to {root}, unless results=FOLDER says otherwise",
                file=sys.stderr,
            )
        return root
    return shared


def _command(arguments: list[str]) -> str:
    """The command, without what is this machine's own."""
    words = [a for a in arguments if a.partition("=")[0] not in PRIVATE]
    given = any(a.startswith("data_dir=") for a in arguments)
    return shlex.join(["python", "-m", "zoo.reproduce", *words, *(["data_dir=FOLDER"] if given else [])])


# ------------------------------------------------------------------------------------------------------------- running


def _carry_out_all(claim: Claim, units: Mapping[tuple[str, int], Unit], launch: Launch) -> list[tuple[Unit, str]]:
    """Every run, one after the other; returns those without a result, and why."""
    failed: dict[str, tuple[Unit, str]] = {}
    runs = list({u.key: u for u in units.values()}.values())
    ready = sum(u.finished for u in runs)
    print(f"claim {claim.name}: {len(runs)} runs, {ready} of them finished before", file=sys.stderr)
    for number, unit in enumerate(runs, 1):
        if unit.finished:
            continue
        head = f"[{number}/{len(runs)}] {unit.name}"
        print(f"{head}: {unit.folder}", file=sys.stderr)
        started = time.perf_counter()
        try:
            for used in unit.uses.values():
                if used.key in failed:
                    raise ArmError(f"it uses {used.name}, which failed")
            carry_out(unit, launch)
        except ArmError as e:
            failed[unit.key] = (unit, str(e))
            print(f"{head}: failed: {e}", file=sys.stderr)
            continue
        except Interrupted:
            print(f"stopped in {unit.name}: the same command goes on from there", file=sys.stderr)
            raise
        print(f"{head}: done in {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return list(failed.values())


def _result(claim: Claim, units: Mapping[tuple[str, int], Unit], seeds: int, command: str) -> dict[str, Any]:
    runs = {name: [_read(units[name, s]) for s in range(seeds)] for name in claim.arms}
    measured = measure.measure(claim, runs)
    arms = []
    for arm in measured["arms"]:
        mine = [units[arm["name"], s] for s in range(seeds)]
        about = {
            "name": arm["name"],
            "verb": mine[0].arm.verb,
            "recipe": mine[0].arm.recipe,
            "arguments": {k: v for k, v in mine[0].arguments.items() if k not in ("seed", "data_dir")},
            "seeds": [u.seed for u in mine],
        }
        failed = [r.metrics.get("failed") for r in runs[arm["name"]]]
        codes = sorted({u.done["code"] for u in mine})
        arms.append({**about, **arm, "failed_rows": failed, "data_hash": mine[0].data_hash, "code": codes})
    codes = sorted({c for arm in arms for c in arm["code"]})
    if len(codes) > 1:
        print(f"the runs were made by {len(codes)} versions of the code: {', '.join(codes)}", file=sys.stderr)
    hashes = {arm["data_hash"] for arm in arms}
    unique = {u.key: r for name, rs in runs.items() for u, r in zip((units[name, s] for s in range(seeds)), rs)}
    return {
        "claim": claim.name,
        "title": claim.title,
        "paper": claim.paper,
        "size": claim.size,
        "seeds": seeds,
        "verdict": measured["verdict"],
        "rule": f"at least {claim.at_least} of {sum(c.decides for c in claim.comparisons)} comparisons",
        "arms": arms,
        "differences": measured["differences"],
        "n": max((d["n"] or 0 for d in measured["differences"]), default=0),
        "data_hash": hashes.pop() if len(hashes) == 1 else None,  # arms that differ have their own
        "claim_sha256": claim.sha256,
        "version": zoo.__version__,
        "command": command,
        "seconds": round(sum(_seconds(r.metrics) for r in unique.values()), 1),
    }


def _read(unit: Unit) -> measure.Run:
    metrics = json.loads((unit.run / "metrics.json").read_text(encoding="utf-8"))
    path = unit.run / f"{unit.arm.outcomes}.jsonl"
    return measure.Run(unit.run, metrics, measure.Table(path) if path.is_file() else None)


def _seconds(metrics: Mapping[str, Any]) -> float:
    """What a run took, in all its sessions."""
    seconds = metrics["seconds"]
    return float(seconds["total"] if isinstance(seconds, dict) else seconds)


def main(arguments: list[str]) -> int:
    result, path = reproduce(arguments)
    if result is None:
        return 1
    print(report.summary(result))
    print(f"result: {path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main, __doc__)
