"""zoo/core/bootstrap.py against scikit-learn, loops, and simulations in which the truth is known."""

import numpy as np
import pytest
from sklearn import metrics as sk

from zoo.core import bootstrap as bs


def draw(seed, n=120, decimals=1):
    """Scores that tell something, with many ties."""
    rng = np.random.default_rng(seed)
    golds = rng.random(n) < 0.3
    return rng.beta(2 + 2 * golds, 4 - 2 * golds).round(decimals), golds


def categories(seed, n=80, c=4):
    rng = np.random.default_rng(seed)
    golds = rng.random((n, c)) < [0.4, 0.2, 0.1, 0.0]
    return golds ^ (rng.random((n, c)) < 0.2), golds, rng.random((n, c)) < 0.8


def repeated(weights, *columns):
    """The rows of one draw, written out."""
    index = np.repeat(np.arange(len(weights)), weights.astype(int))
    return [c[index] for c in columns]


@pytest.mark.parametrize("decimals", [1, 8])
def test_binary_statistics_of_resamples_are_those_of_sklearn(decimals):
    scores, golds = draw(1, decimals=decimals)
    flags = scores >= 0.4
    weights = next(bs.resamples(np.arange(len(golds)), len(golds), 20, np.random.default_rng(0)))
    assert (weights.sum(axis=1) == len(golds)).all() and weights.max() > 2
    expected = {
        "auprc": lambda s, f, g: sk.average_precision_score(g, s),
        "f1": lambda s, f, g: sk.f1_score(g, f),
        "precision": lambda s, f, g: sk.precision_score(g, f),
        "recall": lambda s, f, g: sk.recall_score(g, f),
        "fpr": lambda s, f, g: 1 - sk.recall_score(~g, ~f),
        "accuracy": lambda s, f, g: sk.accuracy_score(g, f),
    }
    for name, by_hand in expected.items():
        got = getattr(bs, name)(scores if name == "auprc" else flags, golds)(weights)
        want = [by_hand(*repeated(w, scores, flags, golds)) for w in weights]
        np.testing.assert_allclose(got, want, atol=1e-12, err_msg=name)


def test_category_statistics_are_those_of_loops():
    flags, golds, known = categories(2)
    weights = next(bs.resamples(np.arange(len(golds)), len(golds), 10, np.random.default_rng(0)))
    macro, micro, exact = (
        getattr(bs, n)(flags, golds, known)(weights) for n in ("macro_f1", "micro_f1", "exact_match")
    )
    for d, w in enumerate(weights):
        f, g, k = repeated(w, flags, golds, known)
        each = [sk.f1_score(g[k[:, c], c], f[k[:, c], c]) for c in range(3)]  # the fourth has no positive row
        assert macro[d] == pytest.approx(np.mean(each))
        assert micro[d] == pytest.approx(sk.f1_score(g[k], f[k]))
        rows = [(a == b)[m].all() for a, b, m in zip(f, g, k) if m.any()]
        assert exact[d] == pytest.approx(np.mean(rows))


def test_parts_and_differences():
    scores, golds = draw(3)
    odd, even = np.arange(1, 120, 2), np.arange(0, 120, 2)
    one = np.ones((1, 120))
    parts = [bs.of_rows(bs.auprc(scores[p], golds[p]), p) for p in (odd, even)]
    by_hand = [sk.average_precision_score(golds[p], scores[p]) for p in (odd, even)]
    assert bs.mean_of(parts)(one) == pytest.approx(np.mean(by_hand))
    assert bs.difference(*parts)(one) == pytest.approx(by_hand[0] - by_hand[1])
    undefined = bs.of_rows(bs.auprc(scores[:0], golds[:0]), np.arange(0))
    assert bs.mean_of([*parts, undefined])(one) == pytest.approx(np.mean(by_hand))
    assert np.isnan(bs.mean_of([undefined])(one)).all()


def test_the_interval_of_one_seed_is_that_of_a_loop_over_groups():
    scores, golds = draw(4)
    groups = [f"g{i // 3}" for i in range(120)]
    got = bs.estimate([bs.auprc(scores, golds)], groups, draws=400, seed=7)
    rng, values = np.random.default_rng([7, 0]), []
    for drawn in rng.integers(40, size=(400, 40)):
        rows = np.concatenate([np.arange(3 * g, 3 * g + 3) for g in drawn])
        values.append(sk.average_precision_score(golds[rows], scores[rows]))
    assert got.ci95 == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    assert got.mean == got.values[0] == pytest.approx(sk.average_precision_score(golds, scores))
    assert got.groups == 40 and got.reasons == ("seeds: 1: the interval is over test rows only",)


def test_blocks_of_draws_change_nothing(monkeypatch):
    scores, golds = draw(5)
    whole = bs.estimate([bs.auprc(scores, golds)] * 2, range(120), draws=100)
    monkeypatch.setattr(bs, "_CELLS", 120 * 7)
    assert bs.estimate([bs.auprc(scores, golds)] * 2, range(120), draws=100) == whole


def test_copies_of_rows_do_not_make_it_surer():
    scores, golds = draw(6)
    once = bs.estimate([bs.f1(scores >= 0.4, golds)], range(120))
    six = (np.repeat(scores, 6), np.repeat(golds, 6))
    grouped = bs.estimate([bs.f1(six[0] >= 0.4, six[1])], np.repeat(np.arange(120), 6).tolist())
    alone = bs.estimate([bs.f1(six[0] >= 0.4, six[1])], [None] * 720)
    assert grouped.ci95 == once.ci95 and grouped.groups == 120
    assert np.ptp(alone.ci95) < 0.6 * np.ptp(once.ci95)


def mean_statistic(values):
    return bs.ratio(values, np.ones(len(values)))


def covered(cases, seeds, rows=60, times=400, seed=0):
    """The share of simulations whose interval covers 0, where rows, seeds and both together add noise."""
    rng = np.random.default_rng(seed)
    row, run, rest = cases
    hits = 0
    for number in range(times):
        x = row * rng.normal(size=rows) + run * rng.normal(size=(seeds, 1)) + rest * rng.normal(size=(seeds, rows))
        low, high = bs.estimate([mean_statistic(v) for v in x], range(rows), draws=200, seed=number).ci95
        hits += low <= 0 <= high
    return hits / times


NOISE = [((1, 0, 1), 1), ((1, 0, 0), 3), ((0, 0, 1), 3), ((1, 0.2, 0.5), 3), ((0, 0.2, 1), 3), ((0, 1, 0.5), 3)]


@pytest.mark.parametrize("cases, seeds", [*NOISE, ((1, 0.2, 1), 5)])
def test_about_95_percent_of_intervals_cover_the_truth(cases, seeds):
    assert 0.89 <= covered(cases, seeds) <= 0.985  # 400 simulations: ± 0.02


def test_over_rows_alone_the_seeds_noise_would_be_missed():
    """What the simulation above would find of an interval that leaves seeds out, or resamples three of them."""
    rng = np.random.default_rng(0)
    rows, plain = 0, 0
    for _ in range(200):
        x = rng.normal(size=(3, 1)) + 0.5 * rng.normal(size=(3, 60))
        low, high = bs.estimate([mean_statistic(x.mean(axis=0))], range(60), draws=200).ci95
        rows += low <= 0 <= high
        resampled = x.mean(axis=1)[rng.integers(3, size=(200, 3))].mean(axis=1)
        low, high = np.percentile(resampled, [2.5, 97.5])
        plain += low <= 0 <= high
    assert rows < 0.3 * 200 and plain < 0.88 * 200


def test_a_paired_difference_is_narrower_than_an_unpaired_one():
    rng = np.random.default_rng(1)
    golds = rng.random(300) < 0.4
    hard = rng.normal(size=300)  # what is hard for one guard is hard for the other
    a, b = ([1.6 * golds + hard + 0.3 * rng.normal(size=300) > 0.8 - s for _ in range(3)] for s in (0.1, 0.0))
    groups = list(range(300))
    paired = bs.estimate([bs.difference(bs.f1(x, golds), bs.f1(y, golds)) for x, y in zip(a, b)], groups)
    alone = [bs.estimate([bs.f1(x, golds) for x in arm], groups) for arm in (a, b)]
    unpaired = np.hypot(*(np.ptp(e.ci95) for e in alone))
    assert np.ptp(paired.ci95) < 0.6 * unpaired
    assert paired.mean == pytest.approx(alone[0].mean - alone[1].mean)


def test_a_guard_does_not_differ_from_itself():
    scores, golds = draw(8)
    same = [bs.difference(bs.auprc(scores, golds), bs.auprc(scores, golds))] * 3
    assert bs.estimate(same, range(120)).ci95 == (0.0, 0.0)


def test_what_is_undefined_says_why():
    one_class = bs.estimate([bs.auprc(np.array([0.1, 0.2]), np.array([True, True]))], [None, None])
    assert (one_class.values, one_class.mean, one_class.ci95) == ((None,), None, None) and "class" in one_class.reasons[
        0
    ]
    none = bs.estimate([bs.f1(np.zeros(0, bool), np.zeros(0, bool))], [])
    assert none.mean is None and none.reasons == ("no row",)
    group = bs.estimate([bs.accuracy(np.array([True, True]), np.array([True, False]))], ["a", "a"])
    assert (group.mean, group.ci95, group.groups) == (0.5, None, 1) and "too few" in group.reasons[0]
    golds = np.arange(200) == 0
    rare = bs.estimate([bs.f1(golds, golds)], range(200))
    assert rare.mean == 1.0 and rare.ci95 == (1.0, 1.0)  # undefined on 37 % of the draws, which are left out
    half = bs.estimate(
        [bs.mean_of([bs.of_rows(bs.auprc(np.array([0.9, 0.1]), np.array([True, False])), np.arange(2))])], range(200)
    )
    assert half.mean == 1.0 and half.ci95 is None and "most resamples" in half.reasons[0]


def test_figures_that_runs_report():
    from scipy import stats

    values = [0.3, 0.5, 0.4]
    got = bs.over_seeds(values)
    want = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert got.mean == pytest.approx(0.4) and got.ci95 == pytest.approx(want)
    assert bs.over_seeds([0.3]).ci95 is None and "seeds: 1" in bs.over_seeds([0.3]).reasons[0]
