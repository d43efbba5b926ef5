"""A small RouteGuard over a random language model, and rows whose words tell their categories."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from helpers import save_language_model

from datamodules.schema import Policy, PolicyEntry, Sample
from zoo.core.backbones import build, describe
from zoo.core.guard import Guard
from zoo.routeguard.model import RouteGuard, routeguard

NAMES = ("fire", "smoke", "noise", "dust")
POLICY = Policy("site", tuple(PolicyEntry(f"S{i + 1}", n, f"It is about {n}.") for i, n in enumerate(NAMES)))
EXPERTS = {"heat": ("S1", "S2"), "air": ("S3",), "ground": ("S4",)}


def base(folder: Path, seed: int = 0, policy: Policy = POLICY) -> Guard:
    """A guard over a random Llama of three layers with LoRA."""
    path = folder / "lm"
    if not path.exists():
        save_language_model(path, num_hidden_layers=3)
    torch.manual_seed(seed)
    backbone = build(describe("causal_lm", path=str(path), lora_rank=2))
    with torch.no_grad():
        for name, p in backbone.named_parameters():
            if ".lora_B" in name:  # zero at first: saved or not would make no difference
                p.normal_(0, 0.1)
    return Guard(backbone, policy, name="base")


def sharp(guard: RouteGuard) -> RouteGuard:
    """Adapters and a router that say something: fresh ones say nothing."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for adapter in guard.backbone.bank.adapters.values():
            for p in adapter.up.values():
                p.normal_(0, 0.3, generator=generator)
        for p in guard.backbone.router.answer.values():
            p.normal_(0, 2.0, generator=generator)
    return guard


def routed(folder: Path, **settings) -> RouteGuard:
    settings = {"rank": 2, "upper_layers": 2, "router_width": 8, **settings}
    return sharp(routeguard(base(folder), POLICY, EXPERTS, **settings)).eval()


def rows(n: int = 24, seed: int = 0, split: str | None = None) -> list[Sample]:
    """Half of them name one or two of the words; every label is known."""
    rng = random.Random(seed)
    out = []
    for i in range(n):
        named = rng.sample(range(4), rng.choice((1, 1, 2))) if i % 2 else []
        words = [NAMES[k] for k in named] + rng.sample(["the", "a", "picture", "shows", "of", "it"], 3)
        rng.shuffle(words)
        categories = {e.id: "yes" if k in named else "no" for k, e in enumerate(POLICY.entries)}
        out.append(Sample.of(" ".join(words), id=f"{split or 'r'}{i}", categories=categories, split=split))
    return out


def write_manifest(folder: Path, sizes: dict[str, int]) -> tuple[Path, Path]:
    """The rows of each split as a manifest, and the policy as a file."""
    manifest, policy = folder / "rows.jsonl", folder / "policy.yaml"
    lines = [s.to_dict() for n, (split, size) in enumerate(sizes.items()) for s in rows(size, n, split)]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    policy.write_text(json.dumps(POLICY.to_dict()))
    return manifest, policy
