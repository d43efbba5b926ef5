"""GuardZoo as a whole: what is left out and why, what is on which side, under which policy."""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest

import datamodules.guardzoo as guardzoo
from datamodules.bank import rng_for
from datamodules.base import GuardDataModule
from datamodules.domains import DOMAINS, check_domains, owner_of
from datamodules.guardzoo import HELD_OUT, load_guardzoo
from datamodules.guardzoo_links import link, question
from datamodules.loading import load_corpus
from datamodules.schema import DataError, Message, Part, Sample
from datamodules.sources.files import text_sample
from datamodules.sources.registry import GUARDZOO, ZooSource
from datamodules.sources.similar import normalise
from datamodules.taxonomy import DEFAULT_POLICY
from zoo import data as verb
from zoo.core.source_table import source_tables
from zoo.evaluate import slices_of

DATA = Path(os.environ.get("ZOO_DATA_DIR") or Path(__file__).resolve().parents[1].parent / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no public data: set ZOO_DATA_DIR to its folder")
WORDS = [f"word{n}" for n in range(400)]


def source(samples, *, permissive=True, eval_only=False, **settings) -> ZooSource:
    module = SimpleNamespace(
        load=lambda data_dir: list(samples), LICENCE="MIT" if permissive else "CC-BY-NC-4.0", PERMISSIVE=permissive,
        TARGET="prompt", EVAL_ONLY=eval_only,
    )  # fmt: skip
    return ZooSource(module, **settings)


def words(*key, n=30) -> list[str]:
    return rng_for("words", *key).choices(WORDS, k=n)


@pytest.fixture
def registry(monkeypatch):
    """Replaces the sources: `registry(name=source(...), …)`."""

    def use(**sources):
        monkeypatch.setattr(guardzoo, "GUARDZOO", sources)

    return use


def row(name, n, text, unsafe=True, **fields):
    fields.setdefault("categories", {"S2": "yes" if unsafe else "no"})
    return text_sample(name, n, text, unsafe=unsafe, **fields)


def shingles(sample: Sample) -> set[str]:
    text = normalise("\n".join(p.text or "" for p in sample.parts)).ljust(5)
    return {text[i : i + 5] for i in range(len(text) - 4)}


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def assert_accounted(report) -> None:
    for name, s in report["sources"].items():
        assert s["read"] == s["rows"] + sum(s["dropped"].values()), name
        assert s["rows"] == s["safe"] + s["unsafe"] == sum(s["splits"].values()), name
    t = report["total"]
    assert t["read"] == t["rows"] + t["dropped"]


def test_what_a_source_itself_leaves_out_is_counted(registry, tmp_path):
    def load(data_dir, dropped):
        dropped["for evaluation only"] += 3
        return [row("one", n, " ".join(words("out", n))) for n in range(4)]

    whole = source([])
    whole.module.load = load
    registry(one=ZooSource(whole.module, leaves_out=True))
    report = load_guardzoo(tmp_path, held_out=[]).report
    assert_accounted(report)
    one = report["sources"]["one"]
    assert (one["read"], one["rows"], one["dropped"]) == (7, 4, {"for evaluation only": 3})


@pytest.fixture
def noisy(registry):
    """Five sources of texts of which many are copies, near-copies and half-copies of each other's."""
    rng = random.Random(3)
    bases = [words("base", n) for n in range(40)]
    rows = defaultdict(list)
    for n in range(250):
        name = rng.choice(["held", "contrast", "one", "two", "three"])
        text = list(rng.choice(bases)) if rng.random() < 0.6 else words("own", n)
        for _ in range(rng.choice([0, 0, 1, 2, 8])):
            text[rng.randrange(len(text))] = rng.choice(WORDS)
        unsafe = name != "contrast" and rng.random() < 0.5
        rows[name].append(row(name, n, " ".join(text), unsafe))
    registry(
        held=source(rows["held"]), contrast=source(rows["contrast"], eval_only=True), one=source(rows["one"]),
        two=source(rows["two"], permissive=False), three=source(rows["three"]),
    )  # fmt: skip
    return rows


# -------------------------------------------------------------------------------------------------------- duplicates


def test_no_near_duplicate_is_in_another_source_or_on_another_side(noisy, tmp_path):
    corpus = load_guardzoo(tmp_path, held_out=["held"])
    assert_accounted(corpus.report)
    kept = [(s, shingles(s)) for s in corpus.samples]
    near = 0
    for i, (a, x) in enumerate(kept):
        for b, y in kept[:i]:
            if jaccard(x, y) >= 0.8:
                near += 1
                assert a.source == b.source and a.split == b.split and a.group == b.group
                assert x != y
    assert near > 10  # contrasts inside a source stay
    # nothing is left out without a reason: each row that is missing resembles, through others, one that stays
    everything = [s for rows in noisy.values() for s in rows]
    clusters = dict(zip([s.id for s in everything], link(everything).clusters))
    stays = {clusters[s.id] for s in corpus.samples}
    assert {clusters[s.id] for s in everything} == stays
    reasons = {r for s in corpus.report["sources"].values() for r in s["dropped"]}
    assert {"near-duplicate of held", "near-duplicate of contrast", "repeated text"} <= reasons


def test_held_out_sources_and_contrasts_are_for_test_alone(noisy, tmp_path):
    corpus = load_guardzoo(tmp_path, held_out=["held"])
    sides = defaultdict(set)
    for s in corpus.samples:
        sides[s.source].add(s.split)
        flags = {k for k in slices_of(s) if "-" in k}
        if s.source == "held":
            assert flags == {"out-of-domain"}
        elif s.source == "contrast":
            assert flags == set()
        else:
            assert flags == ({"in-domain"} if s.split == "test" else set())
    assert sides["held"] == sides["contrast"] == {"test"}
    assert all(sides[name] == {"train", "val", "test"} for name in ("one", "two", "three"))
    with_two = load_guardzoo(tmp_path, held_out=["held", "two"])
    assert {s.split for s in with_two.samples if s.source == "two"} == {"test"}


def test_permissive_rows_stay_on_their_side_and_nothing_of_a_test_comes_back(noisy, tmp_path):
    everything = {s.id: s for s in load_guardzoo(tmp_path, held_out=["held"]).samples}
    free = load_guardzoo(tmp_path, held_out=["held"], licences="permissive")
    assert_accounted(free.report)
    taught = [s for s in free.samples if s.split != "test"]
    assert free.report["sources"]["two"]["dropped"]["licence"] > 0
    assert {s.source for s in taught} == {"one", "three"} and all(s.meta["permissive"] for s in taught)
    tests = [{s.id for s in rows if s.split == "test"} for rows in (everything.values(), free.samples)]
    assert tests[0] == tests[1] and any(i.startswith("two") for i in tests[0])
    assert all(everything[s.id].split == s.split for s in free.samples if s.id in everything)
    came = {s.id for s in free.samples} - set(everything)
    assert came and all(i.startswith("three") for i in came)  # only copies of what "two" had


def test_a_non_commercial_test_set_keeps_its_copies_out_of_training(registry, tmp_path):
    text = " ".join(words("shared"))
    registry(held=source([row("held", 0, text)], permissive=False), one=source([row("one", 0, text + " x")]))
    corpus = load_guardzoo(tmp_path, held_out=["held"], licences="permissive")
    assert [s.source for s in corpus.samples] == ["held"]
    assert corpus.report["sources"]["one"]["dropped"] == {"near-duplicate of held": 1}


def test_answers_to_one_question_share_a_side_and_leave_training_for_a_test_set(registry, tmp_path):
    asked = " ".join(words("asked", n=8))
    answers = [
        row("one", n, " ".join(words("asked", n % 12, n=8)), response=" ".join(words("answer", n))) for n in range(60)
    ]
    tested = row("held", 0, asked, response=" ".join(words("other answer")))
    own = row("one", 99, asked, response=" ".join(words("own answer")))
    registry(held=source([tested]), one=source([*answers, own]), two=source([row("two", 0, asked)]))
    corpus = load_guardzoo(tmp_path, held_out=["held"])
    assert {s.id for s in corpus.samples if s.split == "test"} >= {"held-0"}
    assert not {"one-99", "two-0"} & {s.id for s in corpus.samples}
    assert corpus.report["sources"]["one"]["dropped"] == {"shares a question or group with held": 1}
    side = defaultdict(set)
    for s in corpus.samples:
        if s.source == "one":
            side[s.parts[0].text].add(s.split)
    assert len(side) == 12 and all(len(v) == 1 for v in side.values())


def test_a_question_links_only_where_it_tells_something():
    long, short = "how do I whittle a wooden spoon", "hi"
    assert question(text_sample("a", 0, long, unsafe=False)) == normalise(long)
    assert question(text_sample("a", 0, short, unsafe=False)) is None
    document = (Message("user", (Part("text", text=long),)), Message("tool", (Part("text", text="a page"),)))
    for target in ("conversation", "trajectory"):
        assert question(Sample("a", document, target=target)) is None
    system = (Message("system", (Part("text", text="one for all of them"),)), *document[:1])
    rows = [Sample(f"s{n}", (*system[:1], Message("user", (Part("text", text=" ".join(words(n))),))), target="prompt")
            for n in range(3)]  # fmt: skip
    assert len(set(link(rows).groups)) == 3


def test_equal_texts_with_other_verdicts_are_told_apart_in_the_counts(registry, tmp_path):
    text = " ".join(words("same"))
    registry(one=source([row("one", 0, text), row("one", 1, text.upper()), row("one", 2, text + "!", unsafe=False)]))
    corpus = load_guardzoo(tmp_path, held_out=[])
    assert [s.id for s in corpus.samples] == ["one-0"]
    assert corpus.report["sources"]["one"]["dropped"] == {"repeated text": 1, "repeated text, other verdict": 1}


# ----------------------------------------------------------------------------------------------- policies and labels


def test_narrow_sources_are_judged_under_what_they_annotate(registry, tmp_path):
    def rows(name):
        return [
            row(name, 0, " ".join(words(name, 0)), unsafe=False),
            row(name, 1, " ".join(words(name, 1)), categories={"S1": "yes", "S2": "yes"}),
            row(name, 2, " ".join(words(name, 2)), unsafe=None, categories={}),
            row(name, 3, " ", unsafe=True),
        ]

    registry(narrow=source(rows("narrow"), narrow=True), wide=source(rows("wide")))
    corpus = load_guardzoo(tmp_path, held_out=["narrow", "wide"])
    by_id = {s.id: s for s in corpus.samples}
    assert set(by_id) == {"narrow-0", "narrow-1", "wide-0", "wide-1"}
    assert by_id["narrow-0"].policy.ids == ("S2",) and by_id["narrow-1"].policy.ids == ("S1", "S2")
    assert by_id["wide-0"].policy == DEFAULT_POLICY == by_id["wide-1"].policy
    assert by_id["narrow-0"].gold(by_id["narrow-0"].policy) is False
    assert by_id["narrow-0"].gold(DEFAULT_POLICY) is None  # what was not annotated is unknown
    assert corpus.report["sources"]["narrow"]["dropped"] == {"no text": 1, "no verdict": 1}
    assert corpus.report["total"]["yes"]["S1"] == 2 and corpus.report["total"]["no"]["S1"] == 0
    assert "S5" in corpus.report["without_positives"] and "S1" not in corpus.report["without_positives"]
    assert "Without any positive row: " in source_tables(corpus.report)


def test_limits_balance_verdicts_and_are_counted(registry, tmp_path):
    rows = [row("one", n, " ".join(words(n)), unsafe=n % 10 == 0) for n in range(400)]
    registry(one=source(rows, limit=100), two=source([row("two", n, " ".join(words("b", n))) for n in range(50)]))
    corpus = load_guardzoo(tmp_path, held_out=[], max_rows_per_source=30)
    one, two = corpus.report["sources"]["one"], corpus.report["sources"]["two"]
    assert (one["rows"], one["unsafe"]) == (30, 15) and two["rows"] == 30
    assert one["dropped"] == {"over the limit of 100": 300, "over the max_rows of 30": 70}
    free = load_guardzoo(tmp_path, held_out=["two"], max_rows_per_source=30)
    assert free.report["sources"]["two"]["rows"] == 50  # what is held out is taken whole
    assert_accounted(free.report)


def test_a_seed_decides_the_split(noisy, tmp_path):
    one, again, other = (load_guardzoo(tmp_path, seed=s, held_out=["held"]) for s in (0, 0, 1))
    assert [s.to_dict() for s in one.samples] == [s.to_dict() for s in again.samples] and one.report == again.report
    assert {s.id: s.split for s in one.samples} != {s.id: s.split for s in other.samples}


def test_options_that_are_wrong_name_the_fix(tmp_path):
    with pytest.raises(DataError, match="set data_dir="):
        load_guardzoo(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no such file: set data_dir="):
        load_guardzoo(tmp_path)
    with pytest.raises(DataError, match="permissive"):
        load_guardzoo(tmp_path, licences="permisive")
    with pytest.raises(DataError, match="toxicchat"):
        load_guardzoo(tmp_path, held_out=["toxichat"])
    with pytest.raises(DataError, match="give a list"):
        load_guardzoo(tmp_path, held_out="aegis")
    with pytest.raises(DataError, match="1 or more"):
        load_guardzoo(tmp_path, max_rows_per_source=0)
    with pytest.raises(DataError, match="needs data_dir="):
        load_corpus("guardzoo")
    with pytest.raises(DataError, match="held_out is for source guardzoo or policyguard"):
        load_corpus("real", data_dir=tmp_path, held_out=["aegis"])


# ----------------------------------------------------------------------------------------------- the experts' domains


def test_every_category_has_one_owner():
    check_domains(DOMAINS)
    assert owner_of("S10") == "harm" and len(DOMAINS) == 5
    without = {k: tuple(i for i in v if i != "S10") for k, v in DOMAINS.items()}
    with pytest.raises(DataError, match=r"S10 \(terrorism and organised crime\) belongs to no domain"):
        check_domains(without)
    with pytest.raises(DataError, match=r"S3 .* belongs to cyber, non_violent"):
        check_domains({**DOMAINS, "cyber": (*DOMAINS["cyber"], "S3")})
    with pytest.raises(DataError, match="no entry 'S16'"):
        check_domains({**DOMAINS, "new": ("S16",)})
    with pytest.raises(DataError, match="'S10' belongs to no domain"):
        owner_of("S10", without)


# -------------------------------------------------------------------------------------------------------- the command


def test_command_prints_and_writes_the_same_counts(noisy, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(guardzoo, "HELD_OUT", ("held",))
    monkeypatch.setattr(load_guardzoo, "__defaults__", (0, "all", ("held",), None, None))
    assert verb.main(["guardzoo", f"data_dir={tmp_path}", f"json={tmp_path / 'out.json'}"]) == 0
    report = json.loads((tmp_path / "out.json").read_text())
    printed = capsys.readouterr().out
    assert printed.strip() == source_tables(report).strip()
    assert f"| all |  |  | {report['total']['rows']} |" in printed
    with pytest.raises(DataError, match="licences"):
        verb.main(["guardzoo", "licence=all"])
    with pytest.raises(DataError, match="whole number"):
        verb.main(["guardzoo", f"data_dir={tmp_path}", "seed=x"])
    with pytest.raises(DataError, match="needs data_dir"):
        verb.main(["guardzoo"])


# ---------------------------------------------------------------------------------------------------------- the files

PART = (
    "openai_moderation", "aegis", "safe_rlhf", "xstest", "xstest_responses", "notinject", "beavertails", "harmbench",
    "strongreject", "simple_safety_tests", "safety_tuned_llamas", "catqa", "medsafetybench", "jailbreakbench",
    "advbench", "harmbench_responses", "deepset_injections",
)  # fmt: skip


@pytest.fixture(scope="module")
def part():
    """The corpus of some of the real sources: all of them take longer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guardzoo, "GUARDZOO", {name: GUARDZOO[name] for name in PART})
        yield load_guardzoo(DATA, held_out=[name for name in HELD_OUT if name in PART])


@needs_data
def test_real_counts_add_up_and_held_out_stays_out(part):
    assert_accounted(part.report)
    for s in part.samples:
        assert s.source not in HELD_OUT or s.split == "test"
        assert s.policy is not None and s.gold(s.policy) is not None, s.id
        assert s.source != "xstest" or s.unsafe or "benign-contrast" in slices_of(s)
        if s.split == "train":
            policy = part.bank.draw(s, rng_for("test", s.id))
            assert s.gold(policy) is not None
    sides = [len(part.split(name)) for name in ("train", "val", "test")]
    inside = sum("in-domain" in s.meta for s in part.samples)
    assert 0.17 < inside / (inside + sides[0] + sides[1]) < 0.23
    assert 0.07 < sides[1] / (sides[0] + sides[1]) < 0.13
    group_side = defaultdict(set)
    for s in part.samples:
        group_side[s.group].add(s.split)
    assert all(len(v) == 1 for v in group_side.values())


@needs_data
def test_real_training_rows_are_near_no_test_row(part):
    rng = random.Random(0)
    train = [shingles(s) for s in rng.sample(list(part.split("train")), 1500)]
    for s in rng.sample(list(part.split("test")), 60):
        mine = shingles(s)
        assert all(
            jaccard(mine, theirs) < 0.8
            for theirs in train
            if 0.8 <= len(mine) / len(theirs) <= 1.25  # others cannot be so similar
        ), s.id


@needs_data
def test_datamodule_takes_guardzoo(monkeypatch):
    small = ("aegis", "simple_safety_tests", "catqa")
    monkeypatch.setattr(guardzoo, "GUARDZOO", {name: GUARDZOO[name] for name in small})
    data = GuardDataModule("guardzoo", data_dir=DATA, held_out=["aegis"], modalities=["text"], max_rows=200)
    data.prepare_data()
    assert {s.source for s in data.samples("train")} == {"simple_safety_tests", "catqa"}
    assert sum(s.source == "aegis" for s in data.samples("test")) > 300
    sample, policy = next(iter(data.loader(data.samples("train"), train=True)))[0]
    assert sample.gold(policy) is not None


def test_published_counts_are_of_these_sources():
    report = json.loads((Path(__file__).parents[1] / "results" / "guardzoo.json").read_text())
    assert list(report["sources"]) == list(GUARDZOO) and report["held_out"] == list(HELD_OUT)
    assert_accounted(report)
    assert report["total"]["rows"] >= 20_000
    assert sum(n > 0 for n in report["total"]["yes"].values()) >= 12
