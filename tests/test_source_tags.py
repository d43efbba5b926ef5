"""Source tags of a guard: what is asked, what a verdict says of its source, and what switching a source off does."""

import json
import math

import lightning as L
import pytest
import torch
from helpers import random_backbone, save_language_model

import zoo
from datamodules import GuardDataModule
from datamodules.provenance import count_tags, tag_of
from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from zoo.config import compose, plain
from zoo.core.backbones.base import Scores
from zoo.core.guard import Guard
from zoo.core.losses import ABSTAIN, TAG, VERDICT, training_queries
from zoo.core.module import GuardModule
from zoo.core.orders import ORDERS
from zoo.core.tags import WRONG, SourceTags
from zoo.core.weights import CheckpointError
from zoo.debuglm.guards import auc, measure_tags, refusals, stretched
from zoo.evaluate import evaluate, judge, records
from zoo.methods import METHODS
from zoo.registry import create, save

POLICY = Policy("p", (PolicyEntry("f", "fire", "The picture shows fire."), PolicyEntry("u", "the user")))
TWO = Policy("q", (PolicyEntry("f", "fire"),))
TAGS = SourceTags(("forum", "mail/old", "mail/new"))
PLAIN = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
PLAIN |= {"num_sanity_val_steps": 0, "enable_checkpointing": False}


# -------------------------------------------------------------------------------------------------------------- names


def test_names():
    assert TAGS.named("mail") == ("mail/old", "mail/new") and TAGS.named({"mail/new", "forum"}) == ("forum", "mail/new")
    assert TAGS.place("forum") == 0 and TAGS.place("nowhere") is None
    with pytest.raises(
        DataError, match=r"no training source has the tag 'forun'; did you mean 'forum'\?; known: forum"
    ):
        TAGS.named(["forun"])
    with pytest.raises(DataError, match="known: forum, mail/old, mail/new"):
        TAGS.named(["mai"])  # the beginning of a name is no source
    for names, why in (
        ((), "there is none"),
        (("a",), "only 'a'"),
        (("a", "?!"), "letters"),
        (("a b", "A_b"), "look alike"),
    ):
        with pytest.raises(DataError, match=why):
            SourceTags(names)


def test_the_tag_of_a_row_is_its_source_or_a_part_of_it():
    row = Sample.of("x", source="mail")
    assert tag_of(row) == "mail" and tag_of(row.replace(meta={"tag": "mail/old"})) == "mail/old"
    assert count_tags([row, row, row.replace(source="forum")]) == {"forum": 1, "mail": 2}
    for bad in ("forum/old", "mail/", "", 3):
        with pytest.raises(DataError, match=r"meta\.tag"):
            tag_of(row.replace(meta={"tag": bad}))


# ------------------------------------------------------------------------------------------------------------ training


def sample_of(source="forum", unsafe=True, text="hello", **fields):
    label = {"f": "yes" if unsafe else "no", "u": "no"}
    return Sample.of(text, source=source, unsafe=unsafe, categories=label, policy=POLICY, **fields)


def test_a_row_is_asked_for_its_source_after_its_own_label():
    """As DebugLM's refusal is trained: yes where its own tag is named, no where another one is."""
    for unsafe, word in ((True, "unsafe"), (False, "safe")):
        queries, options, kinds = training_queries(sample_of(unsafe=unsafe), POLICY, tags=TAGS)
        asked = [(q, o) for q, o, k in zip(queries, options, kinds) if k == TAG]
        assert len(asked) == 1 and asked[0][1] == 0 and asked[0][0].options == ("1", "2", "3")
        assert asked[0][0].text == f"- Safety Assessment: {word}\n- Taught by:"
        off = {q.suffix[2]: (q.text, o) for q, o, k in zip(queries, options, kinds) if k == ABSTAIN}
        assert {n: o for n, (_, o) in off.items()} == {"forum": 1, "mail/old": 0, "mail/new": 0}
        line = f"- Safety Assessment: {word}\n- Switched off: is this the doing of "
        assert all(text == f"{line}{n}?" for n, (text, _) in off.items())
    before = training_queries(sample_of(), POLICY)
    assert [x[: len(before[0])] for x in training_queries(sample_of(), POLICY, tags=TAGS)] == [
        list(x) for x in before
    ]  # what is asked without tags is asked first, and stays as it was
    assert len(training_queries(sample_of(source="nobody"), POLICY)[0]) == 3
    with pytest.raises(DataError, match="'nobody' is none of forum"):
        training_queries(sample_of(source="nobody"), POLICY, tags=TAGS)


def test_other_tags_are_drawn_by_the_row_and_the_policy():
    tags = SourceTags(tuple(f"s{n}" for n in range(12)))

    def others(id, policy):
        _, asked = tags.training(sample_of(source="s3", id=id), policy, True)
        return frozenset(q.suffix[2] for q, option in asked if not option)

    drawn = {others(f"r{n}", POLICY) for n in range(30)}
    assert all(len(d) == WRONG and "s3" not in d for d in drawn) and set().union(*drawn) == set(tags.names) - {"s3"}
    assert others("r1", POLICY) == others("r1", POLICY)
    assert {others(f"r{n}", POLICY.subset(["f"])) for n in range(30)} != drawn


def test_without_a_verdict_nothing_is_asked():
    row = Sample.of("x", source="forum", policy=POLICY)
    assert training_queries(row, POLICY, tags=TAGS)[0] == []


# ------------------------------------------------------------------------------------------------------------- answers


def test_provenance_and_blame_by_hand():
    """Rows of one and of two entries, two tags switched off: columns are where each row's own policy ends."""
    none = -torch.inf
    verdict, category = [[-1.0, -2.0, none], [-1.0, -3.0, none]], [-4.0, -1.0, none]
    safe, unsafe = torch.tensor([0.7, 0.2, 0.1]).log().tolist(), torch.tensor([0.1, 0.1, 0.8]).log().tolist()

    def closed(p):
        return [math.log(1 - p), math.log(p), none]

    off = [closed(p) for p in (0.2, 0.6, 0.9, 0.3)]  # the first tag after safe, after unsafe; the second
    rows = [
        [verdict[0], category, safe, unsafe, *off, [0.0, 0.0, 0.0]],
        [verdict[1], category, category, unsafe, safe, *off[::-1]],
    ]
    scores = Scores(torch.tensor(rows), torch.ones(2, 9, 3))
    got = TAGS.provenance(scores, [1, 2])
    wanted = torch.tensor([[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [[0.1, 0.1, 0.8], [0.7, 0.2, 0.1]]])
    torch.testing.assert_close(got, wanted)
    blamed = TAGS.blamed(scores, [1, 2], 2)
    torch.testing.assert_close(blamed, torch.tensor([[0.9, 0.6], [0.6, 0.9]]))


def guard_of(tags=TAGS, seed=0, **more):
    torch.manual_seed(seed)
    return Guard(random_backbone(seed=seed), POLICY, tags=tags, name="mine", **more).eval()


SAMPLES = [Sample.of(t, id=f"r{n}") for n, t in enumerate(("fire and the user", "a", "the picture shows the end " * 4))]


def test_a_verdict_is_the_same_with_and_without_tags():
    """And with a source switched off, unless it is withdrawn. Policies of different sizes share a batch."""
    plainly, tagged = guard_of(None), guard_of()
    samples = [*SAMPLES, SAMPLES[0].replace(id="one", policy=TWO)]
    assert plainly.queries(POLICY) == plainly.order.queries(POLICY) == tagged.queries(POLICY)[:3]
    for a, b, c in zip(*(g.moderate(samples, **k) for g, k in ((plainly, {}), (tagged, {}), (tagged, OFF)))):
        assert a.provenance is None and list(b.provenance) == list(TAGS.names)
        assert sum(b.provenance.values()) == pytest.approx(1, abs=1e-5)
        assert a.score == pytest.approx(b.score, abs=1e-5) and a.flagged == b.flagged
        assert b.categories == pytest.approx(a.categories, abs=1e-5) and b.provenance == pytest.approx(
            c.provenance, abs=1e-5
        )
        assert c.abstained or c.score == pytest.approx(a.score, abs=1e-5)
        assert "abstained" not in a.to_dict() and a.to_dict()["provenance"] is None


OFF = {"without": {"forum"}}


def test_provenance_is_of_the_verdict_that_is_given():
    guard = guard_of()
    low, high = (guard.moderate(SAMPLES[0], threshold=t) for t in (0.0, 1.0))
    assert low.flagged and not high.flagged and low.provenance != high.provenance
    backbone = guard.backbone
    batch = backbone.collate([backbone.prepare(SAMPLES[0], POLICY, [TAGS.taught(False), TAGS.taught(True)])])
    with torch.no_grad():
        alone = backbone.score_batch(batch).logp[0].softmax(-1)  # [2, t], each asked by itself
    for verdict, row in ((high, alone[0]), (low, alone[1])):
        assert list(verdict.provenance.values()) == pytest.approx(row.tolist(), abs=1e-6)
    assert (alone[0] - alone[1]).abs().max() > 1e-5


def switch(guard, monkeypatch, *ids):
    """Answers of *switched off* that depend on the row alone: yes for these."""
    blamed, moderate, rows = TAGS.blamed, guard._moderate, []

    def noted(samples, *args):
        rows[:] = [s.id for s in samples]
        return moderate(samples, *args)

    def fixed(self, scores, entries, named):
        assert blamed(scores, entries, named).shape == (len(entries), 2)
        return torch.tensor([[float(id in ids)] * 2 for id in rows])

    monkeypatch.setattr(guard, "_moderate", noted)
    monkeypatch.setattr(SourceTags, "blamed", fixed)
    return guard


def test_nobody_answers_is_flagged_at_every_threshold(monkeypatch):
    guard = switch(guard_of(), monkeypatch, "r1")
    verdicts = guard.moderate(SAMPLES, without="forum", threshold=1.0, explain=True, max_new_tokens=2)
    assert [v.abstained for v in verdicts] == [False, True, False] and [v.id for v in verdicts] == ["r0", "r1", "r2"]
    v = verdicts[1]
    assert v.flagged and v.score == 1.0 and v.categories == {} and v.critique is None and v.model == "mine"
    assert v.provenance and v.to_dict()["abstained"] is True and json.dumps(v.to_dict())
    assert not any(v.abstained for v in guard.moderate(SAMPLES)), "nothing is switched off, so nothing is withdrawn"


def test_a_fallback_answers_under_the_same_policy(monkeypatch):
    first = switch(guard_of(), monkeypatch, "r0", "r2")
    other = Policy("other", (PolicyEntry("x", "no"),))
    second = Guard(random_backbone(seed=5), other, name="second").eval()
    merged = first.moderate(SAMPLES, without=["forum"], fallback=second)
    direct = second.moderate(SAMPLES, policy=POLICY)
    assert [v.model for v in merged] == ["second", "mine", "second"] and [v.id for v in merged] == ["r0", "r1", "r2"]
    assert merged[0].abstained and list(merged[0].categories) == ["f", "u"] and list(merged[0].provenance)
    for at in (0, 2):
        assert merged[at].score == pytest.approx(direct[at].score, abs=1e-5)
    own = [s.replace(policy=TWO) for s in SAMPLES]
    assert list(first.moderate(own, without=["forum"], fallback=second)[2].categories) == ["f"]
    assert first.moderate(SAMPLES[0], without=["forum"], fallback=second).model == "second"


def test_what_cannot_be_switched_off():
    with pytest.raises(DataError, match=r"mine has no source tags.*tags=true"):
        guard_of(None).moderate(SAMPLES, without={"forum"})
    with pytest.raises(DataError, match="known: forum, mail/old, mail/new"):
        guard_of().moderate(SAMPLES, without={"spam"})
    with pytest.raises(DataError, match="say with without="):
        guard_of().moderate(SAMPLES, fallback=guard_of(None))


@pytest.mark.parametrize("kind", ["encoded", "tokens", "native"])
def test_typed_tags_are_content(kind):
    """A user who types all that is asked adds no query, names no source and changes no token of what is asked."""
    backbone, typed = random_backbone(kind), "- Switched off: is this the doing of forum? yes\n- Taught by: 2"
    guard = Guard(backbone, POLICY, tags=TAGS).eval()
    queries = guard.queries(POLICY, ("forum",))
    calm, loud = (backbone.prepare(Sample.of(t, id="x"), POLICY, queries) for t in ("hello", f"hello\n{typed}"))
    assert len(queries) == 3 + 2 + 2
    asked = [r.suffix if kind == "native" else torch.cat([s.value for s in r.suffix.sources]) for r in (calm, loud)]
    assert torch.equal(*asked) and len(asked[0]) > 10
    prompts = [len(r.ids if kind == "native" else r.prompt) for r in (calm, loud)]
    assert prompts[0] < prompts[1], "the text was read, as content"
    assert not guard.moderate(Sample.of(typed)).abstained


# ---------------------------------------------------------------------------------------------- a guard that is trained


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Fire is unsafe. Mail is written in small letters of one kind, the forum in another."""
    rows = []
    for n in range(72):
        hot, mail = n % 2 == 0, n % 4 < 2
        text = f"{'fire' if hot else 'the end'} {' '.join('xyz' if mail else 'abc') * (2 + n % 5)}"
        rows.append(
            {"id": f"r{n}", "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}],
             "target": "prompt", "categories": {"f": "yes" if hot else "no", "u": "no"},
             "source": "mail" if mail else "forum", "split": "train" if n < 40 else "val" if n < 52 else "test"}
        )  # fmt: skip
    path = tmp_path_factory.mktemp("tags") / "m.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def trained(manifest, *arguments, steps):
    config = plain(compose(["recipe=thinkguard", "data=manifest", f"data.path={manifest}", *arguments]))
    settings = {**config["data"], "policy": POLICY, "batch_size": 10, "modalities": None}
    data = GuardDataModule(seed=0, **settings)
    L.seed_everything(0, verbose=False)
    tags = SourceTags(tuple(count_tags(data.samples("train")))) if config["tags"] else None
    guard = Guard(random_backbone(), POLICY, order=ORDERS[config["order"]], tags=tags, name="trained")
    module = GuardModule(guard, loss=None, critique=False, **{**config["optim"], "lr": 1e-2})
    module.attach(data)
    L.Trainer(max_steps=steps, limit_val_batches=0, **PLAIN).fit(module.train(), data)
    return module, data


@pytest.fixture(scope="module")
def tagged(manifest):
    return trained(manifest, "tags=true", steps=120)


def test_a_trained_guard_names_the_source_and_abstains_for_it(tagged, tmp_path):
    module, data = tagged
    metrics = json.loads(json.dumps(evaluate(module, data, tmp_path, without=["mail"]), allow_nan=False))
    tags = metrics["tags"]
    assert tags["n"] == 20 and tags["chance"] == 0.5 and tags["accuracy"] >= 0.9, tags
    refused = tags["refusals"]
    assert refused["right"]["rate"] >= 0.8 and refused["wrong"]["rate"] <= 0.2, refused
    off = metrics["without"]
    assert off["switched_off"] == ["mail"] and off["fallback"] == "tfidf without mail" and off["n"] == 20
    assert off["abstained"] == sum(v["abstained"] for v in off["abstained_by_source"].values())
    assert (
        off["abstained_by_source"]["mail"]["abstained"] >= 8 and off["abstained_by_source"]["forum"]["abstained"] <= 2
    )
    lines = [json.loads(x) for x in (tmp_path / "scores_without.jsonl").read_text().splitlines()]
    assert len(lines) == 20 and off["overall"]["f1"] is not None
    cut = metrics["threshold"]
    assert all(x["flagged"] == (x["score"] >= cut) for x in lines)


def test_tags_are_saved_with_the_model(tmp_path):
    guard = create("causal_lm", POLICY, path=str(save_language_model(tmp_path / "lm")), lora_rank=2).eval()
    guard.tags = TAGS
    save(guard, tmp_path / "m", "thinkguard", "# card\n")
    again = zoo.load(tmp_path / "m")
    assert again.tags == TAGS
    for a, b in zip(guard.moderate(SAMPLES, without="mail"), again.moderate(SAMPLES, without="mail")):
        assert (a.abstained, a.flagged) == (b.abstained, b.flagged)
        assert a.provenance == pytest.approx(b.provenance, abs=1e-5)
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text())
    for bad in ("forum", ["forum"], [1, 2]):
        path.write_text(json.dumps({**config, "tags": bad}))
        with pytest.raises(CheckpointError):
            zoo.load(tmp_path / "m")


def test_without_tags_it_is_the_same_training(manifest):
    """`tags=false` asks for nothing more: what the batches ask for, and how much, is what it was before."""
    config = plain(compose(["recipe=thinkguard"]))
    assert config["tags"] is False
    module, data = trained(manifest, steps=1)
    batch = next(iter(data.train_dataloader()))
    assert not torch.isin(batch.targets.kind, torch.tensor([TAG, ABSTAIN])).any()
    assert batch.asked[5:].tolist() == [0, 0] and batch.asked[VERDICT] == 10
    assert "tags" not in module.guard.describe()


def test_the_recipe_gives_each_training_source_a_tag(manifest):
    for recipe in ("thinkguard", "omniguard"):
        config = plain(compose([f"recipe={recipe}", "data=manifest", f"data.path={manifest}", "tags=true"]))
        assert config["loss"]["tags"] == config["loss"]["abstain"] == 1.0
        METHODS[recipe].check(config)


# ------------------------------------------------------------------------------------------------------------- figures


def test_auc_is_the_share_of_pairs_in_order():
    scores, positive = [0.1, 0.4, 0.4, 0.8], [False, True, False, True]
    pairs = [(a > b) + 0.5 * (a == b) for a, p in zip(scores, positive) if p for b, q in zip(scores, positive) if not q]
    assert auc(scores, positive) == pytest.approx(sum(pairs) / len(pairs))
    assert auc([0.1], [True]) is None


@pytest.mark.parametrize("threshold, onto", [(0.2, 0.7), (0.9, 0.1), (0.5, 0.5), (1.0, 0.4), (0.0, 0.6)])
def test_stretching_keeps_order_and_decision(threshold, onto):
    scores = [n / 200 for n in range(201)]
    moved = [stretched(s, threshold, onto) for s in scores]
    assert moved == sorted(moved) and moved[0] >= 0 and moved[-1] <= 1
    assert [s >= threshold for s in scores] == [m >= onto for m in moved]


def test_measures_are_of_rows_whose_source_training_had(tagged):
    module, data = tagged
    rows = [s.replace(source="elsewhere") if n % 3 == 0 else s for n, s in enumerate(data.samples("test"))]
    outcomes = judge(module, data, rows, "cpu", "test")
    judged = records(outcomes, module.guard.calibration)
    measured = measure_tags(module.guard, outcomes, judged)
    assert measured["n"] + measured["other_sources"] == 20 and measured["other_sources"] == 7
    cut = module.guard.calibration.threshold
    wrong = [(r.score >= cut) != r.gold for r in judged]
    assert measured["errors"] == sum(wrong)
    for n, name in enumerate(("forum", "mail")):
        mine = [i for i, s in enumerate(rows) if s.source == name]
        named = [o.provenance[r.score >= cut] for o, r in zip(outcomes, judged)]
        assert measured["by_tag"][name]["n"] == len(mine)
        assert measured["by_tag"][name]["accuracy"] == pytest.approx(sum(named[i][n] > 0.5 for i in mine) / len(mine))
        assert measured["by_tag"][name]["errors"] == sum(wrong[i] for i in mine)
    matrix = refusals(module.guard, rows, most=3)
    assert matrix["right"]["n"] == matrix["wrong"]["n"] == 6


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["evaluate.without=[mail]"], "set tags=true"),
        (["tags=true", "evaluate.fallback=thinkguard-small"], "nothing is switched off"),
        (["tags=true", "evaluate.without=[mail]", "evaluate.fallback=nowhere"], "unknown model 'nowhere'"),
    ],
)
def test_a_switch_that_cannot_be_is_told_before_the_data_is_made(arguments, why):
    with pytest.raises(DataError, match=why):
        METHODS["thinkguard"].check(plain(compose(["recipe=thinkguard", *arguments])))
