"""Self-Instruct seeds: 175 + 252 instructions written by people, all benign.

Upstream: yizhongw/self-instruct (Apache-2.0). Citation: Wang, Kordi, Mishra, Liu, Smith, Khashabi and Hajishirzi
(2023), "Self-Instruct: Aligning Language Models with Self-Generated Instructions".

Benign prompts: safe as a whole under the default policy, no category annotated. The prompt is the instruction and,
where there is one, its first input.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_jsonl, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("yizhongw/self-instruct", "0b26ccaa415992100fa32df62d41b994cf928e23")
FILES = (
    SourceFile(
        "text_benign/self_instruct_seeds/seed_tasks.jsonl", REPO, "data/seed_tasks.jsonl",
        "7779004fa198fdf27cf70a159363879d8a26c53329e11b436af17b3941875f48", rows=175,
    ),
    SourceFile(
        "text_benign/self_instruct_seeds/user_oriented_instructions.jsonl", REPO,
        "human_eval/user_oriented_instructions.jsonl",
        "81d60a117db495cecedecd9193504fd07c5b5a42f6699ef6b0f9da10fc22f42e", rows=252,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for name in ("seed_tasks", "user_oriented_instructions"):
        for row in read_jsonl(verified(data_dir, FILES, f"{name}.jsonl")):
            given = row["instances"][0]["input"].strip()
            prompt = row["instruction"] + (f"\n\n{given}" if given else "")
            samples.append(text_sample("self_instruct", row["id"], prompt, unsafe=False))
    return samples
