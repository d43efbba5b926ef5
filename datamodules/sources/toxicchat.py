"""ToxicChat test set: 5,079 real user prompts to a chat service, 359 of them toxic.

Upstream: lmsys/toxic-chat, here through bigsnarfdude/wizard101. Licence CC-BY-NC-4.0. Citation: Lin, Wang, Tong, Wang,
Guo, Wang and Shang (2023), "ToxicChat: Unveiling Hidden Challenges of Toxicity Detection in Real-World User-AI
Conversation".

The label is about the prompt. "Toxicity" here is broad (sexual and violent requests as well as abuse), so a toxic row
tells no category. For test only.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-NC-4.0"
PERMISSIVE = False
TARGET = "prompt"
EVAL_ONLY = True
REPO = Repo("bigsnarfdude/wizard101", "46c3ee4494aa2651232857ba365245443b3e6fa1")
FILES = (
    SourceFile(
        "text/toxicchat_test/toxicchat_test.json", REPO, "data/benchmark/toxicchat_test.json",
        "8553aabeaf40b2d1196b29c7e747c42ebc1b36ad81b2bf61ca6416a8a8b993f7", rows=5079, cut=4,
        sha256="1760b508cf7afda91c53d8ffecad33126a7ec21cbeaef9eb49ee584c9345e882",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    rows = read_json(verified(data_dir, FILES))
    return [
        text_sample("toxicchat", n, row["text"], unsafe=row["label"] == "harmful", split="test")
        for n, row in enumerate(rows)
    ]
