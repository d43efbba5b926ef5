"""Speed as ratios within one run: `python -m benchmarks.speed`.

Verdict first: a batch scored (the verdict alone, or with every category) against the same batch explained with 64
generated tokens.
Feature cache: the encoding part of an epoch, from files, against reading the cached features.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.timing import in_turns
from datamodules.base import GuardDataModule
from zoo import cli
from zoo.core.cache import FeatureCache
from zoo.core.query import critique_query, policy_queries, verdict_query
from zoo.core.run import write_json
from zoo.registry import load

RESULT = Path(__file__).parent.parent / "results" / "speed.json"
TOKENS, ROUNDS = 64, 9


@torch.no_grad()
def verdict_first(model: str, data: GuardDataModule, count: int) -> dict[str, float]:
    """Seconds for a batch of samples: prompt and verdict, prompt and all scores, and prompt and 64 generated tokens."""
    guard = load(model, cached=True)
    backbone = guard.backbone
    samples = data.samples("test")[:count]
    policies = [guard.policy_for(s) for s in samples]
    rows = [backbone.prepare(s, p, policy_queries(p)) for s, p in zip(samples, policies)]
    backbone.encode(backbone.collate(rows))  # encodes what the cache lacks, once
    batch = backbone.collate(rows)
    alone = backbone.collate([backbone.prepare(s, p, [verdict_query(p)]) for s, p in zip(samples, policies)])
    terminator = backbone.reader.terminator
    state = backbone.encode(batch)
    backbone.reader.terminator = -1  # a token that is never chosen: all 64 are generated, as by a slower talker
    suffixes = [critique_query(True, ["open fire"])] * len(rows)

    def generated() -> None:
        backbone.generate(backbone.encode(batch), suffixes, TOKENS)

    verdict, meanwhile = in_turns(lambda: backbone.score_batch(alone), generated, ROUNDS)
    score, generate = in_turns(lambda: backbone.score_batch(batch), generated, ROUNDS)
    only, after = in_turns(lambda: backbone.score(state), lambda: backbone.generate(state, suffixes, TOKENS), ROUNDS)
    backbone.reader.terminator = terminator
    return {
        "rows": len(rows),
        "verdict_seconds": verdict,
        "score_seconds": score,
        "generate_seconds": generate,
        "ratio_verdict": meanwhile / verdict,
        "ratio": generate / score,
        "ratio_after_prompt": after / only,
    }


def cached_epoch(model: str, data: GuardDataModule) -> dict[str, float]:
    """The encoding part of a first and of a second epoch over the validation split."""
    guard = load(model)
    backbone, samples = guard.backbone, data.samples("val")
    with tempfile.TemporaryDirectory() as folder:
        backbone.cache = FeatureCache(folder)
        started = time.perf_counter()
        backbone.warm(samples)
        first = time.perf_counter() - started
        backbone.cache = FeatureCache(folder)
        started = time.perf_counter()
        backbone.warm(samples)
        second = time.perf_counter() - started
    return {"samples": len(samples), "first_seconds": first, "second_seconds": second, "ratio": first / second}


def main(arguments: list[str]) -> int:
    model = arguments[0] if arguments else "omniguard-tiny"
    data = GuardDataModule("sample")
    result = {
        "model": model,
        "threads": torch.get_num_threads(),
        "verdict_first": [verdict_first(model, data, rows) for rows in (1, 16)],
        "cached_epoch": cached_epoch(model, data),
    }
    write_json(RESULT, result)
    print(RESULT, file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
