"""datamodules/corpus/relations.py: labels that need both pictures, twins that differ in one of them."""

from collections import Counter, defaultdict

import pytest

from datamodules import GuardDataModule
from datamodules.bank import rng_for
from datamodules.corpus import relations, scenes
from datamodules.corpus.concepts import OBJECTS
from datamodules.corpus.relations import RELATIONS, bank, plan
from datamodules.loading import load_corpus
from datamodules.media import read_image
from datamodules.schema import DataError

# Seed 0 at scale 0.04; changes with relations.VERSION, or with Pillow or NumPy.
EXPECTED_HASH = "d248ab917f6b4abd4b1038ee34dfcdb847c353a9df40f988d15e0a68306b9f4f"
IDS = tuple(r.id for r in RELATIONS)
TRUE = {  # once more, by hand
    "rel.repeat": lambda a, b: any(x in b for x in a),
    "rel.arson": lambda a, b: ("fire" in a and "house" in b) or ("house" in a and "fire" in b),
    "rel.threat": lambda a, b: ("knife" in a and "dog" in b) or ("dog" in a and "knife" in b),
    "rel.spiked": lambda a, b: ("pills" in a and "cup" in b) or ("cup" in a and "pills" in b),
}


@pytest.fixture(scope="module")
def planned():
    return plan(0, 1.0)


def shown(out):
    return {job.path: job.shown for job in out.jobs}


def quads(samples):
    groups = defaultdict(list)
    for s in samples:
        groups[s.meta["twin"]].append(s)
    return groups


def test_labels_follow_from_both_pictures(planned):
    things = shown(planned)
    counts = Counter()
    for s in planned.samples:
        first, second = (things[p.path] for p in s.media)
        for id in IDS:
            assert s.categories[id] == ("yes" if TRUE[id](first, second) else "no"), (s.id, id)
            counts[id, s.split] += s.categories[id] == "yes"
        for name in OBJECTS:
            if f"obj.{name}" in s.categories:
                assert (s.categories[f"obj.{name}"] == "yes") == (name in (*first, *second))
        assert s.modality == "image" and len(s.media) == 2 and s.critique.count("picture shows") == 2
        assert len(s.critique.split()) <= 24
    assert all(counts[id, split] >= 4 for id in IDS for split in ("train", "val", "test")), counts


def test_neither_picture_tells_and_twins_differ_in_one(planned):
    """Each picture stands in one row that breaks what is at stake and in one that does not."""
    for members in quads(planned.samples).values():
        assert len(members) == 4 and len({s.group for s in members}) == 1
        at_stake = members[0].meta["contrast"]
        broken = {s.id: any(s.categories[id] == "yes" for id in at_stake) for s in members}
        assert sorted(broken.values()) == [False, False, True, True]
        for place in range(2):
            by_file = defaultdict(list)
            for s in members:
                by_file[s.media[place].path].append(broken[s.id])
            assert [sorted(v) for v in by_file.values()] == [[False, True]] * 2
        texts = {tuple(p.text for p in s.parts if p.type == "text") for s in members}
        assert len(texts) == 1
        for s in members:
            near = [t for t in members if sum(a != b for a, b in zip(s.media, t.media)) == 1]
            assert len(near) == 2 and all(broken[t.id] != broken[s.id] for t in near)


def test_policies_of_val_and_test_ask_for_the_relation(planned):
    known, unasked = bank(), 0
    for members in quads(planned.samples).values():
        if members[0].split == "train":
            assert all(s.policy is None for s in members)
            continue
        assert len({s.policy for s in members}) == 1
        golds = [s.gold(s.policy) for s in members]
        assert sorted(golds) == [False, False, True, True]
        for s, gold in zip(members, golds):
            assert gold == any(s.categories[id] == "yes" for id in s.meta["contrast"])
        for entry in members[0].policy.entries:
            split = members[0].split
            other = known.test[entry.id][split != "test"]
            assert entry != other  # the wording of val is not one of test
            unasked += entry in known.test[entry.id]
    assert unasked > 20


def test_training_policies_give_both_verdicts(planned):
    golds = Counter()
    for s in planned.samples:
        if s.split == "train":
            policy = bank().draw(s, rng_for(0, s.id), max_entries=6)
            golds[s.gold(policy)] += 1
    assert not golds[None] and min(golds.values()) > 0.2 * sum(golds.values())


def test_splits_share_no_picture(planned):
    where = {}
    keys = {}
    for s in planned.samples:
        for p in s.media:
            assert where.setdefault(p.path, s.split) == s.split
    for job in planned.jobs:
        assert keys.setdefault(job.shown_key, job.path) == job.path
    assert set(where.values()) == {"train", "val", "test"}


def test_it_is_a_source_beside_the_scenes(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_HOME", str(tmp_path))
    corpus = load_corpus("relations", scale=0.04)
    assert {s.source for s in corpus.samples} == {"relations"} and set(IDS) < set(corpus.bank.ids)
    (folder,) = (tmp_path / "corpora").iterdir()
    assert scenes.corpus_hash(folder) == EXPECTED_HASH
    sizes = {read_image(p.path).size for s in corpus.samples[:8] for p in s.media}
    assert sizes and all(min(size) >= 192 for size in sizes)
    data = GuardDataModule("relations", scale=0.04, modalities=["image"])
    assert len(data.samples("train")) == len([s for s in corpus.samples if s.split == "train"])
    with pytest.raises(DataError, match="did you mean 'relations'"):
        load_corpus("relation")
    assert "rel." not in "".join(scenes.plan(0, 0.01).samples[0].categories)  # the sample corpus is what it was


@pytest.mark.parametrize("here, other", [(scenes, relations), (relations, scenes)])
def test_one_part_is_not_taken_for_the_other(here, other, tmp_path, monkeypatch):
    class Written(Exception):
        pass

    def write(todo, root, progress):
        raise Written

    monkeypatch.setattr(scenes, "_write", lambda todo, root, progress: (root / "manifest.jsonl").write_text(""))
    monkeypatch.setattr(scenes, "corpus_hash", lambda root: "0")
    here.build(tmp_path / "corpus", scale=0.04)
    monkeypatch.setattr(scenes, "_write", write)
    assert here.build(tmp_path / "corpus", scale=0.04) == []  # read, not rendered
    with pytest.raises(Written):
        other.build(tmp_path / "corpus", scale=0.04)
