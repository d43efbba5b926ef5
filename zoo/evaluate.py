"""Judging a data set with a guard: calibration on validation, metrics and plots on test, in full precision."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch

from datamodules import media
from datamodules.base import GuardDataModule
from datamodules.schema import Sample, canonical_json
from datamodules.transforms.ablate import without as ablated_copy
from zoo.core import launch, plots
from zoo.core.calibration import fit_shared_threshold, fit_temperature, fit_threshold
from zoo.core.guard import Calibration, Guard, mixed_odds
from zoo.core.metrics import Record, summarise, twin_accuracy
from zoo.core.module import GuardModule, Outcome
from zoo.core.progress import StderrProgress
from zoo.core.scores import decide, write_scores
from zoo.core.wide import Votes, fit_votes
from zoo.core.wide_fit import fit_wide
from zoo.debuglm.guards import WordFallback, check_switch, measure_tags, refusals, switch_off
from zoo.registry import load
from zoo.written import written_against_scored

NAMES = {True: "yes", False: "no", None: "unknown"}
LATENCY_SAMPLES = 8  # of each modality


def judge(
    module: GuardModule, data: GuardDataModule, samples: Sequence[Sample], accelerator: str, what: str
) -> list[Outcome]:
    """Every sample judged once, in float32, under its own policy, in the order of `samples`.

    Of several processes each judges its part by itself; all return all outcomes.
    """
    if not samples:
        return []
    trainer = L.Trainer(
        accelerator=accelerator, devices=launch.own_device(accelerator), precision="32-true", logger=False,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
        callbacks=[StderrProgress(what)],
    )  # fmt: skip
    batches = trainer.predict(module, dataloaders=data.loader(samples), weights_only=True)
    parts = launch.gather(([o for batch in batches for o in batch], module.failed_ids))
    module.failed_ids = set().union(*(failed for _, failed in parts))
    place = {s.id: i for i, s in enumerate(samples)}
    return sorted((o for outcomes, _ in parts for o in outcomes), key=lambda o: place[o.sample.id])


def calibrate(outcomes: Sequence[Outcome]) -> tuple[Calibration, dict[str, str]]:
    """Temperatures and the weight of the categories by likelihood, thresholds by F1, all on validation outcomes.

    The verdict's threshold has the best mean F1 over modalities. Reasons say where one class is missing.
    """
    reasons: dict[str, str] = {}
    golds = [o.sample.gold(o.policy) for o in outcomes]
    if not outcomes:
        return Calibration(), {"threshold": "no validation sample: 0.5 and temperature 1"}
    verdict, likeliest = odds_of(outcomes)
    wide = wide_of(outcomes)
    fits = []
    both = {True, False} <= set(golds)  # from one class nothing can be fitted
    for evidence in (n / 10 for n in range(11 if both else 1)):
        odds = mixed_odds(verdict, likeliest, evidence)
        temperature = fit_temperature(torch.stack([torch.zeros_like(odds), odds], -1), golds)
        fits.append((_nll(odds / temperature, golds), evidence, temperature))
    _, evidence, temperature = min(fits)
    mixed, votes = mixed_odds(verdict, likeliest, evidence), None
    if wide is not None:
        votes, temperature = _votes(mixed, wide, golds, temperature)
        if votes is None:
            reasons["wide"] = "a reader says the same of all validation rows: the language model judges alone"
    scores = torch.sigmoid(Calibration(temperature, votes=votes).verdict(mixed, wide)).tolist()
    threshold = fit_shared_threshold(scores, golds, [o.sample.modality for o in outcomes])
    pairs = [(v, o.sample.label(k)) for o in outcomes for k, v in o.category_log_odds.items()]
    odds = torch.tensor([v for v, _ in pairs], dtype=torch.float64)
    labels = [g for _, g in pairs]
    category_temperature = fit_temperature(torch.stack([torch.zeros_like(odds), odds], -1), labels)
    category_threshold = fit_threshold(torch.sigmoid(odds / category_temperature).tolist(), labels)
    for name, fitted in (("threshold", threshold), ("category_threshold", category_threshold)):
        if fitted.reason:
            reasons[name] = fitted.reason
    return Calibration(
        temperature, threshold.value, category_temperature, category_threshold.value, evidence, votes
    ), reasons


def _votes(
    mixed: torch.Tensor, wide: torch.Tensor, golds: Sequence[bool | None], alone: float
) -> tuple[Votes | None, float]:
    """The votes, and the temperature of rows that have them; `alone` is that of the language model's own log-odds."""
    at = (~wide.isnan().any(-1)).nonzero().flatten().tolist()
    votes = fit_votes(mixed[at], wide[at], alone)
    if votes is None:
        return None, alone
    odds = votes.together(mixed[at], wide[at])
    return votes, fit_temperature(torch.stack([torch.zeros_like(odds), odds], -1), [golds[i] for i in at])


def odds_of(outcomes: Sequence[Outcome]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-odds of the verdict query and of the likeliest category, float64 [n] each."""
    verdict = torch.tensor([o.log_odds for o in outcomes], dtype=torch.float64)
    likeliest = torch.tensor([max(o.category_log_odds.values()) for o in outcomes], dtype=torch.float64)
    return verdict, likeliest


def wide_of(outcomes: Sequence[Outcome]) -> torch.Tensor | None:
    """The wide half's log-odds, float64 [n, 2], NaN where it has no vote; None where it has none at all."""
    if all(o.wide is None for o in outcomes):
        return None
    return torch.tensor([o.wide or [torch.nan] * 2 for o in outcomes], dtype=torch.float64)


def _nll(odds: torch.Tensor, golds: Sequence[bool | None]) -> float:
    """Mean negative log-likelihood over the labelled rows; 0 without one."""
    rows = [(x, float(g)) for x, g in zip(odds.tolist(), golds) if g is not None]
    if not rows:
        return 0.0
    x, y = torch.tensor(rows, dtype=torch.float64).T
    return torch.nn.functional.binary_cross_entropy_with_logits(x, y).item()


def rule_kinds(samples: Sequence[Sample]) -> dict[str, str]:
    """Rules of known form, each with its type and form: "ordering/before"."""
    return {
        id: f"{facts['type']}/{facts['form']}"
        for s in samples
        for id, facts in s.meta.get("rules", {}).items()
        if {"type", "form"} <= set(facts)
    }


def slices_of(sample: Sample) -> tuple[str, ...]:
    """The slices that a sample's `meta` puts it into."""
    out = []
    for key, value in sample.meta.items():
        if key in ("entry", "wording"):
            out.append(f"{key}:{value}")
            out.append(f"{sample.modality}/{key}:{value}")
        elif key == "slice":
            out.append(str(value))
        elif key == "twin":
            out.append("twins")
        elif value is True:
            out.append(key)
    return tuple(out)


def records(
    outcomes: Sequence[Outcome], calibration: Calibration, slices: tuple[str, ...] | None = None
) -> list[Record]:
    """Calibrated records of judged samples; `slices` replaces those of the samples (for ablated copies)."""
    if not outcomes:
        return []
    odds = calibration.verdict(mixed_odds(*odds_of(outcomes), calibration.evidence), wide_of(outcomes))
    out = []
    for o, score in zip(outcomes, torch.sigmoid(odds).tolist()):
        s = o.sample
        categories = {
            k: torch.sigmoid(torch.tensor(v / calibration.category_temperature, dtype=torch.float64)).item()
            for k, v in o.category_log_odds.items()
        }
        out.append(
            Record(
                id=s.id,
                score=score,
                gold=s.gold(o.policy),
                category_scores=categories,
                category_gold={k: NAMES[s.label(k)] for k in categories},
                modality=s.modality,
                source=s.source,
                target=s.target,
                slices=slices_of(s) if slices is None else slices,
                truncated=o.truncated,
                group=s.group,
            )
        )
    return out


def data_hash(samples: Sequence[Sample]) -> str:
    """sha256 over labels, texts, policies and the media's bytes: two runs with one hash saw the same data."""
    digest = hashlib.sha256()
    hashes: dict[str, str] = {}
    ids = [s.id for s in samples]
    for at in sorted(range(len(ids)), key=ids.__getitem__):  # of samples in a file, only the ids are held
        row = samples[at].to_dict()
        for message in row["messages"]:
            for part in message["content"]:
                if "path" in part:
                    path = part["path"]
                    hashes[path] = part["path"] = hashes.get(path) or media.content_hash(path)
        digest.update(canonical_json(row).encode())
    return digest.hexdigest()


def latency(guard: Guard, samples: Sequence[Sample]) -> dict[str, float]:
    """Median milliseconds of one verdict, from file to score, for each modality, one sample at a time and uncached."""
    by_modality: dict[str, list[Sample]] = defaultdict(list)
    for s in samples:
        if len(by_modality[s.modality]) < LATENCY_SAMPLES:
            by_modality[s.modality].append(s)
    cache, guard.backbone.cache = guard.backbone.cache, None
    try:
        out = {}
        for modality, rows in sorted(by_modality.items()):
            guard.moderate(rows[0])
            times = []
            for s in rows:
                started = time.perf_counter()
                guard.moderate(s)
                times.append(1000 * (time.perf_counter() - started))
            out[modality] = round(statistics.median(times), 2)
        return out
    finally:
        guard.backbone.cache = cache


def evaluate(
    module: GuardModule,
    data: GuardDataModule,
    folder: Path | None = None,
    *,
    calibrated: bool = False,
    accelerator: str = "cpu",
    seed: int = 0,
    generate: int = 0,
    without: Sequence[str] | None = None,
    fallback: str | None = None,
) -> dict[str, Any]:
    """The design's metrics of `module` on the test split, after calibrating on validation unless `calibrated`.

    Writes `scores.jsonl` (what was said of each row) and `plots/` into `folder` if given. Twins are judged again
    without each modality that they need. `generate` test rows are answered once more in free text (see `zoo.written`).
    A guard with source tags is measured by them. With `without`, training sources that are switched off, the test rows
    are judged again, into `scores_without.jsonl`; where the guard abstains the model `fallback` answers, or TF-IDF over
    the other training rows (see `zoo.debuglm.guards`).
    Of several processes all judge, and the main one measures: the others return nothing.
    """
    guard = module.guard
    named = guard.switched_off(without or ())  # what cannot be is said before anything long
    check_switch(without, fallback)
    reasons: dict[str, str] = {}
    if not calibrated:
        unread = fit_wide(guard, data)
        validation = judge(module, data, data.samples("val"), accelerator, "validation")
        guard.calibration, reasons = calibrate(validation)
        reasons |= unread
    judged = judge(module, data, data.samples("test"), accelerator, "test")
    test = [o.sample for o in judged]  # without those that could not be read, which are counted in `failed`
    twins = [s for s in test if "twin" in s.meta]
    needs = sorted({n for s in twins for n in s.meta["needs"]})
    lacking = {
        what: judge(module, data, copies, accelerator, f"without {what}")
        for what in needs
        if (copies := [ablated_copy(s, what) for s in twins if what in s.meta["needs"]])
    }
    if not launch.is_main():
        return {}
    rows = records(judged, guard.calibration)
    ablated = [r for what, o in lacking.items() for r in records(o, guard.calibration, (f"without:{what}",))]
    c = guard.calibration
    metrics = summarise(
        [*rows, *ablated], c.threshold, c.category_threshold, intervals=True, seed=seed, kinds=rule_kinds(test)
    )
    if twins:
        quads = _quads(twins)
        whole = [
            q for q in quads if len(q) == max(map(len, quads))
        ]  # a member that cannot be read takes its quad along
        metrics["twins"] = twin_accuracy({r.id: r for r in rows}, whole, threshold=c.threshold, intervals=True)
        metrics["twins"]["incomplete"] = len(quads) - len(whole)
    metrics["temperature"], metrics["category_temperature"] = c.temperature, c.category_temperature
    metrics["evidence"] = c.evidence
    if c.votes is not None:
        metrics["votes"] = asdict(c.votes)
    metrics["calibration_reasons"] = reasons
    metrics["latency_ms"] = latency(guard, test)
    if generate:
        metrics["generation"] = written_against_scored(guard, test, generate, seed)
    if data.critiques is not None:
        metrics["critiques"] = data.critiques
    if data.poisoned is not None:
        metrics["poisoned"] = data.poisoned
    if guard.tags is not None:
        metrics["tags"] = measure_tags(guard, judged, rows)
        metrics["tags"]["refusals"] = refusals(guard, test, seed=seed)
    if named:
        answers = WordFallback(data, named) if fallback is None else load(fallback)
        metrics["without"], switched = switch_off(guard, data, rows, named, answers)
        if folder is not None:
            write_scores(folder / "scores_without.jsonl", switched)
    metrics["seed"], metrics["data_hash"] = seed, data_hash(data.corpus.samples)
    metrics["failed"] = len(data.errors) + len(module.failed_ids)
    if folder is not None:
        write_scores(folder / "scores.jsonl", (decide(r, c.threshold, c.category_threshold) for r in (*rows, *ablated)))
        _plots(rows, c.threshold, folder / "plots")
    return metrics


def _quads(twins: Sequence[Sample]) -> list[list[str]]:
    out: dict[str, list[str]] = defaultdict(list)
    for s in twins:
        out[s.meta["twin"]].append(s.id)
    return list(out.values())


def _plots(rows: Sequence[Record], threshold: float, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scores, golds = [r.score for r in rows], [r.gold for r in rows]
    plots.reliability(scores, golds, folder / "reliability.png")
    plots.confusion(scores, golds, threshold, folder / "confusion.png")
    curves: dict[str, tuple[list[float], list[bool | None]]] = {"all": (scores, golds)}
    for modality in sorted({r.modality for r in rows}):
        mine = [r for r in rows if r.modality == modality]
        curves[modality] = ([r.score for r in mine], [r.gold for r in mine])
    plots.pr_curves(curves, folder / "pr_curves.png")
