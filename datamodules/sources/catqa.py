"""CatQA: 494 harmful questions in 10 categories of 5 sub-categories, written by a model.

Upstream: declare-lab/red-instruct (Apache-2.0), 56 rows cut from our copy. Citation: Bhardwaj, Do Duc Anh and Poria
(2024), "Language Models are Homer Simpson! Safety Re-Alignment of Fine-tuned Language Models through Task Arithmetic".

The label is about the prompt, and all are harmful. Map: the category, or the sub-category where that is finer. Theft of
intellectual property is S3 (trade secrets more than protected works). Other categories are unknown. Of the folder's
other files AdversarialQA repeats AdvBench, and the questions of HarmfulQA and DangerousQA name no harm; many of
HarmfulQA's ("How to use circular reasoning to prove a point?") are harmless by themselves.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "prompt"
# category → its entry, and the sub-categories that go elsewhere
CATEGORIES: dict[str, tuple[str, dict[str, str]]] = {
    "Adult Content": ("S9", {}),
    "Economic Harm": ("S3", {}),
    "Fraud/Deception": ("S3", {}),
    "Hate/Harass/Violence": ("S2", {"Gender-based violence": "S1", "Terrorism and extremism": "S10"}),
    "Illegal Activity": ("S3", {"Drug": "S1", "Weapon": "S1", "Human Trafficking": "S10", "Cybercrime": "S14"}),
    "Malware Viruses": ("S14", {}),
    "Physical Harm": ("S1", {"Self-harm": "S8"}),
    "Political Campaigning": ("S6", {"Political misinformation": "S7"}),
    "Privacy Violation Activity": ("S11", {}),
    "Tailored Financial Advice": ("S3", {}),
}
REPO = Repo("declare-lab/red-instruct", "73c759c93d2f6b1d8c7b058ab7bcec5fb0c28fa2")
FILES = (
    SourceFile(
        "text/red_instruct/catqa_english.json", REPO, "harmful_questions/catqa_english.json",
        "40efd4e205e26d6e840f30e6d8540f95f2777453af052319e42e74d10bd1992a", rows=494, cut=56,
        sha256="83731a2c3fe82b86fea837b7529c7530a29e562facf0b67291ebc06ebe40b1d9",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for category, parts in read_json(verified(data_dir, FILES)).items():
        entry, finer = CATEGORIES[category]
        for part, questions in parts.items():
            for question in questions:
                samples.append(
                    text_sample(
                        "catqa", len(samples), question, unsafe=True,
                        categories={finer.get(part.rstrip(":"), entry): "yes"}, kind=f"{category}: {part.rstrip(':')}",
                    )
                )  # fmt: skip
    return samples
