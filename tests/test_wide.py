"""The wide half of a text guard: what it reads, how it is fitted, when it votes, and how the votes are put together."""

import dataclasses
import json

import lightning as L
import numpy as np
import pytest
import torch
from helpers import random_backbone
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from datamodules import GuardDataModule
from datamodules.baselines import CS, text_of
from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from zoo import registry
from zoo.core.backbones.base import Scores
from zoo.core.backbones.readers import plain_ids
from zoo.core.cache import FeatureCache
from zoo.core.encoders.lexical import hashed
from zoo.core.encoders.text import CHUNK
from zoo.core.guard import Calibration, Guard
from zoo.core.module import GuardModule, Outcome
from zoo.core.orders import ORDERS
from zoo.core.wide import Features, Votes, Wide, fit_votes, inverse_frequency
from zoo.core.wide_fit import _labelled, fit, fit_wide, matrix
from zoo.core.wide_reader import WideReader, can_read
from zoo.evaluate import calibrate, evaluate, records
from zoo.publish import publish
from zoo.routeguard.model import routeguard

POLICY = Policy("p", (PolicyEntry("f", "fire", "The picture shows fire."), PolicyEntry("u", "the user")))
OTHER = Policy("q", (PolicyEntry("f", "fire", "The picture shows no fire."), PolicyEntry("u", "the user")))
PLAIN = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
PLAIN |= {"num_sanity_val_steps": 0, "enable_checkpointing": False}
BUCKETS, DIM = 512, 32  # the random encoder's states have 32 numbers


def random_features(seed, n, buckets=60, dim=5):
    draws = torch.Generator().manual_seed(seed)
    bags = [torch.randint(buckets, (12,), generator=draws).unique() for _ in range(n)]
    sentences = torch.nn.functional.normalize(torch.randn(n, dim, generator=draws), dim=-1)
    noise = torch.randn(n, generator=draws)
    golds = [
        bool(s[0] + 0.3 * ((b < 30).float().mean() - 0.5) + 0.2 * e > 0) for b, s, e in zip(bags, sentences, noise)
    ]
    return Features(bags, sentences), golds


def random_wide(seed=0, dim=DIM, buckets=BUCKETS):
    draws = torch.Generator().manual_seed(seed)
    wide = Wide(dim, buckets)
    wide.set({n: torch.randn(size, generator=draws) for n, size in wide.sizes.items()})
    wide.idf.abs_()
    return wide


# ------------------------------------------------------------------------------------------------------------ reading


def test_tfidf_is_that_of_scikit_learn():
    features, _ = random_features(0, 150)
    counts = np.zeros((150, 60), int)
    for row, bag in enumerate(features.bags):
        counts[row, bag.numpy()] = 1
    idf = inverse_frequency(features.bags, 60, least=1)
    expected = TfidfTransformer().fit_transform(counts).toarray()
    assert np.allclose(matrix(features, idf).toarray(), expected, atol=1e-6)


def test_what_one_of_many_texts_has_says_nothing():
    bags = [torch.tensor([0, 1]), *[torch.tensor([0])] * 99]
    assert inverse_frequency(bags, 3).tolist() == [1.0, 0.0, 0.0]  # bucket 0: ln(101 / 101) + 1
    assert inverse_frequency(bags[:3], 3)[1] > 0  # of few texts one is enough
    wide = random_wide(buckets=3, dim=5)
    wide.idf.copy_(inverse_frequency(bags, 3))
    silent = wide.odds(Features([torch.tensor([1, 2]), torch.tensor([], dtype=torch.long)], torch.zeros(2, 5)))
    assert torch.equal(silent, wide.biases.expand(2, 2))


def test_a_text_is_read_as_the_baselines_read_it_and_its_sentence_is_the_mean_state():
    backbone = random_backbone("encoded", text_tokens=300)
    reader = WideReader(backbone, BUCKETS)
    samples = [Sample.of("fire shows", response="the end"), Sample.of("a b " * 140), Sample.of(" \u200b ")]
    features = reader.read(samples)
    ids = plain_ids(backbone.tokenizer, text_of(samples[0]))
    assert torch.equal(features.bags[0], hashed(torch.tensor(ids), BUCKETS)) and "user: fire" in text_of(samples[0])
    bert, ends = backbone.encoders["phrase"].bert, (backbone.tokenizer.cls_token_id, backbone.tokenizer.sep_token_id)

    def states(pieces):
        return bert(input_ids=torch.tensor([[ends[0], *pieces, ends[1]]])).last_hidden_state[0]

    with torch.no_grad():
        messages = torch.cat([states(plain_ids(backbone.tokenizer, t)) for t in ("fire shows", "the end")])
        long = plain_ids(backbone.tokenizer, "a b " * 140)
        assert len(long) > CHUNK
        chunks = torch.cat([states(long[:CHUNK]), states(long[CHUNK:])])
    expected = torch.nn.functional.normalize(torch.stack([messages.mean(0), chunks.mean(0)]), dim=-1)
    assert torch.allclose(features.sentences[:2], expected, atol=1e-5)
    assert features.sentences[2].norm() == 0  # nothing to read: no word piece


@pytest.mark.parametrize("kind", ["encoded", "adapted"])
def test_what_the_batch_has_encoded_is_not_encoded_again(kind, monkeypatch):
    """The same odds with and without the batch; with it, a frozen encoder of the backbone's runs no second time."""
    guard = Guard(random_backbone(kind), POLICY).widen()
    guard.wide.set(random_wide(buckets=guard.wide.buckets).state_dict())
    samples = [Sample.of("fire shows", id="a"), Sample.of("the end", response="fire", id="b")]
    alone = guard.wide_odds(samples, [POLICY] * 2)
    batch = guard.backbone.collate([guard.backbone.prepare(s, POLICY) for s in samples])
    with torch.no_grad():
        guard.backbone.encode(batch)
    calls, encode = [], type(guard.reader.encoder).encode
    monkeypatch.setattr(
        type(guard.reader.encoder), "encode", lambda self, raws: calls.append(len(raws)) or encode(self, raws)
    )
    beside = guard.wide_odds(samples, [POLICY] * 2, batch)
    assert torch.allclose(alone, beside, atol=1e-4) and not alone.isnan().any()
    assert calls == ([] if kind == "encoded" else [3])  # of an adapted encoder only the frozen state counts


def test_a_trained_encoder_does_not_move_the_sentence():
    backbone = random_backbone("adapted")
    sample, reader = Sample.of("fire shows"), WideReader(backbone, BUCKETS)
    before = reader.read([sample]).sentences
    with torch.no_grad():
        for name, p in backbone.named_parameters():
            if ".lora_" in name:
                p.add_(1.0)
    assert torch.equal(WideReader(backbone, BUCKETS).read([sample]).sentences, before)
    assert not torch.equal(before, WideReader(random_backbone("encoded", seed=1), BUCKETS).read([sample]).sentences)


@pytest.mark.parametrize("kind", ["tokens", "native"])
def test_a_backbone_without_an_encoder_of_words_opens_minilm(kind, monkeypatch):
    lender = random_backbone("encoded")
    bert = lender.encoders["phrase"].bert
    monkeypatch.setattr("zoo.core.wide_reader.resolve", lambda name: name)
    monkeypatch.setattr("zoo.core.wide_reader.load_minilm", lambda name: {"minilm": (bert, lender.tokenizer)}[name])
    guard = Guard(random_backbone(kind), POLICY).widen()
    samples = [Sample.of("fire shows"), Sample.of("the end", response="fire")]
    own, lent = guard.reader.read(samples), WideReader(lender).read(samples)
    assert torch.allclose(own.sentences, lent.sentences, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(own.bags, lent.bags))
    assert not any("bert" in n for n, _ in guard.named_parameters())  # neither trained nor saved


def test_what_is_encoded_for_the_fit_is_kept(tmp_path):
    backbone = random_backbone("encoded", cache=FeatureCache(tmp_path))
    reader, sample = WideReader(backbone, BUCKETS), Sample.of("fire shows")
    before = len(backbone.cache)
    fresh = reader.read([sample])
    assert len(backbone.cache) == before
    reader.read([sample], keep=True)
    assert len(backbone.cache) == before + 1
    assert torch.equal(reader.read([sample]).sentences, fresh.sentences)


# ------------------------------------------------------------------------------------------------------------ fitting


def test_odds_are_scikit_learns_and_the_penalty_is_chosen_on_validation():
    (train, golds), (val, val_golds) = random_features(0, 160), random_features(1, 120)
    wide = Wide(5, 60)
    assert not wide.fitted and not wide.state_dict()  # nothing to keep alike while a model is trained
    wide.set(state := fit(train, golds, val, val_golds, 60))
    test, _ = random_features(2, 40)
    readings = [[matrix(f, wide.idf) for f in (train, val, test)], [f.sentences.numpy() for f in (train, val, test)]]
    for column, (x, v, t) in enumerate(readings):
        models = [LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(x, golds) for c in CS]
        best = max(models, key=lambda m: average_precision_score(val_golds, m.predict_proba(v)[:, 1]))
        assert np.allclose(wide.odds(test)[:, column].numpy(), best.decision_function(t), atol=1e-4)
    assert all(torch.equal(t, state[n]) for n, t in fit(train, golds, val, val_golds, 60).items())


# ------------------------------------------------------------------------------------------------------------- voting


def test_equal_votes_by_hand():
    """Odds 1, 3 (mean 2, deviation 1); words −2, 2 (0, 2); sentence 3, −1 (1, 2): ∓1, ∓1, ±1, whose sum is ∓1."""
    odds, wide = torch.tensor([1.0, 3.0]), torch.tensor([[-2.0, 3.0], [2.0, -1.0]])
    votes = fit_votes(odds, wide, 2.0)
    assert votes == Votes(1.0, 0.5, 0.5, -0.5, 2.0)
    assert votes.together(odds, wide).tolist() == [1.0, 3.0]
    assert votes.together(torch.tensor([2.0]), torch.tensor([[4.0, 5.0]])).item() == 2 + 2 + 2.5 - 0.5


def test_votes_are_equal_whatever_the_scales_and_keep_the_models_own():
    draws = torch.Generator().manual_seed(0)
    columns = torch.randn(500, 3, generator=draws, dtype=torch.float64)
    odds, wide = 7 + 0.1 * columns[:, 0], torch.stack([100 * columns[:, 1] - 50, 3 + columns[:, 2]], -1)
    votes = fit_votes(odds, wide)
    shares = torch.tensor([votes.model, votes.words, votes.sentence]) * torch.tensor([odds.std(), *wide.std(0)])
    assert torch.allclose(shares, shares[:1].expand(3), rtol=1e-5)
    together = votes.together(odds, wide)
    assert torch.allclose(together.mean(), odds.mean()) and torch.allclose(together.std(), odds.std())


@pytest.mark.parametrize("same", [0, 1, 2])
def test_a_reader_that_says_the_same_of_all_cannot_be_scaled(same):
    columns = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    columns[:, same] = 4.0
    assert fit_votes(columns[:, 0], columns[:, 1:]) is None
    assert fit_votes(torch.zeros(0), torch.zeros(0, 2)) is None


def test_readers_vote_under_their_own_policy_on_text_alone(tmp_path):
    text = Sample.of("fire")
    turned = Policy("another name", POLICY.entries[::-1])
    assert can_read(text, POLICY, POLICY) and can_read(text, turned, POLICY)
    assert not can_read(text, OTHER, POLICY)  # the same ids and names, and the opposite meaning
    assert not can_read(text, POLICY.subset(["f"]), POLICY)
    assert not can_read(text, Policy("more", (*POLICY.entries, PolicyEntry("x", "else"))), POLICY)
    assert not can_read(Sample.of("fire", image="a.png"), POLICY, POLICY)
    assert not can_read(Sample.of("  "), POLICY, POLICY)


def scores_of(odds):
    logp = torch.zeros(len(odds), len(odds[0]), 2)
    logp[..., 1] = torch.tensor(odds)
    return Scores(logp, torch.ones_like(logp))


def test_judging_by_hand():
    """With votes (2·1 + 0.5·4 + 1·−3 + 0.5) / 2 = 0.75; without, the model's 1 over the temperature of its own, 4."""
    guard = Guard(random_backbone(), POLICY, Calibration(temperature=2.0, votes=Votes(2.0, 0.5, 1.0, 0.5, 4.0)))
    scores, nan = scores_of([[1.0, 5.0], [1.0, 5.0]]), torch.nan
    judged = guard.judge(scores, [1, 1], torch.tensor([[4.0, -3.0], [nan, nan]]))
    assert torch.allclose(judged.score, torch.sigmoid(torch.tensor([0.75, 0.25])))
    assert torch.allclose(guard.judge(scores, [1, 1]).score, torch.sigmoid(torch.tensor([0.25, 0.25])))
    assert torch.allclose(judged.categories, torch.sigmoid(torch.tensor([[5.0], [5.0]])))  # categories: the model's
    again = Calibration(**json.loads(json.dumps(dataclasses.asdict(guard.calibration))))
    assert again == guard.calibration


def outcome(n, odds, gold, wide):
    return Outcome(Sample.of("x", id=f"s{n}", unsafe=gold), POLICY, odds, {"f": odds / 2, "u": -3.0}, False, wide)


def test_calibration_adds_the_votes_and_scores_are_those_of_the_guard():
    draws = torch.Generator().manual_seed(3)
    golds = [bool(n % 2) for n in range(60)]
    noise = torch.randn(60, 3, generator=draws) * 2
    rows = [
        outcome(n, 2.0 * g - 1 + float(e[0]), g, None if n % 10 == 0 else [5.0 * g + 3 * float(e[1]), g + float(e[2])])
        for n, (g, e) in enumerate(zip(golds, noise))
    ]
    plain, _ = calibrate([dataclasses.replace(o, wide=None) for o in rows])
    fitted, reasons = calibrate(rows)
    assert plain.votes is None and "wide" not in reasons and fitted.votes is not None
    assert (fitted.evidence, fitted.votes.temperature) == (plain.evidence, plain.temperature)
    alone, voted = records([dataclasses.replace(o, wide=None) for o in rows], plain), records(rows, fitted)
    assert [r.score for r in alone[::10]] == [r.score for r in voted[::10]]  # rows without a vote: as without readers

    def precision(records):
        return average_precision_score(golds, [r.score for r in records])

    assert precision(voted) > precision(alone) + 0.02
    guard = Guard(random_backbone(), POLICY, fitted)
    scores = scores_of([[o.log_odds, *o.category_log_odds.values()] for o in rows])
    wide = torch.tensor([o.wide or [torch.nan] * 2 for o in rows])
    judged = guard.judge(scores, [2] * 60, wide)
    assert judged.score.tolist() == pytest.approx([r.score for r in voted], abs=1e-5)


def test_a_silent_reader_is_said():
    rows = [outcome(n, float(n), n > 3, [1.0, float(n)]) for n in range(8)]
    fitted, reasons = calibrate(rows)
    assert fitted.votes is None and "says the same of all" in reasons["wide"]
    assert fitted == calibrate([dataclasses.replace(o, wide=None) for o in rows])[0]


# --------------------------------------------------------------------------------------------------------- whole runs


def manifest(folder, golds=("train", "val", "test")):
    """Fire is unsafe, in the splits that `golds` names; elsewhere all is safe."""
    rows = []
    for n in range(48):
        split = "train" if n < 24 else "val" if n < 36 else "test"
        hot = n % 2 == 0 and split in golds
        text = f"{'fire' if hot else 'the end'} {'abcdefghij'[n % 10] * (3 + n % 7)}"
        rows.append(
            {"id": f"r{n}", "messages": [{"role": "user", "content": text}], "target": "prompt",
             "categories": {"f": "yes" if hot else "no", "u": "no"}, "split": split}
        )  # fmt: skip
    path = folder / "m.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def run_of(path, wide, folder=None, kind="encoded", order="thinkguard", steps=3):
    L.seed_everything(0, verbose=False)
    guard = Guard(
        random_backbone(kind),
        POLICY,
        order=ORDERS[order],
    )
    if wide:
        guard.widen()
    data = GuardDataModule(source="manifest", path=path, policy=POLICY, seed=0, batch_size=8)
    module = GuardModule(guard, lr=1e-2)
    module.attach(data)
    L.Trainer(max_steps=steps, **PLAIN).fit(module.train(), data)
    return module, data, evaluate(module, data, folder)


def same(a, b):
    return all(torch.equal(x, b[n]) for n, x in a.items()) and set(a) == set(b)


def test_a_run_with_readers_trains_the_same_model_and_is_loaded_as_it_was(tmp_path):
    path = manifest(tmp_path)
    plain, _, alone = run_of(path, False)
    module, data, metrics = run_of(path, True, tmp_path)
    guard = module.guard
    assert same(plain.guard.backbone.saved_state(), guard.backbone.saved_state())
    assert guard.wide.fitted and guard.calibration.votes is not None and metrics["calibration_reasons"] == {}
    assert "votes" not in alone and metrics["votes"]["words"] > 0
    assert guard.calibration.votes.temperature == plain.guard.calibration.temperature
    assert "wide" not in plain.guard.describe() and same(plain.guard.saved_state(), plain.guard.backbone.saved_state())

    test = data.samples("test")
    verdicts = guard.moderate(test)
    written = {r["id"]: r["score"] for r in map(json.loads, (tmp_path / "scores.jsonl").read_text().splitlines())}
    assert {v.id: v.score for v in verdicts} == pytest.approx(written, abs=1e-5)
    lone = [v.score for v in plain.guard.moderate(test)]
    assert max(abs(v.score - s) for v, s in zip(verdicts, lone)) > 1e-3
    other = [v.score for v in plain.guard.moderate(test, OTHER)]
    assert [v.score for v in guard.moderate(test, OTHER)] == other  # a run-time policy: as without readers


def test_round_trip_through_publish_and_load(tmp_path, monkeypatch):
    module, data, _ = run_of(manifest(tmp_path), True)
    guard = module.guard.eval()
    monkeypatch.setattr("zoo.registry.build", lambda config, cached=False: random_backbone("encoded", seed=0))
    registry.save(guard, tmp_path / "run" / "model", "thinkguard", "# card\n")
    target = publish(tmp_path / "run", "wide-test", "a test", tmp_path / "published")
    loaded = registry.load(target)
    assert loaded.calibration == guard.calibration and same(loaded.wide.state_dict(), guard.wide.state_dict())
    samples = data.samples("test")
    pairs = zip(loaded.moderate(samples), guard.moderate(samples))
    assert all(abs(a.score - b.score) < 1e-5 and a.flagged == b.flagged for a, b in pairs)

    routed = routeguard(
        loaded, POLICY, {"hot": ["f"], "people": ["u"]}, name="routed"
    )  # its readers are the backbone's
    assert routed.wide is None and "wide" not in routed.describe()
    assert all(0 <= v.score <= 1 for v in routed.eval().moderate(samples[:2]))

    config = json.loads((target / "config.json").read_text())
    for bad, words in (
        ({"dim": 31}, "wide.sentence is"),
        ({"rank": 3}, "wide="),
        ({"encoder": "x"}, "another text enc"),
    ):
        (target / "config.json").write_text(json.dumps({**config, "wide": {**config["wide"], **bad}}))
        with pytest.raises(DataError, match=words):
            registry.load(target)
    (target / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "wide"}))
    with pytest.raises(DataError, match="weights of a wide half"):
        registry.load(target)


def test_an_explanation_that_comes_first_votes_with_the_readers(tmp_path):
    module, data, _ = run_of(manifest(tmp_path), True, order="explanation_first", steps=1)
    guard = module.guard.eval()
    assert guard.calibration.votes is not None
    samples = data.samples("test")[:3]
    with_readers = [v.score for v in guard.moderate(samples, max_new_tokens=4)]
    guard.wide = None
    assert with_readers != [v.score for v in guard.moderate(samples, max_new_tokens=4)]


@pytest.mark.parametrize("lacking", ["train", "val"])
def test_splits_of_one_class_fit_no_reader_and_say_so(tmp_path, lacking):
    path = manifest(tmp_path, [s for s in ("train", "val", "test") if s != lacking])
    module, _, metrics = run_of(path, True, steps=1)
    assert not module.guard.wide.fitted and module.guard.calibration.votes is None
    assert f"the {lacking} split has no text rows of both classes" in metrics["calibration_reasons"]["wide"]
    assert "wide" not in module.guard.describe()


def test_rows_that_teach_are_judged_under_the_own_policy_or_a_part_of_it(tmp_path):
    rows = [
        {"id": id, "messages": [{"role": "user", "content": "fire"}], "unsafe": True, "split": "train", **more}
        for id, more in (
            ("own", {}),
            ("part", {"policy": POLICY.subset(["f"]).to_dict()}),
            ("other", {"policy": OTHER.to_dict()}),
            ("unknown", {"unsafe": None}),
            ("later", {"split": "val"}),
            ("last", {"split": "test"}),
        )
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = GuardDataModule(source="manifest", path=path, policy=POLICY, seed=0)
    taught, golds = _labelled(Guard(random_backbone(), POLICY), data, "train")
    assert ([s.id for s in taught], golds) == (["own", "part"], [True, True])


def test_fitted_once(tmp_path):
    module, _, _ = run_of(manifest(tmp_path), True, steps=1)
    before = {n: t.clone() for n, t in module.guard.wide.state_dict().items()}
    assert fit_wide(module.guard, None) == {} and same(before, module.guard.wide.state_dict())
