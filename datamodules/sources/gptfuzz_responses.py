"""GPTFuzzer's labelled responses: 7,700 answers of models to 100 harmful questions under jailbreak templates.

Upstream: sherdencooper/GPTFuzz (MIT). Citation: Yu, Lin, Yu and Xing (2023), "GPTFUZZER: Red Teaming Large Language
Models with Auto-Generated Jailbreak Prompts".

The label (1 = the answer is harmful, by hand) is about the RESPONSE; a refusal of the same question is 0. `question` is
an index into question_list.csv; the template that was used is not recorded, so the bare question stands for the prompt.
Upstream's train and evaluate files share no question: a question is the group, and evaluate is the test split.
No category is annotated.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, read_csv, text_sample

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "response"


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing."""
    folder = "text/gptfuzz_responses"
    questions = {r["index"]: r["text"] for r in read_csv(locate(data_dir, folder, "question_list.csv"))}
    samples = []
    for name, split in (("train", None), ("evaluate", "test")):
        for n, row in enumerate(read_csv(locate(data_dir, folder, f"{name}.csv"))):
            samples.append(
                text_sample(
                    "gptfuzz_responses", f"{name}-{n}", questions[row["question"]], row["Response"],
                    unsafe=row["label"] == "1", group=f"q{row['question']}", split=split,
                )
            )  # fmt: skip
    return samples
