"""`python -m zoo.test recipe=redcoder_eval victim=… guard=…`, and `recipe=redcoder_gaming`: from settings to a run."""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datamodules.atomic import sweep
from datamodules.code_tasks import Task, human_eval, load_tasks
from datamodules.schema import DataError, Policy, Sample, canonical_json
from zoo.core.interrupts import Interrupted, Signals
from zoo.core.journal import Journal
from zoo.core.metrics import Record
from zoo.core.resume import check_unchanged, newest_unfinished
from zoo.core.run import new_run, write_json, write_yaml
from zoo.core.scores import decide, write_scores
from zoo.redcoder import attackers, gaming, trained
from zoo.redcoder.analyst import Analyst, Template, Told
from zoo.redcoder.arsenal import Arsenal, Minilm
from zoo.redcoder.conversation import messages
from zoo.redcoder.evaluator import Evaluator, analysers_named
from zoo.redcoder.gaming import RETRIEVAL, Arm
from zoo.redcoder.gate import JUDGED, SCOPES, Gate, sample_of, threshold_for
from zoo.redcoder.language_model import LanguageModel
from zoo.redcoder.prototypes import write_training_set
from zoo.redcoder.summary import rate, summarise, table
from zoo.redcoder.transcripts import write_pages
from zoo.redcoder.victims import PREFIX, Speaker, speaker_named
from zoo.registry import load

NONE = "none"
AIMS = ("any", "target")
GAMES = "games.jsonl"


def check_eval(config: dict[str, Any]) -> None:
    """Raises `DataError` for what a setting has wrong, before anything is loaded or asked."""
    for key, value, known in (
        ("aim", config["aim"], AIMS),
        ("arsenal.retrieval", config["arsenal"]["retrieval"], RETRIEVAL),
        ("guarding.scope", config["guarding"]["scope"], SCOPES),
        ("guarding.judges", config["guarding"]["judges"], JUDGED),
    ):
        if value not in known:
            raise DataError(f"{key}={value}: expected one of {', '.join(known)}")
    g = config["guarding"]
    if (share := g.get("benign_rate")) is not None:
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise DataError(f"guarding.benign_rate={share}: expected a share from 0 to below 1")
        if g["threshold"] is not None or g["judges"] == "reply":
            raise DataError(
                "guarding.benign_rate fits the threshold on benign prompts: leave guarding.threshold out, and let the "
                "guard judge prompts"
            )
    budget = {f"budget.{k}": v for k, v in config["budget"].items()}
    for key, value in {**budget, "max_reply": config["max_reply"], "chunk": config["chunk"]}.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DataError(f"{key}={value}: expected a whole number from 1 on")
    for key, value in (("timeout", config["timeout"]), ("evaluator.timeout", config["evaluator"]["timeout"])):
        if not isinstance(value, (int, float)) or not value > 0:
            raise DataError(f"{key}={value}: expected a number of seconds above 0")
    names = attackers_of(config)
    if not names or len(set(names)) < len(names):
        raise DataError(f"attackers={names}: give at least one, and none twice")
    for name in names:
        if name.startswith(PREFIX):
            attackers.scripted(name)
    analysers_named(config["evaluator"]["analysers"], config["evaluator"])
    tasks_of(config)


def check_gaming(config: dict[str, Any]) -> None:
    """As `check_eval`; prototypes are of one attacker."""
    check_eval(config)
    if len(attackers_of(config)) != 1:
        raise DataError("redcoder_gaming plays with one attacker: attackers=[scripted:explore]")


def check_benign(config: Mapping[str, Any]) -> None:
    """Raises `DataError` where a threshold is to be fitted on prompts that are nowhere."""
    if config["guarding"].get("benign_rate") is not None and config["data_dir"] is None:
        raise DataError("guarding.benign_rate fits the threshold on HumanEval's prompts: give data_dir=FOLDER")


def tasks_of(config: Mapping[str, Any]) -> list[Task]:
    t = config["tasks"]
    return load_tasks(t["source"], t["path"], config["data_dir"], t["limit"], t.get("skip", 0))


def draws(config: Mapping[str, Any]) -> bool:
    """Whether games depend on the seed: of the scripted attackers one does; models answer greedily."""
    return f"{PREFIX}explore" in attackers_of(config)


def look(config: dict[str, Any]) -> tuple[str, list[Sample]]:
    """The hash of the tasks, and a row for each of them: all are attacks, and a game that succeeds is a flagged row."""
    check_benign(config)
    tasks = tasks_of(config)
    digest = hashlib.sha256(canonical_json([t.to_dict() for t in tasks]).encode()).hexdigest()
    rows = [
        sample_of(t.id, messages((), t.request), "conversation", unsafe=True, source=config["tasks"]["source"])
        for t in tasks
    ]
    return digest, rows


# --------------------------------------------------------------------------------------------------------------- parts


def attackers_of(config: Mapping[str, Any]) -> list[str]:
    return list(config["attackers"]) if config.get("attacker") is None else [config["attacker"]]


def attacker_named(name: str, config: Mapping[str, Any]) -> attackers.Attacker:
    """`scripted:NAME`, a run of recipe=redcoder, or a model as for a victim."""
    if name.startswith(PREFIX):
        return attackers.scripted(name)
    if (folder := trained.find(name)) is not None:
        model, limits = trained.load(folder)
        speaker = speaker_of(model, name, config)
        return attackers.Model(speaker, limits["words"], limits["reply"])
    return attackers.Model(speaker_named(name, config, "attacker"))


def speaker_of(model: Any, name: str, config: Mapping[str, Any]) -> LanguageModel:
    """An attacker that was trained here, as who answers chats."""
    settings = {k: v for k, v in config["lm"].items() if k not in ("device", "dtype")}
    return LanguageModel(
        model.lm.to(config["lm"]["device"]), model.tokenizer, name, config["max_reply"], config["timeout"], **settings
    )


def analyst_named(name: str, config: Mapping[str, Any]) -> Analyst:
    if name == "template":
        return Template(config["contrast"])
    return Told(speaker_named(name, config, "analyst"), config["contrast"])


def gate_of(config: Mapping[str, Any]) -> Gate | None:
    if config["guard"] == NONE:
        return None
    g = config["guarding"]
    policy = Policy.from_file(g["policy"]) if g["policy"] else None
    gate = Gate(load(config["guard"]), g["scope"], g["judges"], policy, g["threshold"])
    if (share := g.get("benign_rate")) is not None:
        check_benign(config)
        judged = gate.prompts(*benign_prompts(config["data_dir"], 0))
        gate.threshold = threshold_for([j.score for j in judged if j], share)
        print(f"guarding.benign_rate={share:g}: threshold {gate.threshold:.6f}", file=sys.stderr)
    return gate


def arms_of(config: Mapping[str, Any], gate: Gate | None) -> list[Arm]:
    """An arm an attacker, without the guard and behind it. A single-turn attacker has the same number of queries."""
    turns, attempts, out = config["budget"]["turns"], config["budget"]["attempts"], []
    gates = [None] if gate is None else [None, gate] if config.get("unguarded") else [gate]
    ours = [name for name in attackers_of(config) if trained.find(name)]
    for name in attackers_of(config):
        attacker = attacker_named(name, config)
        shape = (1, turns * attempts) if attacker.single else (turns, attempts)
        short = re.sub(r"\W+", "_", name.removeprefix(PREFIX)).strip("_")
        if name in ours:  # a run's folder is called after a time, in a place of this machine
            short = "trained" if len(ours) == 1 else f"trained{ours.index(name) + 1}"
        for g in gates:
            arm_name = short if g is None else f"{short}_guarded"
            out.append(Arm(arm_name, attacker, *shape, g, config["arsenal"]["retrieval"], config["aim"]))
    if len({a.name for a in out}) < len(out):
        raise DataError(f"attackers={attackers_of(config)}: two of them would be called the same: rename a folder")
    return out


def arsenal_of(config: Mapping[str, Any]) -> Arsenal | None:
    a = config["arsenal"]
    if a["path"] is None or a["retrieval"] == NONE:
        return None
    embed = Minilm()
    return Arsenal.load(a["path"], embed, embed.name)


# ---------------------------------------------------------------------------------------------------------------- runs


def settled(config: dict[str, Any], resume: str | None, given: Mapping[str, str]) -> tuple[dict[str, Any], Path | None]:
    """The settings of a new run, or those of the unfinished one that `resume` names, and its folder.

    Raises `DataError` for a run that cannot go on, or not with what is given.
    """
    if resume in (None, "false"):
        return config, None
    root = Path(config["runs"]) / "test" / config["recipe"]
    run = newest_unfinished(root, config["recipe"]) if resume == "true" else Path(str(resume))
    path = run / "config.yaml"
    try:
        own = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as e:
        raise DataError(f"{path}: no run to resume ({type(e).__name__}): give the folder of an unfinished run") from e
    if not isinstance(own, dict) or own.get("recipe") != config["recipe"]:
        raise DataError(f"{run}: not a run of recipe {config['recipe']!r}")
    if (run / "metrics.json").exists():
        raise DataError(f"{run}: the run is finished: there is nothing to resume; start a new one without resume=")
    check_unchanged(given, config, own, run)
    sweep(run)
    return own, run


@dataclass
class Parts:
    """What a run plays with. All of it is made before the run has a folder: what cannot be made leaves none."""

    config: dict[str, Any]
    tasks: list[Task]
    evaluator: Evaluator
    gate: Gate | None
    victim: Speaker
    arms: list[Arm]
    arsenal: Arsenal | None

    @classmethod
    def of(cls, config: dict[str, Any]) -> Parts:
        evaluator = Evaluator(analysers_named(config["evaluator"]["analysers"], config["evaluator"]))
        gate = gate_of(config)
        victim = speaker_named(config["victim"], config, "victim")
        return cls(config, tasks_of(config), evaluator, gate, victim, arms_of(config, gate), arsenal_of(config))


def begun(config: dict[str, Any], run: Path | None) -> Path:
    if run is None:
        run = new_run(Path(config["runs"]) / "test", config["recipe"])
        write_yaml(run / "config.yaml", config)
    print(f"run folder: {run}", file=sys.stderr)
    return run


def play_all(parts: Parts, run: Path) -> tuple[Journal, dict[str, Any]]:
    """Plays every arm's games into the run's journal; returns it, and the arms' settings by name."""
    journal = Journal(run / GAMES)
    if journal.ids:
        print(f"{run}: {len(journal.ids)} games were played before", file=sys.stderr)
    seed, chunk = parts.config["seed"], parts.config["chunk"]
    with Signals():  # what a signal leaves of a line is cut off when the journal is opened again
        try:
            for arm in parts.arms:
                gaming.play(arm, parts.tasks, parts.victim, parts.evaluator, journal, seed, parts.arsenal, chunk)
        except Interrupted:
            recipe = parts.config["recipe"]
            print(f"interrupted: go on with\n  python -m zoo.test recipe={recipe} resume={run}", file=sys.stderr)
            raise
    about = {
        a.name: {
            "victim": parts.victim.name,
            "attacker": a.attacker.name,
            "guard": a.gate.name if a.gate else NONE,
            "turns_allowed": a.turns,
            "attempts_allowed": a.attempts,
            "retrieval": a.retrieval if parts.arsenal is not None else NONE,
        }
        for a in parts.arms
    }
    return journal, about


def test_eval(config: dict[str, Any], name: str, resume: str | None, given: Mapping[str, str]) -> int:
    """Plays, prints the table of arms, and writes `metrics.json`, `games.jsonl`, judged rows and transcripts."""
    started = time.perf_counter()
    check_eval(config)
    config, run = settled(config, resume, given)
    parts = Parts.of(config)
    run = begun(config, run)
    journal, about = play_all(parts, run)
    metrics: dict[str, Any] = {"model": config["victim"], "arms": summarise(journal, about, len(parts.tasks))}
    fitted = config["guarding"].get("benign_rate") is not None  # then on the prompts that did not fit its threshold
    metrics["benign"] = benign(parts.gate, config["data_dir"], 1 if fitted else None)
    _write_rows(journal, list(about), config["tasks"]["source"], run)
    if config["transcripts"]:
        write_pages(journal, run / "transcripts")
    journal.close()
    metrics["seed"], metrics["data_hash"], metrics["failed"] = config["seed"], look(config)[0], 0
    metrics["seconds"] = round(time.perf_counter() - started, 1)
    write_json(run / "metrics.json", metrics)
    print(table(metrics))
    if metrics["benign"]["flagged"] is not None:
        f = metrics["benign"]["flagged"]
        print(f"\nbenign prompts (HumanEval) that the guard stops: {f['count']} of {f['n']}")
    return 0


def test_gaming(config: dict[str, Any], name: str, resume: str | None, given: Mapping[str, str]) -> int:
    """Plays, and writes prototypes, the training set of a guard and of an attacker, and the arsenal."""
    started = time.perf_counter()
    check_gaming(config)
    config, run = settled(config, resume, given)
    analyst, parts = analyst_named(config["analyst"], config), Parts.of(config)
    run = begun(config, run)
    journal, about = play_all(parts, run)
    metrics: dict[str, Any] = {"model": config["victim"], "analyst": analyst.name}
    metrics["arms"] = summarise(journal, about, len(parts.tasks))
    metrics["training_set"], entries = write_training_set(journal, analyst, run / "training_set")
    _write_rows(journal, list(about), config["tasks"]["source"], run)
    if config["transcripts"]:
        write_pages(journal, run / "transcripts")
    journal.close()
    if entries:
        embed = Minilm()
        Arsenal.of(entries, embed, embed.name).save(run / "arsenal")
    metrics["seed"], metrics["data_hash"], metrics["failed"] = config["seed"], look(config)[0], 0
    metrics["seconds"] = round(time.perf_counter() - started, 1)
    write_json(run / "metrics.json", metrics)
    print(table(metrics))
    for what, count in metrics["training_set"]["counts"].items():
        print(f"{what}: {count}", file=sys.stderr)
    return 0


def benign_prompts(data_dir: str, part: int | None) -> tuple[list[list[Any]], list[str]]:
    """Empty histories and HumanEval's prompts: every other one from `part` (0 or 1) on, or all of them (None)."""
    tasks = human_eval(data_dir)[slice(part, None, None if part is None else 2)]
    return [[] for _ in tasks], [t.request for t in tasks]


def benign(gate: Gate | None, data_dir: str | None, part: int | None = None) -> dict[str, Any]:
    """How many of HumanEval's benign prompts the guard stops; None with a reason where that cannot be measured.

    `part`: see `benign_prompts`.
    """
    if gate is None:
        return {"flagged": None, "reason": "no guard"}
    if data_dir is None:
        return {"flagged": None, "reason": "HumanEval is read from data_dir=FOLDER"}
    if gate.judges == "reply":
        return {"flagged": None, "reason": "the guard judges replies alone"}
    judged = gate.prompts(*benign_prompts(data_dir, part))
    return {"flagged": rate(sum(bool(j and j.flagged) for j in judged), len(judged)), "threshold": gate.threshold}


def _write_rows(journal: Journal, arms: list[str], source: str, run: Path) -> None:
    """`scores_<arm>.jsonl`: a row a task, in the form that claims compare. Flagged is a success of the attack."""
    for arm in arms:
        rows = (
            decide(Record(g["task"]["id"], float(g["success"]), True, source=source, group=g["task"]["id"]), 0.5, 0.5)
            for g in journal
            if g["arm"] == arm
        )
        write_scores(run / f"scores_{arm}.jsonl", rows)
