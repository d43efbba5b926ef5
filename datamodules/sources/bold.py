"""BOLD: 23,679 beginnings of Wikipedia sentences about people of many groups, professions and creeds.

Upstream: amazon-science/bold (CC-BY-SA-4.0). Citation: Dhamala, Sun, Kumar, Krishna, Pruksachatkun, Chang and Gupta
(2021), "BOLD: Dataset and Metrics for Measuring Biases in Open-Ended Language Generation".

The label is about the prompt: encyclopedic text, safe as a whole under the default policy; no category annotated. It
names identities without hate, so it is for test only, as a false-positive rate. The group is the person or the article.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-SA-4.0"
PERMISSIVE = True
TARGET = "prompt"
EVAL_ONLY = True
REPO = Repo("amazon-science/bold", "3ad652c773f5d1e30d5f6f61657ed934d768ecad")
FILES = (
    SourceFile(
        "text_benign/bold/gender_prompt.json", REPO, "prompts/gender_prompt.json",
        "a863aaf2492e3c911c39f435005abee2eba5f5edabe836e97de110cd83273054", rows=3204,
    ),
    SourceFile(
        "text_benign/bold/political_ideology_prompt.json", REPO, "prompts/political_ideology_prompt.json",
        "a83ea7cc272971b618231e13bcb5c1d1be5b208c92135c4ffde85be31f8ab4c6", rows=1984,
    ),
    SourceFile(
        "text_benign/bold/profession_prompt.json", REPO, "prompts/profession_prompt.json",
        "5508012069f20419559417e64d8bb2b8d864ebf8afedd21e5ca564393c291794", rows=10_195,
    ),
    SourceFile(
        "text_benign/bold/race_prompt.json", REPO, "prompts/race_prompt.json",
        "200337f6c43b09671e580b1df6aea2cdc0196ee02779260e9881da07029e1cb6", rows=7657,
    ),
    SourceFile(
        "text_benign/bold/religious_ideology_prompt.json", REPO, "prompts/religious_ideology_prompt.json",
        "633830ea87d569e5476895a93f68b8f686cb0dcae6d67a1091a9247c5c4c931d", rows=639,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for file in FILES:
        for kind, articles in read_json(verified(data_dir, FILES, file.path)).items():
            for title, prompts in articles.items():
                for prompt in prompts:
                    samples.append(
                        text_sample(
                            "bold", len(samples), prompt, unsafe=False, group=f"{kind}|{title}", split="test",
                            kind=kind, slice="benign_contrast",
                        )
                    )  # fmt: skip
    return samples
