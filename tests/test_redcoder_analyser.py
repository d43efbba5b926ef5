"""An analyser against labelled code: counts worked out by hand, and a claim over rows that nothing was trained for."""

import gzip
import json
from pathlib import Path

import pytest

import zoo.test
from datamodules.code_labels import load_labelled
from datamodules.schema import DataError
from zoo.claims.claim import load_claim
from zoo.core.scores import read_scores
from zoo.redcoder.analysers import MISSING, Bandit, Report
from zoo.reproduce import reproduce

pytest.importorskip("bandit", reason="bandit is not installed: pip install 'guardrail-zoo[code]'")
SQL = "    def f(self, c, x):\n        c.execute({})\n"
BAD, GOOD = SQL.format("\"SELECT a FROM b WHERE c = '%s'\" % x"), SQL.format('"SELECT a FROM b WHERE c = ?", (x,)')
LOUD = "def f(x):\n    eval(x)\n"


@pytest.fixture
def data_dir(tmp_path):
    """SQL: one found and silent after its fix, one missed, one found before and after; a C file; two more sets."""
    code = tmp_path / "data" / "code"
    rows = [(BAD, GOOD, "a.py"), (GOOD, GOOD, "b.py"), (BAD, BAD, "c.py"), ("int f();", "int g();", "d.c")]
    for part, mine in (("train", rows[:2]), ("val", rows[2:])):
        (code / "sven" / part).mkdir(parents=True)
        lines = [{"func_src_before": b, "func_src_after": a, "file_name": f, "vul_type": "cwe-089"} for b, a, f in mine]
        (code / "sven" / part / "cwe-089.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    (code / "securityeval").mkdir()
    insecure = [("CWE-095_author_1.py", LOUD), ("CWE-089_author_1.py", LOUD), ("CWE-089_author_2.py", "def f(:\n")]
    lines = [json.dumps({"ID": i, "Prompt": "", "Insecure_code": c}) + "\n" for i, c in insecure]
    (code / "securityeval" / "dataset.jsonl").write_text("".join(lines))
    (code / "human_eval").mkdir()
    benign = [
        {"task_id": f"HumanEval/{n}", "prompt": "def f():\n", "canonical_solution": "    return 1\n"} for n in "ab"
    ]
    with gzip.open(code / "human_eval" / "HumanEval.jsonl.gz", "wt") as f:
        f.write("".join(json.dumps(r) + "\n" for r in benign))
    return tmp_path / "data"


def test_the_counts_are_those_worked_out_by_hand(data_dir, tmp_path, capsys):
    words = ["recipe=redcoder_analyser", f"data_dir={data_dir}", f"runs={tmp_path / 'runs'}"]
    assert zoo.test.main(words) == 0
    (run,) = (tmp_path / "runs" / "test" / "redcoder_analyser").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    sven, security = metrics["sources"]["sven"]["by_cwe"]["CWE-89"], metrics["sources"]["securityeval"]["overall"]
    assert [sven["recall"]["count"], sven["recall"]["n"]] == [2, 3]
    assert [sven["false_alarms"]["count"], sven["false_alarms"]["n"]] == [1, 3]
    assert [sven["precision"]["count"], sven["precision"]["n"]] == [2, 3]
    assert [security["recall"]["count"], security["recall_any"]["count"], security["recall"]["n"]] == [1, 2, 3]
    assert security["precision"] is None and security["false_alarms"] is None and security["named"]["value"] == 0.5
    assert security["unread"] == {"parse-error": 1} and metrics["failed"] == 1
    assert metrics["sources"]["human_eval"]["overall"]["false_alarms"]["count"] == 0
    assert metrics["other_languages"] == {"c": 2}
    rows = {r.record.id: r for r in read_scores(run / "scores_family.jsonl")}
    assert len(rows) == 11 and rows["sven-train-cwe-089-0-before"].flagged
    assert {r.record.group for r in rows.values() if "089-0-" in r.record.id} == {
        "sven-train-cwe-089-0",
        "sven-val-cwe-089-0",
    }
    printed = capsys.readouterr().out
    assert "sven: sql-injection" in printed and "0.667" in printed


def test_a_missing_analyser_measures_nothing(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(Bandit, "scan", lambda self, files: Report("bandit", failed=MISSING, why="not there"))
    with pytest.raises(DataError, match="bandit is missing: not there"):
        zoo.test.main(["recipe=redcoder_analyser", f"data_dir={data_dir}", f"runs={tmp_path / 'runs'}"])
    assert not (tmp_path / "runs").exists()


def write_claim(folder: Path, **metric) -> Path:
    page = {
        "claim": "agree", "title": "t", "paper": "p", "seeds": 1,
        "arms": {
            "own": {"verb": "test", "recipe": "redcoder_analyser", "model": "bandit", "outcomes": "scores_family"},
            "any": {"verb": "test", "recipe": "redcoder_analyser", "model": "bandit", "outcomes": "scores_any"},
        },
        "metrics": {"recall": {"name": "recall", "source": "securityeval"}, "fpr": {"name": "fpr", **metric}},
        "comparisons": [
            {"metric": "recall", "arm": "any", "against": "own", "direction": "higher", "margin": 0.0},
            {"metric": "fpr", "arm": "own", "direction": "lower", "margin": 0.5},
        ],
    }  # fmt: skip
    (folder / "agree.yaml").write_text(json.dumps(page))
    return folder / "agree.yaml"


def test_a_claim_over_rows_that_nothing_was_trained_for(data_dir, tmp_path):
    launched = []

    def launch(verb, arguments, log):
        launched.append(verb)
        log.write_text("")
        return zoo.test.main(arguments)

    path = write_claim(tmp_path, source="sven", slice="family:sql-injection")
    result, _ = reproduce([f"claim={path}", f"data_dir={data_dir}", f"runs={tmp_path / 'runs'}"], launch)
    assert launched == ["test"]  # both arms read the same run
    by_arm = {a["name"]: a["metrics"] for a in result["arms"]}
    assert by_arm["own"]["recall"]["mean"] == pytest.approx(1 / 3, abs=1e-6) and by_arm["any"]["recall"]["mean"] > 0.6
    assert by_arm["own"]["fpr"]["mean"] == pytest.approx(1 / 3, abs=1e-6)


def test_what_a_claim_cannot_ask_is_said_before_anything_runs(data_dir, tmp_path):
    def launch(*_):
        raise AssertionError("nothing may run")

    words = [f"data_dir={data_dir}", f"runs={tmp_path / 'runs'}"]
    with pytest.raises(DataError, match="no test row has source 'svenn'; did you mean 'sven'"):
        reproduce([f"claim={write_claim(tmp_path, source='svenn')}", *words], launch)
    with pytest.raises(DataError, match="arm 'own': labelled code is read from data_dir"):
        reproduce([f"claim={write_claim(tmp_path, source='sven')}", f"runs={tmp_path / 'runs'}"], launch)


def test_the_published_claims_are_well_formed():
    for name in ("redcoder_analyser", "redcoder_turns", "redcoder_guard"):
        assert load_claim(name).order()


def test_labelled_sources_that_cannot_be(data_dir):
    for sources, said in (
        (["svne"], "did you mean 'sven'"),
        ([], "give at least one"),
        (["sven", "sven"], "none twice"),
    ):
        with pytest.raises(DataError, match=said):
            load_labelled(sources, data_dir)
    assert len(load_labelled(["sven"], data_dir)) == 8
