"""datamodules/base.py without a model: the sampler, the loaders, policies for each epoch."""

from collections import Counter
from pathlib import Path

import pytest
from helpers import write_audio, write_image
from test_manifest import POLICY, text_row, write_manifest

from datamodules import (
    AudioDataModule,
    GuardDataModule,
    ImageDataModule,
    OmniDataModule,
    TextDataModule,
    VideoDataModule,
)
from datamodules.base import Failed, SampleDataset, pairs
from datamodules.sampling import BalancedSampler
from datamodules.schema import DataError, MediaError, Policy, PolicyEntry, Sample
from datamodules.transforms.ablate import ABLATIONS, without

SIZES = {"text": 23, "image": 7, "audio": 2}


def samples():
    return [Sample.of("x", id=f"{m}{n}", meta={"modality": m}) for m, size in SIZES.items() for n in range(size)]


def epoch(sampler, n):
    sampler.set_epoch(n)
    return list(sampler)


def test_balanced_sampler_gives_equal_shares():
    rows = samples()
    sampler = BalancedSampler(rows, size=31)
    for n in range(3):
        drawn = epoch(sampler, n)
        assert len(drawn) == len(sampler) == 31 and {e for _, e in drawn} == {n}
        counts = Counter(rows[i].modality for i, _ in drawn)
        assert max(counts.values()) - min(counts.values()) <= 1 and len(counts) == 3
    assert len(list(BalancedSampler(rows))) == len(rows)


def test_balanced_sampler_natural_shares():
    rows = samples()
    counts = Counter(rows[i].modality for i, _ in BalancedSampler(rows, power=1.0))
    assert counts == SIZES


@pytest.mark.parametrize("size", [9, 30, 100])
def test_balanced_sampler_visits_all_samples_of_a_bucket_equally_often(size):
    rows = samples()
    sampler = BalancedSampler(rows, seed=3, size=size)
    seen = Counter()
    for n in range(7):
        seen.update(i for i, _ in epoch(sampler, n))
        for modality in SIZES:
            visits = [seen[i] for i, s in enumerate(rows) if s.modality == modality]
            assert max(visits) - min(visits) <= 1, (modality, n)


def test_balanced_sampler_is_decided_by_seed_and_epoch():
    rows = samples()
    one, two = BalancedSampler(rows, seed=1), BalancedSampler(rows, seed=1)
    epoch(two, 5)  # whatever was drawn before
    assert epoch(one, 2) == epoch(two, 2) == epoch(one, 2)
    assert [i for i, _ in epoch(one, 2)] != [i for i, _ in epoch(one, 3)]
    assert epoch(one, 2) != epoch(BalancedSampler(rows, seed=2), 2)
    kinds = [rows[i].modality for i, _ in epoch(one, 0)]
    assert kinds != sorted(kinds) and kinds[:8] != [kinds[0]] * 8  # mixed, not bucket by bucket


def test_dataset_draws_by_epoch_and_counts_failures():
    def transform(sample, policy):
        if sample.id == "text1":
            raise MediaError("a.png: broken")
        return sample.id, policy

    dataset = SampleDataset(samples(), lambda s, e: (s.id, e), transform)
    assert dataset[(0, 4)] == ("text0", ("text0", 4)) and dataset[0] == ("text0", ("text0", 0))
    assert dataset[1] == Failed("text1", "a.png: broken")
    dataset.transform = lambda sample, policy: 1 / 0
    with pytest.raises(ZeroDivisionError):  # a bug is no bad file
        dataset[0]


@pytest.fixture
def mixed(tmp_path):
    rows = []
    for n in range(30):
        rows.append(text_row(n, split=("train", "val", "test")[n % 3], categories={"fire": "yes", "alarm": "no"}))
    for n in range(6):
        write_image(tmp_path / f"{n}.png", n)
        write_audio(tmp_path / f"{n}.wav", n, 0.1)
        for kind, name in (("image", f"{n}.png"), ("audio", f"{n}.wav")):
            content = [{"type": kind, "path": name}]
            rows.append(text_row(f"{kind}{n}", split="train", messages=[{"role": "user", "content": content}]))
    return write_manifest(tmp_path, rows)


def test_alone_it_yields_samples_with_policies(mixed):
    data = GuardDataModule("manifest", path=mixed, policy=POLICY, batch_size=8)
    data.prepare_data()
    data.setup("fit")
    assert data.counts() == {"train": {"audio": 6, "image": 6, "text": 10}, "val": {"text": 10}, "test": {"text": 10}}
    batches = list(data.train_dataloader())
    assert [len(b) for b in batches] == [8, 8, 6]
    for batch in batches:
        assert isinstance(batch, list)
        for sample, policy in batch:
            assert isinstance(sample, Sample) and isinstance(policy, Policy)
            assert sample.gold(policy) is not None or not sample.categories
    counts = Counter(s.modality for b in batches for s, _ in b)
    assert max(counts.values()) - min(counts.values()) <= 1
    val = [pair for b in data.val_dataloader() for pair in b]
    assert [s.id for s, _ in val] == [s.id for s in data.samples("val")]  # as they come
    assert {p for _, p in val} == {POLICY}
    assert len(list(data.test_dataloader())) == 2


def test_training_policies_differ_between_epochs_and_not_between_runs(mixed):
    def drawn(n, seed=0):
        loader = GuardDataModule("manifest", path=mixed, policy=POLICY, seed=seed, epoch_size=40).train_dataloader()
        loader.batch_sampler.sampler.set_epoch(n)
        return [(s.id, p) for b in loader for s, p in b]

    assert drawn(0) == drawn(0) and len(drawn(0)) == 40
    by_id = [dict(drawn(n)) for n in range(4)]
    shared = set.intersection(*map(set, by_id))
    assert any(len({d[i] for d in by_id}) > 1 for i in shared)
    assert drawn(0) != drawn(0, seed=1)


def test_workers_draw_the_same(mixed):
    def all_of(workers):
        data = GuardDataModule("manifest", path=mixed, policy=POLICY, workers=workers)
        return [pair for b in data.train_dataloader() for pair in b]

    assert all_of(0) == all_of(1)


def test_hooks_see_train_and_not(mixed):
    data = GuardDataModule("manifest", path=mixed, policy=POLICY)
    data.transform, data.collate = lambda s, p, train: train, set
    assert list(data.train_dataloader()) == [{True}] and list(data.val_dataloader()) == [{False}]
    assert pairs("s", "p", True) == ("s", "p")


@pytest.mark.parametrize(
    "cls, kept", [(TextDataModule, "text"), (ImageDataModule, "image"), (AudioDataModule, "audio")]
)
def test_single_modality_datamodules(mixed, cls, kept):
    data = cls("manifest", path=mixed, policy=POLICY)
    assert set(data.counts()["train"]) == {kept}


def test_no_sample_left(mixed):
    with pytest.raises(DataError, match=r"no usable sample of modality video"):
        VideoDataModule("manifest", path=mixed, policy=POLICY).prepare_data()
    data = OmniDataModule("manifest", path=mixed, policy=POLICY, modalities=("image", "audio"))
    assert (
        data.counts() == {"train": {"audio": 6, "image": 6}, "val": {}, "test": {}}
        or sum(n for c in data.counts().values() for n in c.values()) == 12
    )
    data.keep(lambda s: s.split != "train")
    with pytest.raises(DataError, match=r"has no training sample"):
        data.train_dataloader()
    with pytest.raises(DataError, match=r"unknown split 'dev'"):
        data.samples("dev")


def test_reject_lists_what_it_takes_out(mixed, capsys):
    data = GuardDataModule("manifest", path=mixed, policy=POLICY)
    bad = data.samples("train")[0]
    data.reject([(bad, "a.png: broken")])
    assert data.errors == [{"id": bad.id, "error": "a.png: broken"}]
    assert bad.id not in {s.id for s in data.samples("train")}
    assert "a.png: broken" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["manifst", "manifest+sampl"])
def test_unknown_source(mixed, source):
    with pytest.raises(DataError, match=r"unknown data source .*did you mean"):
        GuardDataModule(source, path=mixed, policy=POLICY).prepare_data()


def test_without():
    s = Sample.of("x", image="a.png", audio="a.wav", video="a.mp4", categories={"fire": "yes"})
    kinds = {w: [p.type for p in without(s, w).parts] for w in ABLATIONS}
    assert kinds["image"] == ["text", "audio", "video"] and kinds["text"] == ["image", "audio", "video"]
    assert kinds["sound"] == ["text", "image", "video"] and kinds["frames"] == ["text", "image", "audio", "video"]
    assert [without(s, w).parts[-1].sound for w in ("sound", "frames", "text")] == [False, True, True]
    assert [without(s, w).parts[-1].frames for w in ("sound", "frames", "text")] == [True, False, True]
    assert without(s, "image").categories == s.categories and without(s, "image").id != s.id
    with pytest.raises(DataError, match=r"'imag'.*did you mean 'image'"):
        without(s, "imag")


def test_manifest_policy_may_be_a_file(mixed):
    path = Path(mixed).with_name("p.yaml")
    path.write_text("name: p\nentries: [{id: fire}, {id: alarm}]")
    data = GuardDataModule("manifest", path=mixed, policy=path)
    assert (
        data.default_policy.entries[0] == PolicyEntry("fire", "fire") and not data.errors + data.corpus.report["errors"]
    )
