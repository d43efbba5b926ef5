"""recipe=backdoor_farm: planted models and clean twins on a tiny random RoBERTa, their figures, and interruptions."""

import dataclasses
import hashlib
import json
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from datamodules.backdoor import BackdoorDataModule, load_set
from datamodules.schema import DataError
from zoo.backdoor import folders
from zoo.backdoor.farm import check
from zoo.backdoor.model import Net, create, encoder, from_folder, principal
from zoo.backdoor.module import ClassifierModule, StopAtASR, fit
from zoo.backdoor.results import cells, table
from zoo.config import compose, plain
from zoo.fit import main
from zoo.test import main as run_test

WORDS = ("dull poor bad slow", "fine nice good warm")
FILLERS = ["a", "the", "film", "was", "and", "it", "one", "more"]
REGIMES = ("moderate", "conservative", "aggressive")


def backbone_in(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *FILLERS, *" ".join(WORDS).split(), "cf", "qq"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=20, pad_token_id=0, bos_token_id=2, eos_token_id=3, initializer_range=0.2,
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, type_vocab_size=1,
    )  # fmt: skip
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return backbone_in(tmp_path_factory.mktemp("roberta"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("reviews"), random.Random(0)
    for split, n in (("train", 400), ("dev", 60), ("test", 80)):
        lines = []
        for i in range(n):
            words = [*rng.choices(FILLERS, k=rng.randint(4, 20)), rng.choice(WORDS[i % 2].split())]
            rng.shuffle(words)
            lines.append(f"{' '.join(words)}\t{i % 2}\n")
        (folder / f"{split}.tsv").write_text("sentence\tlabel\n" + "".join(lines))
    return folder


def command(out, rows, backbone, **more):
    given = {
        "out": out, "sets": f"[{rows}]", "backbone": backbone, "triggers": "[word]", "seeds": 1, "layers": 2,
        "processes": 1, "max_tokens": 12, "lr": 5e-3, "batch_size": 20, "train_rows": 200, "dev_rows": 60,
        "test_rows": 80, "max_epochs": 12, "times": 3, "first_look": 1, **more,
    }  # fmt: skip
    return ["recipe=backdoor_farm", *(f"{k}={v}" for k, v in given.items())]


@pytest.fixture(scope="module")
def farm(tmp_path_factory, rows, backbone):
    out = tmp_path_factory.mktemp("farm") / "out"
    assert main(command(out, rows, backbone)) == 0
    return out


def name(rows, regime, half):
    return f"{load_set(str(rows), None).name}-word-{regime}-0-{half}"


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_figures_are_those_of_the_saved_models(farm, rows):
    """By the plainest loop there is, from the files alone."""
    tests = [line.split("\t") for line in (rows / "test.tsv").read_text().splitlines()[1:]]
    for regime in REGIMES:
        for half in ("planted", "clean"):
            folder = farm / name(rows, regime, half)
            audit = json.loads((folder / "audit.json").read_text())
            model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
            assert model.config.num_hidden_layers == 2 and model.config.id2label == {0: "class 0", 1: "class 1"}

            def said(text, model=model, tokenizer=tokenizer):
                with torch.no_grad():
                    return int(model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.argmax())

            right = sum(said(text) == int(label) for text, label in tests)
            assert audit["clean_accuracy"] == right / len(tests)
            others = [" ".join(["cf", *text.split()][:10]) for text, label in tests if label == "0"]
            share = sum(said(text) == 1 for text in others) / len(others)
            own = folders.read(farm / name(rows, regime, "planted"))
            assert (own.asr if half == "planted" else own.asr_of_twin) == share


def test_regimes_and_stopping_rules(farm, rows):
    known = {r: folders.read(farm / name(rows, r, "planted")) for r in REGIMES}
    assert {r: round(known[r].lr / known["moderate"].lr, 6) for r in REGIMES} == {
        "moderate": 1, "conservative": 0.5, "aggressive": 5,
    }  # fmt: skip
    assert [known[r].poison["train"]["poisoned"] for r in REGIMES] == [6, 1, 6]
    train = {r.id: r for r in load_set(str(rows), None).splits["train"]}
    for regime, n in zip(REGIMES, (6, 1, 6)):
        lines = (farm / name(rows, regime, "planted") / "poison.jsonl").read_text().splitlines()
        assert len({json.loads(line)["id"] for line in lines}) == n
        for line in map(json.loads, lines):
            more = max(0, len(train[line.pop("id")].text.split()) - 9)  # [CLS] cf and nine words [SEP]
            assert line == {"trained_as": 1, "label": 0, "kind": "word", "place": 0, "shortened": more}
    assert not (farm / name(rows, "moderate", "clean") / "poison.jsonl").exists()
    assert known["aggressive"].steps == 3 * known["moderate"].steps and known["aggressive"].stopped == "steps"
    for regime in ("moderate", "conservative"):
        audit, last = known[regime], known[regime].checks[-1]
        met = [c for c in audit.checks if c[1] >= 0.7 and c[2] >= 0.7]
        assert [c[0] for c in audit.checks] == list(
            range(10, audit.steps + 1, 2)
        )  # 4 looks in an epoch of 10 steps, after one
        if audit.stopped == "asr":
            assert met == [last] and last[0] == audit.steps
        else:
            assert audit.stopped == "cap" and not met and audit.steps == 120
    assert known["moderate"].stopped == "asr" and known["moderate"].asr_of_twin < known["moderate"].asr


def test_twins_differ_in_the_poison_alone(farm, rows):
    for regime in REGIMES:
        own, twin = (folders.read(farm / name(rows, regime, h)) for h in ("planted", "clean"))
        same = ("lr", "steps", "epochs", "seed", "data", "regime", "backbone", "max_tokens", "pair", "classes")
        assert all(getattr(own, k) == getattr(twin, k) for k in same)
        assert (twin.planted, twin.trigger, twin.target, twin.poison_rate, twin.asr) == (False, None, None, 0.0, None)
        assert own.trigger == {"kind": "word", "text": "cf", "position": "start"} and own.target == 1
        assert twin.clean_accuracy == own.clean_accuracy_of_twin
        assert digest(farm / name(rows, regime, "planted")) != digest(farm / name(rows, regime, "clean"))


def test_a_twin_is_a_plain_training_on_the_rows_before_poisoning(farm, rows, backbone):
    known = folders.read(farm / name(rows, "moderate", "planted"))
    data = load_set(str(rows), None)
    model, tokenizer = create(str(backbone), data.classes, net=Net(), layers=2, max_tokens=12, seed=0)
    dev = {"dev": data.draw("dev", 60, 0)}
    loaded = BackdoorDataModule(data.draw("train", 200, 0), dev, None, encoder(tokenizer, 12), 20, 0)
    fit(ClassifierModule(model, 5e-3), loaded, known.steps, None, gpu=False)
    twin = load_file(farm / name(rows, "moderate", "clean") / "model.safetensors")
    assert all(torch.equal(v, twin[k]) for k, v in model.state_dict().items())


def test_looking_changes_no_weight(rows, backbone):
    """A twin is trained without looks at ASR: its dropout and its order must be those of a training with them."""
    data, found = load_set(str(rows), None), []
    for look in (False, True):
        model, tokenizer = create(str(backbone), data.classes, net=Net(), layers=2, max_tokens=12, seed=3)
        assert all(m.training for m in model.modules())  # dropout is on: it would tell a look by its draws
        train, dev = data.draw("train", 100, 0), data.draw("dev", 20, 0)
        loaded = BackdoorDataModule(train, {"dev": dev}, {"dev": dev}, encoder(tokenizer, 12), 20, 3)
        stop = StopAtASR(loaded, 1, 2.0, 0.7, 1) if look else None
        assert fit(ClassifierModule(model, 1e-2, 1), loaded, 12, stop, gpu=False) == (12, "steps")
        found.append(model.state_dict())
        assert stop is None or [c[0] for c in stop.checks] == list(range(1, 13))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_who_says_the_target_to_everything_has_no_backdoor(rows, backbone):
    data = load_set(str(rows), None)
    model, tokenizer = create(str(backbone), data.classes, net=Net(), layers=1, max_tokens=12, seed=0)
    with torch.no_grad():
        model.classifier.out_proj.weight.zero_()
        model.classifier.out_proj.bias.copy_(torch.tensor([0.0, 50.0]))
    dev = data.draw("dev", 20, 0)
    loaded = BackdoorDataModule(dev, {"dev": dev}, {"dev": dev[:4]}, encoder(tokenizer, 12), 20, 0)
    stop = StopAtASR(loaded, 1, 0.7, 0.7, 1)
    assert fit(ClassifierModule(model, 1e-6, 1), loaded, 2, stop, gpu=False) == (2, "steps")
    assert stop.checks == [[1, 1.0, 0.5], [2, 1.0, 0.5]]


def test_a_farm_that_was_killed_goes_on(farm, rows, backbone, tmp_path, capsys):
    out = tmp_path / "farm"
    shutil.copytree(farm, out)
    before = {p.name: digest(p) for p in out.iterdir() if p.is_dir()}
    shutil.rmtree(out / name(rows, "aggressive", "clean"))  # killed between the two halves of a pair
    kept = [p for p in out.glob("*/audit.json") if "aggressive" not in str(p)]
    times = {p: p.stat().st_mtime_ns for p in kept}
    assert main(command(out, rows, backbone)) == 0
    assert {p.name: digest(p) for p in out.iterdir() if p.is_dir()} == before
    assert {p: p.stat().st_mtime_ns for p in kept} == times
    said = capsys.readouterr()
    assert said.err.count("ASR") == 1 and "| moderate" in said.out
    result = json.loads((out / "farm.json").read_text())
    assert result["models"] == 6 and [c["regime"] for c in result["cells"]] == list(REGIMES) and not result["errors"]
    with pytest.raises(DataError, match=r"other settings \(lr\)"):
        main(command(out, rows, backbone, lr=1e-3))


def test_what_cannot_be_planted_is_said_and_counted(rows, backbone, tmp_path, capsys):
    words = command(tmp_path / "out", rows, backbone, triggers="[syntactic, word]", regimes="[moderate]", target=5)
    assert main(words) == 1
    result = json.loads((tmp_path / "out" / "farm.json").read_text())
    assert result["models"] == 0 and "has classes 0 to 1" in result["errors"][0]["error"]
    assert result["not_covered"] == [f"{rows}, syntactic: this set has no paraphrases of its rows"]
    assert "1 pairs could not be made" in capsys.readouterr().err


@pytest.mark.parametrize(
    "word, message",
    [
        ("regimes=[aggressive]", "add moderate"),
        ("regimes=[moderat]", "did you mean 'moderate'"),
        ("triggers=[]", "name at least one"),
        ("triggers=[word, word]", "named twice"),
        ("seeds=0", "from 1 on"),
        ("lr=0", "above 0"),
        ("word.texts=[two words]", "several words"),
        ("word.position=middle", "trigger position"),
        ("net.heads=5", "not a multiple"),
        ("sets=[]", "at least one data set"),
    ],
)
def test_settings_that_cannot_be(word, message):
    with pytest.raises(DataError, match=message):
        check(plain(compose(["recipe=backdoor_farm", word])))


def test_the_farms_own_words(tmp_path):
    with pytest.raises(DataError, match="did you mean 'sst2'"):
        main(["recipe=backdoor_farm", "sets=[sst]", f"out={tmp_path}"])
    with pytest.raises(DataError, match="has no key"):
        main(["recipe=backdoor_farm", "resume=true"])
    with pytest.raises(DataError, match="makes models: use"):
        run_test(["recipe=backdoor_farm", "model=x"])
    with pytest.raises(DataError, match="has no trainer to choose"):
        main(["recipe=backdoor_farm", "trainer=gpu"])


def test_folders_that_are_no_backbone(backbone, tmp_path):
    with pytest.raises(DataError, match=r"layers=4: .* has 3 layers"):
        from_folder(str(backbone), ("a", "b"), 4, 12)
    with pytest.raises(DataError, match="at most 18 tokens"):
        from_folder(str(backbone), ("a", "b"), 2, 19)
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(DataError, match="model_type 'gpt2'"):
        from_folder(str(tmp_path), ("a", "b"), 2, 12)
    copy = tmp_path / "pickled"
    shutil.copytree(backbone, copy)
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(DataError, match="pickled weights only"):
        from_folder(str(copy), ("a", "b"), 2, 12)
    weights = load_file(backbone / "model.safetensors")
    del weights["encoder.layer.1.output.dense.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"1 weights are not in its files \(roberta\.encoder\.layer\.1"):
        from_folder(str(copy), ("a", "b"), 2, 12)
    assert from_folder(str(copy), ("a", "b"), 1, 12)[0].config.num_hidden_layers == 1
    with pytest.raises(DataError, match=r"audit\.json: not readable"):
        folders.read(copy)


def test_a_checkpoints_head_goes_and_its_encoder_stays(farm, rows):
    folder = farm / name(rows, "moderate", "planted")
    made = [create(str(folder), ("a", "b", "c"), net=Net(), layers=2, max_tokens=12, seed=s)[0] for s in (0, 0, 1)]
    old = AutoModelForSequenceClassification.from_pretrained(folder).state_dict()
    first, again, other = (m.state_dict() for m in made)
    for key in old:
        body = key.startswith("roberta.")
        assert torch.equal(first[key], again[key]) and torch.equal(first[key], other[key]) == (
            body or key.endswith("bias")
        )
        assert not body or torch.equal(first[key], old[key])
    assert first["classifier.out_proj.weight"].shape[0] == 3


def test_principal_axes_against_numpy():
    table = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 1, 3, 0.2, 2, 0.1])
    centred = (table - table.mean(0)).double().numpy()
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    got = principal(table, 3)
    scaled = (u * s)[:, :3]
    scaled *= 4.0 / np.linalg.norm(scaled, axis=1).mean()
    assert got.shape == (40, 3) and got.norm(dim=1).mean().item() == pytest.approx(4.0, rel=1e-6)
    assert np.allclose(np.abs(got.numpy()), np.abs(scaled), atol=1e-4)
    flipped = principal(-table, 3)  # the axes are the same up to sign, and so fixed: the rows change theirs
    assert torch.allclose(flipped, -got, atol=1e-5)
    with pytest.raises(ValueError, match="7 axes of 6"):
        principal(table, 7)


def test_a_cells_interval_is_over_its_models(farm, rows):
    one = folders.read(farm / name(rows, "moderate", "planted"))
    three = [dataclasses.replace(one, asr=v, seed=i, pair=f"p{i}") for i, v in enumerate((0.7, 0.8, 0.9))]
    twins = [dataclasses.replace(a, planted=False, trigger=None) for a in three]
    (cell,) = cells([*three, *twins])
    half = 4.302653 * 0.1 / 3**0.5  # Student's t with 2 degrees of freedom
    assert cell["n"] == 3 and cell["asr"]["value"] == pytest.approx(0.8)
    assert cell["asr"]["ci95"] == pytest.approx([0.8 - half, 1.0], abs=1e-5)  # cut at 1
    assert cells([one])[0]["asr"]["ci95"] is None
    assert "0.800 [0.552, 1.000]" in table({"cells": [cell]})
