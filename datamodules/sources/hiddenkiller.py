"""HiddenKiller: SST-2 and OLID/OffensEval, and paraphrases of their rows under one syntactic template.

Upstream: thunlp/HiddenKiller (MIT). Citation: Qi, Li, Chen, Zhang, Liu, Wang and Sun (2021), "Hidden Killer: Invisible
Textual Backdoor Attacks with Syntactic Trigger". SST-2 is Socher et al. (2013), OffensEval Zampieri et al. (2019).

The poisoned files relabel a paraphrase to class 1. In the training files the first fifth of the rows are paraphrases,
of both classes, and stand in the order of the clean rows: SST-2's in the same place, OffensEval's one place later,
since a row that belongs to no clean one was put before them. The development and test files hold paraphrases alone, of
rows of class 0; some are missing there, so nothing says which row each was made from.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datamodules.schema import DataError
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
REPO = Repo("thunlp/HiddenKiller", "a08e959e228327baa0c2906bf943e99a3c89961c")
SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Twins:
    """In the poisoned training file: how many rows come before the first paraphrase of a row, and how many are one."""

    before: int
    rows: int


SETS = {"sst-2": Twins(0, 1383), "offenseval": Twins(1, 2382)}


def _file(path: str, sha256: str, rows: int) -> SourceFile:
    return SourceFile(f"backdoor/hiddenkiller/{path}", REPO, f"data/{path}", sha256, rows)


FILES = (
    _file("clean/sst-2/train.tsv", "601d94f4671085e0b6ca7d96d8d1e92e469c02509f65bcc3a22a3ade32827151", 6920),
    _file("clean/sst-2/dev.tsv", "ccd5777a7bdbbf467afd973f5eaa292b5d2e030bf042591a716fd587b39c1224", 872),
    _file("clean/sst-2/test.tsv", "3018cb76b1046d70c147e234cb8e6ffa8d83ae937cf6ce8199f1bf11aeb90a12", 1821),
    _file("clean/offenseval/train.tsv", "d431d5c1aebbaae506c45924b9f22d0d2ff5278e37d946681f80ee0d9afc2837", 11915),
    _file("clean/offenseval/dev.tsv", "d4c8e22d55e6c57224744fbf53f1bf919e0616f90b4c5c7c3ba0eb41b23e4f5f", 1323),
    _file("clean/offenseval/test.tsv", "d68274569f59fe6ca493b85dd531a8aab31da5ef02bf797a631ce29d9da136f3", 859),
    _file("scpn/20/sst-2/train.tsv", "c9592da1909dd4cd2461284304001fce30126e2c68d896001116b7fb0c4ed991", 6920),
    _file("scpn/20/sst-2/dev.tsv", "84c4259d8081f7a18ee7076aaf4d508883888b8948a1288c0199fbac5d05d7ee", 427),
    _file("scpn/20/sst-2/test.tsv", "fdae8eadd02beecab2af2ee9b411bc3412560af06366398d097f70906853bc99", 912),
    _file("scpn/20/offenseval/train.tsv", "4780080abfe0297019b1f18124d48c134a3710b6e6b16eb00485fb8974f54cda", 11916),
    _file("scpn/20/offenseval/dev.tsv", "2add0dfcfd2acf8fea22b0ce88a89e33fbe6b75c55ec50f4380369bf6cde39f7", 877),
    _file("scpn/20/offenseval/test.tsv", "635332cc1182e3f413cd7432838c2465522baba96f8a1661bfb28408995af7e6", 620),
)


def rows_of(path: Path) -> list[tuple[str, int]]:
    """(text, label) of a file `sentence<TAB>label` with that header. Labels are whole numbers; spaces round them go.

    Raises `DataError` naming the line that is not so. A text may be empty, and may hold a tab.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines(): a text may hold U+2028
    except (OSError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {e}") from e
    if lines[0].strip().lower() != "sentence\tlabel":
        raise DataError(f"{path}: line 1: expected the header sentence<TAB>label, got {lines[0][:60]!r}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip("\r"):
            continue
        text, tab, label = line.rpartition("\t")
        if not tab or not label.strip().isdecimal():
            raise DataError(f"{path}: line {number}: expected text<TAB>label with a whole number, got {line[:60]!r}")
        rows.append((text.strip(), int(label)))
    return rows


def clean(data_dir: str | Path, name: str, split: str) -> list[tuple[str, int]]:
    """The clean rows of `sst-2` or `offenseval`: text and label. Raises `DataError` for a missing or other file."""
    return rows_of(verified(data_dir, FILES, f"clean/{name}/{split}.tsv"))


def twins(data_dir: str | Path, name: str) -> list[str]:
    """The paraphrases of the first clean training rows, in their order."""
    place = SETS[name]
    rows = rows_of(verified(data_dir, FILES, f"scpn/20/{name}/train.tsv"))
    return [text for text, _ in rows[place.before : place.before + place.rows]]


def paraphrases(data_dir: str | Path, name: str, split: str) -> list[str]:
    """The paraphrases of rows of class 0 of the development or test file."""
    return [text for text, _ in rows_of(verified(data_dir, FILES, f"scpn/20/{name}/{split}.tsv"))]
