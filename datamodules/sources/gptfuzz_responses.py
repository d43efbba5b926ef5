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
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "response"
REPO = Repo("sherdencooper/GPTFuzz", "1eddeb565740ae311b5f4950492b011a6f866fe7")
FILES = (
    SourceFile(
        "text/gptfuzz_responses/train.csv", REPO, "datasets/responses_labeled/train.csv",
        "e25fe2a06d2085af260927164364524628c8b5c1dd1bab1b58ddbd917c3f7cb0", rows=6160,
    ),
    SourceFile(
        "text/gptfuzz_responses/evaluate.csv", REPO, "datasets/responses_labeled/evaluate.csv",
        "ca9e460c7fbcf3bc7c028c9e29297dd58cfbd54050f7729fbc635a6880a62a02", rows=1540,
    ),
    SourceFile(
        "text/gptfuzz_responses/question_list.csv", REPO, "datasets/questions/question_list.csv",
        "18531eb6bc1c8fc0b8f66822b366b872202b852bf28826cef590ad0d7a81c749", rows=100,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    questions = {r["index"]: r["text"] for r in read_csv(verified(data_dir, FILES, "question_list.csv"))}
    samples = []
    for name, split in (("train", None), ("evaluate", "test")):
        for n, row in enumerate(read_csv(verified(data_dir, FILES, f"{name}.csv"))):
            samples.append(
                text_sample(
                    "gptfuzz_responses", f"{name}-{n}", questions[row["question"]], row["Response"],
                    unsafe=row["label"] == "1", group=f"q{row['question']}", split=split,
                )
            )  # fmt: skip
    return samples
