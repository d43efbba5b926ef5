"""zoo/routeguard: the plan of lessons, targets, a training run, and offline routing against the model's own."""

from __future__ import annotations

import json
from collections import Counter

import lightning as L
import numpy as np
import pytest
import torch
from routing import EXPERTS, POLICY, base, routed, rows, write_manifest

from datamodules.base import GuardDataModule
from datamodules.schema import DataError, Policy
from zoo import fit, registry
from zoo.core.calibration import fit_platt
from zoo.core.losses import CATEGORY, VERDICT
from zoo.core.optim import build_optimizer
from zoo.core.scores import read_scores
from zoo.evaluate import judge
from zoo.routeguard.baselines import NearestRouter, NetworkRouter
from zoo.routeguard.decide import calibrated, fit_cuts, joint_thresholds, routing_thresholds, set_routing, union
from zoo.routeguard.experts import MONOLITH, Expert
from zoo.routeguard.measure import category_f1, routing
from zoo.routeguard.model import routeguard
from zoo.routeguard.module import RouteGuardModule, all_readers, trained_parameters
from zoo.routeguard.plan import READER, Shares, plan, reader_queries, route_targets
from zoo.routeguard.router import AttentionRouter
from zoo.routeguard.survey import fit_readers, survey
from zoo.routeguard.training import route_loss


def test_the_plan_gives_every_reader_as_many_rows_in_the_asked_shares():
    samples = rows(40)
    readers = [Expert(MONOLITH, POLICY.ids), *(Expert(n, c) for n, c in EXPERTS.items())]
    lessons, pools = plan(samples, readers, POLICY, 20, Shares(0.5, 0.3, 0.2), seed=1)
    assert Counter(s.meta[READER] for s in lessons) == dict.fromkeys([MONOLITH, *EXPERTS], 20)
    assert len({s.id for s in lessons}) == len(lessons)
    for expert in readers[1:]:
        part = expert.policy(POLICY)
        mine = [s for s in lessons if s.meta[READER] == expert.name]
        kinds = Counter("own" if s.gold(part) else "other" if s.gold(POLICY) else "safe" for s in mine)
        assert kinds == {"own": 10, "safe": 6, "other": 4}
    assert pools[MONOLITH] == {"own": 20, "safe": 20, "other": 0}
    again, _ = plan(samples, readers, POLICY, 20, Shares(0.5, 0.3, 0.2), seed=1)
    other, _ = plan(samples, readers, POLICY, 20, Shares(0.5, 0.3, 0.2), seed=2)
    assert [s.id for s in again] == [s.id for s in lessons] != [s.id for s in other]
    with pytest.raises(DataError, match="'none': no training row is unsafe under S4"):
        plan([s for s in samples if s.categories["S4"] == "no"], [Expert("none", ("S4",))], POLICY, 5, Shares(), 0)


def test_an_unknown_label_is_neither_asked_nor_a_target():
    heat = Expert("heat", ("S1", "S2"))
    sample = rows(2)[0].replace(categories={"S1": "no", "S3": "yes"})
    queries, options, kinds = reader_queries(sample, heat, POLICY, None)
    assert (
        kinds == [CATEGORY] and options == [0] and "fire" in queries[0].text
    )  # its verdict is unknown: S2 may be broken
    assert route_targets(sample, [heat, Expert("air", ("S3",)), Expert("far", ("X",))], POLICY) == [-1, 1, -1]
    broken = sample.replace(categories={"S2": "yes"})
    assert [k for k in reader_queries(broken, heat, POLICY, None)[2]] == [VERDICT, CATEGORY]
    safe = sample.replace(categories={}, unsafe=False, policy=POLICY)  # safe under the whole policy: no to every entry
    assert reader_queries(safe, heat, POLICY, None)[1] == [0, 0, 0]
    many = rows(2)[1].replace(categories={"S1": "no", "S2": "no", "S3": "no", "S4": "yes"})
    texts = [reader_queries(many.replace(id=str(i)), Expert("all", POLICY.ids), POLICY, 2)[0] for i in range(12)]
    assert all("dust" in t[1].text for t in texts)  # a yes is always asked
    assert len({t[2].text for t in texts}) == 3  # and every no some time


def test_the_router_s_loss_leaves_unknown_targets_out():
    routes = torch.tensor([[2.0, -1.0], [0.5, 3.0]])
    targets = torch.tensor([[1, -1], [0, -1]])
    expected = (torch.log1p(torch.exp(torch.tensor(-2.0))) + torch.log1p(torch.exp(torch.tensor(0.5)))) / 2
    assert route_loss(routes, targets).item() == pytest.approx(expected.item())
    assert route_loss(routes, torch.full((2, 2), -1)).item() == 0.0


def test_platt_s_scaling_finds_the_scale_and_the_bias():
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 3, 20_000)
    golds = rng.random(20_000) < 1 / (1 + np.exp(-(0.6 * odds - 1.1)))
    scale, bias = fit_platt(odds, golds.tolist())
    assert scale == pytest.approx(0.6, abs=0.02) and bias == pytest.approx(-1.1, abs=0.05)
    assert fit_platt([1.0, 2.0], [True, None]) == (1.0, 0.0)
    assert fit_platt([-1.0, 1.0], [True, False])[0] > 0


def test_f1_over_categories_by_hand():
    labels = np.array([[1, 0], [1, -1], [0, 0], [-1, 1]])
    flags = np.array([[True, True], [False, True], [True, False], [True, False]])
    # first: tp 1, fp 1, fn 1; second: tp 0, fp 1 (the unknown one is masked), fn 1
    got = category_f1(flags, labels)
    assert got["macro"] == pytest.approx((2 / 4 + 0) / 2) and got["micro"] == pytest.approx(2 / 6)
    assert category_f1(flags, np.zeros_like(labels)) == {"macro": None, "micro": None}
    one = routing(flags, labels, ["a", "b"])["a"]
    assert one == {"n": 3, "positives": 2, "recall": 0.5, "precision": 0.5}


def test_the_baselines_learn_which_expert_a_row_is_for():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 6))
    targets = np.stack([features[:, 0] > 0, features[:, 1] > 0], axis=1).astype(int)
    targets[::7] = -1
    for router in (NearestRouter(), NetworkRouter(steps=100)):
        router.fit(features[:200], targets[:200])
        said, truth = router(features[200:]) > 0, targets[200:]
        assert (said == (truth == 1))[truth >= 0].mean() > 0.8


def test_the_router_finds_one_token_wherever_it_stands():
    torch.manual_seed(0)
    router = AttentionRouter(12, width=16)
    marks = torch.randn(2, 12)
    for name in ("one", "two"):
        router.add(name)

    def batch(n):
        hidden, lengths = torch.randn(n, 20, 12), torch.randint(8, 20, (n,))
        there = torch.rand(n, 2) < 0.5
        for i in range(n):
            for k in range(2):
                if there[i, k]:
                    hidden[i, torch.randint(int(lengths[i]), ())] += 4 * marks[k]
        return hidden, lengths, there

    optimizer = torch.optim.AdamW(router.parameters(), lr=1e-2)
    for _ in range(150):
        hidden, lengths, there = batch(64)
        optimizer.zero_grad()
        route_loss(router(hidden, lengths), there.long()).backward()
        optimizer.step()
    hidden, lengths, there = batch(300)
    said = router(hidden, lengths)
    assert ((said > 0) == there).float().mean() > 0.9
    padded = torch.nn.functional.pad(hidden, (0, 0, 0, 5), value=9.0)
    torch.testing.assert_close(router(padded, lengths), said)  # padding is not looked at


@pytest.fixture
def data(tmp_path):
    manifest, policy = write_manifest(tmp_path, {"train": 40, "val": 24, "test": 24})
    return GuardDataModule("manifest", path=manifest, policy=policy, batch_size=8)


def test_offline_routing_is_the_model_s_own(tmp_path, data):
    guard = routed(tmp_path)
    module = RouteGuardModule(guard, all_readers(guard), rows=8)
    module.attach(data)
    val, test = survey(guard, data.samples("val")), survey(guard, data.samples("test"))
    fit_readers(guard, val)
    c = calibrated(guard, val)
    for fallback, look in ((MONOLITH, False), ("safe", True), ("all", False)):
        cut = joint_thresholds(val, c, routing_thresholds(val), fallback, look)
        cut[0] = np.median(test.route[:, 0])  # some rows are called for and some are not
        offline = union(calibrated(guard, test), test.route >= cut, fallback, look)
        set_routing(guard, cut, fallback, look, fit_cuts(offline, test.golds, test.labels))
        outcomes = judge(module, data, data.samples("test"), "cpu", "test")
        np.testing.assert_allclose([o.log_odds for o in outcomes], offline.verdict, atol=1e-3)
        categories = [list(o.category_log_odds.values()) for o in outcomes]
        np.testing.assert_allclose(categories, offline.category, atol=1e-3)


def test_joint_thresholds_are_no_worse_on_the_rows_they_are_fitted_on(tmp_path, data):
    from zoo.routeguard.decide import goodness

    guard = routed(tmp_path)
    module = RouteGuardModule(guard, all_readers(guard), rows=8)
    module.attach(data)
    val = survey(guard, data.samples("val"))
    fit_readers(guard, val)
    c, start = calibrated(guard, val), routing_thresholds(val)

    def worth(cut):
        u = union(c, val.route >= cut)
        return goodness(u, fit_cuts(u, val.golds, val.labels), val.golds, val.labels)

    assert worth(joint_thresholds(val, c, start)) >= worth(start)


def test_training_teaches_readers_and_router_and_leaves_the_base(tmp_path, data):
    L.seed_everything(0, verbose=False)
    guard = routeguard(base(tmp_path), POLICY, EXPERTS, rank=4, upper_layers=2, router_width=16)
    trained_parameters(guard, all_readers(guard))
    before = {n: p.clone() for n, p in guard.backbone.base.named_parameters()}
    fresh = {n: {k: v.clone() for k, v in guard.backbone.bank.state_of(n).items()} for n in guard.backbone.bank.names}
    module = RouteGuardModule(guard, all_readers(guard), rows=40, lr=1e-2, weight_decay=0.0)
    module.attach(data)
    losses = []

    class Losses(L.Callback):
        def on_train_batch_end(self, trainer, *args):
            losses.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})

    trainer = L.Trainer(
        max_epochs=3, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu", callbacks=[Losses()], limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)

    def mean(part, steps):
        return np.mean([x[part] for x in steps if part in x])

    assert mean("train/loss", losses[-15:]) < 0.8 * mean("train/loss", losses[:15])
    assert mean("train/route", losses[-15:]) < mean("train/route", losses[:15])
    assert all(torch.equal(p, before[n]) for n, p in guard.backbone.base.named_parameters())
    for name, state in fresh.items():
        now = guard.backbone.bank.state_of(name)
        assert any(not torch.equal(now[k], v) for k, v in state.items()), f"{name} was not trained"


def test_sequential_lessons_come_domain_by_domain_into_one_adapter(tmp_path, data):
    guard = routeguard(base(tmp_path), POLICY, EXPERTS, rank=2, upper_layers=2, router_width=8)
    module = RouteGuardModule(guard, list(EXPERTS), rows=20, sequential=True)
    module.attach(data)
    batches = list(data.train_dataloader())
    readers = [s.meta[READER] for b in batches for s in b.samples]
    assert readers == [n for n in EXPERTS for _ in range(20)]
    assert {int(i) for b in batches for i in b.inputs.reader} == {guard.backbone.bank.index(MONOLITH)}
    ids = [s.id for b in batches for s in b.samples]
    assert ids[:20] != sorted(ids[:20])  # shuffled within a domain
    flat = build_optimizer(guard.backbone.router, 1.0, 0.0, (0.9, 0.95), 0.1, steps=30, cycles=3)
    rates = []
    for _ in range(30):
        rates.append(flat["optimizer"].param_groups[0]["lr"])
        flat["optimizer"].step()
        flat["lr_scheduler"]["scheduler"].step()
    assert rates[:10] == rates[10:20] == rates[20:] and max(rates) == 1.0 and rates[9] < 0.1


def test_the_recipes_leave_folders_that_judge(tmp_path):
    manifest, policy = write_manifest(tmp_path, {"train": 40, "val": 24, "test": 24})
    registry.save(base(tmp_path), tmp_path / "base", "omniguard", "card")
    common = ["data=manifest", f"data.path={manifest}", f"data.policy={policy}", "rows=16", "trainer.max_epochs=1",
              "trainer.precision=32-true", "data.modalities=[text]"]  # fmt: skip
    run, metrics, _ = fit.fit(
        ["recipe=routeguard", f"base={tmp_path / 'base'}", f"runs={tmp_path}", "adapters.rank=2", "test_rows=20",
         f"experts={json.dumps({k: list(v) for k, v in EXPERTS.items()})}", *common]
    )  # fmt: skip
    ways = metrics["routeguard"]["ways"]
    assert {"monolith", "oracle", "router", "joint", "scores", "knn", "mlp", "all"} <= set(ways)
    assert ways["monolith"]["null_share"] == 1.0 and ways["all"]["experts_per_row"] == 3.0
    assert ways["oracle"]["routing"]["heat"]["recall"] == 1.0 and ways["top2"]["experts_per_row"] == 2.0
    judged = list(read_scores(run / "scores_joint.jsonl"))
    own = {j.record.id: j for j in read_scores(run / "scores.jsonl")}
    assert len(judged) == 20 and len(own) == 24
    for j in judged:  # what was counted offline is what the model says
        assert own[j.record.id].record.score == pytest.approx(j.record.score, abs=1e-3)
    guard = registry.load(run)
    verdict = guard.moderate(rows(2)[1])
    assert verdict.route and list(verdict.categories) == list(POLICY.ids)
    expert, alone, _ = fit.fit(
        ["recipe=expert", f"base={run}", "expert.name=soil", "expert.categories=[S4]", f"runs={tmp_path}", *common]
    )
    soil = registry.load(expert)
    assert list(soil.moderate(rows(2)[1]).categories) == ["S4"]
    assert alone["overall"]["n"] == 24
    with pytest.raises(DataError, match="S9"):
        fit.fit(
            ["recipe=expert", f"base={run}", "expert.name=x", "expert.categories=[S9]", f"runs={tmp_path}", *common]
        )
    with pytest.raises(DataError, match="set routing=monolith"):
        fit.fit(["recipe=routeguard", f"base={run}", "sequential=true", f"runs={tmp_path}", *common])
    with pytest.raises(DataError, match="give base=MODEL"):
        fit.fit(["recipe=routeguard", f"runs={tmp_path}", *common])
    assert Policy.from_dict(POLICY.to_dict()) == guard.policy
