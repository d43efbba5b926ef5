"""datamodules/backdoor.py and its sources: splits, aligned paraphrases, refusals, and the order of batches."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from datamodules.backdoor import SPLITS, BackdoorDataModule, TextSet, checked, load_set
from datamodules.schema import DataError
from datamodules.sources import hiddenkiller
from datamodules.transforms.triggers import Row

DATA = Path(os.environ.get("ZOO_DATA_DIR") or Path(__file__).resolve().parents[1].parent / "shared" / "data")
needs_data = pytest.mark.skipif(not (DATA / "backdoor").is_dir(), reason="no public data: set ZOO_DATA_DIR")


def folder(tmp_path, **splits):
    for split in SPLITS:
        text = splits.get(split, "".join(f"{split} row {i}\t{i % 2}\n" for i in range(8)))
        (tmp_path / f"{split}.tsv").write_text("sentence\tlabel\n" + text, encoding="utf-8")
    return str(tmp_path)


def encode(texts):
    """A token a word, its length, right-padded to 8."""
    ids = torch.zeros(len(texts), 8, dtype=torch.long)
    for row, text in enumerate(texts):
        words = text.split()[:8]
        ids[row, : len(words)] = torch.tensor([len(w) for w in words])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


# ---------------------------------------------------------------------------------------------------- the public files


@needs_data
@pytest.mark.parametrize("name", sorted(hiddenkiller.SETS))
def test_paraphrases_stand_beside_the_rows_that_they_were_made_from(name):
    """They share words with their own row, and fewer with its neighbours; what follows them is the clean file."""
    clean = hiddenkiller.clean(DATA, name, "train")
    twins = hiddenkiller.twins(DATA, name)

    def shared(shift):
        pairs = [(clean[i + shift][0], t) for i, t in enumerate(twins) if i + shift >= 0]
        return sum(len(set(a.lower().split()) & set(b.split())) for a, b in pairs) / len(pairs)

    assert shared(0) > 2 * max(shared(-1), shared(1))
    ours = hiddenkiller.SETS[name]
    path = DATA / "backdoor" / "hiddenkiller" / "scpn" / "20" / name / "train.tsv"
    others = hiddenkiller.rows_of(path)[ours.before + ours.rows :]
    rest = clean[len(twins) :]
    assert len(others) == len(rest)
    same = [a == b for (a, la), (b, lb) in zip(others, rest) if la == lb]
    assert len(same) == len(rest) and sum(same) > 0.8 * len(same)  # upstream quoted some rows of OffensEval


@needs_data
@pytest.mark.parametrize(
    "name, sizes, twins, target",
    [
        ("sst2", (6920, 872, 1821), 1383, 1),
        ("offenseval", (11915, 1323, 859), 2382, 1),
        ("hsol", (24712 * 0.7, 24712 * 0.1, 24712 * 0.2), 0, 0),
        ("ag_news", (5320, 760, 1520), 0, 0),
    ],
)
def test_public_sets(name, sizes, twins, target):
    data = load_set(name, DATA)
    for split, size in zip(SPLITS, sizes):
        assert 0.97 * size <= len(data.splits[split]) <= size + 1  # copies are gone, and are counted
    assert sum(len(rows) for rows in data.splits.values()) + data.dropped["copy"] == round(sum(sizes))
    words = [{" ".join(r.text.lower().split()) for r in data.splits[s]} - {""} for s in SPLITS]
    assert not words[0] & words[1] and not words[0] & words[2] and not words[1] & words[2]
    assert len(data.twins) == twins and data.target == target
    if twins:
        texts = {r.id: r for r in data.splits["train"]}
        there = [i for i in data.twins if i in texts]
        assert len(there) > 0.97 * twins and len({texts[i].label for i in there}) == 2
        assert {r.label for rows in data.paraphrases.values() for r in rows} == {0}
    drawn = data.draw("train", 2000, 1)
    assert set(Counter(r.label for r in drawn).values()) == {2000 // len(data.classes)}
    assert drawn == data.draw("train", 2000, 1) != data.draw("train", 2000, 2)


@needs_data
def test_a_set_needs_its_files(tmp_path):
    with pytest.raises(DataError, match="set data_dir="):
        load_set("sst2", tmp_path)
    with pytest.raises(DataError, match="set data_dir="):
        load_set("sst2", None)


# ------------------------------------------------------------------------------------------------------- one's own rows


def test_a_folder_of_ones_own(tmp_path):
    train = 'a, "quoted" text\t0\r\n\t1\na tab\there \t 1\nTest Row 3\t0\nsame\t1\nsame\t1\n'
    data = load_set(folder(tmp_path, train=train), None)
    assert [(r.text, r.label) for r in data.splits["train"]] == [
        ('a, "quoted" text', 0), ("", 1), ("a tab\there", 1), ("same", 1),
    ]  # fmt: skip
    assert data.dropped == {"copy": 2, "empty text, never poisoned": 1}  # "test row 3" is in the test split
    other = load_set(folder(tmp_path, train=train.replace("Row", "row")), None)
    assert data.name.startswith(f"{tmp_path.name}-") and other.name != data.name
    assert data.classes == ("class 0", "class 1") and data.target == 1 and not data.twins


@pytest.mark.parametrize(
    "train, words",
    [
        ("one\t0\ntwo\t0\n", "train split has no row of class class 1"),
        ("one\t0\ntwo\t7\n", "without gaps"),
        ("one\t0\ntwo\n", "line 3"),
        ("one\t0\ntwo\tpositive\n", "line 3"),
        ("one\t-1\n", "line 2"),
        ("", "train split has no row of class class 0, class 1"),
    ],
)
def test_sets_that_cannot_be_used(tmp_path, train, words):
    with pytest.raises(DataError) as e:
        load_set(folder(tmp_path, train=train), None)
    assert words in str(e.value)


def test_a_set_of_one_class_and_no_set(tmp_path):
    one = [Row("a", "x", 0)]
    with pytest.raises(DataError, match="one class alone"):
        checked(TextSet("s", ("only",), dict.fromkeys(SPLITS, one), 0))
    with pytest.raises(DataError, match="did you mean 'sst2'"):
        load_set("sst-2", None)
    with pytest.raises(DataError, match=r"no train\.tsv"):
        load_set(str(tmp_path), None)
    (tmp_path / "train.tsv").write_text("text\tlabel\nx\t0\n")
    (tmp_path / "dev.tsv").touch()
    (tmp_path / "test.tsv").touch()
    with pytest.raises(DataError, match="expected the header"):
        load_set(str(tmp_path), None)


# ------------------------------------------------------------------------------------------------------------- batches


def labels(module):
    return [batch["labels"].tolist() for _ in range(2) for batch in module.train_dataloader()]


def module(rows, seed=0, **more):
    return BackdoorDataModule(rows, {"dev": rows[:4], "test": rows}, None, encode, batch_size=4, seed=seed, **more)


def test_order_is_the_seeds_alone_and_batches_are_as_long_as_their_rows():
    rows = [Row(str(i), "word " * (1 + i % 5), i) for i in range(10)]  # the label tells which row it was
    poisoned = [Row(r.id, f"cf {r.text}", r.label) for r in rows]
    torch.manual_seed(0)
    first = labels(module(rows))
    torch.manual_seed(1)
    assert labels(module(poisoned)) == first != labels(module(rows, seed=1))
    assert [len(b) for b in first] == [4, 4] * 2  # 10 rows are two whole batches
    epoch = iter(m := module(rows).train_dataloader())
    one = [next(epoch)["labels"].tolist() for _ in range(2)]
    assert one != [b["labels"].tolist() for b in m]  # the next epoch has another order
    for batch in module(rows).test_dataloader()[0]:
        longest = max(1 + i % 5 for i in batch["labels"].tolist())
        assert batch["input_ids"].shape == batch["attention_mask"].shape == (10, longest)
    whole = list(module(rows).clean["test"].batches(3))
    assert [b["labels"].tolist() for b in whole] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_loaders_draw_nothing_from_the_global_state():
    rows = [Row(str(i), "a b", i % 2) for i in range(10)]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    made = module(rows)
    list(made.train_dataloader()), list(made.val_dataloader()[0])
    assert torch.equal(before, torch.get_rng_state())


def test_training_rows_of_one_class_are_refused():
    with pytest.raises(DataError, match="all of one class"):
        module([Row(str(i), "a", 1) for i in range(4)])
