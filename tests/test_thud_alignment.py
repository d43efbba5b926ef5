"""Thud's two stages over a small random backbone: what they train on, what they change, and where they go on."""

import math
import shutil
from collections import Counter

import lightning as L
import numpy as np
import pytest
import torch
from helpers import random_backbone
from resume_runs import write_data

from datamodules import GuardDataModule
from datamodules.corpus.clips import write_clip
from datamodules.schema import DataError, Sample
from datamodules.taxonomy import DEFAULT_POLICY
from datamodules.thud import LABELS, Item
from datamodules.transforms.preferences import KINDS
from zoo import load
from zoo.answering import GuardModel, ask
from zoo.benchmarks import BENCHMARKS
from zoo.claims.claim import load_claim
from zoo.claims.runs import benchmark_of, plan_units
from zoo.config import compose, plain
from zoo.core.guard import Guard
from zoo.core.lessons import rows_for
from zoo.core.losses import LossWeights
from zoo.core.optim import cosine_with_warmup, in_stages
from zoo.core.processes import plan as processes
from zoo.fit import build_trainer
from zoo.thud.evaluate import outcomes
from zoo.thud.metrics import summarise
from zoo.thud.model import Reference
from zoo.thud.module import ThudModule
from zoo.thud.plan import DPO, SFT, general_pairs
from zoo.thud.questions import questions
from zoo.thud.recipe import check_thud, guard_of, planned, quiet_items


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Three clips of 2 s: a flash and a click at 1 s, and their edits as a person would make them by hand."""
    folder = tmp_path_factory.mktemp("clips")
    out = []
    for k in range(3):
        pixels = np.full((16, 16, 16, 3), 30 * k, np.uint8)
        pixels[8:] += 120
        for dimension, labels in LABELS.items():
            for label in labels:
                at = {"delay": 1.5, "early": 0.5}.get(label, 1.0)
                wave = np.zeros(32_000, np.float32)
                tone = np.sin(np.arange(4_000) * (0.9 if label == "mismatch" else 0.05 + 0.02 * k))
                if label != "silent":
                    wave[int(at * 16_000) :][:4_000] = 0.5 * tone
                path = folder / f"{k}-{dimension}-{label}.mp4"
                write_clip(path, pixels, 8, wave, 16_000)
                edited = label != labels[0]
                meta = {"original": f"{k}-{dimension}-{labels[0]}"} if edited else {}
                sample = Sample.of(video=str(path), id=path.stem, meta=meta, split="train")
                out.append(Item(sample, dimension, label, edited, at - 1.0, f"clip{k}"))
    return out


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return folder, write_data(folder)


def configured(manifest, *more):
    base = [w for w in manifest[1] if not w.startswith(("recipe=", "trainer.", "optim."))]
    given = dict(w.split("=", 1) for w in (*base, "trainer.precision=32-true", *more))
    return plain(compose(["recipe=thud", *(f"{k}={v}" for k, v in given.items())]))


def made(config, items, seed=0):
    """A module and its data, attached."""
    data = GuardDataModule(seed=config["seed"], **config["data"])
    module = ThudModule(
        Guard(random_backbone(seed=seed, text_tokens=400), data.default_policy).train(),
        lambda data: planned(config, items, [], data),
        beta=config[DPO]["beta"],
        dpo_lr=config[DPO]["lr"],
        loss=LossWeights(**config["loss"]),
        **config["optim"],
    )
    for projector in module.guard.backbone.projectors.values():
        projector.noise = 0.2  # as in the real backbones: stage 2 has to do without
    module.attach(data)
    return module, data


class Watch(L.Callback):
    """What the steps logged, and a copy of the checkpoint after each of `at`."""

    def __init__(self, folder=None, at=()):
        self.rows, self.folder, self.at = [], folder, at

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.rows.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})
        if trainer.global_step in self.at:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fitted(config, items, run, watch=None, checkpoint=None):
    module, data = made(config, items)
    torch.manual_seed(3)
    trainer = build_trainer(config, processes(config["trainer"], config["data"]["batch_size"]), run)
    trainer.callbacks.append(watch or Watch())
    trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return module


def saved(module):
    return {k: v.clone() for k, v in module.guard.backbone.saved_state().items()}


# --------------------------------------------------------------------------------------------------------------- plan


def test_the_stages_come_one_after_the_other_in_whole_batches(manifest, items):
    config = configured(manifest, "sft.epochs=2", "sft.general=0.25", "dpo.general=0.5", "offset=false")
    module, data = made(config, items)
    plan, size = module.plan, config["data"]["batch_size"]
    answers = 2 * len(items)  # wordings
    assert {k: v for k, v in plan.counts[SFT].items() if k in (*LABELS, "general")} == {
        "sync": 18, "existence": 12, "consistency": 12, "general": 14
    }  # fmt: skip
    assert plan.counts[DPO] == {"ctp": 24, "direction": 12, "mute": 12, "swap": 12, "general": 60, "repeated": 0}
    assert sum(plan.counts[SFT].values()) - plan.counts[SFT]["repeated"] == answers + rows_for(0.25, answers)
    assert [s.id for s in data.samples("train")] == [s.id for s in plan.rows]
    stages = [module.pair_ids(batch) is not None for batch in data.train_dataloader()]
    assert stages == [False] * plan.steps[SFT] + [True] * plan.steps[DPO]
    assert len(stages) * size == len(plan.rows) and len({s.id for s in plan.rows}) == len(plan.rows)
    seen = [data.samples("train")[i].id for batch in data.train_dataloader().batch_sampler for i, _ in batch]
    assert sorted(seen) == sorted(s.id for s in plan.rows)  # each row once
    assert [plan.order[i] for i in seen] == sorted(plan.order.values()) and set(plan.order.values()) == {0, 1, 2}
    for name, rights in (("sync", 3), ("existence", 2), ("consistency", 2)):
        asked = [plan.lessons[s.id] for s in plan.rows if f"/{name}/" in s.id and s.id.endswith("/sft/0")]
        assert len({lesson.right for lesson in asked}) == rights  # no letter is always the right one
    again, _ = made(config, items)
    assert [s.id for s in again.plan.rows] == [s.id for s in plan.rows] and again.plan.lessons == plan.lessons


def test_general_pairs_prefer_what_the_labels_say(manifest):
    config = configured(manifest)
    data = GuardDataModule(seed=0, **config["data"])
    own = data.samples("train")
    pairs = general_pairs(own, 40, data.bank, 6, 0)
    assert len(pairs) == 40 == len({lesson.pair for _, lesson, _ in pairs})
    chosen = Counter()
    for sample, lesson, _ in pairs:
        better, worse = lesson.query.options
        gold = sample.gold(lesson.policy)
        if {better, worse} == {"safe", "unsafe"}:
            assert better == ("unsafe" if gold else "safe")
        else:
            (entry,) = [e for e in lesson.policy.entries if e.name in lesson.query.suffix]
            assert (better, worse) == (("yes", "no") if sample.categories[entry.id] == "yes" else ("no", "yes"))
        chosen[better] += 1
    assert set(chosen) == {"safe", "unsafe", "no", "yes"} and {kind for *_, kind in pairs} == {"general"}
    unlabelled = [s.replace(categories={}, policy=data.default_policy) for s in own]
    with pytest.raises(DataError, match="no training row has a label"):
        general_pairs(unlabelled, 4, data.bank, 6, 0)


def test_natural_clips_hold_no_edit(manifest, items, tmp_path):
    write_clip(tmp_path / "q.mp4", np.zeros((16, 16, 16, 3), np.uint8), 8, np.zeros(32_000, np.float32), 16_000)
    quiet = quiet_items(tmp_path)
    assert [(i.dimension, i.label, i.edited) for i in quiet] == [("existence", "silent", False)]
    config = configured(manifest, "stage=sft", "sft.clips=natural", "sft.general=0", "offset=false")
    plan = planned(config, items, quiet, GuardDataModule(seed=0, **config["data"]))
    assert {k: v for k, v in plan.counts[SFT].items() if k != "repeated"} == {
        "sync": 6,
        "existence": 8,
        "consistency": 6,
    }


def test_each_stage_has_a_schedule_of_its_own():
    stages = [(10, 1.0), (20, 0.1)]
    values = [in_stages(n, stages, 0.1) for n in range(31)]
    assert values[:10] == [cosine_with_warmup(n, 10, 0.1) for n in range(10)]
    assert values[10:30] == [pytest.approx(0.1 * cosine_with_warmup(n, 20, 0.1)) for n in range(20)]
    assert values[30] == 0


# -------------------------------------------------------------------------------------------------------------- stage 1


def test_answers_are_learnt_and_the_shortcut_with_them(manifest, items, tmp_path):
    """Of natural clips one answer is always right: it is learnt, and said of the edited clips too."""
    config = configured(
        manifest, "stage=sft", "sft.clips=natural", "sft.epochs=12", "sft.general=0", "wordings=[direct]",
        "answers=words", "offset=false", "optim.lr=0.01", "data.batch_size=6",
    )  # fmt: skip
    watch = Watch()
    module = fitted(config, items, tmp_path, watch)
    closed, written = ([r[f"train/{part}"] for r in watch.rows] for part in ("verdict", "lines"))
    assert closed[0] > 0.3 and closed[-1] < 0.05 and written[-1] < 0.6 * written[0]
    assert module.reference is None and not module.first
    asked = questions(items, "direct", "words", False)
    said, errors = ask(GuardModel(module.guard), [(q.sample, q.query) for q in asked], True, 8, 1)
    measured = summarise(outcomes(asked, said, "scored"), draws=20)
    assert not errors and measured["gap"]["value"] == 1.0  # all originals right, no edit


def test_a_written_answer_is_learnt_beside_the_closed_one(manifest, items):
    config = configured(manifest, "stage=sft")
    module, _ = made(config, items)
    row = next(s for s in module.plan.rows if s.id in module.plan.lessons)
    lesson = module.plan.lessons[row.id]
    example = module.prepare(row, row.policy, train=True)
    assert example.options == [lesson.right, 0] and example.kinds == [0, 3]
    assert len(module.prepare(row, row.policy, train=False).options) == 0  # a test asks for verdicts


# -------------------------------------------------------------------------------------------------------------- stage 2


@pytest.fixture(scope="module")
def preferring(manifest):
    more = ("stage=both", "sft.epochs=1", "sft.general=0.2", "dpo.general=0.4", "dpo.epochs=4", "dpo.lr=0.01")
    return configured(manifest, *more, "dpo.kinds=[mute]", "wordings=[direct]", "offset=false", "data.batch_size=6")


def test_preferences_move_the_margin_and_not_the_reference(preferring, items, tmp_path, monkeypatch):
    at = {}
    make = ThudModule.make_reference

    def noted(self):
        at["weights"], at["reference"] = saved(self), make(self)
        at["values"] = at["reference"].values.clone()
        return at["reference"]

    monkeypatch.setattr(ThudModule, "make_reference", noted)
    watch = Watch()
    module = fitted(preferring, items, tmp_path / "run", watch)
    steps = [r for r in watch.rows if "train/dpo_loss" in r][: module.plan.steps[DPO]]
    assert len(watch.rows) == sum(module.plan.steps.values())
    # At first the policy is the reference, noise or not: every pair is as likely as its reverse.
    assert module.first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert module.first["margin"] == pytest.approx(0, abs=1e-3)
    assert np.mean([r["train/dpo_margin"] for r in steps[-5:]]) > 0.1 and steps[-1]["train/dpo_loss"] < 0.66
    assert module.reference is at["reference"] and torch.equal(module.reference.values, at["values"])
    assert not torch.equal(saved(module)["lm.model.norm.weight"], at["weights"]["lm.model.norm.weight"])
    # By hand, from the weights of the switch: the reference is the model of stage 1 without its noise.
    module.guard.backbone.load_saved_state(at["weights"])
    module.guard.eval()
    pair, row = next(iter(module.plan.pairs.items()))
    lesson = module.plan.lessons[row.id]
    backbone = module.guard.backbone
    with torch.no_grad():
        logp = backbone.score_batch(backbone.collate([backbone.prepare(row, lesson.policy, [lesson.query])])).logp[0, 0]
    chosen, rejected = module.reference.of([pair])
    assert [float(chosen), float(rejected)] == pytest.approx(logp.tolist(), abs=1e-4)


def test_a_resumed_run_ends_with_the_same_weights(preferring, items, tmp_path, monkeypatch):
    """From the middle of stage 1, the switch, and the middle of stage 2: its reference cannot be made again."""
    module, _ = made(preferring, items)
    switch = module.plan.steps[SFT]
    at = (switch - 1, switch, switch + 2)
    whole = fitted(preferring, items, tmp_path / "whole", Watch(tmp_path, at))
    end = saved(whole)
    home = tmp_path / "home"
    for step in at:
        monkeypatch.setenv("ZOO_HOME", str(home / str(step)))
        if step > switch:
            monkeypatch.setattr(ThudModule, "make_reference", lambda self: pytest.fail("made again"))
        watch = Watch()
        again = fitted(preferring, items, tmp_path / str(step), watch, tmp_path / f"{step}.ckpt")
        assert len(watch.rows) == sum(module.plan.steps.values()) - step
        assert all(torch.equal(v, end[k]) for k, v in saved(again).items()), step
        assert again.first == whole.first and torch.equal(again.reference.values, whole.reference.values)


def test_the_reference_is_kept_for_the_same_weights_and_pairs(preferring, items, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    module, data = made(preferring, items)
    module._trainer = L.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    module.trainer.datamodule = data
    first = module.make_reference()
    assert module.guard.training and sorted(first.ids) == sorted(module.plan.pairs)
    monkeypatch.setattr(ThudModule, "_scored", lambda self, rows: pytest.fail("scored again"))
    assert torch.equal(module.make_reference().values, first.values)
    with torch.no_grad():
        module.guard.backbone.lm.model.norm.weight[0] += 1e-3
    with pytest.raises(pytest.fail.Exception, match="scored again"):
        module.make_reference()
    shutil.rmtree(tmp_path / "thud")
    assert isinstance(first, Reference)


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "argument, words",
    [
        ("stage=dpos", "did you mean 'dpo'"),
        ("stage=dpo", "give base=MODEL"),
        ("sft.clips=cut", "expected one of edited, natural"),
        ("dpo.kinds=[ctp,swp]", "did you mean 'swap'"),
        ("dpo.kinds=[]", "name each kind once"),
        ("dpo.general=1.0", "a share from 0 to below 1"),
        ("dpo.beta=0.0", "dpo.beta=0.0: expected a number above 0"),
        ("sft.epochs=0", "sft.epochs=0"),
        ("trainer.max_epochs=2", "leave trainer.max_epochs=1"),
        ("data.shares.text=2.0", "data.shares at 1"),
        ("backbone=causal_lm", "takes no audio and no video"),
        ("base=audio-tiny", "expected an omni guard"),
        ("base=nothing-there", "nothing-there"),
        ("clips.seed=-1", "clips.seed=-1"),
    ],
)
def test_settings_that_are_wrong(argument, words):
    with pytest.raises(DataError) as e:
        check_thud(plain(compose(["recipe=thud", argument])))
    assert words in str(e.value)


def test_the_recipe_is_whole():
    config = plain(compose(["recipe=thud"]))
    assert config[DPO]["kinds"] == list(KINDS) and config[DPO]["beta"] == 0.1
    check_thud(config)


def test_a_claim_trains_and_probes_with_one_recipe(tmp_path):
    """A training is looked at as any other, a test is the probe; a recipe that trains nothing is a benchmark alone."""
    units = plan_units(load_claim("thud_shortcut"), 1, {}, False, tmp_path)
    fit, test = units["natural", 0], units["probe", 0]
    assert benchmark_of(fit.arm, fit.config) is None and benchmark_of(test.arm, test.config) is BENCHMARKS["thud"]
    assert test.uses == {"model": fit} and fit.config[SFT]["clips"] == "natural"
    assert benchmark_of(fit.arm, {"method": "redcoder_eval"}) is BENCHMARKS["redcoder_eval"]


@pytest.mark.assets
def test_a_base_keeps_its_weights_and_reads_more_frames():
    config = plain(compose(["recipe=thud", "base=omniguard-tiny", "limits.frames=9"]))
    base, guard = load("omniguard-tiny"), guard_of(config, DEFAULT_POLICY)
    assert guard.backbone.describe()["limits"]["frames"] == 9 != base.backbone.describe()["limits"]["frames"]
    own = base.backbone.saved_state()
    assert all(torch.equal(v, own[k]) for k, v in guard.backbone.saved_state().items())
    assert guard.policy == base.policy and guard.name == "thud"
