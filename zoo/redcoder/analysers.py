"""Static analysers over many files in one process: bandit, and semgrep with the rules beside this file.

Files are read and never run. They get names of their own in a temporary folder, beside the folder that the analyser is
started in, so that Python never imports one of them. What an analyser says of itself (missing, crashed, too slow) is an
outcome and no exception: a game must not end with it, and it is never taken for "no finding".
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from zoo.redcoder.cwe import cwe_number, family_of_finding

try:
    import resource
except ImportError:  # not POSIX: seconds are those of the clock
    resource = None  # type: ignore[assignment]

MISSING, CRASHED = "missing", "crashed"
PARSE, SCAN = "parse-error", "scan-error"
LEVELS = ("low", "medium", "high")
SUFFIXES = {"python": ".py", "c": ".c", "cpp": ".cpp"}
RULES = Path(__file__).parent / "rules"
HEALTHY = "x = 1\n"  # a file that every analyser can read
ADDRESS = re.compile(r" at 0x[0-9a-f]+")  # of an object that a message shows: another one each time
WAITED = 20  # seconds of the clock that are waited for one of the processor's


@dataclass(frozen=True)
class Finding:
    """One weakness: `line` and `end` from 1 on, in the scanned file. `cwe` is the analyser's own; levels are LEVELS."""

    analyser: str
    test: str
    cwe: int | None
    family: str
    severity: str
    confidence: str
    line: int
    end: int
    text: str


@dataclass
class Report:
    """What an analyser says of each file: `findings`, or `errors` (PARSE or SCAN, and the reason).

    `failed` is MISSING or CRASHED where it could not work at all, with the reason in `why`; then nothing else is known.
    A file is clean when it is in `scanned` and has neither. `processes` counts how often it was started.
    """

    analyser: str
    scanned: set[str] = field(default_factory=set)
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    errors: dict[str, tuple[str, str]] = field(default_factory=dict)
    failed: str | None = None
    why: str = ""
    processes: int = 0


class _Died(Exception):
    """A process that left no report."""


@dataclass(frozen=True)
class Source:
    """A file to scan: its language (`python`, `c`, …) and its text."""

    language: str
    text: str


class Analyser(Protocol):
    name: str
    languages: tuple[str, ...]

    def scan(self, files: Mapping[str, Source]) -> Report: ...


class Process:
    """What both have in common: files on the disk, one process for all of them, halves of a batch that it dies on."""

    name = ""
    languages: tuple[str, ...] = ()

    def __init__(self, timeout: float = 60.0):
        """`timeout`: seconds of the processor for one file; each further file of a process adds a fifth of a second."""
        self.timeout = timeout

    def scan(self, files: Mapping[str, Source]) -> Report:
        """Scans the files in one process. One that it dies on is found by halving, and is a scan error by itself."""
        report = Report(self.name)
        mine = {name: s for name, s in files.items() if s.language in self.languages}
        if not self.command():
            report.failed, report.why = MISSING, self.missing()
        elif mine:
            self._part(mine, report, tried=False)
        return report

    def _part(self, files: Mapping[str, Source], report: Report, tried: bool) -> None:
        try:
            self._once(files, report)
            return
        except _Died as e:
            why = str(e)
        if not tried:  # is it the files, or the analyser?
            probe = Report(self.name)
            try:
                self._once({"probe": Source("python", HEALTHY)}, probe)
            except _Died as e:
                report.failed, report.why = CRASHED, str(e)
            report.processes += probe.processes
            if report.failed:
                return
        names = list(files)
        if len(names) == 1:
            report.errors[names[0]] = (SCAN, why)
            return
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            self._part({n: files[n] for n in half}, report, tried=True)

    def _once(self, files: Mapping[str, Source], report: Report) -> None:
        """One process. Raises `_Died` where it leaves no report of every file."""
        report.processes += 1
        with tempfile.TemporaryDirectory(prefix="zoo-scan-") as folder:
            root = Path(folder)
            (root / "files").mkdir()
            (root / "here").mkdir()
            names = {}
            for n, (name, source) in enumerate(files.items()):
                short = f"f{n:06d}{SUFFIXES[source.language]}"
                names[short] = name
                (root / "files" / short).write_bytes(source.text.encode("utf-8", "replace"))
            try:
                with open(root / "said", "wb") as said:
                    code = _run(
                        [*self.command(), *self.arguments(Path("../files"), Path("../report.json"))],
                        self.timeout + 0.2 * len(files),
                        cwd=root / "here",
                        stdin=subprocess.DEVNULL,
                        stdout=said,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **self.environment(root)},
                    )
            except subprocess.TimeoutExpired:
                raise _Died(f"{self.name}: no report of {len(files)} files in time") from None
            except OSError as e:
                raise _Died(f"{self.name}: cannot be started: {e.strerror}") from None
            try:
                raw = json.loads((root / "report.json").read_text(encoding="utf-8"))
                got = Report(self.name, set(names.values()))
                self.read(raw, names, got)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
                last = (root / "said").read_text(encoding="utf-8", errors="replace").strip().splitlines()
                told = last[-1][:200] if last else type(e).__name__
                raise _Died(f"{self.name}: exit code {code} and no report ({told})") from None
        report.scanned |= got.scanned - set(got.errors)
        report.errors |= got.errors
        for name, found in got.findings.items():
            report.findings[name] = sorted(found, key=lambda f: (f.line, f.test))

    # what an analyser says for itself

    def command(self) -> list[str]: ...
    def missing(self) -> str: ...
    def arguments(self, files: Path, report: Path) -> list[str]: ...
    def environment(self, root: Path) -> dict[str, str]:
        return {}

    def read(self, raw: Any, names: Mapping[str, str], report: Report) -> None: ...


def _run(command: list[str], seconds: float, **how: Any) -> int:
    """The exit code of a command. One that takes longer is killed, with what it started: `TimeoutExpired`.

    Where the system can count them, `seconds` are the processor's: a busy machine makes no file a bad one.
    """
    own = {"start_new_session": True} if os.name == "posix" else {}
    with subprocess.Popen(command, **how, **own) as process:
        try:
            if hasattr(resource, "prlimit"):
                resource.prlimit(process.pid, resource.RLIMIT_CPU, (int(seconds) + 1, int(seconds) + 1))
                seconds *= WAITED
            return process.wait(seconds)
        except BaseException:
            if own:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            raise


class Bandit(Process):
    """Python. Without options its findings are those of bandit's own report.

    `ignore_nosec` counts lines that a `# nosec` comment hides: code under test must not excuse itself. Levels below
    `severity` or `confidence` are left out.
    """

    name = "bandit"
    languages = ("python",)

    def __init__(
        self, ignore_nosec: bool = False, severity: str = "low", confidence: str = "low", timeout: float = 60.0
    ):
        super().__init__(timeout)
        self.ignore_nosec = ignore_nosec
        self.least = LEVELS.index(severity), LEVELS.index(confidence)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "bandit"] if importlib.util.find_spec("bandit") else []

    def missing(self) -> str:
        return "bandit is not installed: pip install 'guardrail-zoo[code]'"

    def arguments(self, files: Path, report: Path) -> list[str]:
        hidden = ["--ignore-nosec"] if self.ignore_nosec else []
        return ["--quiet", "--recursive", *hidden, "--format", "json", "--output", str(report), str(files)]

    def read(self, raw: Any, names: Mapping[str, str], report: Report) -> None:
        seen = {Path(p).name for p in raw["metrics"]}
        report.errors |= {
            name: (SCAN, "bandit: not in its report") for short, name in names.items() if short not in seen
        }
        for e in raw["errors"]:
            kind = PARSE if str(e["reason"]).startswith("syntax error") else SCAN
            report.errors[names[Path(e["filename"]).name]] = (kind, str(e["reason"]))
        for r in raw["results"]:
            levels = LEVELS.index(r["issue_severity"].lower()), LEVELS.index(r["issue_confidence"].lower())
            if levels[0] < self.least[0] or levels[1] < self.least[1]:
                continue
            cwe = cwe_number((r.get("issue_cwe") or {}).get("id"))
            finding = Finding(
                self.name, r["test_id"], cwe, family_of_finding(self.name, r["test_id"], cwe), LEVELS[levels[0]],
                LEVELS[levels[1]], int(r["line_number"]), int(max(r["line_range"], default=r["line_number"])),
                ADDRESS.sub("", str(r["issue_text"])),
            )  # fmt: skip
            report.findings.setdefault(names[Path(r["filename"]).name], []).append(finding)


class Syntax(Process):
    """Whether Python can parse a file: it is parsed, and never compiled or run. It finds nothing else."""

    name = "syntax"
    languages = ("python",)
    _SCRIPT = """
import ast, json, pathlib, sys
bad = {}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError) as e:
        bad[path.name] = f"syntax error: {e}"[:200]
pathlib.Path(sys.argv[2]).write_text(json.dumps(bad))
"""

    def command(self) -> list[str]:
        return [sys.executable, "-I", "-S", "-W", "ignore", "-c", self._SCRIPT]

    def arguments(self, files: Path, report: Path) -> list[str]:
        return [str(files), str(report)]

    def read(self, raw: Any, names: Mapping[str, str], report: Report) -> None:
        report.errors |= {names[short]: (PARSE, str(why)) for short, why in raw.items()}


class Semgrep(Process):
    """Python and C, by local rules alone: nothing is fetched or sent. An optional second opinion.

    `executable` is its name or path: it has many pinned dependencies, and is best installed apart.
    """

    name = "semgrep"
    languages = ("python", "c", "cpp")
    _SEVERITY = {"INFO": "low", "WARNING": "medium", "ERROR": "high"}  # noqa: RUF012

    def __init__(
        self,
        executable: str | None = None,
        rules: str | Path | None = None,
        ignore_nosem: bool = False,
        timeout: float = 60.0,
    ):
        super().__init__(timeout)
        self.executable, self.rules, self.ignore_nosem = executable or "semgrep", Path(rules or RULES), ignore_nosem

    def scan(self, files: Mapping[str, Source]) -> Report:
        """As others do. Semgrep says nothing of a Python file that it cannot parse, so `Syntax` looks at them, too."""
        report = super().scan(files)
        if report.failed is None:
            parsed = Syntax(self.timeout).scan(files)
            report.failed, report.why = parsed.failed, parsed.why
            report.errors |= parsed.errors
            report.scanned -= set(parsed.errors)
            report.processes += parsed.processes
        return report

    def command(self) -> list[str]:
        found = shutil.which(self.executable)
        return [os.path.abspath(found)] if found else []

    def missing(self) -> str:
        return f"{self.executable}: not found: install semgrep apart (pipx install semgrep), or give its path"

    def arguments(self, files: Path, report: Path) -> list[str]:
        hidden = ["--disable-nosem"] if self.ignore_nosem else []
        return [
            "scan", "--config", str(self.rules.resolve()), "--json", "--output", str(report), "--metrics", "off",
            "--disable-version-check", "--no-git-ignore", "--max-target-bytes", "0", "--jobs", "1", "--quiet",
            "--no-rewrite-rule-ids", *hidden, str(files),
        ]  # fmt: skip

    def environment(self, root: Path) -> dict[str, str]:
        path = str(Path(self.command()[0]).parent) + os.pathsep + os.environ.get("PATH", "")  # it starts its engine
        return {"SEMGREP_SETTINGS_FILE": str(root / "settings.yml"), "SEMGREP_SEND_METRICS": "off", "PATH": path}

    def read(self, raw: Any, names: Mapping[str, str], report: Report) -> None:
        seen = {Path(p).name for p in raw["paths"]["scanned"]}
        for short, name in names.items():
            if short not in seen:
                report.errors[name] = (SCAN, "semgrep: not among the files that it scanned")
        for e in raw["errors"]:
            short = Path(str(e.get("path") or "")).name
            if short not in names:
                if e.get("level") == "error":  # of its rules or of itself: the report says nothing about the files
                    raise ValueError(str(e.get("message")))
                continue
            kind = e["type"] if isinstance(e["type"], str) else str(e["type"][0])
            is_syntax = re.search("syntax|parsing|lexical", kind, re.IGNORECASE) is not None
            report.errors[names[short]] = (PARSE if is_syntax else SCAN, str(e.get("message"))[:200])
        for r in raw["results"]:
            extra = r["extra"]
            given = extra["metadata"].get("cwe")
            cwe = cwe_number(given[0] if isinstance(given, list) else given)
            test = r["check_id"].split(".")[-1]
            confidence = str(extra["metadata"].get("confidence", "medium")).lower()
            finding = Finding(
                self.name, test, cwe, family_of_finding(self.name, test, cwe), self._SEVERITY[extra["severity"]],
                confidence, int(r["start"]["line"]), int(r["end"]["line"]), str(extra["message"]).strip(),
            )  # fmt: skip
            report.findings.setdefault(names[Path(r["path"]).name], []).append(finding)


ANALYSERS = ("bandit", "semgrep")


def languages_of(analysers: Sequence[Analyser]) -> set[str]:
    return {language for a in analysers for language in a.languages}
