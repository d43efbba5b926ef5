"""A claim at toy size: a small random language model, some sentences, and arms that differ in one setting."""

from __future__ import annotations

import json
from pathlib import Path

from helpers import save_language_model

WORDS = ("fire", "the picture shows", "a dog", "yes", "unsafe", "no")


def write_toy(folder: Path, rows: int = 24, **changes) -> Path:
    """Writes model, data, policy and `toy.yaml` into `folder`; returns the claim's file."""
    save_language_model(folder / "lm")
    lines = []
    for n in range(rows):
        hot = n % 3 == 0
        content = [{"type": "text", "text": f"{'fire ' if hot else ''}{WORDS[1 + n % 5]} {n}"}]
        lines.append(
            {
                "id": f"r{n}",
                "messages": [{"role": "user", "content": content}],
                "target": "prompt",
                "categories": {"fire": "yes" if hot else "no", "dog": "yes" if n % 5 == 2 else "no"},
                "source": "odd" if n % 2 else "even",
                "critique": "It says fire." if hot else "Nothing.",
                "group": f"g{n // 2}",
                "meta": {"short": n % 4 == 0},
                "split": ("train", "train", "val", "test", "test", "test")[n * 6 // rows],
            }
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
    policy = {"name": "site", "entries": [{"id": "fire", "name": "fire"}, {"id": "dog", "name": "dog"}]}
    (folder / "policy.yaml").write_text(json.dumps(policy))
    path = folder / "toy.yaml"
    path.write_text(json.dumps(page(folder) | changes))  # JSON is YAML
    return path


def page(folder: Path) -> dict:
    return {
        "claim": "toy",
        "title": "A critique helps.",
        "paper": "It does.",
        "size": "toy",
        "seeds": 2,
        "defaults": {
            "data": "manifest",
            "data.path": str(folder / "rows.jsonl"),
            "data.policy": str(folder / "policy.yaml"),
            "data.modalities": ["text"],
            "backbone": "causal_lm",
            "backbone.path": str(folder / "lm"),
            "backbone.limits.text_tokens": 64,
            "trainer.precision": "32-true",
            "trainer.max_steps": 2,
            "data.batch_size": 4,
        },
        "gpu": {"backbone.lora_rank": 8},
        "arms": {
            "critique": {"recipe": "omniguard"},
            "labels": {"recipe": "omniguard", "overrides": {"loss.critique": 0.0}},
            "again": {
                "verb": "test",
                "recipe": "omniguard",
                "model": "arm:critique",
                "overrides": {"calibrate": True},
            },
        },
        "metrics": {
            "auprc": {"name": "auprc"},
            "short_f1": {"name": "f1", "slice": "short"},
            "macro": {"name": "macro_f1", "average": "source"},
            "ece": {"name": "reported", "path": "ece"},
        },
        "comparisons": [
            {"metric": "auprc", "arm": "critique", "against": "labels", "direction": "higher", "margin": 0.01},
            {"metric": "short_f1", "arm": "critique", "against": "labels", "direction": "equal", "margin": 0.5},
            {"metric": "macro", "arm": "critique", "against": "again", "direction": "not_lower", "margin": 0.1},
            {"metric": "ece", "arm": "labels", "direction": "lower", "margin": 0.9, "decides": False},
        ],
        "rule": 2,
    }
