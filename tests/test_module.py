"""GuardModule as plain Lightning uses it, and zoo/evaluate.py."""

import itertools
import json
import math

import lightning as L
import numpy as np
import pytest
import torch
from helpers import random_backbone
from PIL import Image

from datamodules import GuardDataModule
from datamodules.schema import Policy, PolicyEntry, Sample
from zoo.core.guard import Calibration, Guard
from zoo.core.module import GuardModule, Outcome
from zoo.evaluate import calibrate, evaluate, judge, records, slices_of

POLICY = Policy("colours", (PolicyEntry("red", "a red picture"), PolicyEntry("green", "a green picture")))
ONE = POLICY.subset(["red"])
PLAIN = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
PLAIN |= {"num_sanity_val_steps": 0}


def paint(path, red, seed):
    pixels = np.random.default_rng(seed).integers(0, 60, (32, 32, 3), dtype=np.uint8)
    pixels[..., 0 if red else 1] += 180
    Image.fromarray(pixels).save(path)


def picture(name, id, red, split, **fields):
    messages = [{"role": "user", "content": [{"type": "image", "path": name}]}]
    labels = {"red": "yes" if red else "no"}
    return {"id": id, "messages": messages, "target": "prompt", "categories": labels, "split": split, **fields}


def write(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    rows = []
    for n in range(40):
        paint(folder / f"{n}.png", n % 2 == 0, n)
        rows.append(picture(f"{n}.png", f"r{n}", n % 2 == 0, "train" if n < 24 else "val" if n < 32 else "test"))
    write(folder / "m.jsonl", rows)
    return folder


def data_of(folder, name="m.jsonl", policy=ONE, **kw):
    return GuardDataModule("manifest", path=folder / name, policy=policy, batch_size=8, **kw)


class Losses(L.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if outputs:  # nothing where a whole batch could not be read
            self.values.append(float(outputs["loss"]))


def trained(folder, epochs, seed=0, data=None, **kw):
    L.seed_everything(seed, verbose=False)
    module = GuardModule(Guard(random_backbone(), ONE), lr=1e-2, warmup=0.1)
    losses = Losses()
    trainer = L.Trainer(max_epochs=epochs, callbacks=[losses], **{"enable_checkpointing": False, **PLAIN, **kw})
    data = data or data_of(folder)
    trainer.fit(module, data)
    return trainer, module, data, losses.values


@pytest.fixture(scope="module")
def fitted(folder, tmp_path_factory):
    return trained(folder, 14, enable_checkpointing=True, default_root_dir=tmp_path_factory.mktemp("run"))


def test_plain_lightning_training_learns(fitted):
    trainer, _, data, losses = fitted
    assert sum(losses[-3:]) < 0.35 * sum(losses[:3])
    (scores,) = trainer.test(fitted[1], data, verbose=False)
    assert scores["test/accuracy"] == 1.0 and scores["test/f1"] == 1.0 and scores["test/auprc_image"] == 1.0
    assert {"val/f1", "val/auprc", "val/accuracy"} <= set(trainer.callback_metrics) | set(trainer.logged_metrics) or (
        "test/f1" in trainer.callback_metrics
    )
    (scores,) = trainer.validate(fitted[1], data, verbose=False)
    assert scores["val/f1"] == 1.0


def test_two_runs_with_one_seed_are_the_same(folder):
    one, two, other = (trained(folder, 2, seed)[3] for seed in (0, 0, 0))
    assert one == two == other and len(one) == 6
    data = data_of(folder, seed=1)
    assert trained(folder, 2, data=data)[3] != one  # another order


def test_predictions_are_what_moderate_says(fitted):
    trainer, module, data, _ = fitted
    outcomes = [o for b in trainer.predict(module, dataloaders=data.test_dataloader()) for o in b]
    assert [o.sample.id for o in outcomes] == [s.id for s in data.samples("test")]
    verdicts = module.guard.moderate([o.sample for o in outcomes], batch_size=3)
    for o, v in zip(outcomes, verdicts):
        assert 1 / (1 + math.exp(-o.log_odds)) == pytest.approx(v.score, abs=1e-5)
        assert {k: 1 / (1 + math.exp(-x)) for k, x in o.category_log_odds.items()} == pytest.approx(
            v.categories, abs=1e-5
        )


def test_checkpoints_hold_what_trains_and_nothing_that_runs(fitted, folder):
    trainer, module, _, _ = fitted
    path = trainer.checkpoint_callback.best_model_path
    saved = torch.load(path, weights_only=True)
    names = set(saved["state_dict"])
    assert names and not any("encoders" in n for n in names)
    assert {n for n, p in module.named_parameters() if p.requires_grad} == {n for n in names if n.startswith("guard.")}
    assert saved["hyper_parameters"] == {"lr": 1e-2, "weight_decay": 0.1, "betas": [0.9, 0.95], "warmup": 0.1}
    again = GuardModule(Guard(random_backbone(), ONE), lr=1e-2, warmup=0.1)
    with torch.no_grad():
        for p in again.parameters():
            if p.requires_grad:
                p.zero_()
    (scores,) = L.Trainer(**PLAIN, enable_checkpointing=False).test(
        again, data_of(folder), ckpt_path=path, verbose=False, weights_only=True
    )
    assert scores["test/accuracy"] == 1.0
    del saved["state_dict"][sorted(n for n in names if n.startswith("guard."))[0]]
    with pytest.raises(ValueError, match=r"the checkpoint lacks"):
        again.on_load_checkpoint(saved)


def test_frozen_parts_do_not_move(fitted):
    fresh = random_backbone()
    for name, value in fitted[1].guard.backbone.encoders.state_dict().items():
        assert torch.equal(value, fresh.encoders.state_dict()[name]), name


def test_a_corrupt_picture_is_counted_not_fatal(folder, tmp_path):
    rows = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]
    (folder / "bad.png").write_bytes(b"\x89PNG no picture")
    rows += [picture("bad.png", f"bad-{s}", True, s) for s in ("train", "val", "test")]
    write(folder / "bad.jsonl", rows)
    data = data_of(folder, "bad.jsonl")
    assert not data.corpus.report["errors"]  # the file is there: only decoding tells
    trainer, module, _, losses = trained(folder, 1, data=data)
    assert module.failed_ids == {"bad-train", "bad-val"} and all(map(math.isfinite, losses))
    trainer.test(module, data, verbose=False)
    assert module.failed_ids == {"bad-train", "bad-val", "bad-test"}


def test_a_batch_of_nothing_but_corrupt_pictures(folder):
    (folder / "bad.png").write_bytes(b"\x89PNG no picture")
    rows = [picture("bad.png", f"b{n}", True, "train") for n in range(3)]
    rows += [picture("0.png", f"{s}0", True, s) for s in ("val", "test")]
    write(folder / "all_bad.jsonl", rows)
    _, module, _, _ = trained(folder, 1, data=data_of(folder, "all_bad.jsonl"))
    assert module.failed_ids == {"b0", "b1", "b2"}


# ---------------------------------------------------------------------------------------------------------- evaluate


def outcome(log_odds, gold, id="o"):
    sample = Sample.of("x", id=id, categories={"red": "yes" if gold else "no"}, policy=ONE)
    return Outcome(sample, ONE, log_odds, {"red": log_odds * 2}, False)


def test_calibration_finds_the_boundary_and_says_why_not():
    outcomes = [outcome(x, x > 2) for x in (-1.0, 0.5, 1.5, 2.5, 3.0, 4.0)]
    fitted, reasons = calibrate(outcomes)
    assert not reasons and 0 <= fitted.evidence <= 1
    flags = [r.score >= fitted.threshold for r in records(outcomes, fitted)]
    assert flags == [False, False, False, True, True, True]
    cut = fitted.category_temperature * math.log(fitted.category_threshold / (1 - fitted.category_threshold))
    assert 3.0 < cut <= 5.0
    one_class, reasons = calibrate([outcome(1.0, True), outcome(2.0, True)])
    assert one_class == Calibration() and set(reasons) == {"threshold", "category_threshold"}


def test_metrics_are_json_and_calibrated_on_validation_alone(fitted, folder, tmp_path):
    module = fitted[1]
    rows = [json.loads(line) for line in (folder / "m.jsonl").read_text().splitlines()]

    def measured(name, flip):
        turned = [r | {"categories": {"red": "no"}} if r["split"] == flip and i % 4 == 0 else r
                  for i, r in enumerate(rows)]  # fmt: skip
        data = data_of(write(folder / name, turned).parent, name)
        module.guard.calibration = Calibration()
        module.attach(data)
        return evaluate(module, data, seed=3)

    honest, test, val = measured("h.jsonl", None), measured("t.jsonl", "test"), measured("v.jsonl", "val")
    fits = ("threshold", "temperature", "category_threshold", "category_temperature")
    assert [honest[k] for k in fits] == [test[k] for k in fits]
    assert any(honest[k] != val[k] for k in fits)
    assert honest["overall"]["accuracy"] == 1.0 > test["overall"]["accuracy"]
    assert honest["data_hash"] != test["data_hash"] and honest["seed"] == 3 and honest["failed"] == 0
    assert set(honest["latency_ms"]) == {"image"} and honest["overall"]["n"] == 8
    again = json.loads(json.dumps(honest, allow_nan=False))
    assert again == json.loads(json.dumps(honest)) and {"by_modality", "by_source", "by_category", "by_slice"} <= set(
        again
    )
    module.guard.calibration = Calibration()


def test_a_published_calibration_is_kept(fitted, folder, tmp_path):
    module, data = fitted[1], data_of(folder)
    module.attach(data)
    module.guard.calibration = given = Calibration(2.0, 0.25, 1.5, 0.75)
    metrics = evaluate(module, data, tmp_path, calibrated=True)
    assert module.guard.calibration == given
    assert (metrics["threshold"], metrics["temperature"], metrics["category_threshold"]) == (0.25, 2.0, 0.75)
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == [
        "confusion.png",
        "pr_curves.png",
        "reliability.png",
    ]
    module.guard.calibration = Calibration()


def test_twins_without_one_part_are_a_coin_flip(folder):
    """Each words and picture come with both of the other; the label is in the pair alone."""
    rows = []
    for quad, (split, colours) in enumerate(itertools.product(("val", "test", "test"), [(0, 1), (2, 3)])):
        for (w, word), (c, colour) in itertools.product(enumerate(("fire", "yes")), enumerate(colours)):
            content = [{"type": "text", "text": f"{word} {quad}"}, {"type": "image", "path": f"{colour}.png"}]
            meta = {"twin": f"q{quad}", "needs": ["text", "image"]}
            row = picture("", f"q{quad}-{w}{c}", w == c, split, meta=meta, group=f"q{quad}")
            rows.append(row | {"messages": [{"role": "user", "content": content}]})
    rows += [picture(f"{n}.png", f"p{n}", n % 2 == 0, "test") for n in range(3)]
    write(folder / "twins.jsonl", rows)
    data = data_of(folder, "twins.jsonl")
    module = GuardModule(Guard(random_backbone(seed=1), ONE))
    module.attach(data)
    metrics = evaluate(module, data)
    for part in ("text", "image"):
        slice_ = metrics["by_slice"][f"without:{part}"]
        assert slice_["accuracy"] == 0.5 and slice_["n"] == 16
    assert metrics["overall"]["n"] == 19 and metrics["ablated"] == 32  # ablated copies are not counted twice
    assert metrics["by_slice"]["twins"]["n"] == 16
    assert metrics["twins"]["n"] == 4 and 0 <= metrics["twins"]["accuracy"] <= 1
    json.dumps(metrics, allow_nan=False)


def test_no_validation_row(folder):
    write(folder / "tests.jsonl", [picture(f"{n}.png", f"p{n}", n % 2 == 0, "test") for n in range(4)])
    data = data_of(folder, "tests.jsonl")
    module = GuardModule(Guard(random_backbone(), ONE))
    module.attach(data)
    metrics = evaluate(module, data)
    assert metrics["threshold"] == 0.5 and "no validation sample" in metrics["calibration_reasons"]["threshold"]
    assert judge(module, data, [], "cpu", "nothing") == []


def test_slices():
    s = Sample.of("x", meta={"slice": "hard", "twin": "q1", "benign": True, "entry": "unseen", "rest": False, "n": 1})
    assert slices_of(s) == ("hard", "twins", "benign", "entry:unseen", "text/entry:unseen")
