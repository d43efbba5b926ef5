"""ToxicChat, rows of the training set: 2,793 real user prompts, 377 of them toxic and 110 of those jailbreaks.

Upstream: lmsys/toxic-chat, here through dmg-illc/JUDGE-BENCH, 8 rows cut. Licence CC-BY-NC-4.0. Citation: Lin, Wang,
Tong, Wang, Guo, Wang and Shang (2023), "ToxicChat: Unveiling Hidden Challenges of Toxicity Detection in Real-World
User-AI Conversation".

The label is about the prompt. Map: jailbreaking → S15; all jailbreaks are toxic too, so toxicity is the verdict. It is
broad and tells no category by itself.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-NC-4.0"
PERMISSIVE = False
TARGET = "prompt"
REPO = Repo("dmg-illc/JUDGE-BENCH", "5a0bf500325029efb5dc8adff2c1e991996f0e78")
FILES = (
    SourceFile(
        "text/judge_bench_toxicchat_dices/toxic_chat_train.json", REPO, "data/toxic_chat/toxic_chat_train.json",
        "e63c72db381bdd808e0b5e744ede6192f225dafdde5b484049f3f766947990ff", rows=2793, cut=8,
        sha256="c894253e9ff20a9c7e18b96dc5e025f8d505d6bafd765d4e610318a4072fbc87",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for n, row in enumerate(read_json(verified(data_dir, FILES))["instances"]):
        toxic, jailbreak = (row["annotations"][k]["majority_human"] == "1" for k in ("toxicity", "jailbreaking"))
        samples.append(
            text_sample(
                "toxicchat_train", n, row["instance"], unsafe=toxic or jailbreak,
                categories={"S15": "yes" if jailbreak else "no"},
            )
        )  # fmt: skip
    return samples
