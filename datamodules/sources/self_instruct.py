"""Self-Instruct seeds: 175 + 252 instructions written by people, all benign.

Upstream: yizhongw/self-instruct (Apache-2.0). Citation: Wang, Kordi, Mishra, Liu, Smith, Khashabi and Hajishirzi
(2023), "Self-Instruct: Aligning Language Models with Self-Generated Instructions".

Benign prompts: safe as a whole under the default policy, no category annotated. The prompt is the instruction and,
where there is one, its first input.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, read_jsonl, text_sample

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "prompt"


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing."""
    samples = []
    for name in ("seed_tasks", "user_oriented_instructions"):
        for row in read_jsonl(locate(data_dir, "text_benign/self_instruct_seeds", f"{name}.jsonl")):
            given = row["instances"][0]["input"].strip()
            prompt = row["instruction"] + (f"\n\n{given}" if given else "")
            samples.append(text_sample("self_instruct", row["id"], prompt, unsafe=False))
    return samples
