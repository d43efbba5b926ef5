"""CLINC150: 23,700 requests to a voice assistant in 150 intents and out of scope, all benign.

Upstream: clinc/oos-eval (CC-BY-3.0). Citation: Larson, Mahendran, Peper, Clarke, Lee, Hill, Kummerfeld, Leach,
Laurenzano, Tang and Mars (2019), "An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction".

Benign prompts: safe as a whole under the default policy, no category annotated. Upstream's splits are kept.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-3.0"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("clinc/oos-eval", "828f8093932c8fe6ca7936c3d2e52903b1c523de")
FILES = (
    SourceFile(
        "text_benign/clinc150/data_full.json", REPO, "data/data_full.json",
        "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0", rows=23_700,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    parts = read_json(verified(data_dir, FILES))
    return [
        text_sample("clinc150", f"{name}-{n}", text, unsafe=False, split=name.removeprefix("oos_"))
        for name in ("train", "val", "test", "oos_train", "oos_val", "oos_test")
        for n, (text, _intent) in enumerate(parts[name])
    ]
