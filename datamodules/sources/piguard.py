"""PIGuard's benign prompts: 960 harmless requests of WildGuardMix, which are no injections.

Upstream: leolee99/PIGuard (MIT; the prompts ODC-BY-1.0, of allenai/wildguardmix), 11 rows cut. Citation: Li and Liu
(2024), "InjecGuard: Benchmarking and Mitigating Over-defense in Prompt Injection Guardrail Models".

The label is about the prompt: S15 no. `valid.json` is a sample of other sets (NotInject, BIPIA, PINT) and is not read.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "ODC-BY-1.0"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("leolee99/PIGuard", "1b5751e88bf7475acbedfc8eda795ce060307c84")
FILES = (
    SourceFile(
        "text/piguard_notinject/wildguard.json", REPO, "datasets/wildguard.json",
        "d884fc834a5a8081a423c49effb7aeb7977e991c1e3e7fb58e0285630d550bad", rows=960, cut=11,
        sha256="49927089b57dd1d2622151fae55dcd923effed46a77d594cb70bbda31fdeedb0",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    rows = read_json(verified(data_dir, FILES))
    return [
        text_sample("piguard", n, row["prompt"], unsafe=False, categories={"S15": "no"}) for n, row in enumerate(rows)
    ]
