"""SMS Spam Collection: 5,574 text messages, 747 of them spam.

Upstream: the UCI repository (CC-BY-4.0), here through justmarkham/pycon-2016-tutorial. Citation: Almeida, Gómez Hidalgo
and Yamakami (2011), "Contributions to the Study of SMS Spam Filtering: New Collection and Results".

The label is about the prompt (the message). spam → S3 yes (most of it is premium-rate or prize fraud), ham → S3 no.
Trap: the file is tab-separated with bare quotation marks in the messages: a CSV reader that honours quotes merges rows
(5,572 instead of 5,574).
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-4.0"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("justmarkham/pycon-2016-tutorial", "5339710562cc46c4a32a369d63f1e8751a18a54e")
FILES = (
    SourceFile(
        "text/sms_spam/sms.tsv", REPO, "data/sms.tsv",
        "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d", rows=5574,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    text = verified(data_dir, FILES).read_text(encoding="utf-8")
    samples = []
    for n, line in enumerate(text.rstrip("\n").split("\n")):
        label, _, message = line.partition("\t")
        spam = label == "spam"
        samples.append(text_sample("sms_spam", n, message, unsafe=spam, categories={"S3": "yes" if spam else "no"}))
    return samples
