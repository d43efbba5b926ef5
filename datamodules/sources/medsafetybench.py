"""MedSafetyBench: 900 harmful medical requests, each with a safe answer, for nine ethical principles.

Upstream: AI4LIFE-GROUP/med-safety-bench (MIT). Citation: Han, Kumar, Agarwal and Lakkaraju (2024), "MedSafetyBench:
Evaluating and Improving the Medical Safety of Large Language Models".

A row gives two samples: the request alone, whose label is about the prompt (unsafe), and the request with its safe
answer, whose label is about the RESPONSE (safe). Map: breaches of medical ethics are S3 (unsafe medical advice); the
safe answer is a no for S3. Nothing else was annotated. Row and answer are one group.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import read_csv, text_sample
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt and response"
REPO = Repo("AI4LIFE-GROUP/med-safety-bench", "191aa7954b82458079425292730d6cb28a89565d")
FILES = (
    SourceFile(
        "text/medsafetybench/test/gpt4/med_safety_demonstrations_category_1.csv", REPO,
        "datasets/test/gpt4/med_safety_demonstrations_category_1.csv",
        "026f2fe4d38a8b04f91f23eb84bce4224fa1781120ca93636b93d445ca4392af", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/test/gpt4/med_safety_demonstrations_category_2.csv", REPO,
        "datasets/test/gpt4/med_safety_demonstrations_category_2.csv",
        "821bf621fba655c86849efb59cea9a1abad5984186a0b6e121d378e32a8d91c2", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/test/gpt4/med_safety_demonstrations_category_3.csv", REPO,
        "datasets/test/gpt4/med_safety_demonstrations_category_3.csv",
        "461f3ab94838c5f0b127771022a2e9d38f8c57e78f6e43d8a9b8670edf043294", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/test/gpt4/med_safety_demonstrations_category_4.csv", REPO,
        "datasets/test/gpt4/med_safety_demonstrations_category_4.csv",
        "7d1ff42903d1636dae66e6af647c4405bcd3ff5c7d149ad33d23408d20b964ce", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/test/gpt4/med_safety_demonstrations_category_5.csv", REPO,
        "datasets/test/gpt4/med_safety_demonstrations_category_5.csv",
        "0609d582e9864243706c32c90ee622493f697bda14b69dd9107b2776caeb6aed", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/test/gpt4/med_safety_demonstrations_category_6.csv", REPO,
        "datasets/test/gpt4/med_safety_demonstrations_category_6.csv",
        "447dd9b868080642844c9d07d2a569b95c66d943729c7ad4310167c31f084409", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/test/gpt4/med_safety_demonstrations_category_7.csv", REPO,
        "datasets/test/gpt4/med_safety_demonstrations_category_7.csv",
        "633687172a7dd4f86a805f4efcb88626d92391c724f4ba2f00c3bcb198f88bb1", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/test/gpt4/med_safety_demonstrations_category_8.csv", REPO,
        "datasets/test/gpt4/med_safety_demonstrations_category_8.csv",
        "67a199a57ecd7845e722ac9c512c99ae2270f9b4418341f0efb1b5b0f98cb702", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/test/gpt4/med_safety_demonstrations_category_9.csv", REPO,
        "datasets/test/gpt4/med_safety_demonstrations_category_9.csv",
        "ca743af7aa36ff3acee51188091ce02cabc6089409690d0c4ad2f7f2af02d777", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/train/gpt4/med_safety_demonstrations_category_1.csv", REPO,
        "datasets/train/gpt4/med_safety_demonstrations_category_1.csv",
        "d1025f2875c559939650ae65e29e70e5ca55f946077218b09605a1b2d0f47efa", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/train/gpt4/med_safety_demonstrations_category_2.csv", REPO,
        "datasets/train/gpt4/med_safety_demonstrations_category_2.csv",
        "e78707bb0c159915231b2ae80d7abf07ee97d14ef1c7fba2112f4aa71e2623f6", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/train/gpt4/med_safety_demonstrations_category_3.csv", REPO,
        "datasets/train/gpt4/med_safety_demonstrations_category_3.csv",
        "1c8bbc44a62e8de21e700a0d0e09fc47e5b0422f501500c47320b72d2add38d7", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/train/gpt4/med_safety_demonstrations_category_4.csv", REPO,
        "datasets/train/gpt4/med_safety_demonstrations_category_4.csv",
        "217a60ced26dbb31955404dfd50aedde2e895991330d5aa96787cb4e9564a99b", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/train/gpt4/med_safety_demonstrations_category_5.csv", REPO,
        "datasets/train/gpt4/med_safety_demonstrations_category_5.csv",
        "9ef7fb0182c4a246ff8b2a5e9451e5b3d4732028bdc84b952338c5f3ec69c831", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/train/gpt4/med_safety_demonstrations_category_6.csv", REPO,
        "datasets/train/gpt4/med_safety_demonstrations_category_6.csv",
        "200906b2336b11b2afae8b00ea5506acd5eb58bc01139d17702e1af8b5099225", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/train/gpt4/med_safety_demonstrations_category_7.csv", REPO,
        "datasets/train/gpt4/med_safety_demonstrations_category_7.csv",
        "788f49cc7607ce9ff01fecb09875daa59aa68fcc460452d04c443c273c6f3208", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/train/gpt4/med_safety_demonstrations_category_8.csv", REPO,
        "datasets/train/gpt4/med_safety_demonstrations_category_8.csv",
        "c7e8573320a2efc9d2304aa7e5e245591637e55d30b28594fa1b0774c1591e5e", rows=50,
    ),
    SourceFile(
        "text/medsafetybench/train/gpt4/med_safety_demonstrations_category_9.csv", REPO,
        "datasets/train/gpt4/med_safety_demonstrations_category_9.csv",
        "0504bfae7771a092b3d129b764adcb8af410bc219ecbb7418b357b2108cb0b99", rows=50,
    ),
)  # fmt: skip


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    samples = []
    for file in FILES:
        split = "test" if "/test/" in file.path else "train"
        principle = file.path.rsplit("_", 1)[-1].removesuffix(".csv")
        for n, row in enumerate(read_csv(verified(data_dir, FILES, file.path))):
            key = f"{split}-{principle}-{n}"
            request = row["harmful_medical_request"]
            shared = {"group": key, "kind": f"principle {principle}"}
            samples += [
                text_sample("medsafetybench", key, request, unsafe=True, categories={"S3": "yes"}, **shared),
                text_sample(
                    "medsafetybench", f"{key}-answer", request, row["safe_response"], unsafe=False,
                    categories={"S3": "no"}, **shared,
                ),
            ]  # fmt: skip
    return samples
