"""Facts about the public data. Rows are named by index and hash: their texts do not belong in this repository."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from datamodules.bank import rng_for
from datamodules.real import load_real
from datamodules.real_split import whole_text
from datamodules.schema import DataError
from datamodules.sources.media_labels import PICTURE, SOUND
from datamodules.sources.real_clips import ENTRIES
from datamodules.sources.registry import SOURCES
from datamodules.sources.split import near_duplicates
from datamodules.sources.wordings import HELD_OUT, MEDIA, TEXT, real_bank

DATA = Path(os.environ.get("ZOO_DATA_DIR") or Path(__file__).resolve().parents[1].parent / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no public data: set ZOO_DATA_DIR to its folder")


@pytest.fixture(scope="module")
def corpus():
    return load_real(DATA)


@pytest.fixture(scope="module")
def rows():
    cache = {}

    def load(name):
        if name not in cache:
            cache[name] = SOURCES[name].module.load(DATA)
        return cache[name]

    return load


def key(sample) -> str:
    return hashlib.sha256(whole_text(sample).encode()).hexdigest()[:12]


# ------------------------------------------------------------------------------------------------------- without data


def test_every_source_states_licence_target_and_citation():
    for name, source in SOURCES.items():
        assert source.module.LICENCE and source.module.TARGET in ("prompt", "response"), name
        assert isinstance(source.module.PERMISSIVE, bool)
        assert "Upstream" in source.module.__doc__ and ("Citation:" in source.module.__doc__ or name == "real_clips")
        if "NC" in source.module.LICENCE or "none" in source.module.LICENCE:
            assert not source.module.PERMISSIVE, name


def test_bank_has_wordings_for_all_labels_and_no_name_twice():
    bank = real_bank()
    assert set(SOUND) | set(PICTURE) | set(ENTRIES) == set(MEDIA)
    assert len(TEXT) == 15
    for id in bank.ids:
        assert len(bank.train[id]) >= 3 and len(bank.test[id]) >= (1 if id in TEXT else 2), id
    names = [w.name for w in bank.wordings()]
    assert len(names) == len(set(names))
    assert bank.held_out == HELD_OUT
    for prefix, least in (("snd.", 2), ("img.", 2), ("vid.", 1), ("S", 2)):
        assert sum(i.startswith(prefix) for i in HELD_OUT) >= least


def test_missing_folder_and_bad_options_name_the_fix(tmp_path):
    with pytest.raises(DataError, match="set data_dir="):
        load_real(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"samples-1680.*set data_dir="):
        load_real(tmp_path)
    with pytest.raises(DataError, match="permissive"):
        load_real(tmp_path, licences="permisive")
    with pytest.raises(DataError, match="audio"):
        load_real(tmp_path, modalities=("audoi",))
    with pytest.raises(DataError, match="image and audio"):
        load_real(tmp_path, modalities=("joint", "image"))
    with pytest.raises(DataError, match="1 or more"):
        load_real(tmp_path, max_rows_per_source=0)


# ---------------------------------------------------------------------------------------------------------- the files

COUNTS = {  # rows, unsafe, as SOURCES.md counts them
    "beavertails": (2988, 1702),
    "gptfuzz_responses": (7700, 1694 + 545),
    "diasafety": (8976 + 1093 + 1089, None),
    "davidson_hate": (24712, 1426 + 19124),
    "deepset_injections": (662, 263),
    "sms_spam": (5574, 747),
    "self_instruct": (175 + 252, 0),
    "banking77": (13083, 0),
    "clinc150": (23700, 0),
    "mt_bench": (160, 0),
    "xstest": (448, 199),
    "notinject": (339, 0),
    "toxicchat": (5079, 359),
    "openai_moderation": (1564, 1564 - 1144),
    "esc50": (152, None),
    "fsdd": (300, None),
    "tau2_noise": (6, None),
    "imagenet_samples": (91, None),
    "clothing": (60, None),
    "figstep": (50, 50),
    "real_clips": (37, None),
}


@needs_data
def test_counts_are_those_of_the_index(rows):
    assert set(COUNTS) == set(SOURCES)
    for name, (n, unsafe) in COUNTS.items():
        assert len(rows(name)) == n, name
        if unsafe is not None:
            assert sum(s.unsafe is True for s in rows(name)) == unsafe, name


@needs_data
def test_files_on_disk_are_all_read(rows):
    read = {Path(p.path).resolve() for name in SOURCES for s in rows(name) for p in s.media}
    kinds = {".mp4", ".avi", ".mkv", ".webm"}
    assert {p.resolve() for p in (DATA / "video").rglob("*") if p.suffix in kinds} <= read


@needs_data
def test_absent_moderation_key_is_unknown(rows):
    open_rows = [s for s in rows("openai_moderation") if s.unsafe is None]
    assert open_rows
    for s in open_rows:
        assert "yes" not in s.categories.values() and len(s.categories) < 5
        if s.categories:
            assert set(s.policy.ids) == set(s.categories) and s.gold(s.policy) is False
        else:  # a key is there, but none that settles an entry: masked, and later dropped and counted
            assert s.gold(s.policy) is None
    first = rows("openai_moderation")[0]
    assert first.categories == {"S1": "no", "S2": "no", "S5": "no", "S8": "yes", "S9": "no"}


@needs_data
def test_response_sources_label_the_response(rows):
    for name in ("beavertails", "gptfuzz_responses", "diasafety"):
        assert {s.target for s in rows(name)} == {"response"}
        assert all([m.role for m in s.messages] == ["user", "assistant"] for s in rows(name))
    # The same question with safe and unsafe answers: the prompt alone cannot be what is labelled.
    verdicts = defaultdict(set)
    for s in rows("beavertails"):
        verdicts[s.group].add(s.unsafe)
    assert sum(len(v) == 2 for v in verdicts.values()) >= 50


@needs_data
def test_beavertails_flags(rows):
    count = Counter(i for s in rows("beavertails") for i, label in s.categories.items() if label == "yes")
    assert count["S4"] == 44 and count["S8"] == 19 and count["S6"] == 95 and count["S5"] == 0
    assert all(not {"S12", "S13", "S14", "S15"} & set(s.categories) for s in rows("beavertails"))


@needs_data
def test_label_maps(rows):
    davidson = Counter((s.meta["kind"], s.unsafe, s.categories["S2"]) for s in rows("davidson_hate"))
    assert davidson == {("hate", True, "yes"): 1426, ("offensive", True, "yes"): 19124, ("neither", False, "no"): 4162}
    risk = [s for s in rows("diasafety") if s.meta["kind"] == "Risk Ignorance"]
    assert {tuple(s.categories) for s in risk} == {("S13",)} and sum(s.unsafe for s in risk) == 753 + 93 + 93
    assert all(set(s.categories) == {"S3"} for s in rows("sms_spam"))
    assert rows("diasafety")[0].critique is None
    bad = next(s for s in rows("davidson_hate") if s.unsafe)
    assert bad.critique == "The prompt contains hate and harassment."


@needs_data
def test_media_labels(rows):
    clips = {s.meta["tags"][0]: s.categories for s in rows("esc50")}
    assert clips["chainsaw"]["snd.power_tool"] == "yes" and "snd.vehicle" not in clips["chainsaw"]
    assert clips["rain"]["snd.dog"] == "no" and "snd.applause" not in clips["fireworks"]
    assert sum(s.meta["permissive"] for s in rows("esc50")) == 100
    photos = {s.meta["tags"][0]: s.categories for s in rows("imagenet_samples")}
    assert photos["revolver"]["img.firearm"] == "yes" and photos["minivan"]["img.weapon"] == "no"
    assert "img.clothing" not in photos["stretcher"]  # people are in it
    silent = [s for s in rows("real_clips") if not s.meta["track"]]
    assert len(silent) == 5 and all(s.categories["snd.dog"] == "no" for s in silent)


# --------------------------------------------------------------------------------------------------------- the corpus


@needs_data
def test_nothing_is_on_two_sides(corpus):
    for what in ("group", "file"):
        side = defaultdict(set)
        for s in corpus.samples:
            for name in [s.group] if what == "group" else [p.path for p in s.media]:
                side[name].add(s.split)
        assert not [k for k, v in side.items() if len(v) > 1]
    contents = defaultdict(set)
    for s in corpus.samples:
        for p in s.media:
            contents[p.path].add(s.split)
    hashes = defaultdict(set)
    for path, splits in contents.items():
        hashes[hashlib.sha256(Path(path).read_bytes()).hexdigest()] |= splits
    assert all(len(v) == 1 for v in hashes.values())
    voices = defaultdict(set)
    for s in corpus.samples:
        if s.source == "fsdd":
            voices[s.group].add(s.split)
    assert len(voices) == 6 and all(len(v) == 1 for v in voices.values())


@needs_data
def test_no_text_is_near_one_on_another_side(corpus):
    texts = [s for s in corpus.samples if s.modality == "text"]
    assert len({key(s) for s in texts}) == len(texts)
    side = defaultdict(set)
    for s, cluster in zip(texts, near_duplicates([s.replace(group=s.id) for s in texts])):
        side[cluster].add(s.split)
    assert all(len(v) == 1 for v in side.values())


@needs_data
def test_every_fixed_policy_gives_a_verdict(corpus):
    for s in corpus.samples:
        if s.split == "train":
            continue
        assert s.gold(s.policy) is not None, s.id
        assert {"entry", "wording"} <= set(s.meta)
        if s.split == "val":
            assert not set(s.policy.ids) & HELD_OUT and s.meta["wording"] == s.meta["entry"] == "seen"
    for kind in ("image", "audio", "video", "joint"):
        gold = [s.gold(s.policy) for s in corpus.split("test") if s.modality == kind]
        assert 0.38 <= sum(gold) / len(gold) <= 0.62, kind
    for split in ("train", "val", "test"):
        assert {s.modality for s in corpus.split(split)} == {"text", "image", "audio", "video", "joint"}


@needs_data
def test_training_never_meets_a_held_out_entry(corpus):
    known = {w.name for id in corpus.bank.ids if id not in HELD_OUT for w in corpus.bank.train[id]}
    for s in corpus.split("train"):
        assert not HELD_OUT & set(s.categories)
        assert s.policy is None or not HELD_OUT & set(s.policy.ids)
        policy = corpus.bank.draw(s, rng_for("test", s.id))
        assert not HELD_OUT & set(policy.ids)
        assert {e.name for e in policy.entries} <= known
        assert s.gold(policy) is not None, s.id
    unseen = [s for s in corpus.split("test") if s.meta["entry"] == "unseen"]
    met = {i for s in unseen for i in s.policy.ids if s.categories.get(i) == "yes"}
    assert met >= HELD_OUT
    assert {s.gold(s.policy) for s in unseen} == {True, False}


@needs_data
def test_slices_and_eval_only_sources(corpus):
    for name, source in SOURCES.items():
        if source.eval_only:
            assert {s.split for s in corpus.samples if s.source == name} == {"test"}
    contrast = [s for s in corpus.samples if s.meta.get("slice") == "benign_contrast"]
    assert Counter(s.source for s in contrast)["notinject"] == 339
    assert all(s.gold(s.policy) is False and s.split == "test" for s in contrast if s.modality == "text")
    assert not any("agentharm" in s.source.lower() for s in corpus.samples)


@needs_data
def test_report_accounts_for_every_row(corpus):
    used = Counter(s.id.split("#")[0] for s in corpus.samples)
    by_source = defaultdict(set)
    for s in corpus.samples:
        by_source[s.source].add(s.id.split("#")[0])
    for name, n in corpus.report["read"].items():
        assert n == len(by_source[name]) + sum(corpus.report["dropped"].get(name, {}).values()), name
    assert len(used) == sum(len(v) for v in by_source.values())


@needs_data
def test_permissive_keeps_only_permissive_rows_on_the_same_side(corpus):
    free = load_real(DATA, licences="permissive", max_rows_per_source=60)
    assert all(s.meta["permissive"] for s in free.samples)
    assert not {s.source for s in free.samples} & {"beavertails", "toxicchat", "imagenet_samples"}
    assert free.report["dropped"]["imagenet_samples"]["licence"] == 91
    side = {s.id.split("#")[0]: s.split for s in corpus.samples if s.source in SOURCES}
    for s in free.samples:
        assert side.get(s.id.split("#")[0], s.split) == s.split


@needs_data
def test_same_seed_same_corpus_and_another_seed_another():
    small = dict(max_rows_per_source=30, modalities=("image", "audio", "joint"))
    one, two, other = load_real(DATA, **small), load_real(DATA, **small), load_real(DATA, seed=1, **small)
    assert [s.to_dict() for s in one.samples] == [s.to_dict() for s in two.samples]
    assert one.report == two.report
    assert [s.to_dict() for s in one.samples] != [s.to_dict() for s in other.samples]
