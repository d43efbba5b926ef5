"""HarmBench: 398 requests for harmful text, 99 of them about a text that is given along.

Upstream: centerforaisafety/HarmBench (MIT), here through busycalibrating/AdversariaLLM, 2 rows cut. Citation: Mazeika,
Phan, Yin, Zou, Wang, Mu, Sakhaee, Li, Basart, Li, Forsyth and Hendrycks (2024), "HarmBench: A Standardized Evaluation
Framework for Automated Red Teaming and Robust Refusal".

The label is about the prompt, and all are harmful. Map: the semantic category; "copyright" is S12, since the source's
label is finer than the shared code. "illegal" and "harmful" hold drugs, violence, theft and fraud side by side: their
rows have a verdict and no category. Other categories are unknown. The multimodal rows need their pictures and are not
read; the val and test files repeat these rows.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
CATEGORIES: dict[str, str | None] = {
    "chemical_biological": "S1",
    "copyright": "S12",
    "cybercrime_intrusion": "S14",
    "harassment_bullying": "S2",
    "harmful": None,
    "illegal": None,
    "misinformation_disinformation": "S7",
}
REPO = Repo("busycalibrating/AdversariaLLM", "f970939273ea17b491fadf6001fddc36ed3ae3ff")
FILES = (
    SourceFile(
        "text/harmbench/harmbench_behaviors_text_all.csv", REPO,
        "data/behavior_datasets/harmbench_behaviors_text_all.csv",
        "2745611872be3b2eab141e39bb328b8c1140dc3cd8d0a49da6174260d9ccbfb9", rows=398, cut=2,
        sha256="ee5ea7fc65557f8fb3ee48fc814f05f2f88da0bb5d35673bf62f1dc06e10f745",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for row in read_csv(verified(data_dir, FILES)):
        category = CATEGORIES[row["SemanticCategory"]]
        prompt = "\n\n".join(part for part in (row["ContextString"], row["Behavior"]) if part)
        samples.append(
            text_sample(
                "harmbench", row["BehaviorID"], prompt, unsafe=True, categories={category: "yes"} if category else {},
                kind=row["SemanticCategory"],
            )
        )  # fmt: skip
    return samples
