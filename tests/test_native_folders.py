"""What can be wrong with a native backbone's folder, or with a run that was trained from it: one clear error each."""

import shutil

import pytest
import torch
from helpers import write_audio, write_image
from native_helpers import copied, read_json, without, write_clip, write_json, write_thinker
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5OmniThinkerForConditionalGeneration

from datamodules.schema import MediaError, Policy, PolicyEntry, Sample
from zoo.core.backbones import build, describe, omni_source
from zoo.core.backbones.hub_folders import check_folder
from zoo.core.backbones.readers import plain_ids
from zoo.core.guard import Calibration, Guard
from zoo.core.weights import CheckpointError
from zoo.export import export
from zoo.registry import load, save

POLICY = Policy("colours", (PolicyEntry("red", "a red picture"),))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_thinker(tmp_path_factory.mktemp("hub") / "thinker")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    return [
        Sample.of("words", id="t"),
        Sample.of("one", image=write_image(folder / "a.png"), id="i"),
        Sample.of(audio=write_audio(folder / "a.wav", seconds=0.5), id="a"),
        Sample.of("a clip", video=write_clip(folder / "a.mp4", seconds=1.0), id="v"),
    ]


def made(folder):
    return build(describe("qwen_omni_3b", path=str(folder), dtype="float32", image_tokens=4, frame_tokens=4)).eval()


def changed(folder, **values):
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **values})


def only_pickles(folder):
    torch.save({"x": torch.zeros(2)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def cut_short(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def a_shard_is_missing(folder):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    write_json(folder / "model.safetensors.index.json", index)


def a_shard_lies_elsewhere(folder):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"a": "../model-1.safetensors"}})


def few_weights(folder):
    state = load_file(folder / "model.safetensors")
    save_file({n: t for n, t in state.items() if "layers.1" not in n}, folder / "model.safetensors", {"format": "pt"})


def other_shapes(folder):
    config = read_json(folder / "config.json")
    config["text_config"]["intermediate_size"] = 40
    write_json(folder / "config.json", config)


def a_tokenizer_without_marks(folder):
    config = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {k: v for k, v in config.items() if v != "<|IMAGE|>"})


def a_delimiter_that_anybody_can_type(folder):
    tokenizer = read_json(folder / "tokenizer.json")
    for token in tokenizer["added_tokens"]:
        token["special"] = token["content"] != "<|im_start|>"
    write_json(folder / "tokenizer.json", tokenizer)
    config = read_json(folder / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {k: v for k, v in config.items() if v != "<|im_start|>"})


def another_tokenizer(folder):
    changed(folder, image_token_index=read_json(folder / "config.json")["image_token_index"] + 1)


def another_processor(folder):
    config = read_json(folder / "processor_config.json")
    config["image_processor"]["image_processor_type"] = "CLIPImageProcessor"
    write_json(folder / "processor_config.json", config)


def remove(*names):
    return lambda folder: [(folder / n).unlink() for n in names]


@pytest.mark.parametrize(
    "spoil, text",
    [
        (remove("config.json"), "no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "not readable as JSON"),
        (lambda f: changed(f, model_type="llama"), "model_type 'llama'.*qwen2_5_omni"),
        (lambda f: changed(f, model_type=None), "model_type None"),
        (remove("model.safetensors"), "no weights: expected model.safetensors"),
        (only_pickles, r"pickled weights only \(pytorch_model.bin\).*never loaded"),
        (cut_short, "model.safetensors: damaged or cut short"),
        (a_shard_is_missing, "model-2.safetensors is missing"),
        (a_shard_lies_elsewhere, "is not the name of a file beside it"),
        (few_weights, "weights are missing, e.g. model.language_model.layers.1"),
        (other_shapes, "do not fit Qwen2.5-Omni"),
        (remove("tokenizer.json"), "no tokenizer"),
        (a_tokenizer_without_marks, "its tokenizer has no image_token"),
        (another_tokenizer, "image_token is 258 to its tokenizer and 259 to its config"),
        (another_processor, "image_processor_type is CLIPImageProcessor"),
    ],
)
def test_a_bad_folder_is_one_clear_error(folder, tmp_path, spoil, text):
    bad = copied(folder, tmp_path / "bad")
    spoil(bad)
    with pytest.raises(CheckpointError, match=text) as e:
        made(bad)
    assert str(bad) in str(e.value) and "\n" not in str(e.value)


def test_a_delimiter_that_is_not_called_special_is_still_characters(folder, tmp_path):
    bad = copied(folder, tmp_path / "bad")
    a_delimiter_that_anybody_can_type(bad)
    tokenizer = made(bad).tokenizer
    typed = plain_ids(tokenizer, "<|im_start|>user")
    assert (
        tokenizer.convert_tokens_to_ids("<|im_start|>") not in typed and tokenizer.decode(typed) == "<|im_start|>user"
    )


def test_a_folder_is_checked_without_reading_its_weights(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "empty", lambda *a, **kw: pytest.fail("weights were read"))
    assert check_folder(folder, omni_source.FAMILIES, "it")["model_type"] == "qwen2_5_omni_thinker"


@pytest.mark.parametrize("part, kind", [("image_processor", "i"), ("feature_extractor", "a"), ("video_processor", "v")])
def test_a_processor_without_a_modality(folder, samples, tmp_path, part, kind):
    lacking = copied(folder, tmp_path / "lacking")
    without(lacking, part)
    backbone = made(lacking)
    assert len(backbone.modalities) == 3
    guard = Guard(backbone, POLICY)
    bad = next(s for s in samples if s.id == kind)
    with pytest.raises(MediaError, match=f"sample '{kind}' needs .*qwen_omni_3b takes"):
        guard.moderate([samples[0], bad])
    rest = [s for s in samples if s.id not in {"image_processor": "i", "feature_extractor": "av"}.get(part, "v")]
    assert len(guard.moderate(rest)) == len(rest) >= 2


def test_a_run_whose_base_was_changed_or_has_gone(folder, tmp_path):
    base = copied(folder, tmp_path / "base")
    save(Guard(made(base), POLICY), tmp_path / "run" / "model", "omniguard", "# card\n")
    state = load_file(base / "model.safetensors")
    state["lm_head.weight"][0, 0] += 1
    save_file(state, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"trained on base with hash.*backbone path"):
        load(tmp_path / "run")
    shutil.rmtree(base)
    with pytest.raises(CheckpointError, match="base: no such folder"):
        load(tmp_path / "run")


SOFT = Calibration(temperature=20.0)  # random weights are sure of everything


def trained(folder):
    """A guard whose adapters change something: their second factor starts as zeros."""
    guard = Guard(made(folder), POLICY, SOFT, name="omni")
    with torch.no_grad():
        for name, p in guard.backbone.named_parameters():
            if "lora_B" in name:
                p.normal_(0, 0.2)
    return guard.eval()


def test_merged_weights_are_a_folder_of_the_same_kind(folder, samples, tmp_path):
    """They load with the plain class, and as a backbone's folder: the same verdicts without an adapter."""
    guard = trained(folder)
    save(guard, tmp_path / "run" / "model", "omniguard", "# card\n")
    difference, allowed = export(tmp_path / "run", tmp_path / "out")
    assert difference <= allowed
    _, report = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    again = Guard(made(tmp_path / "out"), POLICY, SOFT).eval()
    plain = Guard(made(folder), POLICY, SOFT).eval()
    scores, merged, untrained = ([v.score for v in g.moderate(samples)] for g in (guard, again, plain))
    assert merged == pytest.approx(scores, abs=1e-4) and max(abs(a - b) for a, b in zip(scores, untrained)) > 0.01


def test_adapters_lie_over_the_folder(folder, tmp_path):
    guard = trained(folder)
    save(guard, tmp_path / "run" / "model", "omniguard", "# card\n")
    export(tmp_path / "run", tmp_path / "out", adapters=True)
    base = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(folder)
    model = PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    ids = torch.tensor([plain_ids(guard.backbone.tokenizer, "is there a fire?")])
    with torch.no_grad():
        expected = guard.backbone.lm(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(model(input_ids=ids, use_cache=False).logits, expected, rtol=1e-4, atol=1e-4)


def test_an_export_needs_every_processor(folder, tmp_path):
    lacking = copied(folder, tmp_path / "lacking")
    config = read_json(lacking / "processor_config.json")
    write_json(lacking / "processor_config.json", {k: v for k, v in config.items() if k != "feature_extractor"})
    with pytest.raises(CheckpointError, match="no processor for sound"):
        made(lacking).export_parts()
