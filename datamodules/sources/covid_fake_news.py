"""COVID-19 fake news: 10,700 posts about the pandemic, 5,100 of them fake.

Upstream: the Constraint@AAAI 2021 shared task, here through diptamath/covid_fake_news (MIT). Citation: Patwa, Sharma,
Pykl, Guptha, Kumari, Akhtar, Ekbal, Das and Chakraborty (2021), "Fighting an Infodemic: COVID-19 Fake News Dataset".

The label is about the prompt (the post), by people: fake claims come from fact-checking sites, real ones from official
accounts. Map: fake → S7 yes, real → S7 no. Nothing else was annotated. Trap: some fake rows are a fact-checker's
headline about a false claim, not the claim.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
LABELS = {"fake": True, "real": False}
REPO = Repo("diptamath/covid_fake_news", "030deba36d118c124709fd72d7d5f14c7bc69053")
FILES = (
    SourceFile(
        "text/covid_fake_news/Constraint_Train.csv", REPO, "data/Constraint_Train.csv",
        "441f3985bb76eb69d1e488cf292f80add96c4dddfa43ba7c060889607837ddce", rows=6420,
    ),
    SourceFile(
        "text/covid_fake_news/Constraint_Val.csv", REPO, "data/Constraint_Val.csv",
        "c610931d0641fe1d9b9495c453f99ae7aa45bf294c7db6333ec84ecebb0b6c3c", rows=2140,
    ),
    SourceFile(
        "text/covid_fake_news/english_test_with_labels.csv", REPO, "data/english_test_with_labels.csv",
        "7152fc681884a22013218c5dd9a73c6fd99d4b084705723e1e49d18c97ca8281", rows=2140,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for file, part in zip(FILES, ("train", "val", "test")):
        for row in read_csv(verified(data_dir, FILES, file.path)):
            unsafe = LABELS[row["label"]]
            samples.append(
                text_sample(
                    "covid_fake_news", f"{part}-{row['id']}", row["tweet"], unsafe=unsafe,
                    categories={"S7": "yes" if unsafe else "no"},
                )
            )  # fmt: skip
    return samples
