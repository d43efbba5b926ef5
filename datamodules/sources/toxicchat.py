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
from datamodules.sources.files import locate, read_json, text_sample

LICENCE = "CC-BY-NC-4.0"
PERMISSIVE = False
TARGET = "prompt"
EVAL_ONLY = True


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing."""
    rows = read_json(locate(data_dir, "text/toxicchat_test", "toxicchat_test.json"))
    return [
        text_sample("toxicchat", n, row["text"], unsafe=row["label"] == "harmful", split="test")
        for n, row in enumerate(rows)
    ]
