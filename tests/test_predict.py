"""zoo/predict.py: verdict lines, error lines, exit codes."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import random_backbone, write_image

from datamodules.schema import DataError, Policy, PolicyEntry
from zoo import cli, predict
from zoo.core.guard import Guard

POLICY = Policy("site", (PolicyEntry("fire", "open fire", "Flames."), PolicyEntry("alarm", "alarm")))
KEYS = ["id", "model", "flagged", "score", "threshold", "categories", "critique", "valid", "truncated"]
KEYS += ["route", "provenance"]


@pytest.fixture(scope="module")
def guard():
    return Guard(random_backbone(), POLICY, name="toy")


@pytest.fixture(autouse=True)
def loaded(guard, monkeypatch, tmp_path):
    monkeypatch.setattr(predict, "load", lambda name, device="cpu": guard)
    monkeypatch.chdir(tmp_path)


def predicted(capsys, *arguments, code=0):
    assert predict.main(["toy", *arguments]) == code
    out, err = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], err


def write(path, rows):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return str(path)


def said(id, text="hello there"):
    return {"id": id, "messages": [{"role": "user", "content": text}]}


def shown(id, name):
    return {"id": id, "messages": [{"role": "user", "content": [{"type": "image", "path": name}]}]}


def errors(tmp_path, name="errors.jsonl"):
    return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]


def test_a_verdict_line(capsys, guard, tmp_path):
    (row,), err = predicted(capsys, "--text", "a [SEP] fire", "--image", str(write_image(tmp_path / "a.png")))
    assert list(row) == KEYS and err == ""
    assert row["model"] == "toy" and list(row["categories"]) == ["fire", "alarm"]
    assert 0 < row["score"] < 1 and row["flagged"] is (row["score"] >= row["threshold"])
    assert row["critique"] is row["route"] is row["provenance"] is None
    assert row["valid"] is True and row["truncated"] is False and row["threshold"] == 0.5
    assert not (tmp_path / "errors.jsonl").exists()


def test_long_text_says_that_it_was_cut(capsys):
    (row,), _ = predicted(capsys, "--text", "fire " * 2000)
    assert row["truncated"] is True


@pytest.mark.parametrize("batch_size", ["1", "2", "16"])
def test_bad_rows_are_listed_and_the_others_judged_in_order(capsys, tmp_path, batch_size):
    write_image(tmp_path / "a.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG no")
    rows = [said("r1"), "{", shown("r3", "bad.png"), shown("r4", "a.png"), shown("r5", "gone.png")]
    rows += [said("r1", "again"), said("r7"), {"id": "r8"}, said("r9", "bye"), said(0, "zero")]
    path = write(tmp_path / "m.jsonl", rows)
    verdicts, err = predicted(capsys, "--input", path, "--batch-size", batch_size, code=1)
    assert [v["id"] for v in verdicts] == ["r1", "r4", "r7", "r9", "0"]
    listed = errors(tmp_path)
    assert {e["id"] for e in listed} == {"line 2", "r3", "r5", "r1", "r8"} and len(listed) == 5
    assert all(set(e) == {"id", "error"} for e in listed)
    said_of = {e["id"]: e["error"] for e in listed}
    assert "bad.png" in said_of["r3"] and "no such file" in said_of["r5"] and "duplicate id" in said_of["r1"]
    assert "m.jsonl line 2: not valid JSON" in said_of["line 2"]
    assert "5 rows could not be judged: see errors.jsonl" in err
    alone, _ = predicted(capsys, "--input", write(tmp_path / "one.jsonl", [said("r7")]))
    assert alone[0]["score"] == pytest.approx(verdicts[2]["score"], abs=2e-6)  # whatever it was batched with


def test_errors_go_where_they_are_asked_to(capsys, tmp_path):
    path = write(tmp_path / "m.jsonl", ["{"])
    verdicts, _ = predicted(capsys, "--input", path, "--errors", str(tmp_path / "e.jsonl"), code=1)
    assert verdicts == [] and len(errors(tmp_path, "e.jsonl")) == 1


def test_a_single_bad_file(capsys, tmp_path):
    verdicts, err = predicted(capsys, "--image", str(tmp_path / "gone.png"), code=1)
    assert verdicts == [] and err.startswith("error: ") and "gone.png" in err
    assert not (tmp_path / "errors.jsonl").exists()


def test_line_separators_and_foreign_letters(capsys, tmp_path):
    row = json.dumps(said("é\u2028火", "a\u2028b"), ensure_ascii=False)
    assert predict.main(["toy", "--input", write(tmp_path / "m.jsonl", [row])]) == 0
    out = capsys.readouterr().out
    assert "火" in out and json.loads(out)["id"] == "é\u2028火"


def test_explain_and_threshold(capsys):
    (plain,), _ = predicted(capsys, "--text", "fire")
    (explained,), _ = predicted(capsys, "--text", "fire", "--explain")
    assert isinstance(explained["critique"], str)
    assert {**explained, "critique": None} == plain
    for threshold, flagged in (("0", True), ("1", False)):
        (row,), _ = predicted(capsys, "--text", "fire", "--threshold", threshold)
        assert row == {**plain, "threshold": float(threshold), "flagged": flagged}


def test_policy_replaces_the_models(capsys, tmp_path):
    (tmp_path / "p.yaml").write_text("name: p\nentries: [{id: S10, name: smoke}, {id: S1, name: fog}]")
    (row,), _ = predicted(capsys, "--text", "x", "--policy", str(tmp_path / "p.yaml"))
    assert list(row["categories"]) == ["S10", "S1"]
    own = {"name": "own", "entries": [{"id": "own"}]}
    path = write(tmp_path / "m.jsonl", [said("a"), {**said("b"), "policy": own}])
    verdicts, _ = predicted(capsys, "--input", path)
    assert [list(v["categories"]) for v in verdicts] == [["fire", "alarm"], ["own"]]
    verdicts, _ = predicted(capsys, "--input", path, "--policy", str(tmp_path / "p.yaml"))
    assert [list(v["categories"]) for v in verdicts] == [["S10", "S1"]] * 2


def test_data_dir(capsys, tmp_path):
    (tmp_path / "media").mkdir()
    write_image(tmp_path / "media" / "a.png")
    path = write(tmp_path / "m.jsonl", [shown("a", "a.png")])
    assert len(predicted(capsys, "--input", path, "--data-dir", str(tmp_path / "media"))[0]) == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "nothing to judge: give --text"),
        (["--text", "x", "--input", "m.jsonl"], "either --input or a single"),
        (["--input", "gone.jsonl"], "gone.jsonl: no such manifest"),
        (["--text", "x", "--threshold", "1.5"], "--threshold 1.5 is not a probability"),
        (["--text", "x", "--threshold", "nan"], "is not a probability"),
        (["--text", "x", "--batch-size", "0"], "--batch-size 0: give at least 1"),
        (["--text", "x", "--policy", "gone.yaml"], "gone.yaml: cannot read the policy"),
        (["--text", "x", "--policy", "twice.yaml"], "duplicate id 'a': make each id unique"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path, arguments, words):
    (tmp_path / "twice.yaml").write_text("entries: [{id: a, name: x}, {id: a, name: y}]")
    monkeypatch.setattr(sys, "argv", ["predict", "toy", *arguments])
    with pytest.raises(SystemExit) as e:
        cli.run(predict.main)
    out, err = capsys.readouterr()
    assert e.value.code == 2 and out == "" and words in err
    assert err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in err
    if "twice.yaml" in arguments:
        assert "twice.yaml" in err


def test_the_manifest_is_not_written_over(capsys, monkeypatch, tmp_path):
    path = write(tmp_path / "errors.jsonl", [said("r1"), "{"])
    (tmp_path / "link.jsonl").symlink_to(path)
    for arguments in ([], ["--errors", "link.jsonl"]):
        with pytest.raises(DataError, match="is the manifest itself"):
            predict.main(["toy", "--input", path, *arguments])
    assert (tmp_path / "errors.jsonl").read_text().endswith("{\n")


def test_errors_that_cannot_be_written(capsys, tmp_path):
    path = write(tmp_path / "m.jsonl", [said("r1"), "{"])
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for place in ("file/errors.jsonl", "folder"):
        with pytest.raises(DataError, match=rf"--errors {place}: cannot be written: .*: name another file"):
            predict.main(["toy", "--input", path, "--errors", place])
        assert json.loads(capsys.readouterr().out)["id"] == "r1"  # what could be judged was


def test_a_pipe_is_no_manifest(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="pipe: not a regular file"):
        predict.main(["toy", "--input", str(tmp_path / "pipe")])


def test_a_reader_that_stops_early(tmp_path):
    """`… | head` is no bug of the command: it ends as others do, without a traceback."""
    code = "from zoo import cli\ncli.run(lambda a: [print('x' * 1000) for _ in range(1000)] and 0)"
    command = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    command.stdout.readline()
    command.stdout.close()
    err = command.stderr.read().decode()
    assert command.wait() == 141 and "Broken pipe" not in err and "Traceback" not in err


def test_output_is_utf8_in_every_language(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    said = {"id": "é→火", "path": "a\udcff.png"}
    with pytest.raises(SystemExit) as e:
        cli.run(lambda a: print(json.dumps(said, ensure_ascii=False)) or 0)
    raw = out.buffer.getvalue().decode("utf-8")
    assert e.value.code == 0 and json.loads(raw) == said and "é→火" in raw


def test_help_of_commands_that_take_words(capsys, monkeypatch):
    for flag in ("--help", "-h"):
        monkeypatch.setattr(sys, "argv", ["x", "recipe=omniguard", flag])
        with pytest.raises(SystemExit) as e:
            cli.run(lambda a: 1 / 0, "\nWhat it does.\n")
        assert e.value.code == 0 and capsys.readouterr().out == "What it does.\n"


@pytest.mark.parametrize("error", [NotADirectoryError, PermissionError, IsADirectoryError])
def test_a_place_that_cannot_be_used_is_one_line(capsys, error):
    number = {NotADirectoryError: errno.ENOTDIR, PermissionError: errno.EACCES, IsADirectoryError: errno.EISDIR}[error]

    def main(arguments):
        raise error(number, "x", "runs/omniguard")

    with pytest.raises(SystemExit) as e:
        cli.run(main)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith("error: runs/omniguard: ") and err.count("\n") == 1
    with pytest.raises(FileNotFoundError):  # a file that the zoo lost is its own bug
        cli.run(lambda a: len(Path("gone").read_text()))


def test_exit_codes(capsys, monkeypatch):
    def stop(arguments):
        raise KeyboardInterrupt

    for main, code in ((lambda a: 0, 0), (lambda a: 1, 1), (stop, 130)):
        with pytest.raises(SystemExit) as e:
            cli.run(main)
        assert e.value.code == code
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        cli.run(lambda a: 1 / 0)


def test_unknown_model(monkeypatch):
    from zoo import registry
    from zoo.core import weights

    monkeypatch.setattr(predict, "load", registry.load)
    monkeypatch.setattr(weights, "manifest", lambda: {"omniguard-tiny": {"files": {}}})
    with pytest.raises(DataError, match=r"unknown model 'omnigard-tiny'; did you mean 'omniguard-tiny'"):
        predict.main(["omnigard-tiny", "--text", "x"])
