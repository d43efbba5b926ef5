"""Tags of a guard's training sources, measured: are they right, do errors point to their source, what does it cost to
switch a source off?

DebugLM (arXiv 2603.17884) measures tag accuracy and a refusal matrix; both are here for guards. The rest is what a
person does with them who finds a source bad: trace the wrong verdicts, switch the source off, let another answer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from datamodules.bank import rng_for
from datamodules.base import GuardDataModule
from datamodules.baselines import fit_logreg, text_of, tfidf_of
from datamodules.provenance import tag_of
from datamodules.schema import DataError, Policy, Sample
from zoo.core import weights
from zoo.core.calibration import fit_threshold
from zoo.core.guard import EXPLANATION_TOKENS, Guard, Moderator
from zoo.core.metrics import Record, summarise
from zoo.core.module import Outcome
from zoo.core.scores import Judged
from zoo.core.verdict import Verdict

ASKED = 100  # test rows of a tag that are asked about it, and as many of others
BINS = 15


# ------------------------------------------------------------------------------------------------------------- tracing


def measure_tags(guard: Guard, outcomes: Sequence[Outcome], records: Sequence[Record]) -> dict[str, Any]:
    """How well tags name the source of test rows, and how far each points to wrong verdicts.

    `records` are the calibrated outcomes, in their order. A tag is that of the verdict given. Rows of sources that
    training had not are no part of the accuracies. `auc_rows` of a tag: its mass ranks rows of its source over others;
    `auc_errors`: it ranks wrong verdicts over right ones; `auc_poisoned`: poisoned test rows over others, where the
    data says which are (`auc_poisoned_within`: among rows of its own source). None where one kind is missing.
    """
    tags = guard.tags
    assert tags is not None
    flags = [r.score >= guard.calibration.threshold for r in records]
    mass = np.array([o.provenance[f] for o, f in zip(outcomes, flags)]).reshape(len(records), len(tags))  # [n, t]
    own = np.array([-1 if (p := tags.place(tag_of(o.sample))) is None else p for o in outcomes])  # [n]
    wrong = np.array([np.nan if r.gold is None else float(f != r.gold) for r, f in zip(records, flags)])  # [n]
    poisoned = np.array([bool(o.sample.meta.get("poisoned")) for o in outcomes])  # [n]
    known, judged = own >= 0, ~np.isnan(wrong)
    right = (mass.argmax(-1) == own)[known]
    by_tag = {}
    for t, name in enumerate(tags.names):
        mine = own == t
        entry: dict[str, Any] = {
            "n": int(mine.sum()),
            "accuracy": _mean(mass[mine].argmax(-1) == t),
            "errors": int(wrong[mine & judged].sum()),
            "errors_named": int((mass.argmax(-1) == t)[wrong == 1].sum()),
            "auc_rows": auc(mass[known, t], mine[known]),
            "auc_errors": auc(mass[judged, t], wrong[judged] == 1),
        }
        if poisoned.any():
            entry["auc_poisoned"] = auc(mass[:, t], poisoned)
            entry["auc_poisoned_within"] = auc(mass[mine, t], poisoned[mine])
        by_tag[name] = entry
    accuracies = [e["accuracy"] for e in by_tag.values() if e["accuracy"] is not None]
    aucs = {name: e["auc_errors"] for name, e in by_tag.items() if e["auc_errors"] is not None}
    return {
        "n": int(known.sum()),
        "other_sources": int((~known).sum()),
        "accuracy": _mean(right),
        "macro_accuracy": _mean(accuracies),
        "chance": 1 / len(tags),
        "most_frequent": _mean(own[known] == np.bincount(own[known]).argmax()) if known.any() else None,
        "ece": _ece(mass[known].max(-1), right) if known.any() else None,
        "errors": int(np.nansum(wrong)),
        "suspect": max(aucs, key=aucs.__getitem__) if aucs else None,
        "by_tag": by_tag,
    }


def auc(scores: Any, positive: Any) -> float | None:
    """Area under the ROC curve; None without both kinds."""
    positive = np.asarray(positive, bool)
    return float(roc_auc_score(positive, scores)) if positive.any() and not positive.all() else None


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def _ece(confidence: np.ndarray, right: np.ndarray) -> float:
    """Mean |share of right tags − confidence| over BINS equal bins of the likeliest tag's P, weighted by rows."""
    at = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return float(sum(abs((right[at == b] - confidence[at == b]).sum()) for b in range(BINS)) / len(right))


# ------------------------------------------------------------------------------------------------------- switching off


def refusals(guard: Guard, samples: Sequence[Sample], most: int = ASKED, seed: int = 0) -> dict[str, Any]:
    """How often the guard abstains where the right source is switched off, and where a wrong one is.

    Of each tag at most `most` rows, and as many of other tags, drawn by the seed. Where nothing is switched off a
    guard never abstains: it is not asked.
    """
    tags = guard.tags
    assert tags is not None
    of: dict[str, list[Sample]] = defaultdict(list)
    for s in samples:
        of[tag_of(s)].append(s)
    by_tag, counts = {}, {"right": [0, 0], "wrong": [0, 0]}
    for name in tags.names:
        others = [s for other in tags.names if other != name for s in of[other]]
        entry: dict[str, Any] = {}
        for what, rows in (("right", of[name]), ("wrong", others)):
            drawn = rng_for(seed, "refusals", what, name).sample(rows, min(most, len(rows)))
            abstained = sum(v.abstained for v in guard.moderate(drawn, without={name}))
            entry[what] = {"n": len(drawn), "abstained": abstained}
            counts[what][0] += abstained
            counts[what][1] += len(drawn)
        by_tag[name] = entry
    rates = {what: {"rate": a / n if n else None, "n": n} for what, (a, n) in counts.items()}
    return {**rates, "by_tag": by_tag}


class WordFallback:
    """TF-IDF and a logistic regression over the training rows that are left: a fallback that anybody can have.

    It sees no policy and names no category. Raises `DataError` where what is left has one class.
    """

    def __init__(self, data: GuardDataModule, without: Collection[str]):
        rows = rows_left(data, without)
        self.name = f"tfidf without {', '.join(sorted(without))}"
        self.vectoriser, (train, val) = tfidf_of(rows["train"][0], rows["val"][0])
        self.model = fit_logreg(train, rows["train"][1], val, rows["val"][1])
        self.threshold = fit_threshold(self._scores(rows["val"][0]), rows["val"][1]).value

    def _scores(self, texts: Sequence[str]) -> np.ndarray:
        return self.model.predict_proba(self.vectoriser.transform(texts))[:, 1] if len(texts) else np.zeros(0)

    def moderate(
        self,
        samples: Sequence[Sample],
        policy: Policy | None = None,
        explain: bool = False,
        threshold: float | None = None,
        batch_size: int = 16,
        max_new_tokens: int = EXPLANATION_TOKENS,
    ) -> list[Verdict]:
        cut = self.threshold if threshold is None else threshold
        scores = self._scores([text_of(s) for s in samples]).tolist()
        return [Verdict(s.id, self.name, score >= cut, score, cut) for s, score in zip(samples, scores)]


def rows_left(data: GuardDataModule, without: Collection[str]) -> dict[str, tuple[list[str], list[bool]]]:
    """Texts and verdicts of other tags' rows, by split. Raises `DataError` for rows of one class."""
    out = {}
    for split in ("train", "val"):
        rows = [(s, s.gold(data.fixed_policy(s))) for s in data.samples(split) if tag_of(s) not in without]
        kept = [(text_of(s), gold) for s, gold in rows if gold is not None]
        out[split] = ([text for text, _ in kept], [gold for _, gold in kept])
        if set(out[split][1]) != {True, False}:
            raise DataError(
                f"without {', '.join(sorted(without))} no {split} rows of both classes are left for a fallback: name a "
                "model that answers (evaluate.fallback=MODEL)"
            )
    return out


def switch_off(
    guard: Guard, data: GuardDataModule, records: Sequence[Record], named: Sequence[str], fallback: Moderator
) -> tuple[dict[str, Any], list[Judged]]:
    """The test rows of `records` judged again with the sources `named` switched off: metrics, and the judged rows.

    Decisions are those that verdicts say. Scores of the fallback are stretched so that its threshold falls on the
    guard's: the metrics of the mixture have one threshold.
    """
    test = {s.id: s for s in data.samples("test")}
    rows = [test[r.id].replace(policy=data.fixed_policy(test[r.id])) for r in records]
    verdicts = guard.moderate(rows, without=named, fallback=fallback)
    cut = guard.calibration.threshold
    judged = []
    for r, v in zip(records, verdicts):
        score = stretched(v.score, v.threshold, cut) if v.abstained else v.score
        judged.append(Judged(replace(r, score=score, category_scores={}, category_gold={}), v.flagged, {}))
    abstained = [v.abstained for v in verdicts]
    share: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for s, a in zip(rows, abstained):
        share[s.source][0] += a
        share[s.source][1] += 1
    metrics = summarise([j.record for j in judged], cut, intervals=False)
    return {
        "switched_off": list(named),
        "fallback": getattr(fallback, "name", type(fallback).__name__),
        "abstained": sum(abstained),
        "n": len(rows),
        "abstained_by_source": {k: {"abstained": a, "n": n} for k, (a, n) in sorted(share.items())},
        "overall": metrics["overall"],
        "by_source": metrics["by_source"],
    }, judged


def stretched(score: float, threshold: float, onto: float) -> float:
    """`score` moved so that its threshold lies `onto` another: linear on both sides, in order, 0 and 1 stay.

    A decision is kept: what is at the threshold or over it is at the other or over it.
    """
    if score < threshold:
        return min(score * onto / threshold, np.nextafter(onto, 0.0)) if onto > 0 else 0.0
    return onto if threshold >= 1 else max(onto, onto + (score - threshold) * (1 - onto) / (1 - threshold))


def check_switch(without: Sequence[str] | None, fallback: str | None) -> None:
    """Raises `DataError` for a fallback of nothing, and for a model that there is not."""
    if fallback is not None and not without:
        raise DataError(f"evaluate.fallback={fallback}: nothing is switched off: set evaluate.without=[SOURCE]")
    if fallback is not None:
        weights.find(fallback)
