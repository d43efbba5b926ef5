"""datamodules/buckets.py: batches of similar length that change nothing else of an epoch."""

from collections import Counter

import lightning as L
import pytest
import torch
from helpers import write_image
from test_manifest import POLICY, text_row, write_manifest

from datamodules import GuardDataModule, TextDataModule
from datamodules.buckets import BucketOrder, characters
from datamodules.sampling import BalancedSampler
from datamodules.schema import DataError, Policy, PolicyEntry, Sample

SIZES = {"text": 400, "other": 37}


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 2000, (sum(SIZES.values()),), generator=generator).tolist()
    names = [f"{m}{n}" for m, size in SIZES.items() for n in range(size)]
    return [Sample.of("x" * n, id=i, meta={"modality": i.rstrip("0123456789")}) for i, n in zip(names, lengths)]


def sampler(rows, **kw):
    return BalancedSampler(rows, **{"seed": 3, "size": 333, "shares": {"text": 3.0}, **kw})


def batches(rows, epoch=0, size=8, seed=3, **kw):
    drawn = sampler(rows)
    drawn.set_epoch(epoch)
    return parted(BucketOrder(drawn, size, lambda item: len(rows[item[0]].parts[0].text), seed, **kw))


def parted(order, size=8):
    items = list(order)
    assert len(items) == len(order)
    return [items[n : n + size] for n in range(0, len(items), size)]


def test_an_epoch_holds_what_the_sampler_draws(rows):
    for epoch in range(3):
        drawn = sampler(rows)
        drawn.set_epoch(epoch)
        made = batches(rows, epoch)
        assert Counter(i for b in made for i in b) == Counter(drawn)
        assert Counter(rows[i].modality for b in made for i, _ in b) == {"text": 249, "other": 84}  # the shares
        sizes = Counter(len(b) for b in made)
        assert sizes == {8: 41, 5: 1}


def test_batches_are_of_similar_length_and_in_random_order(rows):
    def spread(made):
        lengths = [[len(rows[i].parts[0].text) for i, _ in b] for b in made]
        return sum(max(n) - min(n) for n in lengths) / len(lengths), [max(n) for n in lengths]

    drawn = list(sampler(rows))
    plain, _ = spread([drawn[n : n + 8] for n in range(0, len(drawn), 8)])
    near, tops = spread(batches(rows))
    assert near < 0.25 * plain
    assert tops != sorted(tops) and tops != sorted(tops, reverse=True)
    halves = len(tops) // 2
    assert abs(sum(tops[:halves]) / halves - sum(tops[halves:]) / (len(tops) - halves)) < 500  # no slope over the epoch


def test_seed_and_epoch_decide(rows):
    assert batches(rows, 2) == batches(rows, 2)
    assert batches(rows, 2) != batches(rows, 2, seed=4)
    one, two = ([{i for i, _ in b} for b in batches(rows, epoch)] for epoch in (0, 1))
    assert not any(b in two for b in one)
    small = rows[:24]  # one window: the blur alone parts neighbours
    drawn = BalancedSampler(small)

    def met(epoch):
        drawn.set_epoch(epoch)
        return {
            frozenset(i for i, _ in b)
            for b in parted(BucketOrder(drawn, 4, lambda i: len(small[i[0]].parts[0].text)), 4)
        }

    assert met(0) != met(1)


def test_windows_bound_how_far_a_sample_moves(rows):
    drawn = BalancedSampler(rows[:200], seed=3)
    position = {item: n // 16 for n, item in enumerate(drawn)}
    assert len(position) == 200
    made = parted(BucketOrder(drawn, 8, lambda item: len(rows[item[0]].parts[0].text), window=2))
    assert all(len({position[i] for i in b}) == 1 for b in made) and len(made) == 25


def test_characters_count_text_and_policy():
    policy = Policy("p", (PolicyEntry("a", "fire", "Flames."), PolicyEntry("b", "alarm")))
    assert characters(Sample.of("12345", response="678"), policy) == 8 + 8 + 7 + 10


@pytest.fixture
def texts(tmp_path):
    words = [{"role": "user", "content": [{"type": "text", "text": "x" * (1 + 37 * n % 101)}]} for n in range(60)]
    made = [
        text_row(n, split="train" if n < 50 else "val", messages=[w], categories={"fire": "yes", "alarm": "no"})
        for n, w in enumerate(words)
    ]
    return write_manifest(tmp_path, made)


def loaded(path, bucket, epoch=0, **kw):
    data = TextDataModule("manifest", path=path, policy=POLICY, batch_size=8, bucket=bucket, **kw)
    loader = data.train_dataloader()
    for s in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        if hasattr(s, "set_epoch"):
            s.set_epoch(epoch)
    return data, list(loader)


def test_the_datamodule_draws_the_same_rows_and_policies(texts):
    for epoch in (0, 1):
        (_, plain), (data, made) = (loaded(texts, b, epoch, epoch_size=70) for b in (False, True))
        key = [(s.id, p) for b in made for s, p in b]
        assert sorted(key, key=str) == sorted(((s.id, p) for b in plain for s, p in b), key=str)
        assert [len(b) for b in made].count(8) == 8 and len(made) == 9

        def spread(batches):
            return sum(max(characters(*x) for x in b) - min(characters(*x) for x in b) for b in batches)

        assert spread(made) < 0.6 * spread(plain)
        assert [s.id for b in data.val_dataloader() for s, _ in b] == [s.id for s in data.samples("val")]


def test_workers_draw_the_same(texts):
    alone, helped = (loaded(texts, True, workers=w)[1] for w in (0, 1))
    assert alone == helped


def test_lightning_sets_the_epoch(texts):
    """New policies and new batches every epoch, as without buckets."""

    class Seen(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.weight, self.epochs = torch.nn.Parameter(torch.zeros(1)), [[], []]

        def training_step(self, batch, index):
            self.epochs[self.current_epoch].append(batch)
            return self.weight.sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def names(batch):
        return [f"{s.id}: {', '.join(e.name for e in p.entries)}" for s, p in batch]

    data = TextDataModule("manifest", path=texts, policy=POLICY, batch_size=8, bucket=True)
    data.collate = names
    module = Seen()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    L.Trainer(max_epochs=2, enable_checkpointing=False, limit_val_batches=0, **quiet).fit(module, data)
    assert [len(e) for e in module.epochs] == [7, 7]
    expected = [[names(b) for b in loaded(texts, True, n)[1]] for n in (0, 1)]
    assert module.epochs == expected and expected[0] != expected[1]


def test_media_are_refused(tmp_path):
    write_image(tmp_path / "a.png")
    picture = [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}]
    path = write_manifest(tmp_path, [text_row(0, split="train"), text_row("pic", split="train", messages=picture)])
    with pytest.raises(DataError, match=r"text alone, and sample 'rpic' holds image: set modalities=\[text\]"):
        GuardDataModule("manifest", path=path, policy=POLICY, bucket=True).prepare_data()
    assert GuardDataModule("manifest", path=path, policy=POLICY, bucket=True, modalities=["text"]).samples("train")
    with pytest.raises(DataError, match=r"text alone: set modalities=\[text\] for source 'sample'"):
        GuardDataModule("sample", bucket=True)
