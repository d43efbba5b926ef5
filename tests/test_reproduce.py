"""`python -m zoo.reproduce` with real arms at toy size: whole, stopped, crashed, changed, and run again."""

import contextlib
import json
import signal
import sys
import threading
import time

import pytest
from claim_helpers import page, write_toy

import zoo.fit
import zoo.test
from datamodules.schema import DataError
from zoo.claims import report, runs
from zoo.claims.claim import load_claim
from zoo.core.interrupts import Interrupted, Signals
from zoo.core.module import GuardModule
from zoo.reproduce import _results_folder, main, reproduce

pytestmark = pytest.mark.filterwarnings("ignore:.*custom batch sampler.*")
STEPS = ["trainer.max_steps=3", "optim.lr=0.02", "trainer.checkpoint_every=1"]


class Crash(Exception):
    """What ends a run here, in place of a signal that would end the tests, too."""


class Launcher:
    """Runs the commands in this process, and notes them. `die`: (run, step) at which a training crashes."""

    def __init__(self, die=None):
        self.launched, self.die = [], die

    def __call__(self, verb, arguments, log):
        self.launched.append((verb, log.parent.name.rsplit("-", 1)[0], arguments))
        with pytest.MonkeyPatch.context() as patch, open(log, "a") as out:
            patch.setattr("zoo.evaluate._plots", lambda *_: None)  # they take as long as the rest
            if self.die and self.die[0] == len(self.launched):
                inner, seen = GuardModule.training_step, []

                def step(module, batch, index):
                    seen.append(index)
                    if len(seen) == self.die[1]:
                        raise self.die[2]
                    return inner(module, batch, index)

                patch.setattr(GuardModule, "training_step", step)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
                try:
                    return {"fit": zoo.fit.main, "test": zoo.test.main}[verb](arguments)
                except Crash:
                    return -9
                except DataError as e:
                    print(f"error: {e}", file=out)
                    return 2

    @property
    def names(self):
        return [name for _, name, _ in self.launched]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def finished(toy, session_home):
    """Two seeds; the second run dies in its third step, the next call goes on from its checkpoint."""
    words = [f"claim={toy}", f"runs={toy.parent}/runs", *STEPS]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZOO_HOME", str(session_home))
        crashing = Launcher((2, 3, Crash()))
        first = reproduce(words, crashing)
        begun = {p.name: (p / "arm.json").is_file() for p in (toy.parent / "runs/claims/toy").iterdir()}
        resuming = Launcher()
        second = reproduce(words, resuming)
    return words, crashing, first, begun, resuming, second


def test_a_crash_costs_one_run_and_the_next_call_goes_on(finished):
    _, crashing, first, begun, resuming, second = finished
    assert first == (None, None)
    assert crashing.names == ["critique-0", "labels-0", "again-0", "critique-1", "labels-1", "again-1"]
    assert sorted(done for done in begun.values()) == [False] + [True] * 5
    assert [n.rsplit("-", 1)[0] for n, done in begun.items() if not done] == ["labels-0"]
    ((verb, name, arguments),) = resuming.launched
    assert verb == "fit" and name == "labels-0" and len(arguments) == 1 and arguments[0].startswith("resume=")
    run = runs.Path(arguments[0].removeprefix("resume="))
    assert json.loads((run / "metrics.json").read_text())["sessions"] == 2
    assert second[0]["verdict"] in ("reproduced", "not reproduced", "inconclusive")


def test_the_result_has_the_designs_fields(finished, toy):
    result, path = finished[-1]
    assert path == toy.parent / "runs/claims/toy/toy.json" and json.loads(path.read_text()) == result
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    wanted = {"claim", "paper", "arms", "differences", "verdict", "command", "seconds", "n", "data_hash", "size"}
    assert wanted <= set(result) and result["n"] == 12 and result["seconds"] > 0
    assert [(a["name"], a["seeds"]) for a in result["arms"]] == [
        ("critique", [0, 1]),
        ("labels", [0, 1]),
        ("again", [0, 1]),
    ]
    assert result["command"] == f"python -m zoo.reproduce claim={toy} {' '.join(STEPS)}"
    critique, labels, again = (a["metrics"] for a in result["arms"])
    assert set(critique) == {"auprc", "short_f1", "macro"} and set(labels) == {"auprc", "short_f1", "ece"}
    assert set(again) == {"macro"} and again["macro"]["values"] == critique["macro"]["values"]  # the same weights
    for seed in (0, 1):
        (folder,) = (toy.parent / "runs/claims/toy").glob(f"labels-{seed}-*/omniguard/*")
        metrics = json.loads((folder / "metrics.json").read_text())
        assert labels["auprc"]["values"][seed] == pytest.approx(metrics["overall"]["auprc"], abs=2e-6)
        assert labels["short_f1"]["values"][seed] == pytest.approx(metrics["by_slice"]["short"]["f1"], abs=2e-6)
        assert labels["ece"]["values"][seed] == metrics["ece"] and metrics["data_hash"] == result["data_hash"]
    assert result["arms"][0]["metrics"]["auprc"]["values"] != labels["auprc"]["values"]  # the arms do differ
    difference = result["differences"][0]
    pairs = zip(critique["auprc"]["values"], labels["auprc"]["values"])
    assert difference["values"] == pytest.approx([a - b for a, b in pairs], abs=2e-6)
    assert difference["ci95"][0] <= difference["mean"] <= difference["ci95"][1]


def test_what_is_finished_is_kept_and_what_is_changed_is_run(finished, toy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "draw", lambda *_: None)
    words, *_, (result, _) = finished
    nothing = Launcher()
    assert reproduce(words, nothing)[0] == result and nothing.launched == []
    assert "6 runs, 6 of them finished before" in capsys.readouterr().err
    moved, path = reproduce([*words, "seeds=1", f"results={tmp_path}/new"], nothing)
    assert nothing.launched == [] and path == tmp_path / "new" / "toy.json" and moved["seeds"] == 1
    assert "seeds: 1: the interval is over test rows only" in moved["differences"][0]["reasons"]
    arms = {**page(toy.parent)["arms"]}
    arms["warmer"] = {"recipe": "omniguard", "overrides": {"optim.warmup": 0.5}}
    changed = tmp_path / "toy.yaml"
    changed.write_text(json.dumps({**page(toy.parent), "arms": arms, "rule": "any"}))
    one = Launcher()
    with_warmer, _ = reproduce([*words, f"claim={changed}", "seeds=1"][1:], one)
    assert one.names == ["warmer-0"] and with_warmer["claim_sha256"] != result["claim_sha256"]
    other = tmp_path / "other.yaml"  # another claim, with an arm that the first has under another name
    comparison = {"metric": "auprc", "arm": "plain", "direction": "higher", "margin": 0.0}
    of_labels = {"claim": "other", "arms": {"plain": arms["labels"]}, "comparisons": [comparison], "rule": "all"}
    other.write_text(json.dumps({**page(toy.parent), **of_labels}))
    shared, _ = reproduce([*words, f"claim={other}"][1:], nothing)
    assert nothing.launched == [] and shared["arms"][0]["metrics"]["auprc"] == result["arms"][1]["metrics"]["auprc"]


def test_other_data_or_settings_are_other_runs(toy, finished, monkeypatch):
    words = finished[0]

    class Refuses:
        def __init__(self):
            self.names = []

        def __call__(self, verb, arguments, log):
            self.names.append(log.parent.name)
            log.write_text("error: not now\n")
            return 2

    refuses = Refuses()
    assert reproduce([*words[:2], "trainer.max_steps=2", *words[3:], "seeds=1"], refuses) == (None, None)
    rows = toy.parent / "rows.jsonl"
    before = rows.read_text()
    try:
        rows.write_text(before.replace("a dog 1", "a cat 1"))
        assert reproduce([*words, "seeds=1"], refuses) == (None, None)
    finally:
        rows.write_text(before)
    monkeypatch.setattr(zoo, "__version__", "9")
    assert reproduce([*words, "seeds=1"], refuses) == (None, None)
    tried = [n for n in refuses.names if n.startswith("critique-0")]
    assert len(set(tried)) == 3 and not any(n.startswith("again") for n in refuses.names)  # its model failed


def test_a_failed_arm_says_why_and_its_test_is_not_tried(toy, tmp_path, capsys):
    def fails(verb, arguments, log):
        log.write_text("some words\nerror: no such thing\nafter\n" if "labels" in log.parent.name else "Killed\n")
        return 2 if "labels" in log.parent.name else -9

    assert reproduce([f"claim={toy}", f"runs={tmp_path}", "seeds=1"], fails) == (None, None)
    said = capsys.readouterr().err
    assert "3 of 3 runs have no result" in said
    assert "critique, seed 0: killed by signal 9: Killed" in said
    assert "labels, seed 0: exit code 2: error: no such thing" in said
    assert "again, seed 0: it uses critique, seed 0, which failed" in said


def test_a_signal_stops_in_order(toy, tmp_path, capsys):
    def stopped(verb, arguments, log):
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("the signal was not heard")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as e:
        reproduce([f"claim={toy}", f"runs={tmp_path}", "seeds=1"], stopped)
    assert e.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    assert "stopped in critique, seed 0: the same command goes on from there" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- what a command says


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "give claim=NAME; known: backdoor_loss"),
        (["claim=omniguard_critik"], "unknown claim 'omniguard_critik'; did you mean 'omniguard_critique'"),
        (["claim=TOY", "seeds=0"], "seeds=0: give a number from 1 on"),
        (["claim=TOY", "seeds=two"], "seeds=two: give a number"),
        (["claim=TOY", "seed=1"], "seed= is set by the runner: give seeds=NUMBER"),
        (["claim=TOY", "recipe=omniguard"], "recipe= is set by the runner"),
        (["claim=TOY", "gpu=1"], "gpu=1: expected true or false"),
        (["claim=TOY", "loss.critique=1"], "loss.critique is what arm 'labels' is about"),
        (["claim=TOY", "optim.lrr=1"], "arm 'critique': recipe 'omniguard' has no key 'optim.lrr'; did you mean"),
        (["claim=TOY", "backbone.path=/nowhere"], "arm 'critique': /nowhere: no such folder"),
        (["claim=TOY", "trainer.accelerator=tpu"], "arm 'critique': trainer.accelerator"),
        (["claim=TOY", "data.path=/nowhere.jsonl"], "arm 'critique': /nowhere.jsonl"),
    ],
)
def test_mistakes_are_told_before_anything_runs(toy, tmp_path, words, message):
    def never(*_):
        raise AssertionError("a run was started")

    words = [w.replace("TOY", str(toy)) for w in words]
    with pytest.raises(DataError) as e:
        reproduce([*words, f"runs={tmp_path / 'runs'}"], never)
    assert message in str(e.value) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"recipe": "omnigard"}, "arm 'labels': unknown recipe 'omnigard'; did you mean 'omniguard'"),
        ({"overrides": {"los.critique": 0}}, "arm 'labels': recipe 'omniguard' has no key 'los.critique'"),
        ({"verb": "test", "model": "nobody"}, "arm 'labels': unknown model 'nobody'"),
    ],
)
def test_mistakes_in_an_arm(toy, tmp_path, change, message):
    raw = page(toy.parent)
    raw["arms"]["labels"] = {"recipe": "omniguard", **change}
    (tmp_path / "toy.yaml").write_text(json.dumps(raw))
    with pytest.raises(DataError) as e:
        reproduce([f"claim={tmp_path / 'toy.yaml'}", f"runs={tmp_path}"], None)
    assert message in str(e.value)


def test_a_slice_without_rows_is_told_before_anything_runs(toy, tmp_path):
    raw = page(toy.parent)
    raw["metrics"]["short_f1"]["slice"] = "shrt"
    (tmp_path / "toy.yaml").write_text(json.dumps(raw))
    with pytest.raises(
        DataError, match=r"arm '\w+': metric 'short_f1': no test row has slice 'shrt'; did you mean 'short'"
    ):
        reproduce([f"claim={tmp_path / 'toy.yaml'}", f"runs={tmp_path}"], None)


def test_the_settings_for_a_gpu(toy, tmp_path):
    loaded = load_claim(str(toy))
    plain = runs.plan_units(loaded, 1, {"optim.lr": "0.5"}, False, tmp_path)
    gpu = runs.plan_units(loaded, 1, {"optim.lr": "0.5"}, True, tmp_path)
    assert plain["critique", 0].config["backbone"]["lora_rank"] == 16
    assert gpu["critique", 0].config["backbone"]["lora_rank"] == 8 and gpu["labels", 0].config["optim"]["lr"] == 0.5
    assert plain["critique", 0].key != gpu["critique", 0].key != gpu["labels", 0].key
    raw = page(toy.parent)
    del raw["gpu"]
    (tmp_path / "toy.yaml").write_text(json.dumps(raw))
    with pytest.raises(DataError, match="claim 'toy' has no `gpu` settings"):
        reproduce([f"claim={tmp_path / 'toy.yaml'}", "gpu=true"], None)


def test_only_the_experiment_of_the_yaml_writes_into_the_checkout(tmp_path, monkeypatch, capsys):
    """Judged by the folder that is chosen: nothing is run."""
    claim, root = load_claim("omniguard_critique"), tmp_path / "runs"
    shared = report.claims_folder() / "results"
    assert _results_folder(claim, claim.name, 3, {"data_dir": "x"}, None, root) == shared
    assert _results_folder(claim, claim.name, 5, {}, None, root) == shared
    assert _results_folder(claim, claim.name, 3, {"data.scale": "0.1"}, None, root) == root
    assert _results_folder(claim, claim.name, 2, {}, None, root) == root
    assert _results_folder(claim, "omniguard_critique.yaml", 3, {}, None, root) == root
    assert _results_folder(claim, claim.name, 2, {}, "there", root) == runs.Path("there")
    said = capsys.readouterr().err
    assert "(data.scale)" in said and "(seeds=2)" in said
    monkeypatch.setattr(report, "recipes_folder", lambda: tmp_path / "site-packages" / "recipes")
    assert _results_folder(claim, claim.name, 3, {}, None, root) == root


def test_a_test_of_a_published_model_is_one_run(toy, tmp_path, monkeypatch):
    """However many seeds the trained arms have."""
    raw = page(toy.parent)
    raw["arms"]["labels"] = {"verb": "test", "recipe": "omniguard", "model": "omniguard-tiny"}
    (tmp_path / "toy.yaml").write_text(json.dumps(raw))
    units = runs.plan_units(load_claim(str(tmp_path / "toy.yaml")), 3, {}, False, tmp_path)
    keys = {name: {units[name, s].key for s in range(3)} for name in ("labels", "critique", "again")}
    assert {k: len(v) for k, v in keys.items()} == {"labels": 1, "critique": 3, "again": 3}


# ------------------------------------------------------------------------------------------------ processes of its own


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`python` is a shell script, so that no process has to import this package."""

    def make(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return make


def test_a_process_is_shown_logged_and_its_code_returned(command, tmp_path, capsys):
    command('echo "out $@"; echo "err" >&2; exit 3')
    assert runs.run_process("fit", ["a=b c"], tmp_path / "log") == 3
    assert capsys.readouterr().err == "err\n"
    log = (tmp_path / "log").read_text()
    assert log.startswith("$ ") and "out -m zoo.fit a=b c\n" in log and "err\n" in log
    command("kill -9 $$")
    assert runs.run_process("fit", [], tmp_path / "log") == -9


def test_a_signal_is_handed_on_and_waited_for(command, tmp_path):
    """The process saves, which takes a moment, and only then the runner ends."""
    command(
        f"trap 'sleep 0.3; echo saved > {tmp_path}/saved; exit 143' TERM; echo ready >&2; while :; do sleep 0.05; done"
    )

    def send():
        while "ready" not in (tmp_path / "log").read_text():
            time.sleep(0.02)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)

    (tmp_path / "log").write_text("")
    sender = threading.Thread(target=send)
    with Signals():
        sender.start()
        with pytest.raises(Interrupted) as e:
            runs.run_process("fit", [], tmp_path / "log")
    sender.join()
    assert e.value.code == 143 and (tmp_path / "saved").read_text() == "saved\n"


def test_the_command_says_the_verdict(finished, monkeypatch, capsys):
    words = finished[0]
    monkeypatch.setattr(report, "draw", lambda *_: None)
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "| auprc: critique − labels | 12 |" in out and "\ntoy: " in out and "result: " in err
    monkeypatch.setattr("zoo.reproduce._carry_out_all", lambda *_: [(type("U", (), {"name": "x"}), "why")])
    assert main(words) == 1
