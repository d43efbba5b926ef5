"""95 % intervals over test rows and training seeds, for one run or for the difference of two. Plain NumPy.

Rows are resampled by group (a scene, a dialogue), the same ones for every seed and for both sides of a difference:
both are then judged on the same rows, and what they share cancels. A metric is computed anew on each resample.

Of seeds there are three or five, and resampling so few is too narrow: the interval of three that differ covers about
75 %. So their part is drawn from Student's t with seeds - 1 degrees of freedom, scaled by the standard error that the
seeds have beyond the noise of the rows (a random effect, DerSimonian and Laird 1986): the resamples have that noise
already. In simulations such an interval covers 88 to 96 % with three seeds or more, and at worst 85 % with two
(tests/test_bootstrap.py has some of them).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
_CELLS = 4_000_000  # numbers in one block of weights: 32 MB

Statistic = Callable[[np.ndarray], np.ndarray]
"""How often each row counts, float [draws, n] → a value for each draw, [draws]; NaN where it is undefined."""


@dataclass(frozen=True)
class Estimate:
    """`values` of each seed on the rows as they are (None: undefined), their mean and its 95 % interval.

    `reasons` say why something is None, and what an interval does not cover. `groups` are the independent ones.
    """

    values: tuple[float | None, ...]
    mean: float | None
    ci95: tuple[float, float] | None
    groups: int
    reasons: tuple[str, ...] = ()


# ---------------------------------------------------------------------------------------------------------- statistics


def ratio(top: np.ndarray, bottom: np.ndarray, defined: np.ndarray | None = None) -> Statistic:
    """Σ top / Σ bottom, both float [n]; NaN where Σ `defined` (default `bottom`) is 0."""
    cells = np.stack([top, bottom, bottom if defined is None else defined], axis=1).astype(np.float64)  # [n, 3]

    def values(weights: np.ndarray) -> np.ndarray:
        above, below, any_ = (weights @ cells).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(any_ > 0, above / below, np.nan)

    return values


def f1(flags: np.ndarray, golds: np.ndarray) -> Statistic:
    """2 TP / (2 TP + FP + FN) of bool [n] each; undefined without an unsafe row."""
    return ratio(2.0 * (flags & golds), 1.0 * flags + golds, golds)


def precision(flags: np.ndarray, golds: np.ndarray) -> Statistic:
    return ratio(flags & golds, flags)


def recall(flags: np.ndarray, golds: np.ndarray) -> Statistic:
    return ratio(flags & golds, golds)


def fpr(flags: np.ndarray, golds: np.ndarray) -> Statistic:
    return ratio(flags & ~golds, ~golds)


def accuracy(flags: np.ndarray, golds: np.ndarray) -> Statistic:
    return ratio(flags == golds, np.ones(len(golds)))


def auprc(scores: np.ndarray, golds: np.ndarray) -> Statistic:
    """Average precision of `scores` float [n] against `golds` bool [n], ties taken together as scikit-learn does.

    Rows are sorted once; a draw only weighs them. Undefined where a draw has one class.
    """
    order = (-scores).argsort(kind="stable")
    gold = golds[order].astype(np.float64)
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)  # the last row of each tie

    def values(weights: np.ndarray) -> np.ndarray:
        if not len(order):
            return np.full(len(weights), np.nan)
        ranked = weights[:, order]  # [draws, n]
        every = ranked.cumsum(axis=1)[:, ends]  # [draws, cuts]
        ranked *= gold
        true = ranked.cumsum(axis=1)[:, ends]
        positives = true[:, -1]
        area = (np.diff(true, axis=1, prepend=0.0) * true / np.maximum(every, 1)).sum(axis=1)
        return np.where(
            (positives > 0) & (positives < every[:, -1]), area / np.where(positives > 0, positives, 1), np.nan
        )

    return values


def _category_cells(flags: np.ndarray, golds: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, ...]:
    """2 TP, 2 TP + FP + FN and TP + FN of the known labels; bool [n, categories] each → float, the same shape."""
    return 2.0 * (flags & golds & known), 1.0 * (flags & known) + (golds & known), 1.0 * (golds & known)


def macro_f1(flags: np.ndarray, golds: np.ndarray, known: np.ndarray) -> Statistic:
    """Mean F1 over the categories of which a draw has a positive row. bool [n, categories] each; unknown is masked."""
    cells = _category_cells(flags, golds, known)

    def values(weights: np.ndarray) -> np.ndarray:
        above, below, positives = (weights @ c for c in cells)  # [draws, categories] each
        with np.errstate(invalid="ignore", divide="ignore"):
            return _mean(np.where(positives > 0, above / below, np.nan))

    return values


def micro_f1(flags: np.ndarray, golds: np.ndarray, known: np.ndarray) -> Statistic:
    """F1 over all known labels together. bool [n, categories] each."""
    return ratio(*(c.sum(axis=1) for c in _category_cells(flags, golds, known)))


def exact_match(flags: np.ndarray, golds: np.ndarray, known: np.ndarray) -> Statistic:
    """The share of rows, of those with a known label, of which every known label is met."""
    return ratio(((flags == golds) | ~known).all(axis=1) & known.any(axis=1), known.any(axis=1))


def of_rows(statistic: Statistic, rows: np.ndarray) -> Statistic:
    """A statistic of the rows numbered `rows`, as one of all rows."""
    return lambda weights: statistic(weights[:, rows])


def mean_of(parts: Sequence[Statistic]) -> Statistic:
    """The mean over the parts that are defined on a draw."""
    return lambda weights: _mean(np.stack([p(weights) for p in parts], axis=1))


def difference(a: Statistic, b: Statistic) -> Statistic:
    return lambda weights: a(weights) - b(weights)


def _mean(values: np.ndarray) -> np.ndarray:
    """Means of the rows of [draws, parts] without NaN; NaN for a row of nothing else."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.nanmean(values, axis=1)


# ----------------------------------------------------------------------------------------------------------- intervals


def estimate(
    statistics: Sequence[Statistic],
    groups: Sequence[Hashable | None],
    bounds: tuple[float, float] = (-np.inf, np.inf),
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """The mean over seeds of a statistic, with its interval over rows and seeds.

    `statistics`: one a seed, all of the same n rows. `groups` [n]: a row whose group is None is a group of its own.
    `bounds` of the statistic are bounds of the interval.
    """
    n = len(groups)
    values = [float(s(np.ones((1, n)))[0]) if n else np.nan for s in statistics]
    plain = tuple(None if np.isnan(v) else v for v in values)
    codes, total = group_codes(groups)
    if None in plain:
        why = "no row" if n == 0 else "undefined on these rows: a class or a decision is missing"
        return Estimate(plain, None, None, total, (why,))
    mean = float(np.mean(values))
    if total < 2:
        return Estimate(plain, mean, None, total, ("too few independent rows to resample",))
    rng = np.random.default_rng([seed, 0])
    drawn = np.concatenate(
        [np.stack([s(w) for s in statistics], axis=1) for w in resamples(codes, total, draws, rng)]
    )  # [draws, seeds]
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    if len(drawn) * 2 < draws:
        return Estimate(plain, mean, None, total, ("undefined on most resamples: too few rows of a class",))
    centre = drawn.mean(axis=1)  # [draws]
    reasons: tuple[str, ...] = ()
    if len(values) > 1:
        error = _seed_error(np.array(values), drawn)
        centre = centre + np.random.default_rng([seed, 1]).standard_t(len(values) - 1, len(centre)) * error
    else:
        reasons = ("seeds: 1: the interval is over test rows only",)
    low, high = np.percentile(centre, [2.5, 97.5]).clip(*bounds)
    return Estimate(plain, mean, (float(low), float(high)), total, reasons)


def _seed_error(values: np.ndarray, drawn: np.ndarray) -> float:
    """The standard error of the mean over seeds, [seeds], beyond what resampling rows, [draws, seeds], explains."""
    apart = drawn - drawn.mean(axis=1, keepdims=True)  # what moves one seed and not the others
    noise = apart.var(axis=0).sum() / (len(values) - 1)
    return float(np.sqrt(max(0.0, values.var(ddof=1) - noise) / len(values)))


def over_seeds(values: Sequence[float]) -> Estimate:
    """For a figure that a run reports as a whole: Student's t over seeds alone."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(tuple(values), mean, None, 0, ("seeds: 1: no interval for a figure without rows",))
    half = _t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return Estimate(tuple(values), mean, (mean - half, mean + half), 0, ("the interval is over seeds only",))


def _t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    from scipy.stats import t  # a dependency of scikit-learn; slow to import

    return float(t.ppf(0.975, freedom))


def group_codes(groups: Sequence[Hashable | None]) -> tuple[np.ndarray, int]:
    """Group numbers, int [n], and how many groups there are."""
    seen: dict[Hashable, int] = {}
    keys = [("row", i) if g is None else ("group", g) for i, g in enumerate(groups)]
    return np.array([seen.setdefault(k, len(seen)) for k in keys], dtype=np.int64), len(seen)


def resamples(codes: np.ndarray, total: int, draws: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each row is drawn when `total` groups are, with replacement; float [some, n], `draws` rows in all."""
    block = max(1, _CELLS // len(codes))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        picked = rng.integers(total, size=(size, total)) + np.arange(size)[:, None] * total
        yield np.bincount(picked.ravel(), minlength=size * total).reshape(size, total).astype(np.float64)[:, codes]
