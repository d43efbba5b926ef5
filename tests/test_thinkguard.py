"""ThinkGuard: its recipes, what its arms share, what each learns, and answers written out against scored verdicts."""

import json

import lightning as L
import pytest
import torch
from helpers import random_backbone, save_language_model

import zoo
from datamodules import GuardDataModule
from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from zoo.config import compose, plain
from zoo.core.guard import Calibration, Guard
from zoo.core.losses import CATEGORY, CRITIQUE, LINE, VERDICT, LossWeights, guard_loss
from zoo.core.module import GuardModule
from zoo.core.orders import ORDERS
from zoo.core.query import policy_queries
from zoo.evaluate import evaluate
from zoo.methods import METHODS
from zoo.registry import create, recipe_backbone, save
from zoo.thinkguard.model import thinkguard
from zoo.written import written_against_scored

POLICY = Policy("p", (PolicyEntry("f", "fire", "The picture shows fire."), PolicyEntry("u", "the user")))
PLAIN = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
PLAIN |= {"num_sanity_val_steps": 0, "enable_checkpointing": False}


def config_of(*arguments):
    return plain(compose([*arguments]))


# ------------------------------------------------------------------------------------------------------------ recipes


def test_label_only_differs_in_the_critique_alone():
    think, plainly = config_of("recipe=thinkguard"), config_of("recipe=thinkguard_label_only")
    assert (think["loss"].pop("critique"), plainly["loss"].pop("critique")) == (1.0, 0.0)
    assert (think.pop("recipe"), plainly.pop("recipe")) == ("thinkguard", "thinkguard_label_only")
    assert think == plainly and think["data"]["modalities"] == ["text"] and think["data"]["critic"] == "annotations"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["order=explanation_first", "loss.critique=0"], "judges by an explanation: it needs loss.critique above 0"),
        (["order=explanation_first", "data.critic=none"], "it needs loss.critique above 0 and a data.critic"),
        (["order=explanation_first", "trainer=fsdp"], "use trainer=ddp"),
        (["order=explanation_last"], "unknown order 'explanation_last'; did you mean 'explanation_first'"),
    ],
)
def test_arms_that_cannot_be_are_told_before_the_data_is_made(arguments, words):
    with pytest.raises(DataError, match=words):
        METHODS["thinkguard"].check(config_of("recipe=thinkguard", *arguments))


@pytest.mark.parametrize("backbone", ["tiny", "smollm2"])
def test_orders_that_can_be(backbone):
    for order in ORDERS:
        METHODS["thinkguard"].check(config_of("recipe=thinkguard", f"order={order}", f"backbone={backbone}"))


def test_a_wrong_teacher_is_told():
    config = config_of("recipe=thinkguard", "data.critic=endpoint", "data_dir=nowhere")
    with pytest.raises(DataError, match=r"data\.critic=endpoint needs data\.endpoint\.url"):
        GuardDataModule(seed=0, **config["data"])


# --------------------------------------------------------------------------------------------------------------- arms


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Fire is unsafe. The rows' own words differ; a binary row has no category to explain."""
    folder = tmp_path_factory.mktemp("think")
    rows = []
    for n in range(36):
        hot = n % 2 == 0
        text = f"{'fire' if hot else 'the end'} {'abcdefghij'[n % 10] * (3 + n)}"
        rows.append(
            {"id": f"r{n}", "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
             "target": "prompt", "categories": {"f": "yes" if hot else "no", "u": "no"},
             "split": "train" if n < 20 else "val" if n < 28 else "test"}
        )  # fmt: skip
    rows.append({**rows[0], "id": "binary", "categories": {}, "unsafe": True})
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def arm(manifest, recipe, *arguments, kind="encoded", lr=1e-2):
    """Module and data of a recipe's arm, over a small random backbone."""
    config = config_of(f"recipe={recipe}", "data=manifest", f"data.path={manifest}", *arguments)
    data = GuardDataModule(
        seed=config["seed"], **{**config["data"], "policy": POLICY, "batch_size": 7, "modalities": None}
    )
    L.seed_everything(config["seed"], verbose=False)
    guard = Guard(random_backbone(kind), POLICY, order=ORDERS[config["order"]])
    settings = {**config["optim"], "lr": lr}
    module = GuardModule(guard, loss=LossWeights(**config["loss"]), max_categories=config["max_categories"], **settings)
    module.attach(data)
    return module, data


def weights_of(module):
    return torch.cat([p.detach().flatten() for p in module.guard.backbone.parameters() if p.requires_grad])


def test_arms_read_the_same_rows_in_the_same_order(manifest):
    """Batch by batch: samples, policies, labels and closed queries; the critique arm has critiques beside them."""

    def batches(*recipe):
        _, data = arm(manifest, *recipe)
        return [b for epoch in range(2) for b in epoch_of(data, epoch)]

    def epoch_of(data, epoch):
        loader = data.train_dataloader()
        loader.batch_sampler.sampler.set_epoch(epoch)
        return list(loader)

    think, plainly = batches("thinkguard"), batches("thinkguard_label_only")
    assert len(think) == len(plainly) == 6
    critiques = 0
    for a, b in zip(think, plainly):
        assert [s.id for s in a.samples] == [s.id for s in b.samples] and a.policies == b.policies
        closed = [
            [(o, k) for o, k in zip(*row) if k in (VERDICT, CATEGORY, LINE)]
            for t in (a.targets, b.targets) for row in zip(t.option.tolist(), t.kind.tolist())
        ]  # fmt: skip
        assert closed[: len(a.samples)] == closed[len(a.samples) :]
        assert not (b.targets.kind == CRITIQUE).any()
        critiques += int((a.targets.kind == CRITIQUE).sum())
        assert torch.equal(a.asked[[0, 1, 3]], b.asked[[0, 1, 3]]) and b.asked[2] == 0
    assert critiques == 2 * 20  # all but the binary row, each epoch


def trained(manifest, recipe, *arguments, steps=4, **kw):
    module, data = arm(manifest, recipe, *arguments, **kw)
    L.Trainer(max_steps=steps, limit_val_batches=0, **PLAIN).fit(module.train(), data)
    return module, data


def test_label_only_is_the_same_run_with_critique_weight_0(manifest):
    one, _ = trained(manifest, "thinkguard_label_only")
    two, _ = trained(manifest, "thinkguard", "loss.critique=0")
    three, _ = trained(manifest, "thinkguard")
    assert torch.equal(weights_of(one), weights_of(two))
    assert not torch.equal(weights_of(one), weights_of(three))


@torch.no_grad()
def losses(module, data):
    """Mean losses over the training rows, as the critique arm asks for them."""
    other = GuardModule(module.guard, loss=LossWeights(lines=1.0))
    other.attach(data)
    module.guard.eval()
    (parts,) = [
        guard_loss(module.guard.backbone.score_batch(b.inputs), b.targets, LossWeights())[1]
        for b in [other.collate([other.prepare(*pair(s, data), True) for s in data.samples("train")])]
    ]
    module.guard.train()
    return {k: v.item() for k, v in parts.items()}


def pair(sample, data):
    policy = data.fixed_policy(sample)
    return sample.replace(critique=data.critic(sample, policy)), policy


@pytest.fixture(scope="module")
def arms(manifest):
    """Each arm after 18 steps."""
    calls = {
        "critique": ("thinkguard",),
        "label_only": ("thinkguard_label_only",),
        "first": ("thinkguard", "order=explanation_first"),
    }
    return {name: trained(manifest, *call, steps=18) for name, call in calls.items()}


def test_critiques_are_learned_where_they_weigh(manifest, arms):
    before = losses(*arm(manifest, "thinkguard"))
    after = {name: losses(*pair_) for name, pair_ in arms.items()}
    assert set(before) == {"verdict", "categories", "critique", "lines"}
    for name in ("critique", "first"):
        assert after[name]["critique"] < 0.8 * before["critique"], (name, after, before)
    assert after["label_only"]["critique"] > 0.9 * before["critique"]
    for name in arms:
        assert after[name]["categories"] < 0.75 * before["categories"], (name, after, before)
        assert after[name]["lines"] < 0.7 * before["lines"], (name, after, before)


def test_a_safe_verdict_is_explained_in_the_published_form(arms, monkeypatch):
    module, _ = arms["critique"]
    guard, asked = module.guard, []
    generate = guard.backbone.generate
    monkeypatch.setattr(
        guard.backbone, "generate", lambda s, q, n: asked.extend(x.text for x in q) or generate(s, q, n)
    )
    safe, unsafe = (guard.moderate(Sample.of("fire aaaa"), threshold=t, explain=True) for t in (1.0, 0.0))
    assert not safe.flagged and unsafe.flagged and safe.critique
    assert asked[0] == "- Safety Assessment: safe\n- Explanation:"
    assert asked[1].startswith("- Safety Assessment: unsafe\n- Categories: ") and len(asked) == 2


# -------------------------------------------------------------------------------------------- written against scored


def test_the_generation_block(manifest, arms, monkeypatch):
    """Some rows say safe, some unsafe, some neither; the rest of the answers is the model's own."""
    module, data = arms["critique"]
    guard, said = module.guard, ["unsafe", "safe", "purple"]
    generate = guard.backbone.generate

    def some(state, suffixes, n):
        if suffixes[0].text.endswith("Assessment:"):
            return [said[i % 3] for i in range(len(suffixes))]
        return generate(state, suffixes, min(n, 6))

    monkeypatch.setattr(guard.backbone, "generate", some)
    metrics = json.loads(json.dumps(evaluate(module, data, generate=6), allow_nan=False))
    block = metrics["generation"]
    rows = block["rows"]
    assert block["n"] == len(rows) == 6 and block["cost_ratio"] > 1 and set(block["seconds"]) == {"scoring", "writing"}
    assert metrics["critiques"] == {
        "critic": "annotations", "rows": 21, "accepted": 20, "rejected": {"no category is annotated": 1}
    }  # fmt: skip
    assert [(r["written"], r["valid"]) for r in rows] == [(True, True), (False, True), (True, False)] * 2
    assert block["valid_rate"] == pytest.approx(4 / 6)
    test = {s.id: s for s in data.samples("test")}
    flags = {"written": [r["written"] for r in rows], "scored": [], "even": []}
    for r in rows:
        verdict = guard.moderate(test[r["id"]])
        batch = guard.backbone.collate([guard.backbone.prepare(test[r["id"]], POLICY, policy_queries(POLICY))])
        with torch.no_grad():
            odds = guard.eval().backbone.score_batch(batch).log_odds(0).item()
        assert r["gold"] == test[r["id"]].gold(POLICY) and r["score"] == pytest.approx(verdict.score, abs=1e-4)
        flags["scored"].append(verdict.flagged)
        flags["even"].append(odds >= 0)
    assert flags["even"] == [r["even"] for r in rows]
    assert block["agreement"] == pytest.approx(sum(w == e for w, e in zip(flags["written"], flags["even"])) / 6)
    for name, flagged in flags.items():  # F1 by its definition
        hits = sum(f and r["gold"] for f, r in zip(flagged, rows))
        wanted = 2 * hits / (sum(flagged) + sum(r["gold"] for r in rows))
        assert block[f"f1_{name}"] == pytest.approx(wanted, abs=1e-5), name
    again = written_against_scored(guard, data.samples("test"), 6)
    assert [r["id"] for r in again["rows"]] == [r["id"] for r in rows]
    assert len(written_against_scored(guard, data.samples("test"), 999)["rows"]) == 8


def test_what_cannot_be_read_counts_as_flagged(arms, monkeypatch):
    module, data = arms["critique"]
    monkeypatch.setattr(module.guard.backbone, "generate", lambda state, suffixes, n: ["well"] * len(suffixes))
    block = written_against_scored(module.guard, data.samples("test"), 8)
    unsafe = sum(r["gold"] for r in block["rows"])
    assert block["valid_rate"] == 0.0 and all(r["written"] for r in block["rows"])
    assert block["f1_written"] == pytest.approx(2 * unsafe / (8 + unsafe), abs=1e-5)
    with pytest.raises(DataError, match="no test row has a verdict"):
        written_against_scored(module.guard, [Sample.of("x")], 3)


def test_explanation_first_is_judged_after_its_own_words(arms):
    """Validation, test and moderation ask the same question: the verdict after what the guard says first."""
    module, data = arms["first"]
    outcomes = [
        o for b in L.Trainer(**PLAIN).predict(module, dataloaders=data.test_dataloader(), weights_only=True) for o in b
    ]
    verdicts = module.guard.moderate([o.sample for o in outcomes], explain=True)
    for o, v in zip(outcomes, verdicts):
        assert torch.sigmoid(torch.tensor(o.log_odds)).item() == pytest.approx(v.score, abs=1e-4)
        assert v.critique is not None
    assert len({round(v.score, 4) for v in verdicts}) > 1


# ------------------------------------------------------------------------------------------------------ saved and read


def test_the_order_is_saved_with_the_model(tmp_path):
    settings = {"name": "causal_lm", "path": str(save_language_model(tmp_path / "lm")), "lr": 1.0, "lora_rank": 2}
    guard = thinkguard(settings, POLICY, "mine", "explanation_first")
    assert recipe_backbone(settings).keys() == {"name", "path", "lora_rank"} and guard.name == "mine"
    save(guard, tmp_path / "m", "thinkguard", "# card\n")
    again = zoo.load(tmp_path / "m")
    assert again.order is ORDERS["explanation_first"]
    a, b = (g.eval().moderate(Sample.of("fire"), explain=True, max_new_tokens=4) for g in (guard, again))
    assert (a.score, a.critique) == (pytest.approx(b.score, abs=1e-6), b.critique)
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    del config["order"]  # a model from before there were several
    path.write_text(json.dumps(config))
    assert zoo.load(tmp_path / "m").order is ORDERS["verdict_first"]
    path.write_text(json.dumps({**config, "order": "backwards"}))
    with pytest.raises(DataError, match="unknown order 'backwards'"):
        zoo.load(tmp_path / "m")
    assert create("causal_lm", path=settings["path"]).order is ORDERS["verdict_first"]
    assert Calibration() == again.calibration
