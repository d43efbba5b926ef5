"""AG News: 7,600 news items (the release's test file) in four topics.

Upstream: mhjabreel/CharCnn_Keras, which states no licence; the corpus (Gulli, "AG's corpus of news articles") is given
for research and other non-commercial use. Citation: Zhang, Zhao and LeCun (2015), "Character-level Convolutional
Networks for Text Classification".
"""

from __future__ import annotations

import csv
from pathlib import Path

from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "non-commercial, academic use"
PERMISSIVE = False
CLASSES = ("world", "sports", "business", "science")
FILES = (
    SourceFile(
        "backdoor/ag_news/test.csv",
        Repo("mhjabreel/CharCnn_Keras", "555590db4219b1243abb1918effd6a7425a2d75f"),
        "data/ag_news_csv/test.csv",
        "521465c2428ed7f02f8d6db6ffdd4b5447c1c701962353eb2c40d548c3c85699",
        rows=7600,
    ),
)


def rows(data_dir: str | Path) -> list[tuple[str, int]]:
    """(title and text, label from 0 on). Raises `DataError` when the file is missing or another one."""
    with verified(data_dir, FILES).open(encoding="utf-8", newline="") as f:
        # A backslash stands for a line break of the original.
        return [(f"{title} {text}".replace("\\", " "), int(label) - 1) for label, title, text in csv.reader(f)]
