"""Qualifire prompt injections: 4,987 prompts, 1,992 of them jailbreaks or injections.

Upstream: qualifire/prompt-injections-benchmark (CC-BY-NC-4.0), here through skan0779/korean-guardrail-dataset, 13 rows
cut. Citation: Qualifire (2025), "Qualifire Prompt Injections Benchmark" (a data set without a paper).

The label is about the prompt. jailbreak → S15 yes, benign → S15 no: whether a prompt asks for something harmful in
plain words was not annotated.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-NC-4.0"
PERMISSIVE = False
TARGET = "prompt"
LABELS = {"jailbreak": True, "benign": False}
REPO = Repo("skan0779/korean-guardrail-dataset", "86c35904c6ad243b426dc337b07beedec57440f6")
FILES = (
    SourceFile(
        "text/pint_qualifire_NC/test.csv", REPO, "data/raw/qualifire/prompt-injections-benchmark/test.csv",
        "b8ba6d26959621c7f96148ea5169f7aee9953a7a3e6551dd0dcae9f09b2dd28a", rows=4987, cut=13,
        sha256="d743dd68e5f3aaac5b8826ad7a3957c8d5e7957ab96b09d442f77822ab6b8239",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for n, row in enumerate(read_csv(verified(data_dir, FILES))):
        unsafe = LABELS[row["label"]]
        categories = {"S15": "yes" if unsafe else "no"}
        samples.append(text_sample("qualifire", n, row["text"], unsafe=unsafe, categories=categories))
    return samples
