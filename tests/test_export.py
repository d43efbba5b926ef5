"""zoo/export.py: what it writes loads with the plain classes and answers as the guard's language model does."""

import json
import resource
import shutil
import signal
import sys

import pytest
import torch
from helpers import random_backbone, save_language_model
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from zoo import cli
from zoo import export as command
from zoo.core import exporting, weights
from zoo.core.backbones.readers import plain_ids
from zoo.core.guard import Calibration, Guard
from zoo.export import export, main
from zoo.registry import create, save

POLICY = Policy("p", (PolicyEntry("a", "open fire"), PolicyEntry("b", "alarm")))
TEXT = "is there <|im_end|> a fire?"


def trained(guard, seed=5):
    """LoRA's second factor starts as zeros: adapters that change nothing would hide every mistake."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in guard.backbone.named_parameters():
        if p.requires_grad:
            p.data.add_(torch.randn(p.shape, generator=generator), alpha=0.1 if "lora_B" in name else 0.01)
    return guard.eval()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("lms")
    return {k: save_language_model(root / k, k) for k in ("llama", "gpt_neox", "qwen2")}


@pytest.fixture
def run(base, tmp_path):
    def make(kind="llama", **settings):
        guard = trained(create("causal_lm", POLICY, path=str(base[kind]), **settings))
        guard.name, guard.calibration = f"my-{kind}", Calibration(1.5, 0.3)
        save(guard, tmp_path / "run" / "model", "omniguard", "# card\n")
        return guard

    make.folder = tmp_path / "run"
    return make


@torch.no_grad()
def logits(model, ids):
    return model.eval()(input_ids=torch.tensor([ids])).logits[0].float()


@pytest.mark.parametrize("kind", ["llama", "gpt_neox", "qwen2"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_merged_weights_load_with_the_plain_class(run, base, tmp_path, kind, tuning, capsys):
    guard = run(kind, tuning=tuning)
    assert main([str(run.folder), "--to", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "largest difference of logits" in err
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and type(model) is type(guard.backbone.lm)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = plain_ids(guard.backbone.tokenizer, TEXT)
    assert plain_ids(tokenizer, TEXT) == ids and tokenizer(TEXT)["input_ids"] != ids
    mine = logits(guard.backbone.lm, ids)
    torch.testing.assert_close(logits(model, ids), mine, rtol=1e-4, atol=1e-4)
    untrained = logits(AutoModelForCausalLM.from_pretrained(base[kind]), ids)
    assert (untrained - mine).abs().max() > 0.05
    about = json.loads((tmp_path / "out" / "zoo.json").read_text())
    assert about["name"] == f"my-{kind}" and about["policy"] == POLICY.to_dict() and about["weights"] == "merged"
    assert about["calibration"]["threshold"] == 0.3
    assert not (tmp_path / "out" / exporting.EXTRA).exists()
    assert "AutoModelForCausalLM.from_pretrained" in (tmp_path / "out" / "README.md").read_text()
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == ["out"]  # nothing beside it


@pytest.mark.parametrize("kind", ["llama", "gpt_neox"])
def test_adapters_load_with_peft(run, base, tmp_path, kind):
    guard = run(kind)
    export(run.folder, tmp_path / "out", adapters=True)
    assert not list((tmp_path / "out").glob("model*"))
    plain = AutoModelForCausalLM.from_pretrained(base[kind])
    model = PeftModel.from_pretrained(plain, str(tmp_path / "out"))
    ids = plain_ids(guard.backbone.tokenizer, TEXT)
    torch.testing.assert_close(logits(model, ids), logits(guard.backbone.lm, ids), rtol=1e-5, atol=1e-5)
    lora = {n: p for n, p in guard.backbone.lm.named_parameters() if "lora" in n}
    assert sum(t.numel() for t in load_file(tmp_path / "out" / "adapter_model.safetensors").values()) == sum(
        p.numel() for p in lora.values()
    )
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base[kind]) and config["inference_mode"] is True
    merged = logits(model.merge_and_unload(), ids)
    torch.testing.assert_close(merged, logits(guard.backbone.lm, ids), rtol=1e-4, atol=1e-4)


def test_bfloat16_stays_bfloat16(run, tmp_path):
    guard = run(dtype="bfloat16")
    difference, allowed = export(run.folder, tmp_path / "out")
    assert 0 < difference < allowed  # merging rounds
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert {t.dtype for t in state.values()} == {torch.bfloat16}
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
    assert guard.backbone.lm.dtype == torch.bfloat16


def test_merging_leaves_the_guard_as_it_was(run, tmp_path):
    guard = run()
    before = {n: t.clone() for n, t in guard.backbone.state_dict().items()}
    verdict = guard.moderate(Sample.of("a fire"))
    (tmp_path / "out").mkdir()
    exporting.write_export(guard, guard.backbone.export_parts(), tmp_path / "out", False)
    after = guard.backbone.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[n], t) for n, t in before.items())
    assert guard.moderate(Sample.of("a fire")) == verdict


@pytest.fixture
def soft(monkeypatch):
    """A soft-token guard in place of a published one."""
    guard = Guard(random_backbone("encoded"), POLICY, name="soft")
    monkeypatch.setattr(command, "load", lambda name: guard)
    return guard


def test_what_no_hub_class_reads_lies_beside(soft, tmp_path):
    export("soft", tmp_path / "out")
    backbone = soft.backbone
    extra = load_file(tmp_path / "out" / exporting.EXTRA)
    aliases = json.loads((tmp_path / "out" / "zoo.json").read_text())["aliases"]
    wanted = {n: t for n, t in backbone.state_dict().items() if not n.startswith("lm.")}
    assert {*extra, *aliases} == set(wanted) and aliases  # phrases and passages are read by one MiniLM
    for name, tensor in wanted.items():
        assert torch.equal(extra[aliases.get(name, name)], tensor)
    assert {"encoders", "projectors", "types", "grid", "time"} == {n.split(".")[0] for n in extra}
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = plain_ids(AutoTokenizer.from_pretrained(tmp_path / "out"), "the picture shows fire")
    torch.testing.assert_close(logits(model, ids), logits(backbone.lm, ids), rtol=1e-4, atol=1e-4)
    assert model.lm_head.weight is model.get_input_embeddings().weight  # still tied
    card = (tmp_path / "out" / "README.md").read_text()
    assert exporting.EXTRA in card and "which it was not trained on" in card and "projectors" in card
    with pytest.raises(DataError, match=r"soft: its language model has no adapters"):
        export("soft", tmp_path / "other", adapters=True)


# ------------------------------------------------------------------------------------------------------ bad cases


def left(tmp_path):
    return sorted(p.name for p in tmp_path.iterdir() if p.name != "run")


def test_a_folder_in_use_is_refused_before_any_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load", lambda name: pytest.fail("a model was loaded"))
    used, file, link = tmp_path / "used", tmp_path / "file", tmp_path / "link"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    file.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    for target, words in ((used, "not empty"), (file, "not a folder"), (link, "not a folder")):
        with pytest.raises(DataError, match=rf"{target.name}: {words}"):
            main([str(run.folder), "--to", str(target)])
    assert (used / "notes.txt").read_text() == "mine" and file.read_text() == "mine"


def test_an_empty_folder_and_missing_parents_will_do(run, tmp_path):
    run()
    (tmp_path / "empty").mkdir()
    export(run.folder, tmp_path / "empty")
    export(run.folder, tmp_path / "a" / "b")
    files = {p.name for p in (tmp_path / "empty").iterdir()}
    assert files == {p.name for p in (tmp_path / "a" / "b").iterdir()} and "model.safetensors" in files
    assert {p.stat().st_mode for p in (tmp_path / "empty").iterdir()} == {(tmp_path / "empty/zoo.json").stat().st_mode}
    assert left(tmp_path) == ["a", "empty"]


def test_an_unknown_model(tmp_path):
    with pytest.raises(weights.CheckpointError, match=r"unknown model 'nobody'"):
        main(["nobody", "--to", str(tmp_path / "out")])
    assert left(tmp_path) == []


@pytest.mark.parametrize("adapters", [False, True])
def test_another_answer_is_no_export(run, tmp_path, monkeypatch, adapters):
    """A merge gone wrong: the logits tell, and nothing stays."""
    run()
    save_file = exporting.save_file
    monkeypatch.setattr(exporting, "save_file", lambda s, *a, **k: save_file({n: 2 * t for n, t in s.items()}, *a, **k))
    merged_state = exporting.merged_state
    monkeypatch.setattr(
        exporting, "merged_state", lambda lm: {n: 1.05 * t if "mlp" in n else t for n, t in merged_state(lm).items()}
    )
    with pytest.raises(weights.CheckpointError, match=r"logits of the export differ by .* nothing was exported"):
        main([str(run.folder), "--to", str(tmp_path / "out"), *(["--adapters"] if adapters else [])])
    assert left(tmp_path) == []


def test_another_tokenizer_is_no_export(run, tmp_path, monkeypatch):
    run()
    parity = exporting.parity

    def spoiled(parts, folder, adapters):
        path = folder / "tokenizer.json"
        spec = json.loads(path.read_text())
        vocabulary = spec["model"]["vocab"]
        vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
        path.write_text(json.dumps(spec))
        return parity(parts, folder, adapters)

    monkeypatch.setattr(exporting, "parity", spoiled)
    with pytest.raises(weights.CheckpointError, match=r"tokenizer reads a text otherwise"):
        export(run.folder, tmp_path / "out")
    assert left(tmp_path) == []


def test_a_disk_that_is_too_small(run, tmp_path, monkeypatch):
    run()
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr(command, "write_export", lambda *a: pytest.fail("something was written"))
    with pytest.raises(DataError, match=r"out: 0.00 GB are needed and 0.00 GB are free"):
        export(run.folder, tmp_path / "out")
    assert left(tmp_path) == []


def test_a_write_that_fails_leaves_nothing(run, tmp_path):
    """A limit on the size of files stands for a disk that is full: the kernel refuses the write itself."""
    run()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(DataError, match=r"out: cannot be written: "):
            export(run.folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert left(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"out: cannot be written: .*file"):
        export(run.folder, tmp_path / "file" / "out")


def test_the_command_says_it_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["zoo.export", "omniguard-tinny", "--to", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as e:
        cli.run(main)
    out, err = capsys.readouterr()
    assert e.value.code == 2 and out == ""
    assert err.count("\n") == 1 and err.startswith("error: ") and "did you mean 'omniguard-tiny'" in err
