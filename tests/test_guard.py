"""A guard from outside: which policy and threshold answer, in which order, and how it is saved and read."""

import json
import math

import pytest
import torch
from helpers import random_backbone, write_image

from datamodules.schema import DataError, MediaError, Policy, PolicyEntry, Sample
from datamodules.taxonomy import DEFAULT_POLICY
from zoo.core import weights
from zoo.core.backbones.base import Scores
from zoo.core.guard import Calibration, Guard
from zoo.core.query import policy_queries
from zoo.registry import save

ONE = Policy("one", (PolicyEntry("a", "open fire"), PolicyEntry("b", "alarm"), PolicyEntry("c", "flood")))
TWO = Policy("two", (PolicyEntry("z", "alarm"), PolicyEntry("y", "a picture")))
THREE = Policy("three", (PolicyEntry("q", "the user", "begin and end"),))


def sharp(backbone, seed=7):
    """Answers that depend on what is read: default weights give nearly uniform logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in backbone.lm.parameters():
            if p.dim() >= 2:
                p.normal_(0, 0.3, generator=generator)
    return backbone


@pytest.fixture(scope="module", params=["encoded", "tokens"])
def guard(request):
    return Guard(sharp(random_backbone(request.param)), ONE, name="g")


def rows(n=5):
    return [Sample.of("fire " * (1 + 3 * i) + "abcde"[i % 5], id=f"r{i}") for i in range(n)]


def test_one_sample_gives_one_verdict(guard):
    sample = rows()[1]
    one, (listed,) = guard.moderate(sample), guard.moderate([sample])
    assert one == listed
    assert (one.id, one.model, one.threshold, one.valid, one.truncated) == ("r1", "g", 0.5, True, False)
    assert one.critique is None and one.route is None and 0 <= one.score <= 1
    assert guard.moderate([]) == []


def test_order_and_batches(guard):
    samples = rows(5)
    whole = guard.moderate(samples)
    assert [v.id for v in whole] == [s.id for s in samples] and len({v.score for v in whole}) == 5
    for got in (guard.moderate(samples, batch_size=2), guard.moderate(samples[::-1], batch_size=3)[::-1]):
        assert [v.id for v in got] == [v.id for v in whole]
        for a, b in zip(got, whole):
            assert a.score == pytest.approx(b.score, abs=1e-5)
            assert a.categories == pytest.approx(b.categories, abs=1e-5)


def test_batches_are_of_similar_length(guard, monkeypatch):
    samples = [rows(5)[i] for i in (3, 0, 4, 1, 2)]
    seen, collate = [], guard.backbone.collate
    monkeypatch.setattr(guard.backbone, "collate", lambda r: seen.append([x.id for x in r]) or collate(r))
    assert [v.id for v in guard.moderate(samples, batch_size=2)] == [s.id for s in samples]
    assert seen == [["r0", "r1"], ["r2", "r3"], ["r4"]]


def test_whose_policy_answers(guard):
    plain, own = rows(1)[0], rows(1)[0].replace(policy=TWO)
    assert list(guard.moderate(plain).categories) == ["a", "b", "c"]
    assert list(guard.moderate(own).categories) == ["z", "y"]
    assert list(guard.moderate(own, policy=THREE).categories) == ["q"]
    mixed = guard.moderate([plain, own, plain.replace(policy=THREE)])
    assert [list(v.categories) for v in mixed] == [["a", "b", "c"], ["z", "y"], ["q"]]
    alone = guard.moderate(plain.replace(policy=THREE))
    assert mixed[2].score == pytest.approx(alone.score, abs=1e-5)
    assert mixed[2].categories == pytest.approx(alone.categories, abs=1e-5)
    assert guard.policy is ONE
    assert Guard(guard.backbone).policy is DEFAULT_POLICY


def test_categories_go_by_the_policys_order(guard):
    """Turning the policy round turns the answers round; each belongs to its entry, by the entry's name."""
    sample = rows(1)[0]
    turned = ONE.subset(["c", "a", "b"])
    verdict = guard.moderate(sample, policy=turned)
    assert list(verdict.categories) == ["c", "a", "b"]
    state = guard.backbone.encode(guard.backbone.collate([guard.backbone.prepare(sample, turned)]))
    queries = policy_queries(turned)
    for entry, query in zip(turned.entries, queries[1:]):
        assert "".join(query.suffix) == f"- Is this in it: {entry.name}?"
        log_odds = guard.backbone.score(state, [[query]]).log_odds(0).item()
        assert verdict.categories[entry.id] == pytest.approx(1 / (1 + math.exp(-log_odds)), abs=1e-5)


def test_the_score_is_the_softmax_of_the_two_options(guard):
    sample = rows(1)[0]
    backbone = guard.backbone
    with torch.no_grad():
        scores = backbone.score(backbone.encode(backbone.collate([backbone.prepare(sample, ONE, policy_queries(ONE))])))
    p = scores.logp.softmax(-1)[0]
    verdict = guard.moderate(sample)
    assert verdict.score == pytest.approx(p[0, 1].item(), abs=1e-6)
    assert list(verdict.categories.values()) == pytest.approx(p[1:, 1].tolist(), abs=1e-6)


def test_a_threshold_changes_the_flag_and_nothing_else(guard):
    samples = rows(5)
    plain = guard.moderate(samples)
    middle = sorted(v.score for v in plain)[2]
    for threshold in (0.0, middle, 1.0):
        for a, b in zip(plain, guard.moderate(samples, threshold=threshold)):
            assert b.flagged == (b.score >= threshold) and b.threshold == threshold
            assert (a.score, a.categories, a.id, a.truncated) == (b.score, b.categories, b.id, b.truncated)
    assert sum(v.flagged for v in guard.moderate(samples, threshold=middle)) == 3
    assert guard.calibration == Calibration()
    for bad in (-0.1, 1.5, math.nan):
        with pytest.raises(DataError, match="threshold"):
            guard.moderate(samples, threshold=bad)


def test_a_score_that_is_no_number_is_flagged():
    """A guard whose weights diverged must not pass everything."""
    guard = Guard(sharp(random_backbone("tokens")), ONE)
    with torch.no_grad():
        next(p for p in guard.backbone.lm.parameters() if p.dim() == 2).fill_(math.nan)
    for threshold in (None, 1.0):
        for verdict in (
            guard.moderate(rows(1)[0], threshold=threshold),
            guard.prefixes(rows(1)[0], threshold=threshold)[-1],
        ):
            assert math.isnan(verdict.score) and verdict.flagged and not verdict.valid
            row = verdict.to_dict()
            assert row["score"] is None and set(row["categories"].values()) == {None}
            json.loads(json.dumps(row, allow_nan=False))


@pytest.mark.parametrize(
    "given, words",
    [
        ("hello", "str is not a sample: give zoo.Sample.of"),
        (["hello"], "str is not a sample"),
        (b"hello", "bytes is not a sample"),
        (7, "int is not a sample"),
        ({"id": "r", "messages": []}, "a dict is not a sample: give zoo.Sample.from_dict"),
        ([rows(1)[0], {"id": "r"}], "a dict is not a sample"),
    ],
)
def test_what_is_not_a_sample_is_named(guard, given, words):
    for judge in (guard.moderate, guard.prefixes):
        with pytest.raises(DataError, match=words):
            judge(given)


def test_calls_as_people_make_them(guard):
    samples = rows(3)
    assert guard.moderate(s for s in samples) == guard.moderate(tuple(samples)) == guard.moderate(samples)
    same = [v.score for v in guard.moderate([samples[0]] * 3)]
    assert same == pytest.approx([guard.moderate(samples[0]).score] * 3, abs=1e-5)
    for wrong in ("site-rules.yaml", ONE.to_dict()):
        with pytest.raises(DataError, match=r"is not a policy: give zoo.Policy.from_file"):
            guard.moderate(samples, policy=wrong)
    for size in (0, -1):
        with pytest.raises(DataError, match=r"batch_size=-?\d: give at least 1"):
            guard.moderate(samples, batch_size=size)


def scores_of(log_odds):
    """Log-odds [b, q] as Scores of two options."""
    x = torch.tensor(log_odds)
    return Scores(torch.stack([-torch.ones_like(x), x - 1], dim=-1), torch.full((*x.shape, 2), 2))


def test_judge_with_policies_of_different_sizes():
    guard = Guard(random_backbone("tokens"), ONE, Calibration(2.0, 0.6, 4.0, 0.3))
    judged = guard.judge(scores_of([[2.0, 4.0, -4.0, 8.0], [-2.0, 4.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]), [3, 1, 0])
    s = torch.sigmoid
    torch.testing.assert_close(judged.score, s(torch.tensor([1.0, -1.0, 0.5])))
    expected = torch.zeros(3, 3)
    expected[0], expected[1, 0] = s(torch.tensor([1.0, -1.0, 2.0])), s(torch.tensor(1.0))
    torch.testing.assert_close(judged.categories, expected)
    verdicts = guard.verdicts(judged, ["x", "y"], [ONE, THREE], [False, True])
    assert [list(v.categories) for v in verdicts] == [["a", "b", "c"], ["q"]]
    assert [(v.flagged, v.threshold, v.truncated) for v in verdicts] == [(True, 0.6, False), (False, 0.6, True)]


def test_a_score_at_the_threshold_is_flagged():
    guard = Guard(random_backbone("tokens"), ONE)
    judged = guard.judge(scores_of([[0.0, 0.0, 0.0, 0.0]]), [3])
    assert guard.verdicts(judged, ["x"], [ONE], [False])[0].flagged


def test_explained_verdicts_name_what_they_list(guard, monkeypatch):
    """The critique goes on from the rendered verdict: over the threshold, else the likeliest, else none."""
    asked = []
    monkeypatch.setattr(
        guard.backbone,
        "generate",
        lambda state, suffixes, n: asked.extend(s.text for s in suffixes) or ["said"] * len(suffixes),
    )
    monkeypatch.setattr(
        guard.backbone,
        "score_batch",
        lambda batch: scores_of([[3.0, 1.0, -1.0, 2.0], [3.0, -3.0, -1.0, -2.0], [-3.0, 3.0, 3.0, 3.0]]),
    )
    verdicts = guard.moderate(rows(3), explain=True)
    assert [v.critique for v in verdicts] == ["said"] * 3
    heads = ["unsafe\n- Categories: open fire, flood", "unsafe\n- Categories: alarm", "safe\n- Categories: none"]
    assert asked == [f"- Safety Assessment: {h}\n- Explanation:" for h in heads]


def test_moderation_leaves_the_mode_as_it_was(guard):
    guard.train()
    guard.moderate(rows(1))
    assert guard.training
    with pytest.raises(MediaError):
        guard.moderate(Sample.of(image="nowhere.png"))
    assert guard.training
    guard.eval()
    guard.moderate(rows(1))
    assert not guard.training


def test_a_bad_file_is_named(guard, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"bad\.png"):
        guard.moderate([rows(1)[0], Sample.of(image=bad)])


def test_truncation_is_said():
    guard = Guard(random_backbone("tokens", text_tokens=50), ONE)
    short, long = guard.moderate([Sample.of("a" * 50), Sample.of("a" * 51)])
    assert (short.truncated, long.truncated) == (False, True)


# ------------------------------------------------------------------------------------------------- saved and read


def twin(kind, seed):
    """A backbone with other trainable weights and the same frozen encoders (which a checkpoint pins, not holds)."""
    backbone = random_backbone(kind, seed=seed)
    backbone.encoders.load_state_dict(random_backbone(kind, seed=0).encoders.state_dict())
    return backbone


@pytest.mark.parametrize("kind", ["encoded", "tokens"])
def test_saved_and_read_again(kind, tmp_path):
    calibration = Calibration(1.5, 0.4, 2.0, 0.3)
    guard = Guard(sharp(random_backbone(kind)), TWO, calibration, name="mine")
    save(guard, tmp_path / "m", "omniguard", "# card\n", {"note": "x"})
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config, state = weights.read(tmp_path / "m")
    assert set(state) == {n for n, p in guard.backbone.named_parameters() if p.requires_grad}
    assert not any(n.startswith("encoders.") for n in state)
    assert (config["kind"], config["method"], config["name"], config["note"]) == ("guard", "omniguard", "mine", "x")
    kept = ("backbone", "policy", "calibration", "order")
    assert json.loads(json.dumps(guard.describe())) == {k: config[k] for k in kept}
    other = Guard(
        sharp(twin(kind, 5), 8),
        Policy.from_dict(config["policy"]),
        Calibration(**config["calibration"]),
        config["name"],
    )
    samples = [*rows(3), Sample.of("a", image=write_image(tmp_path / "a.png"), id="i")]
    wanted = guard.moderate(samples, explain=True, max_new_tokens=4)
    assert other.moderate(samples)[0].categories != pytest.approx(wanted[0].categories, abs=1e-3)
    other.backbone.load_saved_state(state)
    for a, b in zip(other.moderate(samples, explain=True, max_new_tokens=4), wanted):
        assert a.score == pytest.approx(b.score, abs=1e-6)
        assert a.categories == pytest.approx(b.categories, abs=1e-6)
        assert (a.flagged, a.threshold, a.critique, a.model) == (b.flagged, 0.4, b.critique, "mine")


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path):
    guard = Guard(random_backbone("encoded"), ONE)
    names = set(guard.backbone.saved_state())
    assert "lm.model.embed_tokens.weight" in names and "lm.lm_head.weight" not in names
    other = twin("encoded", 3)
    other.load_saved_state(guard.backbone.saved_state())
    assert other.lm.lm_head.weight is other.lm.model.embed_tokens.weight
    assert torch.equal(other.lm.lm_head.weight, guard.backbone.lm.lm_head.weight)


def test_weights_that_do_not_fit_are_refused_and_change_nothing():
    backbone = random_backbone("encoded")
    before = {n: t.clone() for n, t in backbone.state_dict().items()}
    good = {n: t.clone() + 1 for n, t in backbone.saved_state().items()}
    name = "types.weight"
    for change, message in (
        ({k: v for k, v in good.items() if k != name}, "missing.*types.weight"),
        ({**good, "typos.weight": good[name]}, "unexpected.*typos.weight"),
        ({**good, name: good[name][:-1]}, "types.weight is"),
        ({**good, name: good[name].T}, "types.weight is"),
        ({("typo" if k == name else k): v for k, v in good.items()}, "types.weight"),
        ({}, "missing"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone.load_saved_state(change)
    assert all(torch.equal(t, before[n]) for n, t in backbone.state_dict().items())


def test_a_changed_file_is_refused(tmp_path):
    save(Guard(random_backbone("tokens"), ONE), tmp_path, "omniguard", "")
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(weights.CheckpointError, match="wrong hash"):
        weights.read(tmp_path)
    path.unlink()
    with pytest.raises(weights.CheckpointError, match="missing"):
        weights.read(tmp_path)


def test_evidence_mixes_the_verdict_with_the_likeliest_category():
    """By hand: 0.25 × the verdict's log-odds and 0.75 × the highest of the row's own entries; padding never counts."""
    guard = Guard(random_backbone("tokens"), ONE, Calibration(temperature=2.0, evidence=0.75))
    judged = guard.judge(scores_of([[2.0, 4.0, -4.0, 8.0], [-2.0, 4.0, 99.0, 99.0]]), [3, 1])
    expected = torch.sigmoid(torch.tensor([(0.5 + 6.0) / 2, (-0.5 + 3.0) / 2]))
    torch.testing.assert_close(judged.score, expected)
