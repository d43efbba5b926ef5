"""BeaverTails test set: 2,988 question-answer pairs with human labels in 14 harm categories.

Upstream: PKU-Alignment/BeaverTails, here through bigsnarfdude/wizard101 (labels) and yueliu1999/GuardReasoner (texts).
Licence CC-BY-NC-4.0. Citation: Ji, Liu, Dai, Pan, Zhang, Bian, Chen, Sun, Wang and Yang (2023), "BeaverTails: Towards
Improved Safety Alignment of LLM via a Human-Preference Dataset".

The label is about the RESPONSE. Traps: the label file's `text` is the question alone, so the answer comes from row i
of the other file, which is aligned; `category` is a Python dict written as a string. One question has several
answers: it is the group. Map: the source's own flag decides where it is finer than the shared codes (animal abuse,
politics). S12 to S15 were not annotated. Child abuse is false throughout (such rows were cut), which is an annotated
no.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path

from datamodules.schema import DataError, Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "CC-BY-NC-4.0"
PERMISSIVE = False
TARGET = "response"
WIZARD101 = Repo("bigsnarfdude/wizard101", "46c3ee4494aa2651232857ba365245443b3e6fa1")
GUARDREASONER = Repo("yueliu1999/GuardReasoner", "bb7e686dc0535884d6994de5f950a072772e7fe2")
FILES = (
    SourceFile(
        "text/beavertails_test/beavertails_30k.json", WIZARD101, "data/benchmark/beavertails_30k.json",
        "f83dce85f60cc9c659a727acb3b3a2b74013d1d5d390a148270ccf2ee1e10279", rows=2988, cut=33,
        sha256="8feb8791d40e158352f42ca65f461ab42d99e947af20e7477b5a2f743a6bf38e",
    ),
    SourceFile(
        "text/beavertails_test/0_A_beaver_tails.json", GUARDREASONER, "data/benchmark/0_A_beaver_tails.json",
        "34f1e315cfeb348c63b6082dea93db67a8fd67e4fded8ccd2087cabe0a81169b", rows=2988, cut=33,
        sha256="37a17dccf09be23dfeaf8a24a2101d360422657d69eb091a71fb544456f78479",
    ),
)  # fmt: skip
FLAGS = {
    "violence,aiding_and_abetting,incitement": "S1",
    "drug_abuse,weapons,banned_substance": "S1",
    "hate_speech,offensive_language": "S2",
    "discrimination,stereotype,injustice": "S2",
    "non_violent_unethical_behavior": "S3",
    "financial_crime,property_crime,theft": "S3",
    "animal_abuse": "S4",
    "child_abuse": "S5",
    "controversial_topics,politics": "S6",
    "misinformation_regarding_ethics,laws_and_safety": "S7",
    "self_harm": "S8",
    "sexually_explicit,adult_content": "S9",
    "terrorism,organized_crime": "S10",
    "privacy_violation": "S11",
}
_USER, _ASSISTANT = "Human user:\n", "\n\nAI assistant:\n"


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one, or the two files are not aligned."""
    labels = read_json(verified(data_dir, FILES, "beavertails_30k.json"))
    texts = read_json(verified(data_dir, FILES, "0_A_beaver_tails.json"))
    if len(labels) != len(texts):
        raise DataError(f"text/beavertails_test: {len(labels)} labels for {len(texts)} texts: the files must align")
    samples = []
    for n, (label, text) in enumerate(zip(labels, texts)):
        question, _, answer = text["input"].removeprefix(_USER).partition(_ASSISTANT)
        unsafe = label["label"] == "harmful"
        if label["text"].strip() not in question or unsafe != ("Response: harmful" in text["output"]):
            raise DataError(f"text/beavertails_test: row {n} of the two files differs: the files must align")
        flags = ast.literal_eval(label["category"])
        categories = dict.fromkeys(FLAGS.values(), "no")
        categories.update({FLAGS[flag]: "yes" for flag, on in flags.items() if on})
        group = hashlib.sha256(question.strip().lower().encode()).hexdigest()[:16]
        samples.append(
            text_sample("beavertails", n, question, answer, unsafe=unsafe, categories=categories, group=group)
        )
    return samples
