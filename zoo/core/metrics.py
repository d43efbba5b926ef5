"""What is measured on judged rows: point values, 95 % intervals, and the shape of `metrics.json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_average_precision,
    binary_f1_score,
    binary_precision,
    binary_recall,
    binary_roc,
    binary_specificity,
)
from torchmetrics.utilities import dim_zero_cat

from zoo.core.calibration import DEFAULT_THRESHOLD, Labelled, expected_calibration_error, flagged, labelled

MODALITIES = ("text", "image", "audio", "video", "joint")
METRICS = ("f1", "auprc", "precision", "recall", "fpr", "accuracy", "recall_at_fpr5")
ABLATION = "without:"
_GOLD = {"yes": True, "no": False, "unknown": None}
_CELLS = 4_000_000  # numbers in one block of AUPRC draws: about 32 MB an array


@dataclass(frozen=True)
class Record:
    """One judged test row.

    `score` is the calibrated P(unsafe); `gold` is None where policy and labels imply none. `category_gold` maps entry
    ids to yes | no | unknown. `slices` are names such as `twin`, `hard_negative` or `entry:unseen`; a row with a slice
    `without:<part>` is an ablated copy of another row. `group` names the scene or dialogue that it shares with others.
    """

    id: str
    score: float
    gold: bool | None
    category_scores: dict[str, float] = field(default_factory=dict)
    category_gold: dict[str, str] = field(default_factory=dict)
    modality: str = "text"
    source: str = "user"
    target: str = "conversation"
    slices: tuple[str, ...] = ()
    valid: bool = True
    truncated: bool = False
    group: str | None = None


# -------------------------------------------------------------------------------------------------------- point values


def binary(
    scores: Any,
    golds: Any,
    threshold: float = DEFAULT_THRESHOLD,
    ids: Sequence[str] | None = None,
    intervals: bool = False,
    groups: Sequence[Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The binary metrics, positive = unsafe, of `scores` [N] against `golds` [N] (true | false | None: masked).

    Returns `n` (labelled rows), `masked`, `positives`, `prevalence`, each of `METRICS`, and `reasons`: metric → why it
    is None. With `intervals` also `f1_ci95` and `auprc_ci95`, [low, high], resampling `groups` [N] where given.
    Raises `ValueError`, naming the id, for a score that is no probability.
    """
    rows = labelled(scores, golds, ids)
    n, positives = len(rows.golds), int(rows.golds.sum())
    flags = flagged(rows.scores, threshold)
    reasons: dict[str, str] = {}

    def when(name: str, reason: str | None, value: Callable[[], Any]) -> float | None:
        if reason:
            reasons[name] = reason
            return None
        return round(float(value()), 6)  # torchmetrics counts in float32: the rest is noise

    empty = "no labelled row" if n == 0 else None
    no_positive = empty or ("no unsafe row" if positives == 0 else None)
    no_negative = empty or ("no safe row" if positives == n else None)
    no_flag = empty or ("no row is flagged" if not flags.any() else None)
    score, gold = torch.from_numpy(rows.scores), torch.from_numpy(rows.golds).long()  # [n], [n]
    flag = torch.from_numpy(flags).long()  # [n]
    out: dict[str, Any] = {"n": n, "masked": rows.masked, "positives": positives}
    out["prevalence"] = when("prevalence", empty, lambda: positives / n)
    out["f1"] = when("f1", no_positive, lambda: binary_f1_score(flag, gold))
    out["auprc"] = when("auprc", rows.one_class, lambda: binary_average_precision(score, gold))
    out["precision"] = when("precision", no_flag, lambda: binary_precision(flag, gold))
    out["recall"] = when("recall", no_positive, lambda: binary_recall(flag, gold))
    out["fpr"] = when("fpr", no_negative, lambda: 1 - binary_specificity(flag, gold))
    out["accuracy"] = when("accuracy", empty, lambda: binary_accuracy(flag, gold))
    out["recall_at_fpr5"] = when("recall_at_fpr5", rows.one_class, lambda: _recall_at_fpr(score, gold, 0.05))
    if intervals:
        codes = _codes(len(rows.keep), groups)[rows.keep]
        for name, draw in (("f1", _f1_draws), ("auprc", _auprc_draws)):
            low_high = _interval(draw(rows, flags, codes, np.random.default_rng(seed))) if name not in reasons else None
            out[f"{name}_ci95"] = [round(v, 6) for v in low_high] if low_high else None
            if low_high is None:
                reasons[f"{name}_ci95"] = reasons.get(name, "too few independent rows to resample")
    out["reasons"] = reasons
    return out


def _recall_at_fpr(score: Tensor, gold: Tensor, fpr: float) -> Tensor:
    false, true, _ = binary_roc(score, gold)  # [cuts], [cuts]
    return true[false <= fpr + 1e-6].max()  # the rates are float32, so 1 of 20 may read 0.05000000075


# ----------------------------------------------------------------------------------------------------------- intervals


def bootstrap(
    fn: Callable[[np.ndarray], float | None],
    n: int,
    seed: int,
    draws: int = 1000,
    groups: Sequence[Any] | None = None,
) -> tuple[float, float] | None:
    """The 95 % percentile interval of `fn`, which maps row numbers (int [m]) to a value, or to None where undefined.

    With `groups` [n], whole groups are drawn: rows of one scene are not independent, and an interval over rows would
    be too narrow. None where fewer than two groups exist or more than half of the draws are undefined.
    """
    codes = _codes(n, groups)
    total = int(codes.max()) + 1 if n else 0
    if total < 2:
        return None
    rng = np.random.default_rng(seed)
    members = np.split(codes.argsort(kind="stable"), np.bincount(codes).cumsum()[:-1])  # rows of each group
    values = np.full(draws, np.nan)
    for d in range(draws):
        value = fn(np.concatenate([members[g] for g in rng.integers(total, size=total)]))
        values[d] = np.nan if value is None else value
    return _interval(values)


def _interval(values: np.ndarray) -> tuple[float, float] | None:
    known = values[~np.isnan(values)]
    if not len(known) or len(known) * 2 < len(values):
        return None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _codes(n: int, groups: Sequence[Any] | None) -> np.ndarray:
    """Group numbers, int [n]. A row whose group is None is a group of its own."""
    if groups is None:
        return np.arange(n)
    if len(groups) != n:
        raise ValueError(f"{n} rows but {len(groups)} groups")
    seen: dict[Any, int] = {}
    keys = [("row", i) if g is None else ("group", g) for i, g in enumerate(groups)]
    return np.array([seen.setdefault(k, len(seen)) for k in keys], dtype=np.int64)


def _f1_draws(
    rows: Labelled, flags: np.ndarray, codes: np.ndarray, rng: np.random.Generator, draws: int = 1000
) -> np.ndarray:
    """F1 of each draw, [draws]; NaN where a draw has no positive."""
    # Groups with the same counts are exchangeable: drawing how often each *kind* comes up is the same bootstrap.
    cells = np.stack([flags & rows.golds, flags & ~rows.golds, ~flags & rows.golds], axis=1)  # [n, 3]: TP, FP, FN
    _, codes = np.unique(codes, return_inverse=True)
    total = int(codes.max()) + 1
    if total < 2:
        return np.full(draws, np.nan)
    counts = np.stack([np.bincount(codes, cells[:, c], total) for c in range(3)], axis=1)  # [groups, 3]
    kinds, often = np.unique(counts, axis=0, return_counts=True)
    tp, fp, fn = (rng.multinomial(total, often / total, size=draws) @ kinds).T  # [draws] each
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(tp + fn > 0, 2 * tp / (2 * tp + fp + fn), np.nan)


def _auprc_draws(
    rows: Labelled, flags: np.ndarray, codes: np.ndarray, rng: np.random.Generator, draws: int = 200
) -> np.ndarray:
    """AUPRC of each draw, [draws]; NaN where a draw has one class. Rows are sorted once; a draw only weighs them."""
    _, codes = np.unique(codes, return_inverse=True)
    total = int(codes.max()) + 1
    if total < 2:
        return np.full(draws, np.nan)
    order = (-rows.scores).argsort(kind="stable")
    gold, codes = rows.golds[order].astype(np.float64), codes[order]
    ends = np.append(np.flatnonzero(np.diff(rows.scores[order])), len(order) - 1)  # the last row of each tie
    values = []
    block = max(1, _CELLS // len(order))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        drawn = rng.integers(total, size=(size, total)) + np.arange(size)[:, None] * total
        weights = np.bincount(drawn.ravel(), minlength=size * total).reshape(size, total)[:, codes]  # [size, n]
        true = (weights * gold).cumsum(axis=1)[:, ends]  # [size, cuts]
        every = weights.cumsum(axis=1)[:, ends]  # [size, cuts]
        gain = np.diff(true, axis=1, prepend=0.0)
        positives = true[:, -1]
        area = (gain * true / np.maximum(every, 1)).sum(axis=1) / np.maximum(positives, 1)
        values.append(np.where((positives > 0) & (positives < every[:, -1]), area, np.nan))
    return np.concatenate(values)


# --------------------------------------------------------------------------------------------------------- the summary


def summarise(
    records: Iterable[Record],
    threshold: float = DEFAULT_THRESHOLD,
    category_threshold: float | Mapping[str, float] = DEFAULT_THRESHOLD,
    intervals: bool = False,
    seed: int = 0,
    kinds: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The measured part of `metrics.json`: `overall` and `by_modality | source | target | category | slice`.

    Each entry is what `binary` returns. `category_threshold` is one number or one an entry id (0.5 for the others).
    A category that was not scored in a row is no row of `by_category`; one that was scored but has no label is masked.
    An ablated copy (slice `without:…`) counts in that slice alone: it would otherwise be in `overall` twice. The
    top-level `n` counts every other row, labelled or not. Intervals resample `Record.group`.
    `kinds` maps entry ids to what `by_category` names: where entries are many (rules of trajectories, say), those of a
    kind are judged together.
    Raises `ValueError`, naming the id, for a score that is no probability or a category label that is none.
    """
    records = list(records)
    whole = [r for r in records if not _ablations(r)]

    def judge(rows: list[Record]) -> dict[str, Any]:
        return binary(
            [r.score for r in rows],
            [r.gold for r in rows],
            threshold,
            ids=[r.id for r in rows],
            intervals=intervals,
            groups=[r.group for r in rows],
            seed=seed,
        )

    def judge_each(rows: list[Record], names: Callable[[Record], Sequence[str]]) -> dict[str, Any]:
        parts: dict[str, list[Record]] = {}
        for r in rows:
            for name in dict.fromkeys(names(r)):
                parts.setdefault(name, []).append(r)
        return {name: judge(parts[name]) for name in sorted(parts)}

    overall = judge(whole)
    ece = expected_calibration_error([r.score for r in whole], [r.gold for r in whole])
    return {
        "n": len(whole),
        "masked": overall["masked"],
        "ablated": len(records) - len(whole),
        "invalid": sum(not r.valid for r in whole),
        "truncated": sum(r.truncated for r in whole),
        "threshold": float(threshold),
        "category_threshold": dict(cut) if isinstance(cut := category_threshold, Mapping) else float(cut),
        "ece": None if ece is None else round(ece, 6),
        "reasons": {"ece": "no labelled row"} if ece is None else {},
        "overall": overall,
        "by_modality": judge_each(whole, lambda r: (r.modality,)),
        "by_source": judge_each(whole, lambda r: (r.source,)),
        "by_target": judge_each(whole, lambda r: (r.target,)),
        "by_category": _by_category(whole, category_threshold, intervals, seed, kinds or {}),
        "by_slice": judge_each(records, lambda r: _ablations(r) or r.slices),
    }


def _ablations(record: Record) -> tuple[str, ...]:
    return tuple(s for s in record.slices if s.startswith(ABLATION))


def _by_category(
    records: list[Record],
    threshold: float | Mapping[str, float],
    intervals: bool,
    seed: int,
    kinds: Mapping[str, str],
) -> dict[str, Any]:
    parts: dict[str, list[tuple[Record, str]]] = {}
    for r in records:
        for id in r.category_scores:
            parts.setdefault(kinds.get(id, id), []).append((r, id))
    out = {}
    for name, pairs in sorted(parts.items()):
        for r, id in pairs:
            label = r.category_gold.get(id, "unknown")
            if label not in _GOLD:
                raise ValueError(f"record {r.id!r}: category {id!r} is {label!r}, not yes, no or unknown")
        cut = threshold.get(name, DEFAULT_THRESHOLD) if isinstance(threshold, Mapping) else threshold
        entry = binary(
            [r.category_scores[id] for r, id in pairs],
            [_GOLD[r.category_gold.get(id, "unknown")] for r, id in pairs],
            cut,
            ids=[f"{r.id} (category {id})" for r, id in pairs],
            intervals=intervals,
            groups=[r.group for r, _ in pairs],
            seed=seed,
        )
        out[name] = {**entry, "threshold": float(cut)}
    return out


def twin_accuracy(
    records_by_id: Mapping[str, Record],
    quads: Iterable[Sequence[str]],
    threshold: float = DEFAULT_THRESHOLD,
    intervals: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Accuracy over twin quads: the ids of rows that swap one part at a time, so that no part alone tells the label.

    Returns `n` (quads), `masked` (quads left out because a gold is unknown), `accuracy` (share of rows that are right:
    at most one half for a guard that reads one part) and `quad_accuracy` (share of quads with every row right).
    Raises `ValueError` for an id that has no record.
    """
    right, masked = [], 0
    for quad in quads:
        for id in quad:
            if id not in records_by_id:
                raise ValueError(f"twin quad {list(quad)}: no record {id!r}")
        rows = [records_by_id[id] for id in quad]
        labelled([r.score for r in rows], [r.gold for r in rows], list(quad))  # names a bad score
        if any(r.gold is None for r in rows):
            masked += 1
        else:
            right.append([(r.score >= threshold) == r.gold for r in rows])
    share = np.array([np.mean(q) for q in right])  # [quads]
    every = np.array([float(all(q)) for q in right])  # [quads]
    out: dict[str, Any] = {"n": len(right), "masked": masked, "reasons": {}}
    for name, values in (("accuracy", share), ("quad_accuracy", every)):
        out[name] = round(float(values.mean()), 6) if len(values) else None
        if not len(values):
            out["reasons"][name] = "no labelled quad"
        if intervals:
            low_high = bootstrap(lambda index, v=values: float(v[index].mean()), len(values), seed)
            out[f"{name}_ci95"] = [round(v, 6) for v in low_high] if low_high else None
    return out


# ---------------------------------------------------------------------------------------------- inside a training loop


class GuardMetrics(Metric):
    """Verdict metrics of a validation epoch, overall and by modality, gathered over all ranks.

    The states are flat and the same on every rank whatever modalities it saw, so ranks cannot wait for each other.
    A modality that is not in `modalities` is counted under `other`.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    scores: list[Tensor]
    golds: list[Tensor]
    kinds: list[Tensor]

    def __init__(
        self,
        threshold: float = DEFAULT_THRESHOLD,
        prefix: str = "val/",
        modalities: Sequence[str] = MODALITIES,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.threshold, self.prefix = threshold, prefix
        self.modalities = (*modalities, "other")
        # All are float32: torchmetrics gathers a rank that saw no row as an empty float32 tensor.
        for name in ("scores", "golds", "kinds"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, scores: Any, golds: Any, modalities: Sequence[str]) -> None:
        """`scores` P(unsafe) [B]; `golds` true | false | None [B]; `modalities` names [B].

        Raises `ValueError` naming the row for a score that is NaN or outside [0, 1].
        """
        rows = labelled(scores, golds)
        if len(modalities) != len(rows.keep):
            raise ValueError(f"{len(rows.keep)} scores but {len(modalities)} modalities")
        known = {m: i for i, m in enumerate(self.modalities)}
        kinds = np.array([known.get(m, known["other"]) for m in modalities])[rows.keep]
        for state, values in ((self.scores, rows.scores), (self.golds, rows.golds), (self.kinds, kinds)):
            state.append(torch.as_tensor(values, dtype=torch.float32, device=self.device))

    def compute(self) -> dict[str, Tensor]:
        """Scalars such as `val/f1`, `val/auprc`, `val/accuracy`, `val/f1_image`.

        The overall ones are always there, NaN where undefined, because a checkpoint callback monitors them by name;
        those of a modality are left out where undefined.
        """
        scores, golds, kinds = (
            (dim_zero_cat(s) if len(s) else torch.zeros(0)).cpu() for s in (self.scores, self.golds, self.kinds)
        )
        out: dict[str, Tensor] = {}
        whole = binary(scores, golds, self.threshold)
        for name in ("f1", "auprc", "accuracy"):
            value = math.nan if whole[name] is None else whole[name]
            out[f"{self.prefix}{name}"] = torch.tensor(value, device=self.device)
        for index, kind in enumerate(self.modalities):
            of_kind = kinds == index
            part = binary(scores[of_kind], golds[of_kind], self.threshold)
            for name in ("f1", "auprc"):
                if part[name] is not None:
                    out[f"{self.prefix}{name}_{kind}"] = torch.tensor(part[name], device=self.device)
        return out
