"""CyberSecEval prompts: 251 prompt injections, 500 abuses of a code interpreter, 750 benign look-alikes.

Upstream: meta-llama/PurpleLlama (MIT). Citation: Bhatt, Chennabasappa, Li, Nikolaidis, Song, Wan, Ahmad, Aschermann,
Chen, Kapil, Molnar, Whitman and Saxe (2024), "CyberSecEval 2: A Wide-Ranging Cybersecurity Evaluation Suite for Large
Language Models".

The label is about the prompt (written or varied by a model). Map: injections → S15 yes (their operator's instruction
comes first, as the system message); interpreter abuse → S14 yes; the false-refusal set (`is_malicious` is false
throughout) → safe, S14 no. Other categories are unknown.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Message, Part, Sample
from datamodules.sources.files import read_json, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
REPO = Repo("meta-llama/PurpleLlama", "4be64c3a24442b51c76175e6ec67722cc3f5fe38")
FILES = (
    SourceFile(
        "text/cyberseceval_prompts/prompt_injection.json", REPO,
        "CybersecurityBenchmarks/datasets/prompt_injection/prompt_injection.json",
        "069e4d5d36f6d19f972a3bbc65df840cc729354f89358a9031aeb44d95b18a9a", rows=251,
    ),
    SourceFile(
        "text/cyberseceval_prompts/mitre_frr.json", REPO, "CybersecurityBenchmarks/datasets/mitre_frr/mitre_frr.json",
        "7a9b400bdf5ddbb36d5e7c3e8f6b5adb5d13125b8d03be66fd252a0f20b79d15", rows=750,
    ),
    SourceFile(
        "text/cyberseceval_prompts/interpreter.json", REPO,
        "CybersecurityBenchmarks/datasets/interpreter/interpreter.json",
        "1d3e7cd4dd94a436d96b6e689c13e4f3edf5418d680d0b485a3ea8bf4664840c", rows=500,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for row in read_json(verified(data_dir, FILES, "prompt_injection.json")):
        sample = text_sample(
            "cyberseceval", f"injection-{row['prompt_id']}", row["user_input"], unsafe=True,
            categories={"S15": "yes"}, kind=row["injection_variant"],
        )  # fmt: skip
        system = Message("system", (Part("text", text=row["test_case_prompt"]),))
        samples.append(sample.replace(messages=(system, *sample.messages)))
    for n, row in enumerate(read_json(verified(data_dir, FILES, "interpreter.json"))):
        samples.append(
            text_sample(
                "cyberseceval", f"interpreter-{n}", row["mutated_prompt"], unsafe=True, categories={"S14": "yes"},
                kind=row["attack_type"][0],
            )
        )  # fmt: skip
    for n, row in enumerate(read_json(verified(data_dir, FILES, "mitre_frr.json"))):
        samples.append(
            text_sample(
                "cyberseceval", f"benign-{n}", row["mutated_prompt"], unsafe=False, categories={"S14": "no"},
                kind="false refusal", slice="benign_contrast",
            )
        )  # fmt: skip
    return samples
