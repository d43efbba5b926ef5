"""MT-Bench and Vicuna questions: 80 + 80 chat prompts, all benign.

Upstream: lm-sys/FastChat (Apache-2.0). Citation: Zheng, Chiang, Sheng, Zhuang, Wu, Zhuang, Lin, Li, Li, Xing, Zhang,
Gonzalez and Stoica (2023), "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena".

Benign prompts: safe as a whole under the default policy, no category annotated. Only the first turn is taken: the
second follows an answer that is not in the file.
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
    return [
        text_sample("mt_bench", f"{name}-{row['question_id']}", row["turns"][0], unsafe=False)
        for name in ("mt_bench", "vicuna")
        for row in read_jsonl(locate(data_dir, "text_benign/mt_bench", f"{name}_question.jsonl"))
    ]
