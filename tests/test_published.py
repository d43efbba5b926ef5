"""The published models load, verified, and judge what they were trained for."""

import json

import pytest

import zoo
from datamodules.corpus import scenes
from zoo.core import weights
from zoo.core.backbones import audio_encoder
from zoo.core.weights import CheckpointError
from zoo.evaluate import calibrate
from zoo.publish import LIMIT


def test_manifest_and_files_agree():
    for name, entry in weights.manifest().items():
        folder = weights.find(name)  # raises for a missing file or a wrong hash
        assert (
            {f.name for f in folder.iterdir()}
            == set(entry["files"])
            == {"README.md", "config.json", "model.safetensors"}
        )
        assert (folder / "model.safetensors").stat().st_size <= LIMIT
        config, state = weights.read(folder)
        assert config["name"] == name and sum(t.numel() for t in state.values()) == entry["parameters"]


def test_a_sound_encoder_is_no_guard():
    with pytest.raises(CheckpointError, match="not a guard"):
        zoo.load("audio-tiny")
    encoder, digest = audio_encoder("audio-tiny")
    assert (
        encoder.dim == 160 and digest == json.loads((weights.find("audio-tiny") / "config.json").read_text())["sha256"]
    )
    with pytest.raises(CheckpointError, match="not a sound encoder"):
        audio_encoder("omniguard-tiny")


@pytest.mark.assets
def test_omniguard_tiny_judges_new_scenes(tmp_path):
    """Scenes of a seed that it never saw: nearly all verdicts right, the same twice, and with a critique."""
    guard = zoo.load("omniguard-tiny")
    test = [s for s in scenes.build(tmp_path / "scenes", seed=12345, scale=0.02, progress=False) if s.split == "test"]
    golds = [s.gold(s.policy) for s in test]
    verdicts = guard.moderate(test)
    right = sum(v.flagged == g for v, g in zip(verdicts, golds))
    assert right / len(test) >= 0.8, f"{right} of {len(test)}"
    explained = guard.moderate(test[:6], explain=True)
    assert [v.score for v in explained] == pytest.approx([v.score for v in verdicts[:6]], abs=1e-5)
    assert all(v.critique and len(v.critique.split()) >= 3 for v in explained)
    assert all(0 <= p <= 1 for v in verdicts for p in v.categories.values())


@pytest.mark.assets
def test_a_changed_part_is_refused(monkeypatch):
    """A guard pins the hashes of its frozen parts."""
    monkeypatch.setattr("zoo.core.backbones.asset_hash", lambda name: "0" * 64)
    with pytest.raises(CheckpointError, match="was trained on minilm"):
        zoo.load("omniguard-tiny")


def test_calibration_of_nothing_says_so():
    calibration, reasons = calibrate([])
    assert calibration.threshold == 0.5 and "threshold" in reasons
