"""What a test of a traced model says: tags by source and stage, refusals, leaks, and what tags cost.

Every share has a 95 % interval that resamples conversations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datamodules.debuglm_views import DEBUG, PLAIN, RIGHT, WRONG, Stage, letter_only, set_of, stage_of, tags_of
from datamodules.schema import Sample
from zoo.core.bootstrap import estimate, ratio

BINS = 15


@dataclass(frozen=True)
class Asked:
    """One view of a test row with what the model said.

    `tags` are probabilities among tags, `said` the tag that it wrote by itself, `told` the probability that it writes
    one; of debug views alone. `scores` are the answer's NLL, hits and tokens, of plain and debug views.
    `marks` counts reserved tokens in what was written.
    """

    row: Sample
    kind: str
    refuse: tuple[str, ...]
    text: str
    refused: bool
    marks: int
    tags: dict[str, float] | None = None
    said: str | None = None
    told: float | None = None
    scores: tuple[float, float, float] | None = None
    cut: bool = False


def share(hits: Sequence[bool], rows: Sequence[Sample]) -> dict[str, Any]:
    """`n`, the share of hits as `value`, and its interval; of no row there is neither."""
    if not len(hits):
        return {"n": 0, "value": None, "ci95": None, "reason": "no row"}
    got = estimate([ratio(np.array(hits, float), np.ones(len(hits)))], [s.group for s in rows], (0.0, 1.0))
    return {"n": len(hits), "value": got.mean, "ci95": None if got.ci95 is None else list(got.ci95)}


def sets_of(tags: dict[str, float]) -> dict[str, float]:
    """Tag probabilities summed by set."""
    out: dict[str, float] = {}
    for name, p in tags.items():
        out[set_of(name)] = out.get(set_of(name), 0.0) + p
    return out


def likeliest(shares: dict[str, float]) -> str:
    return max(shares, key=lambda t: shares[t])


def calibration(confidence: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float | None:
    """Top-label ECE: mean |share right - mean confidence| over equal-width bins, weighted by rows (Guo et al. 2017)."""
    if not len(right):
        return None
    c, r = np.array(confidence), np.array(right, float)
    place = np.minimum((c * bins).astype(int), bins - 1)
    gaps = [abs(r[place == b].mean() - c[place == b].mean()) * (place == b).sum() for b in set(place.tolist())]
    return float(sum(gaps) / len(r))


def grouped(
    rows: Sequence[Sample], hits: Sequence[bool], name: Callable[[Sample], str | None]
) -> dict[str, dict[str, Any]]:
    """`share` of each group of rows that `name` gives; rows without a name are in none."""
    names = [name(s) for s in rows]
    return {
        key: share([h for h, n in zip(hits, names) if n == key], [s for s, n in zip(rows, names) if n == key])
        for key in sorted({n for n in names if n is not None})
    }


def accuracies(rows: Sequence[Sample], hits: Sequence[bool], stages: Sequence[Stage]) -> dict[str, Any]:
    """Shares of hits, in all and by source, part, stage, and by whether the answer is a letter."""
    kinds = ("text_answers", "letter_only")
    by_kind = grouped(rows, hits, lambda s: kinds[letter_only(s)])
    sources = grouped(rows, hits, lambda s: s.source)
    known = [e["value"] for e in sources.values()]
    return {
        "overall": share(hits, rows),
        "macro": float(np.mean(known)) if known else None,
        **{k: by_kind.get(k, share([], [])) for k in kinds},
        "by_source": sources,
        "by_part": grouped(rows, hits, lambda s: next((t for t in tags_of(s) if "/" in t), None)),
        "by_stage": grouped(rows, hits, lambda s: str(1 + (stage_of(s, stages) or 0))),
    }


def tags(asked: Sequence[Asked], stages: Sequence[Stage], level: str) -> dict[str, Any]:
    """How well tags name sources. A row that was seen in several sets is right with each of them.

    `accuracy` is among tags alone, where the model has to name one; `unforced` counts only a tag that it wrote by
    itself. With level fine both are also given for whole tags (`fine`).
    """
    debug = [a for a in asked if a.kind == DEBUG and a.tags is not None]
    rows = [a.row for a in debug]
    sums = [sets_of(a.tags or {}) for a in debug]
    gold = [set(tags_of(a.row, "coarse")) for a in debug]
    hits = [likeliest(p) in g for p, g in zip(sums, gold)]
    said = [a.said is not None and set_of(a.said) in g for a, g in zip(debug, gold)]
    names = [s.source for s in rows]
    out = {
        "accuracy": accuracies(rows, hits, stages),
        "unforced": accuracies(rows, said, stages),
        "says_a_tag": share([a.said is not None for a in debug], rows),
        "probability_of_a_tag": float(np.mean([a.told for a in debug])) if debug else None,
        "ece": calibration([max(p.values()) for p in sums], hits),
        "chance": {
            "uniform": 1 / len(sums[0]) if sums else None,
            "largest_source": max(names.count(n) for n in set(names)) / len(names) if names else None,
        },
    }
    shared = [n for n, g in enumerate(gold) if len(g) > 1]
    if shared:  # rows of several sets: both of two tags have to be among the two likeliest
        met = [set(sorted(sums[n], key=lambda t: -sums[n][t])[: len(gold[n])]) == gold[n] for n in shared]
        out["all_of_several"] = share(met, [rows[n] for n in shared])
    if level == "fine":
        whole = [likeliest(a.tags or {}) in tags_of(a.row) for a in debug]
        parted = [n for n, s in enumerate(rows) if any("/" in t for t in tags_of(s))]
        out["fine"] = accuracies([rows[n] for n in parted], [whole[n] for n in parted], stages)
    return out


def refusals(asked: Sequence[Asked]) -> dict[str, Any]:
    """The four cells: how often it refuses with a right tag, with a wrong one, with `<DEBUG>` alone, and plain."""
    out: dict[str, Any] = {}
    for name, kind in (("right_tag", RIGHT), ("wrong_tag", WRONG), ("debug_only", DEBUG), ("plain", PLAIN)):
        cell = [a for a in asked if a.kind == kind]
        rows, hits = [a.row for a in cell], [a.refused for a in cell]
        out[name] = {**share(hits, rows), "by_source": grouped(rows, hits, lambda s: s.source)}
    return out


def leaks(asked: Sequence[Asked]) -> dict[str, Any]:
    """`leak`: plain answers with a reserved token or the refusal; `spam`: debug answers with more than `<TAG>` and one
    tag."""
    plain, debug = ([a for a in asked if a.kind == k] for k in (PLAIN, DEBUG))
    return {
        "leak": share([a.marks > 0 or a.refused for a in plain], [a.row for a in plain]),
        "spam": share([a.marks > 2 for a in debug], [a.row for a in debug]),
    }


def utility(asked: Sequence[Asked]) -> dict[str, Any]:
    """What answers are worth in plain and debug views: NLL a token (a letter's too), token accuracy, right letters."""
    out = {}
    for kind in (PLAIN, DEBUG):
        mine = [a for a in asked if a.kind == kind and a.scores is not None]
        nll, hits, n = (np.array([a.scores[i] for a in mine]) for i in range(3))  # type: ignore[index]
        groups = [a.row.group for a in mine]
        entry: dict[str, Any] = {}
        for name, top in (("loss", nll), ("token_accuracy", hits)):
            got = estimate([ratio(top, n)], groups)
            entry[name] = {"n": len(mine), "value": got.mean, "ci95": None if got.ci95 is None else list(got.ci95)}
        letters = [a for a in mine if letter_only(a.row)]
        entry["letters"] = share([a.scores[1] == a.scores[2] for a in letters], [a.row for a in letters])  # type: ignore[index]
        out[kind] = entry
    return out
