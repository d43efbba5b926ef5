"""CLINC150: 23,700 requests to a voice assistant in 150 intents and out of scope, all benign.

Upstream: clinc/oos-eval (CC-BY-3.0). Citation: Larson, Mahendran, Peper, Clarke, Lee, Hill, Kummerfeld, Leach,
Laurenzano, Tang and Mars (2019), "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction".

Benign prompts: safe as a whole under the default policy, no category annotated. Upstream's splits are kept.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, read_json, text_sample

LICENCE = "CC-BY-3.0"
PERMISSIVE = True
TARGET = "prompt"


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing."""
    parts = read_json(locate(data_dir, "text_benign/clinc150", "data_full.json"))
    return [
        text_sample("clinc150", f"{name}-{n}", text, unsafe=False, split=name.removeprefix("oos_"))
        for name in ("train", "val", "test", "oos_train", "oos_val", "oos_test")
        for n, (text, _intent) in enumerate(parts[name])
    ]
