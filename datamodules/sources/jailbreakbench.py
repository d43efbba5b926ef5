"""JailbreakBench: 97 harmful behaviours and 98 benign ones on the same topics.

Upstream: JailbreakBench/JBB-Behaviors (MIT), here through bigsnarfdude/wizard101, 5 rows cut. Citation: Chao,
Debenedetti, Robey, Andriushchenko, Croce, Sehwag, Dobriban, Flammarion, Pappas, Tramèr, Hassani and Wong (2024),
"JailbreakBench: An Open Robustness Benchmark for Jailbreaking Large Language Models".

The label is about the prompt. This copy has the verdict alone: no category is known. The benign behaviours were written
as look-alikes.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
LABELS = {"harmful": True, "safe": False}
REPO = Repo("bigsnarfdude/wizard101", "46c3ee4494aa2651232857ba365245443b3e6fa1")
FILES = (
    SourceFile(
        "text/jailbreakbench/jailbreakbench.json", REPO, "data/benchmark/jailbreakbench.json",
        "1ac7ab91294accf9352589d84169edf124be05b69cb8540930fe03314ea7881b", rows=195, cut=5,
        sha256="dc2fbbeb5b3012a9ac90ebf837d94295eacfd1923ead8cb1412d8aa46fbd04b5",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    samples = []
    for n, row in enumerate(read_json(verified(data_dir, FILES))):
        unsafe = LABELS[row["label"]]
        meta = {} if unsafe else {"slice": "benign_contrast"}
        samples.append(text_sample("jailbreakbench", n, row["text"], unsafe=unsafe, **meta))
    return samples
