"""zoo/core/run.py: where a run is written is looked at before anything long is begun."""

import json

import pytest

from datamodules.schema import DataError
from zoo import fit
from zoo import test as command
from zoo.core.run import check_runs, new_run, write_lines


def test_places_for_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("x")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for bad in ("file", "file/runs", "nowhere", "nowhere/runs"):
        with pytest.raises(DataError, match=rf"runs={bad}: .* is no folder that can be written to: give runs=FOLDER"):
            check_runs(bad)
    for good in (".", "new", "new/deep", str(tmp_path)):
        check_runs(good)
        assert new_run(good, "recipe").is_dir()


def test_commands_look_first(tmp_path, monkeypatch):
    """Neither data nor a model is touched."""
    (tmp_path / "file").write_text("x")
    for module in (fit, command):
        monkeypatch.setattr(module, "build_data", lambda config: pytest.fail("began to work"))
    arguments = ["recipe=omniguard", f"runs={tmp_path / 'file'}"]
    with pytest.raises(DataError, match="give runs=FOLDER"):
        fit.main(arguments)
    with pytest.raises(DataError, match="give runs=FOLDER"):
        command.main([*arguments, "model=omniguard-tiny"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_lines_with_names_that_are_no_text(tmp_path):
    rows = [{"id": "é", "error": "a\udcff.png: no such file"}]
    write_lines(tmp_path / "errors.jsonl", rows)
    text = (tmp_path / "errors.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == rows and "é" in text
