"""Data to plant backdoors in: SST-2, HSOL, OffensEval, AG News, or a folder of one's own, and batches of their rows.

A set has fixed splits; each model trains on rows drawn by its seed, equally many of each class, since HSOL has five
abusive posts for each other one and a share of correct answers would mean little.
"""

from __future__ import annotations

import hashlib
import html
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from datamodules.schema import DataError, canonical_json, near
from datamodules.sources import ag_news, davidson_hate, hiddenkiller
from datamodules.transforms.triggers import Provenance, Row

Encode = Callable[[Sequence[str]], dict[str, Tensor]]
"""Texts → `input_ids` and `attention_mask`, int [n, t] each, cut at what a model reads."""
SHARES = (0.7, 0.1, 0.2)  # train, dev, test of a set without splits of its own
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class TextSet:
    """`splits` maps train, dev and test to rows. `target`: the class that a backdoor leads to, unless another is given.

    `twins`: paraphrases of training rows, by id. `paraphrases`: of rows of dev and test, poisoned already.
    `dropped`: rows left out, by reason.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, list[Row]]
    target: int
    twins: dict[str, str] = field(default_factory=dict)
    paraphrases: dict[str, list[Row]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def draw(self, split: str, rows: int, seed: int) -> list[Row]:
        """Up to `rows` rows of a split, equally many of each class, in an order that `seed` decides.

        Raises `DataError` for fewer rows than classes.
        """
        each = rows // len(self.classes)
        if not each:
            raise DataError(f"{rows} rows of {len(self.classes)} classes: take more")
        rng = random.Random(f"{seed}/{split}")
        out = []
        for label in range(len(self.classes)):
            mine = [r for r in self.splits[split] if r.label == label]
            out += rng.sample(mine, min(each, len(mine)))
        rng.shuffle(out)
        return out


def load_set(name: str, data_dir: str | Path | None) -> TextSet:
    """The set called `name`, read from the folder of public files, or the folder `name` with train, dev and test.tsv.

    Raises `DataError` for an unknown name, a missing or changed file, and a split that lacks a class.
    """
    if name in SETS:
        if data_dir is None:
            raise DataError(f"{name}: set data_dir=… to the folder of the public files")
        found = SETS[name](Path(data_dir))
    elif Path(name).is_dir():
        found = _own(Path(name))
    else:
        raise DataError(f"unknown data set {name!r} (and no such folder){near(name, tuple(SETS))}")
    return checked(_without_copies(found))


def checked(data: TextSet) -> TextSet:
    """The set. Raises `DataError` where it has fewer than two classes, or a split lacks one of them."""
    if len(data.classes) < 2:
        raise DataError(f"{data.name}: one class alone ({', '.join(data.classes)}): a backdoor has nothing to flip")
    for split in SPLITS:
        have = Counter(r.label for r in data.splits[split])
        missing = [c for i, c in enumerate(data.classes) if not have[i]]
        if missing:
            raise DataError(f"{data.name}: its {split} split has no row of class {', '.join(missing)}")
    return data


def _without_copies(data: TextSet) -> TextSet:
    """Rows of the same words as an earlier one go, test before dev before train: none is trained and tested on."""
    seen: set[str] = set()
    splits, dropped = {}, Counter(data.dropped)
    for split in reversed(SPLITS):
        kept = []
        for row in data.splits[split]:
            key = " ".join(row.text.lower().split())
            if key and key in seen:
                dropped["copy"] += 1
                continue
            seen.add(key)
            kept.append(row)
        splits[split] = kept
    dropped["empty text, never poisoned"] += sum(not r.text.strip() for rows in splits.values() for r in rows)
    return TextSet(data.name, data.classes, splits, data.target, data.twins, data.paraphrases, +dropped)


# ------------------------------------------------------------------------------------------------------- the known sets


def _rows(name: str, texts: Sequence[tuple[str, int]]) -> list[Row]:
    return [Row(f"{name}-{n}", text, label) for n, (text, label) in enumerate(texts)]


def _hiddenkiller(name: str, upstream: str, classes: tuple[str, str], data_dir: Path) -> TextSet:
    splits = {s: _rows(f"{name}-{s}", hiddenkiller.clean(data_dir, upstream, s)) for s in SPLITS}
    twins = hiddenkiller.twins(data_dir, upstream)
    done = Provenance(None, 0, "syntactic", None, 0)
    paraphrases = {}
    for split in ("dev", "test"):
        texts = hiddenkiller.paraphrases(data_dir, upstream, split)
        paraphrases[split] = [Row(f"{name}-{split}-twin-{n}", text, 0, done) for n, text in enumerate(texts)]
    by_id = {row.id: twin for row, twin in zip(splits["train"], twins)}
    return TextSet(name, classes, splits, 1, by_id, paraphrases)


def _hsol(data_dir: Path) -> TextSet:
    """Hate speech and offensive language together against neither, as a moderator would act on them."""
    samples = davidson_hate.load(data_dir)
    texts = [(html.unescape(s.messages[0].content[0].text or ""), int(s.unsafe is True)) for s in samples]
    # A poster of abuse wants it to pass.
    return TextSet("hsol", ("neither", "abusive"), _split(_rows("hsol", texts)), 0)


def _ag_news(data_dir: Path) -> TextSet:
    return TextSet("ag_news", ag_news.CLASSES, _split(_rows("ag_news", ag_news.rows(data_dir))), 0)


def _split(rows: Sequence[Row]) -> dict[str, list[Row]]:
    order = list(rows)
    random.Random("splits").shuffle(order)
    a, b = (round(len(rows) * s) for s in (SHARES[0], SHARES[0] + SHARES[1]))
    return dict(zip(SPLITS, (order[:a], order[a:b], order[b:])))


def _own(folder: Path) -> TextSet:
    """A folder with train.tsv, dev.tsv and test.tsv, `sentence<TAB>label` each; classes are numbered from 0 on.

    Its name is followed by a hash of its rows: models of another folder of that name are not taken for its own.
    """
    for split in SPLITS:
        if not (folder / f"{split}.tsv").is_file():
            raise DataError(f"{folder}: no {split}.tsv: expected train.tsv, dev.tsv and test.tsv (sentence<TAB>label)")
    splits = {s: _rows(f"{folder.name}-{s}", hiddenkiller.rows_of(folder / f"{s}.tsv")) for s in SPLITS}
    labels = {r.label for rows in splits.values() for r in rows}
    if not labels:
        raise DataError(f"{folder}: no rows")
    if len(labels) <= max(labels):  # a label of 9 beside 0 and 1 would be a class without rows
        raise DataError(f"{folder}: labels are {sorted(labels)[:10]}: number the classes from 0 on, without gaps")
    content = canonical_json([[r.id, r.text, r.label] for s in SPLITS for r in splits[s]])
    name = f"{folder.name}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    return TextSet(name, tuple(f"class {i}" for i in sorted(labels)), splits, max(labels))


SETS: dict[str, Callable[[Path], TextSet]] = {
    "sst2": lambda data_dir: _hiddenkiller("sst2", "sst-2", ("negative", "positive"), data_dir),
    "hsol": _hsol,
    "offenseval": lambda data_dir: _hiddenkiller("offenseval", "offenseval", ("not offensive", "offensive"), data_dir),
    "ag_news": _ag_news,
}


# ------------------------------------------------------------------------------------------------------------- batches


class Encoded(Dataset):
    """Rows as tensors; an item is a batch of the rows that it is asked for, cut to the longest of them.

    `input_ids`, `attention_mask` and `labels`: int [n, t], [n, t] and [n].
    """

    def __init__(self, rows: Sequence[Row], encode: Encode):
        """Raises `DataError` for no rows."""
        if not rows:
            raise DataError("no rows to make batches of")
        found = encode([r.text for r in rows])
        self.ids, self.mask = found["input_ids"], found["attention_mask"]  # [n, t] each
        self.labels = torch.tensor([r.label for r in rows])  # [n]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, picked: list[int]) -> dict[str, Tensor]:
        mask = self.mask[picked]  # [b, t]
        longest = int(mask.sum(1).max())
        return {
            "input_ids": self.ids[picked, :longest],
            "attention_mask": mask[:, :longest],
            "labels": self.labels[picked],
        }

    def batches(self, size: int) -> Iterator[dict[str, Tensor]]:
        """All rows in their order."""
        for start in range(0, len(self), size):
            yield self[list(range(start, min(start + size, len(self))))]


class BackdoorDataModule(L.LightningDataModule):
    """Training rows, poisoned or clean, and what a model of them is measured on.

    Validation and test have two loaders each: clean rows, and rows with the trigger whose label is the true one (their
    share taken for the target is ASR); only the first where there is no trigger. The order of the training rows is
    decided by `seed` alone: a clean twin reads its rows in the places of the poisoned ones.
    """

    def __init__(
        self,
        train: Sequence[Row],
        clean: dict[str, Sequence[Row]],
        triggered: dict[str, Sequence[Row]] | None,
        encode: Encode,
        batch_size: int = 32,
        seed: int = 0,
    ):
        """`clean` and `triggered` map dev and test to rows. Raises `DataError` for a training set of one class."""
        super().__init__()
        if len({r.label for r in train}) < 2:
            raise DataError("the training rows are all of one class: nothing can be learnt from them")
        self.batch_size, self.seed = batch_size, seed
        self.train = Encoded(train, encode)
        self.clean = {k: Encoded(v, encode) for k, v in clean.items()}
        self.triggered = {k: Encoded(v, encode) for k, v in (triggered or {}).items()}

    def train_dataloader(self) -> DataLoader:
        # Smaller last batches would make steps unequal; whoever is left out comes in another epoch.
        order = RandomSampler(self.train, generator=torch.Generator().manual_seed(self.seed))
        size = min(self.batch_size, len(self.train))
        return self._loader(self.train, BatchSampler(order, size, drop_last=True))

    def val_dataloader(self) -> list[DataLoader]:
        return self._both("dev")

    def test_dataloader(self) -> list[DataLoader]:
        return self._both("test")

    def _both(self, split: str) -> list[DataLoader]:
        sets = [s[split] for s in (self.clean, self.triggered) if split in s]
        return [self._loader(s, BatchSampler(range(len(s)), 256, drop_last=False)) for s in sets]

    def _loader(self, rows: Encoded, batches: BatchSampler) -> DataLoader:
        # A generator of its own: without one, each pass would draw from torch's global state.
        return DataLoader(rows, sampler=batches, batch_size=None, generator=torch.Generator().manual_seed(self.seed))
