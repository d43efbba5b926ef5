"""BIPIA: 1,200 tasks over a mail, a table or a page on code, clean and with an instruction hidden in what is read.

Upstream: microsoft/BIPIA (MIT). Citation: Yi, Xie, Zhu, Kiciman, Sun, Xie and Wu (2025), "Benchmarking and Defending
Against Indirect Prompt Injection Attacks on Large Language Models".

Each task gives two conversations: the question with the context as a tool's output (S15 no), and the same with an
attack at the context's beginning, in its middle or at its end, in turn (S15 yes). The label is about the CONVERSATION.
Attacks come in kinds of five or ten instructions, and similar contexts (mails of one sender; a table has several
questions) all meet one kind. The kind is the group: neither its instructions nor its contexts are on two sides of a
split. For that, upstream's train and test files are read as one.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.schema import Message, Part, Sample
from datamodules.sources.files import read_json, read_jsonl
from datamodules.sources.record import Repo, SourceFile, verified
from datamodules.sources.similar import merge_similar, normalise
from datamodules.taxonomy import DEFAULT_POLICY

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "conversation"
SIMILAR = 0.8  # Jaccard similarity of character 5-grams
REPO = Repo("microsoft/BIPIA", "1a2a91da6bb12838e05d1b2e54d98e2f37b835f3")
FILES = (
    SourceFile(
        "text/bipia/code/test.jsonl", REPO, "benchmark/code/test.jsonl",
        "ed40b84f541352fb45753032a80750922de8d5e0b70997924df3d04cf942e058", rows=50,
    ),
    SourceFile(
        "text/bipia/code/train.jsonl", REPO, "benchmark/code/train.jsonl",
        "5e6879b621a5cefe265a5b41b7ed0be632536f658f6097baf85a28b9abcb3115", rows=50,
    ),
    SourceFile(
        "text/bipia/code_attack_test.json", REPO, "benchmark/code_attack_test.json",
        "892545c5aaec0645b1ded65dc7816b3d70e9ef4eadcba2301a7a3db93676b6e0", rows=50,
    ),
    SourceFile(
        "text/bipia/code_attack_train.json", REPO, "benchmark/code_attack_train.json",
        "fe515080b6da2b5c0b67ca7ba2a3b3c2ce57c48f45733c475ebc813cba118484", rows=50,
    ),
    SourceFile(
        "text/bipia/email/test.jsonl", REPO, "benchmark/email/test.jsonl",
        "217b403faaa1d0cb12c24892bea39f4a0b9e2819919ac7e2b902006e28278cdb", rows=50,
    ),
    SourceFile(
        "text/bipia/email/train.jsonl", REPO, "benchmark/email/train.jsonl",
        "82207193cb8ce06713eeb7c33ca0716446613512e2ad9303b302ba14d425ddd4", rows=50,
    ),
    SourceFile(
        "text/bipia/table/test.jsonl", REPO, "benchmark/table/test.jsonl",
        "3d5eaab192b80bada762e3cd7655583a14e5888ba8b845a01f0434e4ccc4291e", rows=100,
    ),
    SourceFile(
        "text/bipia/table/train.jsonl", REPO, "benchmark/table/train.jsonl",
        "ae1c3ff25733fb3ff1a35bda3009716f4d25a17ae6833c73521be0411d576494", rows=900,
    ),
    SourceFile(
        "text/bipia/text_attack_test.json", REPO, "benchmark/text_attack_test.json",
        "75750e7b4e8b34e8f9d88d89b357aeaaf02bd07f9e493ccd37eda74a0cd7c7f8", rows=75,
    ),
    SourceFile(
        "text/bipia/text_attack_train.json", REPO, "benchmark/text_attack_train.json",
        "63f95d3e67eac4178cdabdbdaf192cd05f2b6ed0702b578f1d30d556e5155670", rows=75,
    ),
)  # fmt: skip


def task(row: dict[str, Any]) -> tuple[str, str]:
    """What the user asks and what the tool returns."""
    if "question" in row:
        return row["question"], row["context"]
    code, error = "\n".join(row["code"]), "\n".join(row["error"])
    return f"Fix the error in this code.\n\n{code}\n\n{error}", "\n".join(row["context"])


def hidden(context: str, attack: str, place: int) -> str:
    """The context with the attack on a line of its own at its beginning (0), in its middle (1) or at its end (2)."""
    lines = context.split("\n")
    at = (0, len(lines) // 2, len(lines))[place]
    return "\n".join([*lines[:at], attack, *lines[at:]])


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for sort, domains in (("text", ("email", "table")), ("code", ("code",))):
        attacks: dict[str, list[str]] = {}
        rows: list[tuple[str, dict[str, Any]]] = []
        for side in ("train", "test"):
            for kind, texts in read_json(verified(data_dir, FILES, f"{sort}_attack_{side}.json")).items():
                attacks.setdefault(kind, []).extend(texts)
            for domain in domains:
                found = read_jsonl(verified(data_dir, FILES, f"{domain}/{side}.jsonl"))
                rows += [(f"{domain}-{side}-{n}", row) for n, row in enumerate(found)]
        tasks = [task(row) for _, row in rows]
        kinds = list(attacks)
        for n, ((key, _), (question, context), cluster) in enumerate(zip(rows, tasks, alike(tasks))):
            kind = kinds[zlib.crc32(tasks[cluster][1].encode()) % len(kinds)]
            attack = attacks[kind][n % len(attacks[kind])]
            for injected in (False, True):
                shown = hidden(context, attack, n % 3) if injected else context
                samples.append(
                    Sample(
                        id=f"bipia-{key}" + ("-attack" if injected else ""),
                        messages=(
                            Message("user", (Part("text", text=question),)),
                            Message("tool", (Part("text", text=shown),)),
                        ),
                        policy=DEFAULT_POLICY,
                        target=TARGET,
                        unsafe=injected,
                        categories={"S15": "yes" if injected else "no"},
                        source="bipia",
                        group=f"bipia-{sort}-{kind}",
                        meta={"kind": key.split("-")[0]},
                    )
                )
    return samples


def alike(tasks: list[tuple[str, str]]) -> list[int]:
    """For each task the number of the one that it belongs with: similar contexts, or similar with their questions."""
    clusters = np.arange(len(tasks), dtype=np.int32)
    for texts in ([context for _, context in tasks], ["\n".join(both) for both in tasks]):
        clusters = merge_similar((normalise(t) for t in texts), clusters, SIMILAR)
    return clusters.tolist()
