"""DiaSafety: 11,158 context-response pairs of dialogue, safe or unsafe in context.

Upstream: thu-coai/DiaSafety (Apache-2.0), 51 rows cut from our copy. Citation: Sun, Xu, Deng, Cheng, Zheng, Zhou, Peng,
Zhu and Huang (2022), "On the Safety of Conversational Models: Taxonomy, Dataset, and Benchmark".

The label is about the RESPONSE in its context: a harmless sentence may be unsafe after a cry for help. `category` names
the kind of unsafety that was looked for, so "Safe" is a no for that one category and says nothing of the others.
Map: Offending User, Toxicity Agreement and Biased Opinion → S2; Risk Ignorance → S13 (neglect of a person in distress:
the source's label is finer than the shared code for self-harm); Unauthorized Expertise → S3 (unsafe advice).
Upstream's split is kept; the group is the context, and a context in two splits leaves the earlier one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "response"
REPO = Repo("thu-coai/DiaSafety", "5106a041b1c7e36f30e02a97c44897a7f2057278")
FILES = (
    SourceFile(
        "text/diasafety/train.json", REPO, "DiaSafety_dataset/train.json",
        "c1faee9dc1f67b28e8cbc2d4d146be1af749a9ad8caef5d76c10203a4a0dc6ae", rows=8976, cut=41,
        sha256="f5ab0ec772bb33373edf6a7e9cb899cb807a295fc1acf26961604705038beee9",
    ),
    SourceFile(
        "text/diasafety/val.json", REPO, "DiaSafety_dataset/val.json",
        "ec0e4e705224584627dd8a9ff9f0cbafc7b56932752c6038b1a1164f01e14609", rows=1093, cut=4,
        sha256="81e3f9b73a8012a5e41b31624df47b7c9ced0b06b90a4e734d550d6e702aa84a",
    ),
    SourceFile(
        "text/diasafety/test.json", REPO, "DiaSafety_dataset/test.json",
        "3a816555d097effda2b3f788b0372fb64359f1d736d881440d0ae6f386d6716c", rows=1089, cut=6,
        sha256="4bbe6ef9c9efab30828a0759fca3b441d666f4b6515f55d8f0a2bd8e1938b123",
    ),
)  # fmt: skip
CATEGORIES = {
    "Offending User": "S2",
    "Toxicity Agreement": "S2",
    "Biased Opinion": "S2",
    "Risk Ignorance": "S13",
    "Unauthorized Expertise": "S3",
}


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for split in ("train", "val", "test"):
        for n, row in enumerate(read_json(verified(data_dir, FILES, f"{split}.json"))):
            unsafe = row["label"] == "Unsafe"
            group = hashlib.sha256(row["context"].strip().lower().encode()).hexdigest()[:16]
            samples.append(
                text_sample(
                    "diasafety", f"{split}-{n}", row["context"], row["response"], unsafe=unsafe, group=group,
                    split=split,
                    categories={CATEGORIES[row["category"]]: "yes" if unsafe else "no"}, kind=row["category"],
                )
            )  # fmt: skip
    return samples
