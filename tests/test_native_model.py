"""The native backbone as a model: from a folder or the hub, trained, saved, loaded; and what is wrong with a folder."""

import dataclasses
import json

import lightning as L
import pytest
import torch
from helpers import write_audio
from native_helpers import copied, without, write_clip, write_thinker, write_whole
from safetensors.torch import load_file
from test_module import PLAIN, Losses, paint

import zoo
from datamodules import GuardDataModule
from datamodules.schema import MediaError, Policy, PolicyEntry, Sample
from zoo import fit as command
from zoo.core.backbones import build, describe, native, omni_source
from zoo.core.backbones.hub_folders import weight_files, weights_hash
from zoo.core.guard import Guard
from zoo.core.losses import LossWeights, Targets, guard_loss
from zoo.core.module import GuardModule
from zoo.core.query import policy_queries
from zoo.core.weights import CheckpointError
from zoo.registry import load, save

POLICY = Policy("colours", (PolicyEntry("red", "a red picture"),))
SMALL = {"dtype": "float32", "image_tokens": 4, "frame_tokens": 4, "gradient_checkpointing": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_thinker(tmp_path_factory.mktemp("hub") / "thinker")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    paint(folder / "red.png", True, 0)
    paint(folder / "green.png", False, 1)
    write_audio(folder / "a.wav", seconds=0.5)
    write_clip(folder / "a.mp4", seconds=1.0)
    return folder


@pytest.fixture(scope="module")
def samples(files):
    return [
        Sample.of("words", id="t"),
        Sample.of("two", image=[files / "red.png", files / "green.png"], id="i"),
        Sample.of(audio=files / "a.wav", id="a"),
        Sample.of("a clip", video=files / "a.mp4", id="v"),
    ]


def made(folder, seed=0, **settings):
    torch.manual_seed(seed)
    return build(describe("qwen_omni_3b", path=str(folder), **{**SMALL, **settings})).eval()


def shaken(backbone, seed=5):
    """Adapters start as no change at all; here they are one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in backbone.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn(p.shape, generator=generator).to(p.dtype))
    return backbone


def collated(backbone, samples):
    return backbone.collate([backbone.prepare(s, POLICY, policy_queries(POLICY)) for s in samples])


def scores(backbone, samples):
    with torch.no_grad():
        return backbone.score_batch(collated(backbone, samples)).logp


# -------------------------------------------------------------------------------------------------- where it comes from


def test_a_thinker_alone_and_a_whole_model_are_the_same(folder, samples, tmp_path):
    """Names with and without `thinker.`, in shards, with processors as transformers 4 wrote them."""
    whole = write_whole(tmp_path / "whole", folder)
    assert [p.name for p in weight_files(whole)] == ["model-a.safetensors", "model-b.safetensors"]
    one, other = made(folder), made(whole)
    saved = load_file(folder / "model.safetensors")
    assert torch.equal(one.lm.lm_head.weight, saved["lm_head.weight"])
    torch.testing.assert_close(scores(one, samples), scores(other, samples), rtol=0, atol=0)
    assert one.describe()["pins"] != other.describe()["pins"]  # other bytes are another base
    assert one.modalities == other.modalities == {"text", "image", "audio", "video"}


def test_the_description_builds_the_same_backbone(folder):
    description = made(folder).describe()
    assert json.loads(json.dumps(description)) == description
    assert description["pins"] == {"base": weights_hash(folder)} and description["path"] == str(folder)
    assert build(description).describe() == description


def test_the_hub_is_asked_once_and_its_licence_is_said(folder, monkeypatch, capsys, tmp_path):
    asked = []

    def snapshot(repo_id, revision, allow_patterns, local_files_only=False, repo_type=None):
        asked.append((repo_id, revision, local_files_only))
        assert not any("pt" in p or p == "*" for p in allow_patterns)
        whole = not local_files_only or len(asked) > 2  # what lies in the cache at first is not
        return str(folder if whole else tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    omni_source._tell.cache_clear()
    assert omni_source.locate("qwen_omni_3b", None) == folder
    assert omni_source.locate("qwen_omni_3b", None) == folder
    assert asked[:2] == [("Qwen/Qwen2.5-Omni-3B", asked[0][1], True), ("Qwen/Qwen2.5-Omni-3B", asked[0][1], False)]
    assert [a[2] for a in asked] == [True, False, True] and len(asked[0][1]) == 40
    said = capsys.readouterr().err
    assert said.count("Qwen Research License") == 1
    assert omni_source.locate("qwen_omni_7b", None) == folder and "Apache-2.0" in capsys.readouterr().err


def test_without_a_network_and_a_cache_the_fix_is_named(monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def snapshot(**wanted):
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(CheckpointError, match=r"Qwen2\.5-Omni-7B is not in the hub's cache.*backbone\.path=DIR"):
        build(describe("qwen_omni_7b"))


# ------------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    rows = []
    for n in range(24):
        paint(folder / f"{n}.png", n % 2 == 0, n)
        content = [{"type": "image", "path": f"{n}.png"}]
        labels = {"red": "yes" if n % 2 == 0 else "no"}
        split = "train" if n < 16 else "val" if n < 20 else "test"
        rows.append(
            {"id": f"r{n}", "messages": [{"role": "user", "content": content}], "categories": labels, "split": split}
        )
    (folder / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_training_learns_and_what_it_saves_gives_the_same_scores(folder, pictures, samples, tmp_path, tuning):
    L.seed_everything(0, verbose=False)
    backbone = made(folder, tuning=tuning, gradient_checkpointing=tuning == "lora").train()
    frozen = {n: p.clone() for n, p in backbone.named_parameters() if not p.requires_grad}
    assert any("visual" in n for n in frozen) and any("audio_tower" in n for n in frozen)
    module, losses = GuardModule(Guard(backbone, POLICY), lr=1e-2, warmup=0.1, weight_decay=0.0), Losses()
    data = GuardDataModule("manifest", path=pictures / "m.jsonl", policy=POLICY, batch_size=8)
    trainer = L.Trainer(max_epochs=5, callbacks=[losses], enable_checkpointing=False, limit_val_batches=0, **PLAIN)
    trainer.fit(module, data)
    assert sum(losses.values[-3:]) < 0.5 * sum(losses.values[:3])
    parameters = dict(backbone.named_parameters())
    assert all(torch.equal(parameters[n], p) for n, p in frozen.items())

    guard = module.guard.eval()
    save(guard, tmp_path / "model", "omniguard", "# card\n")
    state = load_file(tmp_path / "model" / "model.safetensors")
    if tuning == "lora":
        assert state and all("lora_" in n and "language_model" in n for n in state)
    else:
        assert {"lm.lm_head.weight", "lm.model.language_model.embed_tokens.weight"} <= set(state)
        assert not any("visual" in n or "audio_tower" in n for n in state)
    torch.manual_seed(99)  # fresh adapters are drawn before they are replaced
    loaded = load(tmp_path)
    torch.testing.assert_close(scores(loaded.backbone, samples), scores(guard.backbone, samples), rtol=0, atol=0)
    assert (scores(made(folder), samples) - scores(loaded.backbone, samples)).abs().max() > 0.1


def loss_of(backbone, samples):
    batch = collated(backbone, samples)
    targets = Targets(torch.tensor([[1, 0]] * len(samples)), torch.tensor([[0, 1]] * len(samples)))
    return guard_loss(backbone.score_batch(batch), targets, LossWeights())[0]


def gradients(backbone, samples):
    backbone.train()
    backbone.zero_grad()
    loss = loss_of(backbone, samples)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in backbone.named_parameters() if p.requires_grad}


def test_gradient_checkpointing_changes_nothing(folder, samples):
    plain, sparing = (shaken(made(folder, gradient_checkpointing=on)) for on in (False, True))
    (loss, wanted), (other, got) = gradients(plain, samples), gradients(sparing, samples)
    torch.testing.assert_close(other, loss)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6)
    with pytest.raises(RuntimeError, match="gradient checkpointing"):  # it is really on
        sparing.encode(collated(sparing, samples))
    assert sparing.eval().encode(collated(sparing, samples)).cache.get_seq_length() > 0


def test_weights_in_bfloat16_with_adapters_in_float32(folder, samples):
    exact, coarse = shaken(made(folder)), shaken(made(folder, dtype="bfloat16"))
    kinds = {n: p.dtype for n, p in coarse.named_parameters()}
    assert {d for n, d in kinds.items() if "lora_" in n} == {torch.float32}
    assert {d for n, d in kinds.items() if "lora_" not in n} == {torch.bfloat16}
    wanted, got = scores(exact, samples), scores(coarse, samples)
    torch.testing.assert_close(got, wanted, rtol=0.05, atol=0.2)
    assert (got != wanted).any()
    for context in (torch.autocast("cpu", torch.bfloat16), torch.autocast("cpu", enabled=False)):
        with context:
            _, found = gradients(coarse, samples)
        assert all(g.dtype == torch.float32 and g.isfinite().all() for g in found.values())
        assert any(g.abs().max() > 0 for g in found.values())


def test_encoders_are_trained_only_when_asked(folder, samples):
    frozen, free = made(folder), made(folder, freeze_encoders=False)
    _, found = gradients(frozen, samples)
    assert not any("visual" in n or "audio_tower" in n for n in found)
    assert not frozen.lm.model.visual.training and frozen.lm.model.language_model.training
    _, found = gradients(free, samples)
    for encoder in ("visual", "audio_tower"):
        mine = [g for n, g in found.items() if encoder in n]
        assert mine and all(g is not None for g in mine) and max(g.abs().max() for g in mine) > 0
    assert any("visual" in n for n in free.saved_state()) and free.lm.model.visual.training


def test_among_several_processes_every_encoder_takes_part(folder, samples, monkeypatch):
    backbone = made(folder, freeze_encoders=False)
    for rows in ([samples[0]], [samples[1]], [samples[2]]):  # words, pictures, a sound
        monkeypatch.setattr(native, "_several_processes", lambda: False)
        alone, wanted = gradients(backbone, rows)
        assert any(g is None for g in wanted.values())
        monkeypatch.setattr(native, "_several_processes", lambda: True)
        together, found = gradients(backbone, rows)
        assert torch.equal(alone, together) and all(g is not None for g in found.values())
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], torch.zeros_like(found[name]) if gradient is None else gradient)


# ------------------------------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, files):
    """A manifest of all modalities, and of rows with several."""
    folder = tmp_path_factory.mktemp("mixed")
    parts = {
        "text": [{"type": "text", "text": "words"}],
        "image": [{"type": "image", "path": "red.png"}, {"type": "image", "path": "green.png"}],
        "audio": [{"type": "audio", "path": "a.wav"}],
        "video": [{"type": "video", "path": "a.mp4"}],
        "joint": [
            {"type": "text", "text": "see"},
            {"type": "audio", "path": "a.wav"},
            {"type": "image", "path": "red.png"},
        ],
    }
    rows = []
    for split in ("train", "val", "test"):
        for n, (name, content) in enumerate(parts.items()):
            for red in (True, False):
                row = {
                    "id": f"{split}-{name}-{red}",
                    "messages": [{"role": "user", "content": content}],
                    "split": split,
                }
                rows.append({**row, "categories": {"red": "yes" if red else "no"}, "group": f"{n}-{split}-{red}"})
    (folder / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "policy.yaml").write_text("name: colours\nentries: [{id: red, name: a red picture}]\n")
    return [
        "recipe=omniguard",
        "data=manifest",
        f"data.path={folder / 'm.jsonl'}",
        f"data.policy={folder / 'policy.yaml'}",
        f"data_dir={files}",
        "data.batch_size=4",
        "trainer.max_steps=3",
        "trainer.precision=32-true",
        "backbone=qwen_omni_3b",
        *(f"backbone.{k}={str(v).lower()}" for k, v in SMALL.items()),
    ]


def test_fit_saves_a_run_that_loads_with_the_same_scores(mixed, folder, samples, tmp_path, monkeypatch, capsys):
    made = []
    method = command.METHODS["omniguard"]

    def keep(config, data):
        made.append(method.build(config, data))
        backbone = made[-1].guard.backbone
        assert backbone.lm.model.language_model.training and not backbone.lm.model.visual.training
        return made[-1]

    monkeypatch.setitem(command.METHODS, "omniguard", dataclasses.replace(method, build=keep))
    monkeypatch.chdir(folder.parent)
    run, metrics, errors = command.fit([*mixed, f"backbone.path={folder.name}", f"runs={tmp_path / 'runs'}"])
    assert not errors and set(metrics["by_modality"]) == {"text", "image", "audio", "video", "joint"}
    monkeypatch.chdir(tmp_path)  # the run knows its base from any folder
    wanted, got = made[0].guard.eval().moderate(samples), zoo.load(run).moderate(samples)
    for a, b in zip(wanted, got):
        assert b.score == pytest.approx(a.score, abs=1e-5) and b.categories == pytest.approx(a.categories, abs=1e-5)
        assert (b.threshold, b.flagged) == (a.threshold, a.flagged)
    assert "Qwen2.5-Omni-3B holds for these weights, too: Qwen Research" in (run / "model" / "README.md").read_text()
    assert (run / "model" / "model.safetensors").stat().st_size < 200_000  # adapters, not the base


def test_fit_finds_what_is_wrong_before_it_makes_data(mixed, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "build_data", lambda config: pytest.fail("data was made first"))
    for wrong, text in (
        (f"backbone.path={tmp_path / 'none'}", "no such folder"),
        (f"backbone.path={tmp_path}", "no config.json"),
    ):
        with pytest.raises(CheckpointError, match=text):
            command.fit([*mixed, wrong])
    for wrong in ("backbone.tuning=prefix", "backbone.image_tokens=0"):
        with pytest.raises(CheckpointError, match=wrong.partition(".")[2]):
            command.fit([*[a for a in mixed if not a.startswith(wrong.partition("=")[0])], wrong])
    with pytest.raises(CheckpointError, match="dtype=float16: expected one of float32, bfloat16"):
        made(folder, dtype="float16")


def test_fit_says_which_sample_lacks_a_processor(mixed, folder, tmp_path):
    deaf = copied(folder, tmp_path / "deaf")
    without(deaf, "feature_extractor")
    with pytest.raises(MediaError, match=r"'train-audio-True' needs audio.*takes image, text, video only"):
        command.fit([*mixed, f"backbone.path={deaf}", f"runs={tmp_path / 'runs'}"])
    assert not (tmp_path / "runs").exists()
