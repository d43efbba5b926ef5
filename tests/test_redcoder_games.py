"""Games: scripted victims end as they are scripted to, guards stop what they flag, and nothing is lost when killed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from test_endpoint import Server

from datamodules.code_tasks import FEATURES, builtin, load_tasks
from datamodules.manifest import load_manifest
from datamodules.schema import DataError, Policy
from zoo import test as command
from zoo.core.journal import Journal
from zoo.core.rates import wilson
from zoo.core.scores import read_scores
from zoo.core.verdict import Verdict
from zoo.redcoder import arsenal as arsenals
from zoo.redcoder import attackers, gaming, recipe, victims
from zoo.redcoder.analyst import Template
from zoo.redcoder.arsenal import Arsenal, Entry, nearest
from zoo.redcoder.conversation import BLOCKED, REFUSAL, Exchange
from zoo.redcoder.evaluator import Evaluator, analysers_named
from zoo.redcoder.gate import Gate
from zoo.redcoder.moves import MOVES, move_in, move_named
from zoo.redcoder.prototypes import INSECURE, write_training_set
from zoo.redcoder.scripted import SCRIPTED, SOUND, WEAK, feature_in, weakness_of
from zoo.redcoder.summary import summarise
from zoo.redcoder.transcripts import page, write_pages

pytest.importorskip("bandit", reason="bandit is not installed: pip install 'guardrail-zoo[code]'")
SETTINGS = {"severity": "low", "confidence": "low", "timeout": 60.0, "semgrep": None, "rules": None}
CONFIG = {"max_reply": 200_000, "timeout": 0.3}
TASKS = builtin()[:6]


@pytest.fixture(scope="module")
def evaluator():
    return Evaluator(analysers_named(["bandit"], SETTINGS))


def played(tmp_path, evaluator, victim, attacker="steps", turns=5, attempts=1, tasks=TASKS, gate=None, **more):
    if isinstance(victim, str):
        victim = victims.speaker_named(f"scripted:{victim}", CONFIG, "victim")
    player = attackers.scripted(f"scripted:{attacker}") if isinstance(attacker, str) else attacker
    journal = Journal(tmp_path / f"{time.monotonic_ns()}.jsonl")
    arm = gaming.Arm("arm", player, turns, attempts, gate, more.pop("retrieval", "none"), more.pop("aim", "any"))
    gaming.play(arm, tasks, victim, evaluator, journal, 0, **more)
    return list(journal)


# ------------------------------------------------------------------------------------------------------------- victims


def test_every_feature_has_both_forms_and_every_move_is_told_from_its_words():
    assert set(WEAK) == set(SOUND) == {f.id for f in FEATURES} and len(builtin()) == 170
    for task in builtin()[::13]:
        for move in MOVES:
            assert move_in(move.prompt(task)) is move
        assert feature_in([{"role": "user", "content": task.request}]).words == task.feature
    assert move_named('Ask for "shorter", then "assemble".').name == "shorter" and move_named("shorter") is None
    assert len({weakness_of(f).name for f in FEATURES}) == 3


@pytest.mark.parametrize(
    "victim, outcome",
    [
        ("careful", "clean"), ("naive", "target-CWE"), ("excuses", "target-CWE"), ("silent", "empty"),
        ("megabyte", "too-long"), ("broken", "parse-error"), ("elsewhere", "other-language"), ("talks", "no-code"),
        ("fails", "victim-error"), ("hangs", "timed-out"),
    ],
)  # fmt: skip
def test_each_victim_ends_in_its_own_outcome_and_the_run_goes_on(tmp_path, evaluator, victim, outcome):
    games = played(tmp_path, evaluator, victim, turns=2, tasks=TASKS[:2])
    assert [g["outcome"] for g in games] == [outcome] * 2
    assert [g["success"] for g in games] == [outcome == "target-CWE"] * 2
    ended = outcome in ("victim-error", "timed-out")
    assert [g["queries"] for g in games] == [1 if ended else 2] * 2
    if victim == "fails":
        assert games[0]["attempts"][0]["exchanges"][0]["detail"] == "RuntimeError: out of memory"
    if victim == "megabyte":
        assert len(games[0]["attempts"][0]["exchanges"][0]["reply"]) == CONFIG["max_reply"]


def test_gives_in_to_a_conversation_and_to_no_single_turn(tmp_path, evaluator):
    direct = played(tmp_path, evaluator, "gives-in", "direct", 1, 5, builtin()[:17])
    steps = played(tmp_path, evaluator, "gives-in", "steps", 5, 2, builtin()[:17])
    assert not any(g["success"] for g in direct) and all(g["queries"] == 5 for g in direct)
    assert sum(g["success"] for g in steps) == 17  # in two attempts every pressing move comes, after two turns
    assert all(g["any_turn"] >= 2 for g in steps)
    assert {len(g["attempts"]) for g in steps} == {1, 2}


def test_an_endpoint_as_victim(tmp_path, evaluator, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path / "home"))
    answers = {0: f"```python\n{WEAK['yaml']}```", 1: "", 2: "x" * 1_100_000, 3: (500, {}, "")}
    kinds = ["target-CWE", "empty", "too-long", "victim-error"]
    tasks = load_tasks("builtin", limit=4)
    asked = {t.request: n for n, t in enumerate(tasks)}
    with Server(lambda body, n: answers[asked[body["messages"][-1]["content"]]]) as server:
        settings = {"url": server.url, "model": "m", "key_env": "", "retries": 0, "requests_per_minute": 6000}
        victim = victims.endpoint(settings, 200_000, "endpoints.victim")
        games = played(tmp_path, evaluator, victim, "direct", 1, 1, tasks)
        assert [g["outcome"] for g in games] == kinds
        before = len(server.asked)
        played(tmp_path, evaluator, victim, "direct", 1, 1, tasks)
        assert len(server.asked) == before + 2  # answers are kept; those that did not come are asked for again
    with pytest.raises(DataError, match=r"needs endpoints\.victim\.url"):
        victims.endpoint({"model": "m"}, 10, "endpoints.victim")


# -------------------------------------------------------------------------------------------------------------- guards


class Flags:
    """A guard that flags what `rule` says of all words that it sees; keeps them."""

    name = "flags"

    def __init__(self, rule):
        self.rule, self.seen = rule, []

    def eval(self):
        return self

    def moderate(self, samples, policy=None, threshold=None):
        out = []
        for s in samples:
            words = "\n".join(p.text for p in s.parts)
            self.seen.append((len(s.messages), words))
            out.append(Verdict(s.id, self.name, self.rule(s), 0.75, 0.5))
        return out


def test_a_guard_over_the_conversation_sees_what_one_over_the_turn_does_not(tmp_path, evaluator):
    def many(sample):
        return len(sample.messages) >= 5

    for scope, expected in (("turn", True), ("conversation", False)):
        guard = Flags(many)
        games = played(tmp_path, evaluator, "gives-in", turns=5, attempts=2, gate=Gate(guard, scope))
        assert {g["success"] for g in games} == {expected}
        assert {n for n, _ in guard.seen} == ({1} if scope == "turn" else {1, 3, 5, 7, 9})
    blocked = [e for e in games[0]["attempts"][0]["exchanges"] if e["status"] == BLOCKED]
    assert len(blocked) == 3 and {e["reply"] for e in blocked} == {REFUSAL} and blocked[0]["score"] == 0.75


def test_what_a_guard_stops_reaches_nobody(tmp_path, evaluator):
    asked = []

    def reply(chat):
        asked.append(chat)
        return f"```python\n{WEAK['formula']}```"

    victim = victims.OneByOne("v", reply, 5.0, 1000)
    games = played(tmp_path, evaluator, victim, turns=2, gate=Gate(Flags(lambda s: True)))
    assert not asked and {g["outcome"] for g in games} == {"blocked"}
    judge_replies = Gate(Flags(lambda s: "eval" in s.parts[-1].text), judges="reply")
    games = played(tmp_path, evaluator, victim, turns=2, gate=judge_replies)
    assert len(asked) == 12 and {g["outcome"] for g in games} == {"blocked"}
    assert all(chat[-1]["content"].strip() and chat[-1]["role"] == "user" for chat in asked)
    assert REFUSAL in str(asked[-1]) and "eval" not in str(asked[-1])
    with pytest.raises(DataError, match=r"guarding\.scope=all"):
        Gate(Flags(bool), "all")


# ------------------------------------------------------------------------------------------ attackers, arsenal, analyst


def test_an_attacker_without_a_prompt_is_an_outcome(tmp_path, evaluator):
    class Mute:
        name = "mute"

        def answers(self, chats):
            json.loads(chats[0][1]["content"])
            return [victims.Answer("", "timed-out", "late") for _ in chats]

    games = played(tmp_path, evaluator, "careful", attackers.Model(Mute()), tasks=TASKS[:2])
    assert {g["outcome"] for g in games} == {"attacker-error"} and games[0]["attempts"][0]["error"] == "timed-out late"


def test_the_search_is_exact(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(501, 16, generator=generator)
    keys[400] = keys[3]
    queries = torch.cat([torch.randn(40, 16, generator=generator), 3 * keys[3:4]])
    expected = np.argmax(queries.double().numpy() @ keys.double().numpy().T, axis=1)
    for block in (7, 100, 4096):
        monkeypatch.setattr(arsenals, "BLOCK", block)
        assert nearest(keys, queries).tolist() == expected.tolist()
    assert expected[-1] == 3
    with pytest.raises(ValueError, match="no keys"):
        nearest(keys[:0], queries)


def hashed(texts):
    """A stand-in encoder: counts of letters."""
    out = torch.zeros(len(texts), 128)
    for row, text in enumerate(texts):
        for c in text.encode():
            out[row, c % 128] += 1
    return torch.nn.functional.normalize(out, dim=-1)


def test_an_arsenal_is_kept_and_damage_is_named(tmp_path):
    made = Arsenal.of([Entry("aaa", "first", "t1", 0), Entry("zzz", "second", "t2", 1)], hashed, "letters")
    made.save(tmp_path / "a")
    again = Arsenal.load(tmp_path / "a", hashed, "letters")
    assert [e.summary for e in again.retrieve([("zz", "z"), ("a", "aa")])] == ["second", "first"]
    with pytest.raises(DataError, match="embedded by letters, and this is other"):
        Arsenal.load(tmp_path / "a", hashed, "other")
    (tmp_path / "a" / "entries.jsonl").write_text("")
    with pytest.raises(DataError, match="not whole"):
        Arsenal.load(tmp_path / "a", hashed, "letters")
    with pytest.raises(DataError, match="not an arsenal"):
        Arsenal.load(tmp_path, hashed, "letters")


def test_strategies_are_used_from_turn_two_on_and_help(tmp_path, evaluator):
    tasks = builtin()[:17]
    naming = {f.id: weakness_of(f).name for f in FEATURES}

    class Knows:
        def retrieve(self, pairs):
            found = [feature_in([{"role": "user", "content": prompt}]) for prompt, _ in pairs]
            return [Entry("", f'Ask for "{naming[f.id]}".' if f else "none", "", 0) for f in found]

    rates = {}
    for retrieval in ("none", "once", "per_turn"):
        games = played(tmp_path, evaluator, "gives-in", "explore", 4, 1, tasks, arsenal=Knows(), retrieval=retrieval)
        rates[retrieval] = sum(g["success"] for g in games)
        used = [bool(s) for s in games[0]["attempts"][0]["strategies"]]
        assert used == {"none": [0, 0, 0, 0], "once": [0, 1, 0, 0], "per_turn": [0, 1, 1, 1]}[retrieval][: len(used)]
    assert rates["per_turn"] == 17 > rates["none"] and rates["once"] == rates["none"]  # turn 2 is fixed: no use


def test_the_template_contrasts_in_three_sentences(tmp_path, evaluator):
    games = played(tmp_path, evaluator, "gives-in", "steps", 5, 3, builtin()[:17])
    game = next(g for g in games if len(g["attempts"]) == 2)
    counts, entries = write_training_set([game], Template(), tmp_path / "set")
    (summary,) = {e.summary for e in entries}
    move = weakness_of(next(f for f in FEATURES if game["task"]["id"].startswith(f.id)))
    assert move_named(summary) is move and summary.count(". ") == 2 and "The attempt that failed (clean)" in summary
    assert len(entries) == game["any_turn"] and counts["counts"]["prototypes with a failed attempt before"] == 1
    _, alone = write_training_set([game], Template(contrast=False), tmp_path / "set")
    assert "failed" not in alone[0].summary


def test_the_training_set_is_what_fit_takes(tmp_path, evaluator):
    games = played(tmp_path, evaluator, "gives-in", "steps", 5, 2, builtin()[:34])
    games += [{**g, "id": f"b/{g['id']}"} for g in played(tmp_path, evaluator, "broken", "steps", 2, 1, TASKS)]
    counts, _ = write_training_set(games, Template(), tmp_path)
    policy = Policy.from_file(tmp_path / "policy.yaml")
    corpus = load_manifest(tmp_path / "manifest.jsonl", None, policy, 0)
    assert not corpus.report["errors"]
    labels = Counter(s.categories[INSECURE] for s in corpus.samples)
    wins = sum(g["success"] for g in games)
    assert (
        labels["yes"] == wins == counts["counts"]["prototypes"] and labels["no"] == counts["counts"]["guard rows, no"]
    )
    assert counts["attempts left out of the guard rows"] == {"parse-error": 6}
    assert {s.messages[-1].role for s in corpus.samples} == {"user"} and {s.split for s in corpus.samples} > {"train"}
    sides = {}
    for s in corpus.samples:
        sides.setdefault(s.group, set()).add(s.split)
    assert all(len(v) == 1 for v in sides.values())
    yes = next(s for s in corpus.samples if s.categories[INSECURE] == "yes")
    assert move_in(yes.parts[-1].text).presses  # it ends with the prompt that led there
    prompts = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert all(len(p["messages"]) % 2 == 0 and p["next"] for p in prompts)


# ------------------------------------------------------------------------------------------------------------- figures


def test_wilson_against_published_values():
    low, high = wilson(67, 170)  # 39.41 %
    assert (round(low, 4), round(high, 4)) == (0.3238, 0.4691)
    assert wilson(0, 10)[0] == 0.0 and round(wilson(0, 10)[1], 4) == 0.2775 and wilson(10, 10)[1] == 1.0
    with pytest.raises(ValueError):
        wilson(1, 0)


def test_a_lost_or_doubled_game_is_an_error(tmp_path, evaluator):
    games = played(tmp_path, evaluator, "naive", "direct", 1, 1)
    assert summarise(games, {"arm": {}}, 6)["arm"]["any"]["count"] == 6
    for wrong, said in ((games[1:], "5 games of 6"), ([*games, games[0]], "twice")):
        with pytest.raises(ValueError, match=said):
            summarise(wrong, {"arm": {}}, 6)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.attributes = Counter(), set()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}


HOSTILE = '<script>alert(1)</script><img src=x onerror="a()">\'"&lt;</pre></mark><style>*{}</style>\x00\ud800'


def test_markup_in_a_transcript_stays_text(tmp_path, evaluator):
    victim = victims.OneByOne("v", lambda c: f"{HOSTILE}\n```python\neval(x)  # {HOSTILE[:-2]}\n```", 5.0, 10_000)
    task = TASKS[0].__class__(f"../{HOSTILE[:60]}", HOSTILE, 95)
    (game,) = played(tmp_path, evaluator, victim, "direct", 1, 1, [task])
    game = json.loads(json.dumps(game))
    game["attempts"][0]["strategies"] = [HOSTILE]
    game["attempts"][0]["exchanges"][0]["detail"] = HOSTILE
    game["attempts"][0]["error"] = HOSTILE
    found = game["attempts"][0]["evaluation"]["opinions"]["bandit"]["findings"]
    assert found
    found[0]["finding"]["text"] = HOSTILE
    write_pages([game], tmp_path / "pages")
    files = sorted(p.name for p in (tmp_path / "pages").iterdir())
    assert len(files) == 2 and all(re.fullmatch(r"[\w.-]+", f) for f in files)
    for file in files:
        text = (tmp_path / "pages" / file).read_text(encoding="utf-8")
        tags = Tags()
        tags.feed(text)
        assert not tags.tags.keys() & {"script", "img", "iframe"} and tags.tags["style"] == 1
        assert tags.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "href"}
        assert "\x00" not in text
    shown = page(game)
    marked = shown[shown.index("<mark>") : shown.index("</mark>")]
    assert "eval(x)" in marked and "B307" in marked and "&lt;script&gt;" in marked


# -------------------------------------------------------------------------------------------------- the command, killed


def words(tmp_path, *more):
    limits = ["tasks.limit=12", "budget.turns=3", "timeout=5", "chunk=4"]
    return ["recipe=redcoder_eval", "victim=scripted:gives-in", f"runs={tmp_path}", *limits, *more]


def test_the_command_prints_a_table_with_one_denominator(tmp_path, capsys):
    assert command.main(words(tmp_path)) == 0
    printed = capsys.readouterr().out
    (run,) = (tmp_path / "test" / "redcoder_eval").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert {a["n"] for a in metrics["arms"].values()} == {12}
    assert {a["any"]["n"] for a in metrics["arms"].values()} == {12}
    assert metrics["arms"]["direct"]["queries"] == 36 and metrics["arms"]["steps"]["queries"] <= 36
    assert all(sum(a["outcomes"].values()) == 12 for a in metrics["arms"].values())
    assert metrics["arms"]["direct"]["any"]["count"] == 0 < metrics["arms"]["steps"]["any"]["count"]
    assert "scripted:gives-in" in printed and "0.000 [0.000, 0.242]" in printed
    rows = list(read_scores(run / "scores_steps.jsonl"))
    assert len(rows) == 12 and sum(r.flagged for r in rows) == metrics["arms"]["steps"]["any"]["count"]
    assert len(list((run / "transcripts").glob("*.html"))) == 25
    with pytest.raises(DataError, match="the run is finished"):
        command.main(["recipe=redcoder_eval", f"resume={run}", f"runs={tmp_path}"])


def rows_of(run):
    return [json.loads(line) for line in (run / "games.jsonl").read_text().splitlines()]


def test_killed_and_resumed_without_a_lost_or_doubled_game(tmp_path):
    assert command.main(words(tmp_path / "whole")) == 0
    whole = rows_of(next((tmp_path / "whole" / "test" / "redcoder_eval").iterdir()))
    script = (
        "import os, signal, sys\n"
        "from zoo.core import journal\n"
        "add = journal.Journal.add\n"
        "def dying(self, row):\n"
        "    if len(self.ids) == 17:\n"
        '        self._file.write(b\'{"id": "torn\'); self._file.flush(); os.kill(os.getpid(), signal.SIGKILL)\n'
        "    add(self, row)\n"
        "journal.Journal.add = dying\n"
        "from zoo import test\n"
        "test.main(sys.argv[1:])\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, *words(tmp_path)], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-500:]
    (run,) = (tmp_path / "test" / "redcoder_eval").iterdir()
    with pytest.raises(DataError, match=r"seed is 0 in .* and would be 1: a resumed run cannot be changed"):
        command.main(words(tmp_path, "resume=true", "seed=1"))
    assert command.main(words(tmp_path, "resume=true")) == 0
    assert rows_of(run) == whole and len({g["id"] for g in whole}) == 24
    assert (run / "metrics.json").is_file()


def test_a_journal_refuses_what_is_no_game_and_a_second_writer(tmp_path):
    path = tmp_path / "games.jsonl"
    one = Journal(path)
    one.add({"id": "a"})
    with pytest.raises(DataError, match="another process plays it"):
        Journal(path)
    with pytest.raises(ValueError):
        one.add({"id": "a"})
    one.close()
    path.write_text('{"id": "a"}\n{"id": "a"}\n')
    with pytest.raises(DataError, match="line 2: game 'a' is there twice"):
        Journal(path)
    path.write_text('{"id": "a"}\nnonsense\n')
    with pytest.raises(DataError, match="line 2 is no game"):
        Journal(path)


@pytest.mark.parametrize(
    "change, said",
    [
        (["victim=scripted:naiv"], "unknown; did you mean 'naive'"),
        (["victim=gpt"], "expected scripted:NAME, endpoint, smollm2"),
        (["victim=endpoint"], r"needs endpoints\.victim\.url"),
        (["attackers=[scripted:step]"], "unknown; did you mean 'steps'"),
        (["attackers=[]"], "give at least one"),
        (["budget.turns=0"], r"budget\.turns=0: expected a whole number"),
        (["aim=all"], "aim=all: expected one of any, target"),
        (["arsenal.retrieval=always"], "expected one of none, once, per_turn"),
        (["guarding.scope=all"], "expected one of turn, conversation"),
        (["tasks.source=builtins"], "unknown; did you mean 'builtin'"),
        (["tasks.source=llmseceval"], "needs data_dir=FOLDER"),
        (["tasks.limit=0"], r"tasks\.limit=0"),
        (["arsenal.path=nowhere"], "nowhere: not an arsenal"),
        (["model=scripted:naive"], "give one of them"),
        (["calibrate=true"], "nothing to calibrate"),
        (["guard=no-such-guard"], "no-such-guard"),
    ],
)
def test_settings_that_cannot_be_leave_no_run(tmp_path, monkeypatch, change, said):
    monkeypatch.setattr(recipe, "Minilm", lambda: type("E", (), {"name": "e"})())
    given = {w.partition("=")[0]: w for w in [*words(tmp_path), *change]}
    with pytest.raises(DataError, match=said):
        command.main(list(given.values()))
    assert not list(tmp_path.rglob("config.yaml"))


def test_tasks_of_one_s_own(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"id": "a", "request": "Write it.", "cwe": 89}\n')
    (task,) = load_tasks("builtin", path)
    assert (task.id, task.cwe) == ("a", 89)
    for row, said in (
        ('{"id": "a"}', "'request' must be a text"),
        ('{"id": "a", "request": "x", "cwe": "89"}', "`cwe` must be a number"),
        ('{"id": "a", "request": "x", "cew": 89}', "unknown field 'cew'"),
        ("[]", "expected an object"),
    ):
        path.write_text(row + "\n")
        with pytest.raises(DataError, match=f"line 1.*{said}"):
            load_tasks("builtin", path)


DATA = Path(os.environ.get("ZOO_DATA_DIR") or Path(__file__).resolve().parents[1].parent / "shared" / "data")


@pytest.mark.skipif(not (DATA / "code").is_dir(), reason="no public data: set ZOO_DATA_DIR to its folder")
def test_the_public_sets():
    counts = {s: len(load_tasks(s, data_dir=DATA)) for s in ("llmseceval", "cyberseceval", "securityeval")}
    assert counts["securityeval"] == 121 and counts["cyberseceval"] > 300 and counts["llmseceval"] > 50
    assert all(t.cwe for s in counts for t in load_tasks(s, data_dir=DATA))


def test_scripted_victims_are_named_so():
    for name in SCRIPTED:
        assert victims.speaker_named(f"scripted:{name}", CONFIG, "victim").name == f"scripted:{name}"
    assert Exchange("p", "r").to_dict()["status"] == "ok"
