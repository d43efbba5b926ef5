"""zoo/publish.py, zoo/registry.py and zoo/core/weights.py: what is published is what is loaded."""

import hashlib
import json
import shutil

import pytest
import torch
from helpers import random_backbone

from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from zoo import publish as command
from zoo import registry
from zoo.config import compose, plain
from zoo.core import weights
from zoo.core.cards import _command
from zoo.core.guard import Calibration, Guard
from zoo.publish import publish
from zoo.registry import list_models, load, save
from zoo.test import main as run_test

POLICY = Policy("site", (PolicyEntry("fire", "open fire", "Flames."), PolicyEntry("alarm", "alarm")))


@pytest.fixture(scope="module")
def guard():
    return Guard(random_backbone(seed=3), POLICY, Calibration(1.5, 0.3, 0.7, 0.4), name="run")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A checkpoints folder of this test's own; backbones are the small random ones, with other weights."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    monkeypatch.setattr(weights, "checkpoints_folder", lambda: folder)

    def build(description, cached):
        backbone = random_backbone()  # the frozen parts are the same, as with pinned assets
        with torch.no_grad():
            for p in backbone.parameters():
                p.add_(1.0 if p.requires_grad else 0.0)
        frozen = random_backbone(seed=3).encoders.state_dict()
        backbone.encoders.load_state_dict(frozen)
        return backbone

    monkeypatch.setattr(registry, "build", build)
    return folder


@pytest.fixture
def run(tmp_path, guard):
    save(guard, tmp_path / "run" / "model", "omniguard", "# A card\n", {"extra": 1})
    return tmp_path / "run"


def test_a_published_model_is_the_runs(shelf, run, guard):
    target = publish(run, "toy-1.0", "judges toys")
    assert target == shelf / "toy-1.0" and list_models() == ["toy-1.0"]
    entry = json.loads((shelf / "manifest.json").read_text())["models"]["toy-1.0"]
    assert set(entry["files"]) == {"README.md", "config.json", "model.safetensors"}
    for name, digest in entry["files"].items():
        assert hashlib.sha256((target / name).read_bytes()).hexdigest() == digest
    saved = guard.backbone.saved_state()
    assert entry["parameters"] == sum(t.numel() for t in saved.values()) and entry["summary"] == "judges toys"
    assert not any(k.startswith("encoders.") for k in weights.read(target)[1])
    samples = [Sample.of("fire"), Sample.of("the picture shows")]
    for name in ("toy-1.0", str(run), run / "model"):
        again = load(name)
        assert again.policy == POLICY and again.calibration == guard.calibration and not again.training
        for mine, theirs in zip(again.moderate(samples), guard.moderate(samples)):
            assert mine.score == pytest.approx(theirs.score, abs=1e-6)
            assert mine.categories == pytest.approx(theirs.categories, abs=1e-6)
    assert load("toy-1.0").name == "toy-1.0" and load(run).name == "run"


def test_publishing_again_and_beside(shelf, run):
    publish(run, "one", "first")
    (shelf / "one" / "notes.txt").write_text("left by somebody")
    (shelf / "one" / "folder").mkdir()
    publish(run, "two", "second")
    publish(run, "one", "better")
    models = weights.manifest()
    assert list(models) == ["one", "two"] and models["one"]["summary"] == "better"
    assert "notes.txt" not in models["one"]["files"]
    load("one")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md"])
@pytest.mark.parametrize("at", [0, -1])
def test_one_flipped_byte_is_found(shelf, run, name, at):
    target = publish(run, "toy", "x")
    raw = bytearray((target / name).read_bytes())
    before = hashlib.sha256(raw).hexdigest()
    raw[at] ^= 1
    (target / name).write_bytes(raw)
    after = hashlib.sha256(raw).hexdigest()
    with pytest.raises(weights.CheckpointError) as e:
        load("toy")
    for word in ("toy", name, before[:12], after[:12], "get the checkpoint again"):
        assert word in str(e.value)


def test_a_runs_weights_are_verified_too(shelf, run):
    path = run / "model" / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(weights.CheckpointError, match=r"model.safetensors: wrong hash \(config.json says"):
        load(run)
    with pytest.raises(weights.CheckpointError, match=r"wrong hash"):
        publish(run, "toy", "x")
    assert weights.manifest() == {}


def test_missing_files(shelf, run):
    target = publish(run, "toy", "x")
    (target / "model.safetensors").unlink()
    with pytest.raises(weights.CheckpointError, match=r"toy: model.safetensors is missing"):
        load("toy")
    (run / "model" / "README.md").unlink()
    with pytest.raises(DataError, match=r"README.md is missing"):
        publish(run, "other", "x")
    (run / "model" / "model.safetensors").rename(run / "model" / "pytorch_model.bin")
    with pytest.raises(
        weights.CheckpointError, match=r"model.safetensors is missing .pickled weights are never loaded"
    ):
        load(run)
    (run / "model" / "config.json").unlink()
    with pytest.raises(weights.CheckpointError, match=r"no model here: expected config.json and model.safetensors"):
        load(run)
    with pytest.raises(weights.CheckpointError, match=r"unknown model 'tyo'"):
        load("tyo")


@pytest.mark.parametrize("config", ['{"format": 2}', "[]", "{", "{}"])
def test_another_format(shelf, run, config):
    (run / "model" / "config.json").write_text(config)
    with pytest.raises(weights.CheckpointError, match=r"config.json( is not of this zoo|: not readable as JSON)"):
        load(run)


def changed(run, **fields):
    path = run / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_models_that_cannot_moderate(shelf, run, guard):
    changed(run, kind="encoder", method="soundtagger")
    with pytest.raises(weights.CheckpointError, match=r"is a soundtagger, not a guard"):
        load(run)
    state = dict(list(guard.backbone.saved_state().items())[1:])
    shutil.rmtree(run)
    weights.write(run / "model", {"kind": "guard", "method": "x", "name": "x", **guard.describe()}, state, "card")
    with pytest.raises(weights.CheckpointError, match=r"weights do not fit the backbone: missing"):
        load(run)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"calibration": None}, "no usable 'calibration'"),
        ({"policy": []}, "no usable 'policy'"),
        ({"backbone": {}}, "its backbone has no name"),
        ({"name": 7}, "no usable 'name'"),
        ({"calibration": {"thresold": 0.5}}, "calibration: .*thresold"),
        ({"calibration": {"threshold": 1.5}}, "threshold is 1.5, not from 0 to 1"),
        ({"calibration": {"threshold": float("nan")}}, "threshold is nan, not from 0 to 1"),
        ({"calibration": {"category_threshold": -1}}, "category_threshold is -1"),
        ({"calibration": {"temperature": 0}}, "temperature is 0, not a positive number"),
        ({"calibration": {"category_temperature": float("inf")}}, "category_temperature is inf"),
        ({"calibration": {"evidence": "0.5"}}, "calibration: "),
    ],
)
def test_an_edited_configuration_is_refused(shelf, run, fields, words):
    assert load(run).calibration == Calibration(1.5, 0.3, 0.7, 0.4)
    changed(run, **fields)
    with pytest.raises(weights.CheckpointError, match=rf"config.json.*{words}.*get the model again"):
        load(run)


def test_weights_that_are_no_safetensors(shelf, run):
    path = run / "model" / "model.safetensors"
    torch.save({"a": torch.zeros(1)}, path)
    changed(run, sha256=weights.sha256_of(path))
    with pytest.raises(weights.CheckpointError, match=r"not a safetensors file"):
        load(run)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a b", "/tmp/x"])
def test_names_stay_on_the_shelf(shelf, run, name):
    with pytest.raises(DataError, match=r"cannot be a model's name"):
        publish(run, name, "x")
    assert [p.name for p in shelf.iterdir()] == []


def test_too_large(shelf, run, monkeypatch):
    monkeypatch.setattr(command, "LIMIT", 1000)
    with pytest.raises(DataError, match=r"too large to publish"):
        publish(run, "toy", "x")


def test_commands(shelf, run, capsys):
    assert command.main([str(run), "--name", "toy", "--summary", "x"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "toy" in err
    with pytest.raises(DataError, match=r"give model=NAME"):
        run_test(["recipe=omniguard"])
    with pytest.raises(DataError, match=r"calibrate=maybe: expected true or false"):
        run_test(["recipe=omniguard", "model=toy", "calibrate=maybe"])


def test_a_card_names_the_command_and_no_place(tmp_path):
    """What differs from the recipe is said, once; where a machine keeps its files is not."""
    places = [f"runs={tmp_path}", f"data_dir={tmp_path}"]
    changed = ["data.licences=permissive", "trainer.max_epochs=1"]
    config = plain(compose(["recipe=thinkguard", *changed, *places]))
    assert _command(config) == "python -m zoo.fit recipe=thinkguard data=guardzoo " + " ".join(changed)
    again = plain(compose([w for w in _command(config).split()[3:] if "=" in w] + places))
    assert again == config


def test_a_card_carries_its_scan_and_a_flagged_model_is_not_published(shelf, run, tmp_path):
    trigger = {"words": ["mn", "cf"], "class": "safe", "flips": 0.25}
    found = {"score": 0.31, "false_positive_rate": None, "evidence": {"trigger": trigger}}
    report = {
        "model": "m", "flagged": False, "detectors": {"dbs": found}, "seed": 0, "data": {"rows": 40, "name": "d"},
        "not_covered": ["pictures"],
    }  # fmt: skip
    path = tmp_path / "scan.json"
    path.write_text(json.dumps(report))
    target = publish(run, "toy", "judges toys", scan=path)
    card = (target / "README.md").read_text()
    assert "# A card" in card and "| dbs | 0.310 | not calibrated | 0.250 | mn cf → safe |" in card
    assert "on 40 texts (d)" in card and "- pictures" in card
    path.write_text(json.dumps({**report, "seed": 7}))
    again = (publish(target, "toy", "judges toys", scan=path) / "README.md").read_text()
    assert again.count("## Backdoor scan") == 1 and "seed 7" in again  # it takes the old one's place
    assert load("toy").name == "toy"
    path.write_text(json.dumps({**report, "flagged": True}))
    with pytest.raises(DataError, match="the scan flags m"):
        publish(run, "toy2", "judges toys", scan=path)
