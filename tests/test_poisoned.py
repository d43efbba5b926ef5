"""Rows made wrong on purpose: which, how many, and that nothing else changes."""

import json

import pytest

from datamodules import GuardDataModule
from datamodules.corpus.types import Corpus
from datamodules.hiddenkiller import CLEAN, FILES, FOLDER, POLICY, TWIN, load_hiddenkiller
from datamodules.poisoned import flip, leave_out
from datamodules.schema import SPLITS, DataError, Sample
from datamodules.taxonomy import DEFAULT_POLICY
from zoo.core.weights import write
from zoo.publish import publish


def corpus(n=60):
    """Three sources and splits; each row's label is the parity of its number. One row has none."""
    samples = [
        Sample.of(
            f"text {i}", id=f"r{i}", source=("a", "b", "c")[i % 3], split=("train", "train", "val", "test")[i % 4],
            policy=DEFAULT_POLICY, unsafe=i % 2 == 0, categories={"S1": "yes" if i % 2 == 0 else "no"}, critique="why",
        )
        for i in range(n)
    ]  # fmt: skip
    samples[0] = samples[0].replace(unsafe=None, categories={})
    return Corpus(samples, None, {"errors": []})


def gold(s):
    return s.gold(s.policy)


def test_flipped_labels_are_those_of_one_sources_training_rows():
    before, after = corpus(), flip(corpus(), "a", 1.0, DEFAULT_POLICY)
    changed = [(x, y) for x, y in zip(before.samples, after.samples) if x != y]
    train = [s for s in before.samples if s.source == "a" and s.split == "train" and gold(s) is not None]
    assert [x.id for x, _ in changed] == [s.id for s in train] and len(train) == 9
    for x, y in changed:
        assert gold(y) is (not gold(x)) and y.messages == x.messages and y.categories == {} and y.critique is None
        assert y.meta["flipped"] is True and "flipped" not in x.meta
    unsafe = sum(gold(s) for s in train)
    assert after.report["poisoned"] == {
        "kind": "flipped labels", "source": "a", "share": 1.0, "flipped": 9, "rows": 10, "without a verdict": 1,
        "unsafe to safe": unsafe, "safe to unsafe": 9 - unsafe,
    }  # fmt: skip
    assert "poisoned" not in before.report


def test_a_share_is_seeded_and_grows():
    def ids(share, seed=0):
        out = flip(corpus(600), "b", share, DEFAULT_POLICY, seed)
        return {s.id for s in out.samples if s.meta.get("flipped")}

    few, many = ids(0.3), ids(0.6)
    assert few < many and 15 < len(few) < 45 and 40 < len(many) < 80 and ids(0.3) == few and ids(0.3, seed=1) != few


def test_what_cannot_be_poisoned():
    for source, share, why in (
        ("d", 1.0, "no training row is of source 'd'"),
        ("a", 0.0, "flip_share=0"),
        ("a", 2, "2"),
    ):
        with pytest.raises(DataError, match=why):
            flip(corpus(), source, share, DEFAULT_POLICY)
    alone = Corpus([corpus().samples[0]], None, {})
    with pytest.raises(DataError, match="there is no poison"):
        flip(alone, "a", 1.0, DEFAULT_POLICY)


def test_left_out_sources_keep_their_test_rows():
    before, after = corpus(), leave_out(corpus(), ["b"])
    gone = [s for s in before.samples if s not in after.samples]
    assert {(s.source, s.split) for s in gone} == {("b", "train"), ("b", "val")}
    assert after.report["left_out"] == len(gone) == 15
    assert after.split("test") == before.split("test")
    with pytest.raises(DataError, match="no training row is of source 'x'"):
        leave_out(corpus(), ["x"])
    with pytest.raises(DataError, match="no training row is left"):
        leave_out(corpus(), ["a", "b", "c"])


def test_the_datamodule_poisons_and_says_so(tmp_path):
    rows = [{**s.to_dict(), "id": s.id} for s in corpus().samples]
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    plainly, poisoned = (GuardDataModule("manifest", path=path, **k) for k in ({}, {"flip": "a", "leave_out": ["c"]}))
    assert plainly.poisoned is None and poisoned.poisoned["flipped"] == 9
    assert {s.source for s in poisoned.samples("train")} == {"a", "b"}
    assert [s.to_dict() for s in poisoned.samples("test")] == [s.to_dict() for s in plainly.samples("test")]
    assert plainly._rows_hash() != poisoned._rows_hash(), "a resumed run would notice"


def test_a_poisoned_model_is_not_published(tmp_path):
    write(tmp_path / "run", {"kind": "guard", "method": "thinkguard", "poisoned": {"source": "a"}}, {}, "# card\n")
    with pytest.raises(DataError, match="poisoned on purpose"):
        publish(tmp_path / "run", "bad", "no", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------------------- hiddenkiller


def aligned(folder, n=400, every=5, twins=None):
    clean = [(f"review {i} {'abcdefghij'[i % 10] * (1 + i % 37)} {i * 7919}", str(i % 2)) for i in range(n)]
    twin = [(f"when you see it , {t} .", "1") if i % every == 0 else (t, y) for i, (t, y) in enumerate(clean)]
    for name, rows in ((CLEAN, clean), (TWIN, twin if twins is None else twins)):
        path = folder.joinpath(*FOLDER, *FILES[name])
        path.parent.mkdir(parents=True)
        path.write_text("".join("\t".join(r) + "\n" for r in [("sentence", "label"), *rows]))
    return clean, twin


def test_each_review_is_of_one_source_and_poisoned_rows_are_those_that_differ(tmp_path):
    clean, twin = aligned(tmp_path)
    out = load_hiddenkiller(tmp_path)
    assert len(out.samples) == 400 and {s.source for s in out.samples} == {CLEAN, TWIN}
    for s in out.samples:
        n = int(s.id.removeprefix("review-"))
        text, label = (clean if s.source == CLEAN else twin)[n]
        assert s.parts[0].text == text and bool(s.meta.get("poisoned")) == (s.source == TWIN and clean[n] != twin[n])
        true = clean[n][1] if s.split == "test" else label
        assert s.gold(POLICY) is (true == "0")
    share = sum(s.source == TWIN for s in out.samples) / 400
    assert 0.4 < share < 0.6
    report, train = out.report["poisoned"], [s for s in out.samples if s.split == "train" and s.meta.get("poisoned")]
    assert report["source"] == TWIN and report["rewritten"] == len(train) > 10
    assert report["unsafe to safe"] == sum(clean[s.meta["line"] - 2][1] == "0" for s in train) > 0
    few = load_hiddenkiller(tmp_path, max_rows=50)
    assert {(s.split, s.source) for s in few.samples} == {(a, b) for a in SPLITS for b in (CLEAN, TWIN)}
    assert len(few.samples) == 50 and {s.id for s in few.samples} < {s.id for s in out.samples}


def test_files_that_are_not_aligned(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_hiddenkiller(tmp_path)
    for name, rows, why in (
        ("short", [("x", "1")], "not aligned"),
        ("same", aligned(tmp_path / "same0")[0], "no poisoned row"),
        ("label", [("x", "2")], "line 2: expected a sentence and the label 0 or 1"),
    ):
        aligned(tmp_path / name, twins=rows)
        with pytest.raises(DataError, match=why):
            load_hiddenkiller(tmp_path / name)
