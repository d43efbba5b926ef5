"""OpenAI moderation evaluation set: 1,564 prompts with human labels in eight categories.

Upstream: openai/moderation-api-release (MIT), 116 of its 1,680 rows cut from our copy.
Citation: Markov, Zhang, Agarwal, Eloundou, Lee, Adler, Jiang and Weng (2023), "A Holistic Approach to Undesired
Content Detection in the Real World".

The label is about the prompt. Map, and why:
- S (sexual) → S9; S3 (sexual, minors) → S5, only ever 0 here.
- H (hate), H2 (threatening hate), HR (harassment) → S2. H2 is a kind of H, so H = 0 and HR = 0 settle S2 as no.
- V (violence), V2 (graphic violence) → S1. V2 is a kind of V. V = 0 is taken as S1 no, though it does not look at
  weapons or drugs: the set's rows on those are labelled under no key at all.
- SH → S8.

Trap: a key that is absent was not annotated. It is unknown, not 0; a row with no positive and an absent main key has no
verdict under the full policy, so its policy is cut to the entries it was labelled for. A
row whose keys settle no entry has no verdict at all.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Policy, Sample
from datamodules.sources.files import read_jsonl, text_sample
from datamodules.sources.record import Repo, SourceFile, verified
from datamodules.taxonomy import DEFAULT_POLICY

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("openai/moderation-api-release", "f4ab51b5edd3bfbcb349a56324274235b674e0e4")
FILES = (
    SourceFile(
        "text/openai_moderation/samples-1680.jsonl.gz", REPO, "data/samples-1680.jsonl.gz",
        "ef3f7de86ee394fe337b0a566ba4b9c7db058f3caa8d6a4a0006138b663ab9a8", rows=1564, cut=116,
        sha256="adeb43e94bb4fc2370190c6f2654a1a52e92ee349e7f427072b25cde010f1d89",
    ),
)  # fmt: skip
# entry → (keys of which one 1 settles yes, keys of which all 0 settle no)
KEYS = {
    "S1": (("V", "V2"), ("V",)),
    "S2": (("H", "H2", "HR"), ("H", "HR")),
    "S5": (("S3",), ("S3",)),
    "S8": (("SH",), ("SH",)),
    "S9": (("S", "S3"), ("S",)),
}
MAIN_KEYS = ("S", "H", "V", "HR", "SH")


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    rows = read_jsonl(verified(data_dir, FILES))
    return [_sample(n, row) for n, row in enumerate(rows)]


def _sample(n: int, row: dict) -> Sample:
    categories = {}
    for id, (yes_keys, no_keys) in KEYS.items():
        if any(row.get(k) == 1 for k in yes_keys):
            categories[id] = "yes"
        elif all(row.get(k) == 0 for k in no_keys):
            categories[id] = "no"
    unsafe: bool | None = None
    policy = DEFAULT_POLICY
    if "yes" in categories.values():
        unsafe = True
    elif all(row.get(k) == 0 for k in MAIN_KEYS):
        unsafe = False
    elif categories:
        policy = Policy("annotated", tuple(DEFAULT_POLICY.entry(id) for id in categories))
    return text_sample("openai_moderation", n, row["prompt"], unsafe=unsafe, categories=categories, policy=policy)
