"""Arms × seeds as runs on the disk: what is finished is kept, what was stopped goes on, a crash costs one run.

Each run is a process of its own (`python -m zoo.fit …`): its memory is given back, and what kills it kills nothing
else. Its folder is called after a hash of what decides its outcome, so the same arm of a changed claim, or of another
claim beside it, is found again.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datamodules
import zoo
from datamodules.schema import DataError, canonical_json
from zoo.baseline import BASELINES
from zoo.benchmarks import BENCHMARKS, Benchmark
from zoo.claims.claim import Arm, Claim
from zoo.config import compose, plain
from zoo.core import weights
from zoo.core.interrupts import Interrupted
from zoo.core.processes import plan
from zoo.core.resume import identity
from zoo.core.run import write_json
from zoo.methods import METHODS

DONE = "arm.json"
Launch = Callable[[str, list[str], Path], int]
"""(verb, arguments, log) → exit code of the command, whose words are appended to the log."""


class ArmError(Exception):
    """A run that ended without metrics; the others go on."""


@dataclass
class Unit:
    """One run: an arm with a seed. `config` is the recipe's, resolved; `uses` has the runs that settings are from, by
    setting.

    `data_hash` is set once the data has been looked at, and `folder` stands under `root` only then.
    """

    arm: Arm
    seed: int
    arguments: dict[str, str]
    config: dict[str, Any]
    uses: dict[str, Unit]
    root: Path
    data_hash: str = ""

    @property
    def name(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"

    @cached_property
    def key(self) -> str:
        """Hash of configuration, data, model and version: runs with one key are the same run."""
        what = {
            "verb": self.arm.verb,
            "config": identity(self.config),
            "calibrate": self.arguments.get("calibrate"),
            "model": self._model(),
            "data": self.data_hash,
            "version": zoo.__version__,
        }
        if more := {k: u.key for k, u in self.uses.items() if k != "model"}:
            what["uses"] = more
        return hashlib.sha256(canonical_json(what).encode()).hexdigest()[:12]

    def _model(self) -> str | None:
        if "model" in self.uses:
            return self.uses["model"].key
        return self.arm.model and _model_hash(self.arm.model, self.config)

    def given(self) -> dict[str, str]:
        """The arguments of the command: what is another run's as the place where it is now."""
        places = self.arm.uses
        return {
            **self.arguments,
            **{k: str(u.run / places[k].inside if places[k].inside else u.run) for k, u in self.uses.items()},
        }

    @cached_property
    def folder(self) -> Path:
        """An existing folder with this key, of this claim or of another, or a new one's name."""
        same = sorted(self.root.parent.glob(f"*/*-{self.key}"), key=lambda p: (p.parent != self.root, p))
        return same[0] if same else self.root / f"{self.arm.name}-{self.seed}-{self.key}"

    @property
    def run(self) -> Path:
        """The finished run's folder."""
        return self.folder / self.done["run"]

    @property
    def done(self) -> dict[str, Any]:
        return json.loads((self.folder / DONE).read_text(encoding="utf-8"))

    @property
    def finished(self) -> bool:
        return (self.folder / DONE).is_file() and (self.run / "metrics.json").is_file()

    def runs(self) -> list[Path]:
        """Run folders in it that have a configuration, the newest last."""
        below = self.folder if self.arm.verb == "fit" else self.folder / self.arm.verb
        return sorted(p.parent for p in (below / self.config["recipe"]).glob("*/config.yaml"))


def _model_hash(name: str, config: Mapping[str, Any]) -> str:
    """sha256 of a model's config.json, which holds that of its weights. A baseline's name is all there is of it, and so
    is that of what a benchmark calls by a setting of its own (an analyser, a scripted victim)."""
    if name in BASELINES or _subject(config):
        return name
    return weights.sha256_of(weights.find(name) / "config.json")


def benchmark_of(arm: Arm, config: Mapping[str, Any]) -> Benchmark | None:
    """The benchmark that an arm's recipe is. A recipe may also train (Thud): its trainings are as any other's."""
    trains = arm.verb == "fit" and config["method"] in METHODS
    return None if trains else BENCHMARKS.get(config["method"])


def _draws(arm: Arm, config: Mapping[str, Any]) -> bool:
    benchmark = benchmark_of(arm, config)
    return benchmark is not None and benchmark.draws(config)


def _subject(config: Mapping[str, Any]) -> str | None:
    """The setting that `model` of a test stands for, where its recipe is a benchmark that has one."""
    benchmark = BENCHMARKS.get(config["method"])
    return benchmark.subject if benchmark else None


def code_hash() -> str:
    """sha256 over this package's Python files: whether two runs were made by the same code."""
    digest = hashlib.sha256()
    for package in (zoo, datamodules):
        root = Path(package.__file__).parent
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


# ------------------------------------------------------------------------------------------------------------ planning


def plan_units(
    claim: Claim, seeds: int, overrides: Mapping[str, str], gpu: bool, root: Path
) -> dict[tuple[str, int], Unit]:
    """(arm, seed) → run, in the order in which they can go. Everything a command line can have wrong is raised here.

    Raises `DataError` that names the arm. A test of a published model has one run, whatever the seeds, and so has a
    baseline, whose optimum depends on none; a benchmark that draws has one a seed.
    """
    ready = {}
    for arm in claim.order():
        clash = sorted(set(arm.overrides) & set(overrides))
        if clash:
            raise DataError(f"{clash[0]} is what arm {arm.name!r} is about: it cannot be set for all arms")
        machine = {**(claim.gpu or {}), **arm.gpu} if gpu else {}
        given = {**claim.defaults, **machine, **arm.overrides, **overrides}
        try:
            ready[arm.name] = (arm, given, _config(arm, given))  # once: to compose a configuration takes a moment
        except DataError as e:
            raise DataError(f"arm {arm.name!r}: {e}") from e
    units: dict[tuple[str, int], Unit] = {}
    for n in range(seeds):
        for name, (arm, given, config) in ready.items():
            uses = {k: units[place.arm, n] for k, place in arm.uses.items()}
            drawn = arm.verb == "fit" or _draws(arm, config) or any(u.seed for u in uses.values())
            seed = n if drawn else 0
            units[name, n] = Unit(arm, seed, {**given, "seed": str(seed)}, {**config, "seed": seed}, uses, root)
    return units


def _config(arm: Arm, given: Mapping[str, str]) -> dict[str, Any]:
    """The recipe's configuration, checked as the command would. Raises `DataError`."""
    own = {k: v for k, v in given.items() if not (k == "calibrate" and arm.verb == "test")}
    config = plain(compose([f"recipe={arm.recipe}", *(f"{k}={v}" for k, v in own.items())]))
    benchmark = benchmark_of(arm, config)
    if benchmark:
        if arm.verb != "test" or benchmark.look is None:
            raise DataError(f"recipe {arm.recipe!r} has no judged rows that a claim can compare, or trains nothing")
        if benchmark.subject:
            config[benchmark.subject] = arm.model
        benchmark.check(config)
        return config
    method = METHODS[config["method"]]
    if arm.verb == "fit":
        if not arm.uses:  # else the command does, once what it is given is there
            method.check(config)
    elif arm.verb == "test" and "model" not in arm.uses:
        weights.find(str(arm.model))
    plan(config["trainer"], config["data"]["batch_size"])
    return config


# ------------------------------------------------------------------------------------------------------------- running


def carry_out(unit: Unit, launch: Launch) -> None:
    """Runs or resumes one unit to its end. Raises `ArmError` with the command's last words where there is no result."""
    if unit.finished:
        return
    unit.folder.mkdir(parents=True, exist_ok=True)
    log = unit.folder / "log.txt"
    begun = unit.runs()
    if not any((r / "metrics.json").is_file() for r in begun):  # else it was killed after its last file
        code = launch(unit.arm.verb, _words(unit, begun), log)
        ended = [r for r in unit.runs() if (r / "metrics.json").is_file()]
        if not ended:
            raise ArmError(f"{_last_words(log, code)} (log: {log})")
    (run, *_) = [r for r in unit.runs() if (r / "metrics.json").is_file()]
    done = {"arm": unit.arm.name, "seed": unit.seed, "key": unit.key, "run": str(run.relative_to(unit.folder))}
    write_json(unit.folder / DONE, {**done, "version": zoo.__version__, "code": code_hash()})


def _words(unit: Unit, begun: list[Path]) -> list[str]:
    if unit.arm.verb == "fit" and begun:
        return [f"resume={begun[-1]}"]
    given = unit.given()
    if unit.arm.verb != "fit":
        given.setdefault("model", str(unit.arm.model))
    return [f"recipe={unit.arm.recipe}", *(f"{k}={v}" for k, v in given.items()), f"runs={unit.folder}"]


def _last_words(log: Path, code: int) -> str:
    lines = [s for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if (s := line.strip())]
    said = next((line for line in reversed(lines) if line.startswith("error: ")), lines[-1] if lines else "no output")
    how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return f"{how}: {said[-300:]}"


def run_process(verb: str, arguments: list[str], log: Path) -> int:
    """`python -m zoo.<verb> …` in a process group of its own; its standard error is shown and logged.

    A Ctrl-C or SIGTERM that comes here is handed on, once each time, and raised when the process has saved and ended.
    """
    command = [sys.executable, "-m", f"zoo.{verb}", *arguments]
    stopped: Interrupted | None = None
    with open(log, "ab") as out:
        out.write(("$ " + " ".join(command) + "\n").encode())
        out.flush()
        with subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, start_new_session=True) as child:
            while True:
                try:
                    _tee(child, out.fileno())
                    child.wait()
                    break
                except Interrupted as e:
                    stopped = e
                    child.send_signal(e.signum)
                except BaseException:
                    child.kill()
                    raise
    if stopped is not None:
        raise stopped
    return child.returncode


def _tee(child: subprocess.Popen[bytes], log: int) -> None:
    assert child.stderr is not None
    while chunk := os.read(child.stderr.fileno(), 65536):
        os.write(log, chunk)
        sys.stderr.write(chunk.decode(errors="replace"))
        sys.stderr.flush()
