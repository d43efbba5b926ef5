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
from datamodules.sources.files import locate, read_json, text_sample

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "response"
CATEGORIES = {
    "Offending User": "S2",
    "Toxicity Agreement": "S2",
    "Biased Opinion": "S2",
    "Risk Ignorance": "S13",
    "Unauthorized Expertise": "S3",
}


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing."""
    samples = []
    for split in ("train", "val", "test"):
        for n, row in enumerate(read_json(locate(data_dir, "text/diasafety", f"{split}.json"))):
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
