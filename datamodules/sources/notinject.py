"""NotInject: 339 benign prompts built around words that injections use ("ignore", "system", …).

Upstream: leolee99/PIGuard (MIT). Citation: Li and Liu (2024), "InjecGuard: Benchmarking and Mitigating Over-defense in
Prompt Injection Guardrail Models".

The label is about the prompt: none of them is an injection, so S15 is no. For test only, as a false-positive rate. The
folder's `valid.json` repeats 48 of these rows beside other sets' and is not read.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
EVAL_ONLY = True
REPO = Repo("leolee99/PIGuard", "1b5751e88bf7475acbedfc8eda795ce060307c84")
FILES = (
    SourceFile(
        "text/piguard_notinject/NotInject_one.json", REPO, "datasets/NotInject_one.json",
        "69b535596d95102424e9c5946944feb4f2d596687eb8213f2ecad75478e5ffdd", rows=113,
    ),
    SourceFile(
        "text/piguard_notinject/NotInject_two.json", REPO, "datasets/NotInject_two.json",
        "6043d94e75b48d8e7682d25dc79eaf45359e1e561ce520e3b8fd5625a91060c6", rows=113,
    ),
    SourceFile(
        "text/piguard_notinject/NotInject_three.json", REPO, "datasets/NotInject_three.json",
        "ef01eff0d761d2e34571b3fdbcec08c30cd93efe8d0e1a2eb5c2baeb1873b070", rows=113,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for words in ("one", "two", "three"):
        rows = read_json(verified(data_dir, FILES, f"NotInject_{words}.json"))
        for n, row in enumerate(rows):
            samples.append(
                text_sample(
                    "notinject", f"{words}-{n}", row["prompt"], unsafe=False, categories={"S15": "no"}, split="test",
                    kind=row["category"], slice="benign_contrast",
                )
            )  # fmt: skip
    return samples
