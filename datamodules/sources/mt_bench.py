"""MT-Bench and Vicuna questions: 80 + 80 chat prompts, all benign.

Upstream: lm-sys/FastChat (Apache-2.0). Citation: Zheng, Chiang, Sheng, Zhuang, Wu, Zhuang, Lin, Li, Li, Xing, Zhang,
Gonzalez and Stoica (2023), "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena".

Benign prompts: safe as a whole under the default policy, no category annotated. Only the first turn is taken: the
second follows an answer that is not in the file.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_jsonl, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("lm-sys/FastChat", "0e6d3e4beaab66f4d3f93db72541a4abab8af28d")
FILES = (
    SourceFile(
        "text_benign/mt_bench/vicuna_question.jsonl", REPO, "fastchat/llm_judge/data/vicuna_bench/question.jsonl",
        "c248c5c98ba45bb0c2aadae2f270e643bd32679c6c306a3b2a503ac4254cdaa5", rows=80,
    ),
    SourceFile(
        "text_benign/mt_bench/mt_bench_question.jsonl", REPO, "fastchat/llm_judge/data/mt_bench/question.jsonl",
        "119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7", rows=80,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    return [
        text_sample("mt_bench", f"{name}-{row['question_id']}", row["turns"][0], unsafe=False)
        for name in ("mt_bench", "vicuna")
        for row in read_jsonl(verified(data_dir, FILES, f"{name}_question.jsonl"))
    ]
