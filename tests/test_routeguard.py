"""zoo/routeguard: routing, the union, the fallback, folders, and what every reader is asked."""

from __future__ import annotations

import pytest
import torch
from routing import EXPERTS, NAMES, POLICY, base, routed, rows

from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from zoo import registry
from zoo.core.module import GuardModule
from zoo.core.weights import CheckpointError
from zoo.routeguard.backbone import FLOOR, Routing
from zoo.routeguard.experts import MONOLITH, Expert, ExpertCalibration, fit_calibration
from zoo.routeguard.model import answers_of, base_hash, expert_alone, routeguard


@pytest.fixture(scope="module")
def guard(tmp_path_factory):
    out = routed(tmp_path_factory.mktemp("guard"))
    c = ExpertCalibration(1.5, -0.2, 0.5, 0.3, 0.4)
    out.backbone.experts["heat"].calibration = c
    out.backbone.monolith.calibration = ExpertCalibration(0.7, 0.1, 2.0, -0.5, 0.0)
    return out


@pytest.fixture(autouse=True)
def plain_routing(request):
    if "guard" not in request.fixturenames:
        yield
        return
    guard = request.getfixturevalue("guard")
    before = guard.backbone.routing
    yield
    guard.backbone.routing = before


def calls(guard, *names, fallback=MONOLITH, **kw):
    """Routing that calls exactly these experts for every row."""
    cut = {n: -1e9 if n in names else 1e9 for n in guard.backbone.experts}
    guard.backbone.routing = Routing(fallback, cut, **kw)


def halves(guard, **kw):
    """Routing that calls each expert for about half of the rows."""
    b, samples = guard.backbone, rows(12)
    with torch.no_grad():
        middle = b.lower(b.collate([b.prepare(s, POLICY) for s in samples]).prompt)
        cut = b.router(middle.hidden, middle.lengths).sort(0).values[5:7].mean(0)
    b.routing = Routing(thresholds=dict(zip(EXPERTS, cut.tolist())), **kw)


def probability(z):
    return 1 / (1 + torch.exp(torch.tensor(-z))).item()


def test_the_union_is_the_maximum_over_called_experts(guard):
    calls(guard, "heat", "ground")
    (sample,) = rows(2)[1:]
    verdict = guard.moderate(sample)
    heat, ground = answers_of(guard, [sample], ["heat", "ground"])
    c = guard.backbone.experts["heat"].calibration
    likeliest = max(heat.categories)
    z = 1.5 * (0.6 * heat.verdict + 0.4 * likeliest) - 0.2  # by hand: scale, bias and evidence of `heat`
    assert c.verdict(heat.verdict, likeliest) == pytest.approx(z)
    assert verdict.score == pytest.approx(max(probability(z), probability(ground.verdict)), abs=1e-5)
    assert verdict.categories["S1"] == pytest.approx(probability(0.5 * heat.categories[0] + 0.3), abs=1e-5)
    assert verdict.categories["S4"] == pytest.approx(probability(ground.categories[0]), abs=1e-5)
    assert verdict.categories["S3"] == pytest.approx(probability(FLOOR), abs=1e-9)  # nobody answered for it
    assert verdict.route == ["heat", "ground"]


def test_a_null_route_takes_the_fallback(guard):
    samples = rows(4)
    calls(guard)
    by_monolith = guard.moderate(samples)
    for v, (answer,) in zip(by_monolith, ([a] for a in answers_of(guard, samples, [MONOLITH]))):
        assert v.route == ["fallback:monolith"]
        assert v.score == pytest.approx(probability(0.7 * answer.verdict + 0.1), abs=1e-5)
        assert v.categories["S2"] == pytest.approx(probability(2 * answer.categories[1] - 0.5), abs=1e-5)
    calls(guard, fallback="safe")
    assert all(v.score < 1e-6 and v.route == ["fallback:safe"] for v in guard.moderate(samples))
    calls(guard, fallback="all")
    everyone = guard.moderate(samples)
    calls(guard, *EXPERTS)
    for a, b in zip(everyone, guard.moderate(samples)):
        assert a.route == ["fallback:all"] and b.route == list(EXPERTS)
        assert a.score == b.score and a.categories == b.categories


def test_a_row_is_judged_alike_in_any_batch(guard):
    halves(guard)
    samples = rows(12)
    together = guard.moderate(samples, batch_size=12)
    alone = [guard.moderate(s) for s in samples]
    assert len({tuple(v.route) for v in together}) > 2  # the router tells rows apart
    for a, b in zip(together, alone):
        assert a.route == b.route
        assert a.score == pytest.approx(b.score, abs=1e-4)
        assert a.categories == pytest.approx(b.categories, abs=1e-4)


def test_a_second_look_counts_sure_experts_alone(guard):
    sample = rows(2)[1]
    calls(guard, "heat", "air", second_look=True)
    heat, air = (guard.backbone.experts[n] for n in ("heat", "air"))
    before = heat.calibration, air.calibration
    try:
        heat.calibration = ExpertCalibration(threshold=1 - 1e-9)
        air.calibration = ExpertCalibration(threshold=1e-9)
        verdict = guard.moderate(sample)
    finally:
        heat.calibration, air.calibration = before
    assert verdict.categories["S1"] < 1e-6 < verdict.categories["S3"]
    assert verdict.route == ["heat", "air"]


def test_entries_of_nobody_are_the_monolith_s(guard):
    policy = Policy("more", (*POLICY.entries, PolicyEntry("X", "water")))
    calls(guard, "air")
    verdict = guard.moderate(rows(2)[1], policy=policy)
    assert verdict.route == ["air", MONOLITH]
    assert list(verdict.categories) == [*POLICY.ids, "X"]
    assert verdict.categories["S1"] == pytest.approx(probability(FLOOR), rel=1e-3)
    assert verdict.categories["X"] != pytest.approx(probability(FLOOR), rel=1e-3)
    assert guard.moderate(rows(2)[1], policy=POLICY.subset(["S1"])).route == ["fallback:monolith"]


def test_a_part_of_the_policy_is_read_in_the_whole_prompt(guard):
    calls(guard, "heat")
    part = POLICY.subset(["S2", "S3"])
    row = guard.backbone.prepare(rows(2)[1], part)
    whole = guard.backbone.prepare(rows(2)[1], POLICY)
    assert len(row.prompt.prompt) == len(whole.prompt.prompt)
    assert list(guard.moderate(rows(2)[1], policy=part).categories) == ["S2", "S3"]


def test_a_folder_gives_the_same_answers(guard, tmp_path):
    halves(guard, second_look=True)
    samples = rows(6)
    registry.save(guard, tmp_path / "model", "routeguard", "card")
    other = registry.load(tmp_path / "model")
    assert base_hash(other.backbone) == base_hash(guard.backbone)
    for a, b in zip(guard.moderate(samples), other.moderate(samples)):
        assert (a.score, a.categories, a.route) == (b.score, b.categories, b.route)
    assert set(other.backbone.saved_state()) == set(guard.backbone.saved_state())


def test_explaining_changes_no_verdict(guard):
    sample = rows(2)[1]
    explained = guard.moderate(sample, explain=True, max_new_tokens=3)
    plain = guard.moderate(sample)
    assert explained.critique is not None
    assert (explained.score, explained.route) == (plain.score, plain.route)


def test_a_guest_is_a_guard_of_its_own(tmp_path):
    guard = routed(tmp_path)
    guest = base(tmp_path, seed=9, policy=POLICY.subset(["S4"])).eval()
    guard.backbone.add(Expert("guest", ("S4",)), guest)
    calls(guard, "guest", "ground")
    samples = rows(4)
    own = [v.score for v in guest.moderate(samples)]
    ground = [probability(a.verdict) for a in answers_of(guard, samples, ["ground"])]
    for v, x, y in zip(guard.moderate(samples), own, ground):
        assert v.score == pytest.approx(max(x, y), abs=1e-5)  # both answer for S4: the surer one counts
        assert v.route == ["ground", "guest"]
    registry.save(guard, tmp_path / "model", "routeguard", "card")
    for a, b in zip(guard.moderate(samples), registry.load(tmp_path / "model").moderate(samples)):
        assert (a.score, a.route) == (b.score, b.route)


def test_errors_name_the_thing(guard, tmp_path):
    with pytest.raises(DataError, match="has no entry 'S9'"):
        routeguard(base(tmp_path), POLICY, {"x": ("S9",)})
    with pytest.raises(DataError, match="'x' has no category"):
        routeguard(base(tmp_path), POLICY, {"x": ()})
    with pytest.raises(DataError, match="there is an expert 'heat' already"):
        guard.backbone.add(Expert("heat", ("S3",)))
    with pytest.raises(DataError, match="there is an expert 'monolith' already"):
        guard.backbone.add(Expert(MONOLITH, ("S3",)))
    with pytest.raises(DataError, match="fallback=open: one of monolith, all, safe"):
        Routing("open")
    with pytest.raises(CheckpointError, match="cut it after 1 to 2 of them"):
        routeguard(base(tmp_path), POLICY, EXPERTS, upper_layers=3)
    with pytest.raises(DataError, match="frozen already"):
        frozen = base(tmp_path)
        frozen.backbone.requires_grad_(False)
        routeguard(frozen, POLICY, EXPERTS)
    none = torch.zeros(0).numpy()
    with pytest.raises(DataError, match="'heat': the calibration set has no row"):
        fit_calibration("heat", none, [], none.reshape(0, 2), none.reshape(0, 2))


def test_media_that_the_base_does_not_take_are_refused(guard, tmp_path):
    with pytest.raises(DataError, match="takes text only"):
        guard.moderate(Sample.of("look", image=tmp_path / "a.png"))
    assert len(NAMES) == len(POLICY)


def test_an_expert_alone_is_asked_for_its_own_entries(tmp_path):
    alone = expert_alone(base(tmp_path), POLICY, "heat", ["S1", "S2"], rank=2, upper_layers=2, router_width=8).eval()
    sample, none = rows(2)[1], POLICY.subset(["S4"])
    assert list(alone.moderate(sample).categories) == ["S1", "S2"]
    assert list(alone.moderate(sample, policy=POLICY.subset(["S3", "S2"])).categories) == ["S2"]
    assert list(alone.moderate(sample.replace(policy=none)).categories) == ["S1", "S2"]
    with pytest.raises(DataError, match="heat answers for S1, S2, and policy 'site' has none of them"):
        alone.moderate(sample, policy=none)
    example = GuardModule(alone).prepare(sample.replace(policy=none, categories={"S4": "yes"}), none, train=False)
    assert example.policy.ids == ("S1", "S2") and example.sample.gold(example.policy) is None  # masked in a test
