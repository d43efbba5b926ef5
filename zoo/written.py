"""Answers written out and read by a parser, against verdicts that are scored: what stopping at the verdict costs.

ThinkGuard (arXiv 2502.13458) puts the verdict first so that an answer can stop there. Here the same rows are judged
both ways: the guard scores its closed queries, and it writes its whole answer freely, which is then parsed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from datamodules.answers import Parsed, parse
from datamodules.bank import rng_for
from datamodules.buckets import characters
from datamodules.schema import DataError, Policy, Sample
from zoo.core.guard import EXPLANATION_TOKENS, Guard
from zoo.core.metrics import binary
from zoo.core.query import EXPLANATION, VERDICT_OPTIONS

ASSESSMENT_TOKENS, CATEGORIES_TOKENS = 8, 48
BATCH = 16


@torch.no_grad()
def write_out(guard: Guard, batch: Any, policies: Sequence[Policy]) -> list[str]:
    """The whole answer to each prompt of a batch, greedy over all tokens, line by line in the guard's order.

    The names of the lines are given; what they say is free, and ends where the guard ends it. Tokenizers without line
    breaks can be read that way, too. After an assessment that is neither safe nor unsafe there is no more to say.
    """
    backbone, order = guard.backbone, guard.order
    state = backbone.encode(batch)
    told = [""] * len(policies)
    if order.explanation_first:
        told = backbone.generate(state, [order.critique(False, [])] * len(policies), EXPLANATION_TOKENS)
    said = backbone.generate(state, [order.assessment(p, t) for p, t in zip(policies, told)], ASSESSMENT_TOKENS)
    flags = [{name: bool(n) for n, name in enumerate(VERDICT_OPTIONS)}.get(s.strip().lower()) for s in said]
    listed = [""] * len(policies)
    if any(flags):
        listed = backbone.generate(state, [order.categories(t) for t in told], CATEGORIES_TOKENS)
    if not order.explanation_first:
        names = [[n for n in text.split(", ") if n.strip()] if flag else [] for text, flag in zip(listed, flags)]
        suffixes = [order.critique(bool(flag), n) for flag, n in zip(flags, names)]
        told = backbone.generate(state, suffixes, EXPLANATION_TOKENS)
    out = []
    for assessment, flag, categories, explanation in zip(said, flags, listed, told):
        lines = [f"- Safety Assessment: {assessment}"]
        lines += [f"- Categories: {categories}"] if flag else []
        last = [f"{EXPLANATION} {explanation}"] if flag is not None or order.explanation_first else []
        out.append("\n".join([*last, *lines] if order.explanation_first else [*lines, *last]))
    return out


def written_against_scored(guard: Guard, samples: Sequence[Sample], count: int, seed: int = 0) -> dict[str, Any]:
    """`count` labelled samples, drawn by `seed`, judged both ways, in the same batches.

    F1 of the text that was read (`f1_written`: what cannot be read counts as flagged), of the scored verdict at the
    fitted threshold (`f1_scored`) and at even odds of the verdict query alone (`f1_even`: the decision that the text
    makes). `cost_ratio` is the time of writing over that of scoring. `rows` has what each way said of each sample.
    Raises `DataError` where no sample has a label.
    """
    labelled = [s for s in samples if s.gold(guard.policy_for(s)) is not None]
    if not labelled:
        raise DataError("evaluate.generate: no test row has a verdict to compare with")
    picked = rng_for(seed, "written").sample(labelled, min(count, len(labelled)))
    picked.sort(key=lambda s: characters(s, guard.policy_for(s)))
    was_training = guard.training
    guard.eval()
    rows: list[dict[str, Any]] = []
    seconds = {"scoring": 0.0, "writing": 0.0}
    try:
        for start in range(0, len(picked), BATCH):
            part = picked[start : start + BATCH]
            if not start:
                _both(guard, part)  # once unmeasured: what is compiled or encoded at first use
            judged, texts, times = _both(guard, part)
            rows += [_row(*x) for x in zip(part, [s.gold(guard.policy_for(s)) for s in part], judged, texts)]
            seconds = {k: v + times[k] for k, v in seconds.items()}
    finally:
        guard.train(was_training)
    return _report(rows, guard.calibration.threshold, seconds, seed)


@torch.no_grad()
def _both(guard: Guard, samples: Sequence[Sample]) -> tuple[list[tuple[float, float]], list[str], dict[str, float]]:
    """Each sample's score and verdict log-odds, its written answer, and the seconds that both took."""
    policies = [guard.policy_for(s) for s in samples]
    rows = [guard.backbone.prepare(s, p, guard.order.queries(p)) for s, p in zip(samples, policies)]
    guard.backbone.encode(guard.backbone.collate(rows).to(guard.device))  # features of frozen encoders are made here
    batch = guard.backbone.collate(rows).to(guard.device)
    started = time.perf_counter()
    scores, _ = guard.answers(batch, policies)
    judged = guard.judge(scores, [len(p) for p in policies], guard.wide_odds(samples, policies, batch))
    pairs = list(zip(judged.score.tolist(), scores.log_odds(0).tolist()))
    scored = time.perf_counter()
    texts = write_out(guard, batch, policies)
    return pairs, texts, {"scoring": scored - started, "writing": time.perf_counter() - scored}


def _row(sample: Sample, gold: bool | None, judged: tuple[float, float], text: str) -> dict[str, Any]:
    answer: Parsed = parse(text)
    score, odds = judged
    return {
        "id": sample.id, "gold": gold, "written": answer.flagged, "valid": answer.valid, "score": score,
        "even": odds >= 0, "words": len((answer.critique or "").split()),
    }  # fmt: skip


def _report(rows: list[dict[str, Any]], threshold: float, seconds: dict[str, float], seed: int) -> dict[str, Any]:
    golds, n = [r["gold"] for r in rows], len(rows)

    def f1(flags: list[bool]) -> float | None:
        return binary([float(f) for f in flags], golds, 0.5)["f1"]

    written, valid = [r["written"] for r in rows], [r["valid"] for r in rows]
    even = [r["even"] for r in rows]
    return {
        "n": n,
        "seed": seed,
        "valid_rate": sum(valid) / n,
        "f1_written": f1(written),
        "f1_scored": f1([r["score"] >= threshold for r in rows]),
        "f1_even": f1(even),
        "agreement": sum(w == e for w, e in zip(written, even)) / n,
        "words": sum(r["words"] for r in rows) / n,
        "seconds": {k: round(v, 4) for k, v in seconds.items()},
        "cost_ratio": seconds["writing"] / seconds["scoring"],
        "rows": [{**r, "score": round(r["score"], 6)} for r in rows],
    }
