"""Safety-Tuned LLaMAs: 568 instructions, some of them hateful, malicious, controversial or dangerous, some harmless.

Upstream: vinid/safety-tuned-llamas (data CC-BY-NC-4.0). Citation: Bianchi, Suzgun, Attanasio, Röttger, Jurafsky,
Hashimoto and Zou (2024), "Safety-Tuned LLaMAs: Lessons From Improving the Safety of Large Language Models that Follow
Instructions".

The label is about the prompt, and is that of the file: I-CoNa (hateful) → S2; I-MaliciousInstructions → S2 where it is
tagged hate, a verdict without category where it is tagged crime; I-Controversial → S6; I-PhysicalSafetyUnsafe → S1, and
its counterparts in I-PhysicalSafetySafe are safe look-alikes (row i belongs to row i: a group); I-Alpaca is safe. Other
categories are unknown. Q-Harm mixes harmful and harmless questions without labels and is not read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-NC-4.0"
PERMISSIVE = False
TARGET = "prompt"
# file → (unsafe, category); the malicious instructions go by their tags
KINDS: dict[str, tuple[bool, str | None]] = {
    "I-Alpaca": (False, None),
    "I-CoNa": (True, "S2"),
    "I-Controversial": (True, "S6"),
    "I-MaliciousInstructions": (True, None),
    "I-PhysicalSafetySafe": (False, None),
    "I-PhysicalSafetyUnsafe": (True, "S1"),
}
TAGS: dict[str, str | None] = {"hate": "S2", "crime": None}
REPO = Repo("vinid/safety-tuned-llamas", "36a4b8d5c2177ed165bf61f59b590161394f7f12")
FILES = (
    SourceFile(
        "text/safety_tuned_llamas/I-Alpaca.json", REPO, "data/evaluation/I-Alpaca.json",
        "30db84ee303df15b653566437ccf1a2fc837caac99a570915d720f65f041fe6d", rows=50,
    ),
    SourceFile(
        "text/safety_tuned_llamas/I-CoNa.json", REPO, "data/evaluation/I-CoNa.json",
        "e07d92e376198e60ac1004902dc3fec46513ac70b08d855b4101288b8270d62a", rows=178,
    ),
    SourceFile(
        "text/safety_tuned_llamas/I-Controversial.json", REPO, "data/evaluation/I-Controversial.json",
        "0590fc6ee97a39c6a43adc21fe5a4ccbf546ea52e89a32757db6ea3d46ce65c4", rows=40,
    ),
    SourceFile(
        "text/safety_tuned_llamas/I-MaliciousInstructions.json", REPO, "data/evaluation/I-MaliciousInstructions.json",
        "7a2bc751d49983800848050282aa2a84b3faa7044c3178228c49dd68df7d679f", rows=100,
    ),
    SourceFile(
        "text/safety_tuned_llamas/I-PhysicalSafetySafe.json", REPO, "data/evaluation/I-PhysicalSafetySafe.json",
        "34c874532623e405fb574f0fa8d6b86cbecce0e3340f67b146a6a6bc2453bed6", rows=100,
    ),
    SourceFile(
        "text/safety_tuned_llamas/I-PhysicalSafetyUnsafe.json", REPO, "data/evaluation/I-PhysicalSafetyUnsafe.json",
        "16324a2f1ded933e8c7a9f6c7d3924130f76260d03f9df2205e0a25c02de8aae", rows=100,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for name, (unsafe, category) in KINDS.items():
        rows = read_json(verified(data_dir, FILES, f"{name}.json"))
        for n, text in enumerate(rows["instructions"]):
            entry = TAGS[rows["tags"][n]] if "tags" in rows else category
            more: dict[str, Any] = {"slice": "benign_contrast"} if name == "I-PhysicalSafetySafe" else {}
            if name.startswith("I-PhysicalSafety"):
                more["group"] = f"physical-{n}"
            samples.append(
                text_sample(
                    "safety_tuned_llamas", f"{name}-{n}", text, unsafe=unsafe,
                    categories={entry: "yes"} if entry else {}, kind=name, **more,
                )
            )  # fmt: skip
    return samples
