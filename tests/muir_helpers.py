"""Hand-made MuirBench records: pictures of noise, and pairs that hold until a test breaks them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers import write_image

NONE = "None of the choices provided"


def rows(folder: Path) -> list[dict[str, Any]]:
    """Two pairs in the nine-field layout: words for options in one, pictures for options in the other."""
    for n in range(5):
        write_image(folder / f"{n}.png", seed=n)
    dog = {
        "idx": "1",
        "task": "Counting",
        "image_relation": "Partial Similarity",
        "image_type": "Photography",
        "question": "How many dogs are in <image> and <image> together?",
        "options": ["One", "Two", NONE],
        "answer": "B",
        "image_list": ["0.png", "1.png"],
        "counterpart_idx": "2",
    }
    same = {
        "idx": "3",
        "task": "Visual Retrieval",
        "image_relation": "Object-Multiview",
        "image_type": "Drone and Satellite",
        "question": "Which shows the building of <image>?",
        "options": ["<image>", NONE, "<image>"],
        "answer": "C",
        "image_list": ["2.png", "3.png", "4.png"],
        "counterpart_idx": "4",
    }
    return [
        dog,
        {**dog, "idx": "2", "options": ["One", "Five", NONE], "answer": "C", "counterpart_idx": "1"},
        same,
        {**same, "idx": "4", "image_list": ["2.png", "3.png", "0.png"], "answer": "B", "counterpart_idx": "3"},
    ]


def write_records(folder: Path, records: list[dict[str, Any]]) -> Path:
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder
