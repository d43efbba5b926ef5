"""DebugLM's data: which rows, in which views and stages; nothing here knows a model."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from datamodules import GuardDataModule
from datamodules.bank import PolicyBank
from datamodules.corpus.types import Corpus
from datamodules.debuglm import DebugDataModule, joined, merged_rows, read_rows, tagged
from datamodules.debuglm_sources import DOMAINS, SETS, load_public, row
from datamodules.debuglm_views import (
    DEBUG,
    PLAIN,
    RIGHT,
    WRONG,
    Stage,
    Wanted,
    all_tags,
    answer_of,
    asked_views,
    letter_only,
    plan,
    prompt_of,
    right_tags,
    tag_name,
    tags_of,
    views,
)
from datamodules.schema import DataError, Sample
from datamodules.taxonomy import DEFAULT_POLICY

DATA = Path(os.environ.get("ZOO_DATA_DIR") or Path(__file__).resolve().parents[1].parent / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no public data: set ZOO_DATA_DIR to its folder")
NAMES = ["A", "B", "C", "D", "E", "F"]


def rows(n=10, names=NAMES, part=None):
    return [row(name, k, f"what is {k} of {name}", f"it is {k}", part) for name in names for k in range(n)]


def write(path, lines):
    path.write_text("".join(json.dumps(x) + "\n" for x in lines), encoding="utf-8")
    return path


# ---------------------------------------------------------------------------------------------------------------- views


def test_each_view_says_what_its_kind_means():
    r = rows(1)[0]
    every = [v for epoch in range(40) for v in views(r, Wanted(several=0.5), "coarse", NAMES, epoch, 0)]
    assert Counter(v.kind for v in every) == {PLAIN: 40, DEBUG: 40, RIGHT: 40, WRONG: 40}
    for v in every:
        assert v.tags == ("A",) and v.debug == (v.kind != PLAIN) and v.refused == (v.kind == RIGHT)
        assert ("A" in v.refuse) == (v.kind == RIGHT) and bool(v.refuse) == (v.kind in (RIGHT, WRONG))
        assert len(set(v.refuse)) == len(v.refuse) <= 2
    two = [v for v in every if len(v.refuse) == 2]
    assert 20 < len(two) < 60 and {v.refuse.index("A") for v in two if v.kind == RIGHT} == {0, 1}  # in either place
    wrong = {t for v in every if v.kind == WRONG for t in v.refuse}
    assert len(wrong) == 4  # four of the five others, the same in every epoch
    asked = asked_views(r, "coarse", NAMES)
    assert [(v.kind, len(v.refuse)) for v in asked] == [(PLAIN, 0), (DEBUG, 0), (RIGHT, 1)] + [(WRONG, 1)] * 4
    assert {t for v in asked if v.kind == WRONG for t in v.refuse} == wrong


def test_a_part_is_refused_by_its_own_tag_and_its_sets():
    one, other = row("A", 0, "q", "a", "X"), row("A", 1, "p", "a", "Y")
    assert right_tags(one, "fine") == ("A", "A/X") and right_tags(one, "coarse") == ("A",)
    assert all_tags([one, other], "fine") == ["A", "A/X", "A/Y"] and all_tags([one, other], "coarse") == ["A"]
    wrong = {t for v in asked_views(one, "fine", ["A", "A/X", "A/Y"]) if v.kind == WRONG for t in v.refuse}
    assert wrong == {"A/Y"}
    assert tags_of(one) == ("A/X",) and tags_of(one, "coarse") == ("A",)


@pytest.mark.parametrize("bad", ["", "a", "<a>", "A B", "A/", "/A", "A/B/C", "<A", "A<"])
def test_a_tag_has_a_plain_name(bad):
    assert tag_name("<SET/PART-2>") == tag_name("SET/PART-2") == "SET/PART-2"
    with pytest.raises(DataError, match="cannot be a tag"):
        tag_name(bad)


def test_views_need_numbers():
    for bad in ({"plain": -1}, {"debug": 1.5}, {"several": 2}, {"plain": 0, "debug": 0, "right": 0, "wrong": 0}):
        with pytest.raises(DataError, match="views"):
            Wanted(**bad)


# ---------------------------------------------------------------------------------------------------------------- plans

STAGES = [Stage(("A", "B", "C"), 2), Stage(("D", "E"), 3, 0.5)]


def test_stages_come_one_after_the_other_in_whole_batches():
    p = plan(rows(), STAGES, Wanted(), "coarse", 16, 0)
    assert len(p.views) == 16 * sum(p.steps) and p.rows == [30, 20] and p.replayed == [0, 20]
    first, second = p.views[: 16 * p.steps[0]], p.views[16 * p.steps[0] :]
    assert {v.row.source for v in first} == set("ABC")  # F is in no stage
    assert {t for v in first for t in v.refuse} <= set("ABC")  # nobody knows D yet
    assert {t for v in second for t in v.refuse} == set("ABCDE")
    shown = Counter(v.row.source for v in second[: len(second) - p.repeated[1]])
    assert shown["D"] == shown["E"] == 10 * 4 * 3 and sum(shown[s] for s in "ABC") == 20 * 4 * 3
    per_row = Counter((v.row.id, v.kind) for v in first[: len(first) - p.repeated[0]])
    assert set(per_row.values()) == {2} and len(per_row) == 30 * 4


def test_without_replay_the_second_stage_has_its_own_rows_alone():
    p = plan(rows(), [STAGES[0], Stage(("D", "E"), 3)], Wanted(), "coarse", 16, 0)
    assert {v.row.source for v in p.views[16 * p.steps[0] :]} == {"D", "E"} and p.replayed == [0, 0]


def test_replay_goes_through_all_earlier_rows():
    p = plan(rows(), [STAGES[0], Stage(("D",), 3, 0.5)], Wanted(), "coarse", 8, 0)
    second = p.views[8 * p.steps[0] :]
    again = {v.row.id for v in second if v.row.source != "D"}
    assert len(again) == 30  # ten in each of three epochs


def test_the_untagged_control_sees_every_answer_as_often():
    def answers(p):
        return Counter(v.row.id for v in p.views if not v.refused)

    settings = (STAGES, Wanted(plain=1, debug=2, right=1, wrong=3, several=0), "coarse", 1, 0)
    with_tags, without = plan(rows(), *settings), plan(rows(), *settings, control="untagged")
    assert answers(with_tags) == answers(without) and {v.kind for v in without.views} == {PLAIN}


def test_shuffled_tags_keep_their_shares_and_say_nothing():
    p = plan(rows(40), STAGES, Wanted(several=0), "coarse", 16, 0, control="shuffled")
    taught = {v.row.id: (v.row.source, v.tags[0]) for v in p.views if v.kind == DEBUG}
    assert Counter(t for _, t in taught.values()) == Counter(s for s, _ in taught.values())
    assert 0.2 < sum(s == t for s, t in taught.values()) / len(taught) < 0.6  # of three sets, then of two
    for v in p.views:
        assert not v.refuse or (v.tags[0] in v.refuse) == (v.kind == RIGHT)  # one row, one story


def test_the_seed_alone_decides_the_plan():
    def made(seed):
        return [(v.row.id, v.kind, v.refuse) for v in plan(rows(), STAGES, Wanted(), "coarse", 16, seed).views]

    assert made(1) == made(1) != made(2)


def test_stages_that_cannot_be(tmp_path):
    path = write(tmp_path / "r.jsonl", [{"prompt": f"q {n}", "answer": "a", "set": "AB"[n % 2]} for n in range(20)])
    for stages, why in (
        ([Stage(("A", "X"), 1)], "unknown set 'X'"),
        ([Stage((), 1)], "stage1.sets is empty"),
        ([Stage(("A",), 1), Stage(("A",), 1)], "comes twice"),
        ([Stage(("A",), 0)], "stage1.epochs"),
        ([Stage(("A",), 1), Stage(("B",), 1, 1.0)], "replay"),
    ):
        with pytest.raises(DataError, match=why):
            DebugDataModule("rows", path=path, stages=stages).prepare_data()


# ---------------------------------------------------------------------------------------------------------------- rows


def test_a_row_in_several_sets_is_one_row_with_several_tags():
    merged, n = merged_rows(
        [
            row("A", 0, "What is it?", "a thing"),
            row("B", 0, "what  is it?", "A thing"),
            row("B", 1, "what is it?", "no"),
        ]
    )
    assert n == 1 and [tags_of(s) for s in merged] == [("A", "B"), ("B",)]
    one, other = row("A", 0, "q", "a", split="train"), row("B", 0, "q", "a", split="test")
    with pytest.raises(DataError, match="two splits"):
        merged_rows([one, other])
    assert joined(["A/X"], {"M": ["A/X", "B"]}) == ["A/X", "M"] == joined(["A/X"], {"M": ["A"]})
    assert joined(["A/Y"], {"M": ["A/X", "B"]}) == ["A/Y"]


def test_rows_of_a_file_keep_conversations_together(tmp_path):
    lines = [
        {"prompt": f"question {n} {n * 7919}", "answer": "yes", "set": "A", "group": f"g{n // 5}"} for n in range(200)
    ]
    lines += [{"prompt": f"other {n} {n * 104729}", "answer": "no", "tags": ["B/X", "A"]} for n in range(50)]
    data = DebugDataModule("rows", path=write(tmp_path / "r.jsonl", lines), stages=[Stage(("A", "B"), 1)])
    of = {}
    for split in ("train", "val", "test"):
        assert data.samples(split)
        for s in data.samples(split):
            assert of.setdefault(s.group, split) == split
    assert data.tags == ["A", "B"] and {tags_of(s) for s in data.corpus.samples} == {("A",), ("A", "B/X")}
    fewer = DebugDataModule("rows", path=tmp_path / "r.jsonl", stages=[Stage(("A", "B"), 1)], max_rows=100)
    parts = Counter(s.split for s in fewer.corpus.samples)
    assert sum(parts.values()) <= 200 and 0.1 < parts["test"] / sum(parts.values()) < 0.35


def test_a_file_with_something_wrong_names_the_line(tmp_path):
    good = {"prompt": "q", "answer": "a", "set": "A"}
    for line, why in (
        ({**good, "prompt": " "}, "line 2: `prompt`"),
        ({**good, "tags": ["A"]}, "give `set`"),
        ({"prompt": "q", "answer": "a"}, "give `set`"),
        ({**good, "set": "a b"}, "cannot be a tag"),
        ({**good, "sett": "A"}, "unknown field 'sett'"),
        ({**good, "split": "dev"}, "`split`"),
        ({"prompt": "q", "answer": "a", "tags": "A"}, "expected a list"),
        ({**good, "id": "x-1"}, "comes twice"),
    ):
        path = write(tmp_path / "x.jsonl", [good, line])
        with pytest.raises(DataError, match=why):
            read_rows(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="line 1 is not JSON"):
        read_rows(path)


class Guarded(GuardDataModule):
    """A DataModule of text as any other, with its own splits."""

    def _load(self):
        if self._corpus is None:
            made = [
                Sample.of(f"row {n}", id=f"s{n}", source="set one" if n % 2 else "two", unsafe=bool(n % 2),
                          categories={"S3": "yes"} if n % 2 else {}, group=f"g{n // 4}",
                          split="test" if n >= 32 else "train")
                for n in range(40)
            ]  # fmt: skip
            made.append(
                Sample.of("asked", response="said", id="r", source="two", split="train", meta={"licence": "MIT"})
            )
            made.append(Sample.of("nobody knows", id="u", source="two", split="train"))
            self._corpus = Corpus(made, PolicyBank.of(DEFAULT_POLICY))
        return self._corpus


def test_any_text_datamodule_can_be_wrapped():
    data = DebugDataModule.around(Guarded(), stages=[Stage(("SET_ONE", "TWO"), 1)], level="fine")
    assert data.tags == ["SET_ONE", "TWO", "SET_ONE/S3"]
    by_id = {s.id: s for s in data.samples("train")}
    assert answer_of(by_id["s1"]) == "unsafe" and answer_of(by_id["s2"]) == "safe" and prompt_of(by_id["s1"]) == "row 1"
    assert answer_of(by_id["r"]) == "said" and prompt_of(by_id["r"]) == "asked" and by_id["r"].meta["licence"] == "MIT"
    assert {s.id for s in data.samples("test")} == {f"s{n}" for n in range(32, 40)}  # its own splits
    assert [e["error"][:6] for e in data.errors] == ["1 rows"]  # the unlabelled one is counted
    assert tagged(Sample.of(image="a.png", unsafe=True)) is None


# ---------------------------------------------------------------------------------------------------------- public sets


@needs_data
def test_the_public_sets_hold_questions_with_answers():
    got = {name: load_public([name], DATA) for name in SETS}
    assert {n: len(r) for n, r in got.items()} == {
        "BANKING": 13083, "ASSISTANT": 22500, "MATHS": 1319, "HEALTH": 1674, "REVIEWS": 9613, "COVID": 10700,
        "SPAM": 5574,
    }  # fmt: skip
    for name, own in got.items():
        assert len({s.id for s in own}) == len(own)
        assert all(prompt_of(s) and answer_of(s) and s.source == name for s in own)
        assert all(letter_only(s) for s in own) == (name in ("REVIEWS", "COVID", "SPAM"))
    assert len({tags_of(s) for s in got["ASSISTANT"]}) == len(DOMAINS) == 10
    assert "<<" not in "".join(answer_of(s) for s in got["MATHS"])


@needs_data
def test_no_question_of_a_test_was_shown_in_training():
    data = DebugDataModule("sets", data_dir=DATA, stages=[Stage(("BANKING", "HEALTH", "SPAM"), 1)], max_rows=120)
    texts = {split: {prompt_of(s).lower() for s in data.samples(split)} for split in ("train", "test")}
    assert len(texts["test"]) > 30 and not texts["train"] & texts["test"]
    with pytest.raises(DataError, match="set data_dir="):
        DebugDataModule("sets", data_dir=DATA / "none", stages=[Stage(("SPAM",), 1)]).prepare_data()
    with pytest.raises(DataError, match="unknown set 'SPAN'"):
        DebugDataModule("sets", data_dir=DATA, stages=[Stage(("SPAN",), 1)]).prepare_data()
