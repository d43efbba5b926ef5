"""Manifests that stay in their file: the same samples as those of a reader that holds them all."""

import json
import os
import pickle
import random
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from helpers import random_backbone, write_image
from test_manifest import POLICY, WORDS, text_row, write_manifest

from datamodules import GuardDataModule, lazy, loading, manifest
from datamodules.bank import PolicyBank, unique_ids
from datamodules.base import BalancedSampler
from datamodules.corpus.types import Corpus
from datamodules.lazy import FileRows, LazySamples
from datamodules.manifest import load_manifest, read_samples
from datamodules.schema import DataError, Sample
from datamodules.sources import similar
from datamodules.sources.split import FRACTIONS, assign_splits
from zoo import cli
from zoo.core.cards import _data_lines
from zoo.core.guard import Guard
from zoo.core.module import GuardModule
from zoo.evaluate import data_hash


def load(path, seed=0, **kw):
    return load_manifest(path, kw.pop("data_dir", None), kw.pop("policy", POLICY), seed, **kw)


def eager(path, seed=0):
    """The good rows of a manifest as a list, split as the manifest's rules say, by another way."""
    samples, ids = [], set()
    for line in path.read_text(encoding="utf-8-sig").split("\n"):
        try:
            sample = Sample.from_dict(json.loads(line), path.parent)
        except ValueError:
            continue
        if sample.id not in ids and set(sample.categories) <= set((sample.policy or POLICY).ids):
            samples.append(sample.replace(policy=sample.policy or POLICY))
        ids.add(sample.id)
    named = {s.group: s.split for s in samples if s.split and s.group}
    samples = [s.replace(split=named[s.group]) if not s.split and s.group in named else s for s in samples]
    free = iter(assign_splits([s for s in samples if not s.split], seed))
    samples = [s if s.split else next(free) for s in samples]
    missing = [p for p in ("val", "test") if p not in {s.split for s in samples}]
    if missing:
        fractions = (1 - 0.15 * len(missing), *(0.15 if p in missing else 0.0 for p in ("val", "test")))
        train = assign_splits([s for s in samples if s.split == "train"], seed, fractions)
        samples = [*train, *(s for s in samples if s.split != "train")]
    return samples


def mixed_rows(n, splits, seed=1):
    """Rows with groups, near-duplicates, names of groups that others have as an id, and mistakes."""
    rng = random.Random(seed)
    sides = {f"g{k}": rng.choice(splits) for k in range(n)}
    out, text = [], "first words of all"
    for k in range(n):
        text = (
            text + rng.choice(["", "!", " É", "\u2028x"]) if rng.random() < 0.4 else " ".join(rng.choices(WORDS, k=9))
        )
        row = text_row(k, messages=[{"role": "user", "content": text}])
        if rng.random() < 0.5:
            row["group"] = rng.choice([f"g{rng.randrange(n)}", "", f"user-r{rng.randrange(n)}"])
            row["split"] = sides.get(row["group"])
        if rng.random() < 0.1:
            row |= {"source": "other", "policy": {"name": "own", "entries": [{"id": "own"}]}, "categories": {}}
        if rng.random() < 0.1:
            row |= {
                "meta": {"modality": rng.choice(["joint", "image"])},
                "unsafe": rng.random() < 0.5,
                "categories": {},
            }
        if rng.random() < 0.05:
            row |= rng.choice([{"id": f"r{rng.randrange(k + 1)}"}, {"categories": {"none": "no"}}, {"role": 1}])
        out.append(rng.choice(["", "{", "\u2028 "]) if rng.random() < 0.05 else row)
    return out


# ------------------------------------------------------------------------------------------------------ the same rows


@pytest.mark.parametrize("splits", [(None,), ("train",), ("train", None), ("train", "val", "test", None)])
def test_the_samples_of_an_eager_reader(tmp_path, splits):
    path = write_manifest(tmp_path, mixed_rows(400, splits))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    samples, expected = load(path).samples, eager(path)
    assert isinstance(samples, LazySamples) and len(samples) == len(expected) > 300
    assert list(samples) == expected
    assert [samples[i] for i in range(len(samples))] == expected and samples[-3] == expected[-3]
    assert list(samples[5:50:7]) == expected[5:50:7] and isinstance(samples[:2], LazySamples)
    assert list(load(path, seed=3).samples) == eager(path, 3) != expected
    groups = Counter(s.group for s in expected)
    assert any(n > 2 for n in groups.values()) and len(groups) > 100
    with pytest.raises(IndexError):
        samples[len(samples)]


def test_fractions_of_the_reference():
    assert FRACTIONS == (0.70, 0.12, 0.18)  # `eager` takes them by default, as the manifest has to


def both(tmp_path):
    """The samples of one manifest, lazy and as a list."""
    samples = load(write_manifest(tmp_path, mixed_rows(200, ("train", "val", "test", None)))).samples
    return samples, list(samples)


def test_views_are_what_filters_of_a_list_are(tmp_path):
    samples, held = both(tmp_path)
    gone = {s.id for s in held[::3]} | {"nobody"}
    views = [
        (lambda s: lazy.in_split(s, "val")),
        (lambda s: lazy.of_modalities(s, ("joint", "video"))),
        (lambda s: lazy.without_ids(s, gone)),
        (lambda s: lazy.keep(s, lambda x: x.unsafe is True)),
        (lambda s: lazy.keep(lazy.in_split(lazy.without_ids(s, gone), "train"), lambda x: x.source == "user")),
        (lambda s: lazy.taken(s, lazy.splits_of(s) == 2)),
        (lambda s: s[10:2:-2]),
    ]
    for view in views:
        out = view(samples)
        assert isinstance(out, LazySamples) and out.rows is samples.rows
        assert list(out) == view(held) and 0 < len(out) < len(samples)
        assert list(lazy.modalities_of(out)) == [s.modality for s in out]
        assert lazy.splits_of(out).tolist() == lazy.splits_of(list(out)).tolist()
        assert lazy.keys_of(out).tolist() == lazy.keys_of(list(out)).tolist()
    assert not lazy.in_split(lazy.in_split(samples, "val"), "test")


def test_ids_are_told_apart_by_the_file_and_not_by_their_hash(tmp_path, monkeypatch):
    for module in (lazy, manifest):
        monkeypatch.setattr(module, "digest", lambda name: (7, 7))
    rows = [text_row(n, split="train") for n in range(8)]
    rows += [text_row(3, split="train"), text_row(9, split="val"), text_row(7, split="test")]
    corpus = load(write_manifest(tmp_path, rows))
    assert [s.id for s in corpus.samples] == [*(f"r{n}" for n in range(8)), "r9"]
    assert [(e["id"], "line 9" in e["error"] or "line 11" in e["error"]) for e in corpus.report["errors"]] == [
        ("r3", True),
        ("r7", True),
    ]
    left = lazy.without_ids(corpus.samples, {"r2", "r9"})
    assert [s.id for s in left] == ["r0", "r1", "r3", "r4", "r5", "r6", "r7"]
    unique_ids(corpus.samples)
    with pytest.raises(DataError, match="duplicate sample id 'r4'"):
        unique_ids(LazySamples(left.rows, [0, 4, 5, 4, 0]))


def test_groups_are_told_apart_by_the_file_before_one_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "digest", lambda name: (7, 7) if name[0] == "g" else lazy.digest(name))
    sides = [
        ("g1", "train"),
        ("g2", "val"),
        ("g3", "test"),
        ("g2", "val"),
        ("g1", "train"),
        ("g3", "val"),
        ("g2", "test"),
    ]
    rows = [text_row(n, group=group, split=split) for n, (group, split) in enumerate(sides)]
    corpus = load(write_manifest(tmp_path, rows))
    assert [e["error"].split(": ", 1)[1].split(":")[0] for e in corpus.report["errors"]] == [
        "group 'g3' is in val here and in test before",
        "group 'g2' is in test here and in val before",
    ]
    assert [(s.group, s.split) for s in corpus.samples] == sides[:5]


# ------------------------------------------------------------------------------------------------------- what it costs


def test_memory_does_not_depend_on_the_texts(tmp_path):
    sizes = []
    for words in (3, 3000):
        rows = [
            text_row(n, split="train", messages=[{"role": "user", "content": "kalar " * words}]) for n in range(300)
        ]
        samples = lazy.in_split(load(write_manifest(tmp_path, rows)).samples, "train")
        sizes.append((samples.rows.nbytes + samples.index.nbytes, len(pickle.dumps(samples)) // 1000))
    assert sizes[0] == sizes[1] and sizes[0][0] < 50 * 300


def peak(what):
    tracemalloc.start()
    try:
        what()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("splits, growth", [(("train", "val", "test"), 100_000), ((None,), 600_000)])
def test_loading_holds_neither_the_file_nor_the_texts(tmp_path, monkeypatch, splits, growth):
    for name, bits in {"COUNTERS": 18, "SPOOL": 10, "BLOCK": 6, "CACHE": 10, "CHARS": 12}.items():
        monkeypatch.setattr(similar, name, 1 << bits)  # all that takes the same memory for any number of rows
    peaks = []
    for n in (50, 500):
        rows = []
        for k in range(n):  # 6 kB a row, of which the first third is compared
            content = random.Random(k).randbytes(3000).hex()
            rows.append(text_row(k, split=splits[k % len(splits)], messages=[{"role": "user", "content": content}]))
        path = write_manifest(tmp_path, rows)
        peaks.append(peak(lambda path=path: load(path)))
    assert path.stat().st_size > 3_000_000
    assert peaks[1] - peaks[0] < growth, peaks


def test_rows_are_streamed(tmp_path):
    content = "words " * 4000
    path = write_manifest(tmp_path, [text_row(n, messages=[{"role": "user", "content": content}]) for n in range(300)])
    assert path.stat().st_size > 7_000_000
    assert peak(lambda: sum(not isinstance(s, DataError) for _, _, s in read_samples(path))) < 800_000


def test_counting_and_sampling_read_no_row(tmp_path, monkeypatch):
    path = write_manifest(tmp_path, mixed_rows(200, ("train", "val", "test")))
    data = GuardDataModule("manifest", path=path, policy=POLICY)
    held = list(data.corpus.samples)
    monkeypatch.setattr(FileRows, "parsed", lambda self, row: 1 / 0)
    counts = Counter((s.split, s.modality) for s in held)
    assert data.counts() == {
        p: {m: counts[p, m] for m in sorted({s.modality for s in held}) if counts[p, m]}
        for p in ("train", "val", "test")
    }
    train = [s for s in held if s.split == "train"]
    assert list(BalancedSampler(data.samples("train"), 5)) == list(BalancedSampler(train, 5))
    assert len(data.train_dataloader()) == -(-len(train) // 32)
    unique_ids(data.corpus.samples)


# ----------------------------------------------------------------------------------------------- processes and changes


def ids(samples, order):
    return [samples[i].id for i in order]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_for_themselves(tmp_path, method):
    path = write_manifest(tmp_path, [text_row(n, split=("train", "val", "train", "test")[n % 4]) for n in range(300)])
    data = GuardDataModule("manifest", path=path, policy=POLICY, workers=1)
    samples = data.samples("train")
    expected = [s.id for s in samples]  # the file is open now: a forked worker gets the same handle
    loader = data.loader(samples)
    loader.multiprocessing_context = method
    order = list(range(150)) * 2
    random.Random(0).shuffle(order)
    batches = iter(loader)
    here = [samples[i].id for i in order]  # at the same time as the worker
    assert [s.id for batch in batches for s, _ in batch] == expected and here == [expected[i] for i in order]


def test_a_changed_file_is_an_error_and_no_other_row(tmp_path):
    path = write_manifest(tmp_path, [text_row(n, split="train") for n in range(4)])
    samples = load(path).samples
    first = list(samples)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b'"r2"', b'"x2"'))
    assert [samples[i] for i in (0, 1, 3)] == [first[i] for i in (0, 1, 3)]
    with pytest.raises(DataError, match=r"m\.jsonl line 3: the file has changed since it was loaded"):
        samples[2]
    path.write_bytes(raw[:-40])
    with pytest.raises(DataError, match=r"line 4: the file has changed"):
        samples[3]
    path.write_bytes(raw + b'{"id": "later"}\n')
    assert list(samples) == first  # what is appended has never been loaded
    os.replace(write_manifest(tmp_path, [text_row(9)], "n.jsonl"), path)
    assert list(samples) == first  # of an open file only the name has gone
    with pytest.raises(DataError, match="has changed since it was loaded"):
        pickle.loads(pickle.dumps(samples))[1]  # noqa: S301
    path.unlink()
    with pytest.raises(DataError, match="cannot read the manifest any more: No such file"):
        pickle.loads(pickle.dumps(samples))[0]  # noqa: S301


def test_a_change_seen_by_a_worker_is_one_line(tmp_path, capsys, monkeypatch):
    path = write_manifest(tmp_path, [text_row(n, split=("train", "val", "test")[n % 3]) for n in range(4)])
    data = GuardDataModule("manifest", path=path, policy=POLICY, workers=1)
    data.prepare_data()
    path.write_bytes(path.read_bytes().replace(b"r1", b"x1"))
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as e:
        cli.run(lambda arguments: len(list(data.loader(data.corpus.samples))))
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.startswith("error: m.jsonl line 2: the file has changed") and err.count("\n") == 1


def test_a_media_file_that_has_gone_is_left_to_who_opens_it(tmp_path):
    write_image(tmp_path / "a.png")
    content = [{"type": "image", "path": "a.png"}]
    path = write_manifest(tmp_path, [text_row(1, split="train", messages=[{"role": "user", "content": content}])])
    samples = load(path).samples
    os.remove(tmp_path / "a.png")
    assert samples[0].media[0].path == str(tmp_path / "a.png")  # a MediaError of the reader costs this row only
    assert [e["error"] for e in load(path).report["errors"]] == [
        f"m.jsonl line 1 (id 'r1'): a.png: no such file under {tmp_path}"
    ]


def test_the_path_may_be_relative(tmp_path, monkeypatch):
    path = write_manifest(tmp_path, [text_row(1, split="train")])
    monkeypatch.chdir(tmp_path)
    samples = load(Path(path.name)).samples
    monkeypatch.chdir("/")
    assert samples[0].id == "r1"


# --------------------------------------------------------------------------------------------------- who walks samples


def test_walkers_see_the_same_lazy_or_not(tmp_path):
    path = write_manifest(tmp_path, mixed_rows(120, ("train", "val", "test")))
    data, held = (GuardDataModule("manifest", path=path, policy=POLICY) for _ in range(2))
    held.corpus.samples = list(held.corpus.samples)
    module = GuardModule(Guard(random_backbone(), POLICY))
    assert module.phrases(data) == module.phrases(held)
    assert data_hash(data.corpus.samples) == data_hash(held.corpus.samples) == data_hash(held.corpus.samples[::-1])
    assert _data_lines(data) == _data_lines(held)
    for d in (data, held):
        d.reject([(d.samples("val")[0], "a.png: broken")])
        d.keep(lambda s: not s.id.endswith("7"))
    assert list(data.corpus.samples) == held.corpus.samples and data.errors == held.errors
    assert list(data.train_dataloader()) == list(held.train_dataloader())


def test_several_sources_with_a_manifest_among_them(tmp_path):
    here = load(write_manifest(tmp_path, mixed_rows(150, ("train", "val", "test")))).samples
    texts = [s.parts[0].text for s in here]
    other = [Sample.of(t + " !", id=f"o{n}", split=("train", "val", "test")[n % 3]) for n, t in enumerate(texts[:60])]
    other.append(Sample.of(texts[0], image="a.png", id="shown", split="train"))

    def merged(first):
        out = loading._merged([Corpus(first, PolicyBank.of(POLICY)), Corpus(other, PolicyBank())])
        return out.samples, out.report

    (samples, report), (held, expected) = merged(here), merged(list(here))
    assert isinstance(samples, LazySamples) and isinstance(held, list)
    assert list(samples) == held and report == expected and report["near_duplicates"] > 20
    assert list(lazy.in_split(samples, "test")) == lazy.in_split(held, "test")
    assert list(lazy.of_modalities(samples, ["image"])) == lazy.of_modalities(held, ["image"])
    assert list(lazy.without_ids(samples, {"o3", "r5"})) == lazy.without_ids(held, {"o3", "r5"})
    unique_ids(samples)
    twice = lazy.joined([here, [Sample.of("x", id=here[4].id)]])
    with pytest.raises(DataError, match=f"duplicate sample id '{here[4].id}'"):
        unique_ids(twice)
    assert pickle.loads(pickle.dumps(samples))[0] == held[0]  # noqa: S301
