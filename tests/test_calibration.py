"""zoo/core/calibration.py against brute force and known truths."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from zoo.core.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    expected_calibration_error,
    fit_shared_threshold,
    fit_temperature,
    fit_threshold,
    threshold_at_fpr,
)


def draw(seed, n=200, decimals=2):
    rng = np.random.default_rng(seed)
    golds = rng.random(n) < 0.3
    return rng.beta(2 + 2 * golds, 4 - 2 * golds).round(decimals), golds


def logits_of(seed, n, temperature):
    """[n, 2] logits of a guard whose softmax is right at `temperature`, and golds drawn from it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 4, (n, 2))
    p = 1 / (1 + np.exp(-(logits[:, 1] - logits[:, 0]) / temperature))
    return torch.tensor(logits), rng.random(n) < p


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_temperature_recovers_the_truth(temperature):
    assert fit_temperature(*logits_of(0, 20000, temperature)) == pytest.approx(temperature, rel=0.06)


@pytest.mark.parametrize("seed", range(3))
def test_temperature_has_the_lowest_nll_of_a_fine_grid(seed):
    logits, golds = logits_of(seed, 100, 2.0)
    target = torch.tensor(golds).long()

    def nll(t):
        return torch.nn.functional.cross_entropy(logits / t, target).item()

    grid = np.geomspace(MIN_TEMPERATURE, MAX_TEMPERATURE, 200)
    assert nll(fit_temperature(logits, golds)) <= min(map(nll, grid)) + 1e-9


def test_temperature_is_clamped_and_masks():
    logits = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    assert fit_temperature(logits, [True, False]) == MIN_TEMPERATURE  # all right: NLL falls for ever
    assert fit_temperature(logits, [False, True]) == MAX_TEMPERATURE
    assert fit_temperature(logits, [True, True]) == fit_temperature(logits[:0], []) == 1.0
    logits, golds = logits_of(1, 50, 2.0)
    more = torch.cat([logits, torch.full((5, 2), 9.0)])
    assert fit_temperature(more, [*golds, *[None] * 5]) == fit_temperature(logits, golds)
    with pytest.raises(ValueError, match=r"row 1.*not finite"):
        fit_temperature(torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), [True, False])
    with pytest.raises(ValueError, match=r"\[N, 2\]"):
        fit_temperature(torch.zeros(3), [True] * 3)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [1, 6])
def test_threshold_has_the_best_f1(seed, decimals):
    scores, golds = draw(seed, 60, decimals)
    value, reason = fit_threshold(scores, golds)
    cuts = np.unique(scores)
    cuts = [*((cuts[1:] + cuts[:-1]) / 2), cuts[0] / 2]
    f1 = [f1_score(golds, scores >= t) for t in cuts]
    assert reason is None
    assert f1_score(golds, scores >= value) == pytest.approx(max(f1), abs=1e-12)
    ties = [t for t, f in zip(cuts, f1) if f > max(f1) - 1e-12]
    assert abs(value - 0.5) == pytest.approx(min(abs(t - 0.5) for t in ties))


def test_threshold_edge_cases():
    assert fit_threshold([0.2, 0.8], [False, True]).value == 0.5
    for golds in ([True, True], [False, False], [None, None]):
        value, reason = fit_threshold([0.1, 0.2], golds)
        assert value == 0.5 and reason
    assert fit_threshold([], []).reason == "no labelled row"
    close = np.nextafter(0.3, 1)
    assert fit_threshold([0.3, close], [False, True]).value == close
    assert fit_threshold([0.0, 1.0], [True, False]).value == 0.0
    with pytest.raises(ValueError, match="unknown objective"):
        fit_threshold([0.1], [True], "f2")
    with pytest.raises(ValueError, match="row 0"):
        fit_threshold([float("nan")], [True])


def test_ties_go_to_the_threshold_nearest_a_half():
    # Flagging the top row alone (1 of 1 right, 1 of 2 found) and all four (2 of 4, 2 of 2) both have F1 2/3.
    golds = [True, False, False, True]
    assert fit_threshold([0.1, 0.5, 0.6, 0.7], golds).value == pytest.approx(0.65)
    assert fit_threshold([0.8, 0.85, 0.9, 0.95], golds).value == pytest.approx(0.4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fpr", [0.0, 0.05, 0.2, 1.0])
def test_threshold_at_fpr_is_the_lowest_that_keeps_it(seed, fpr):
    scores, golds = draw(seed)
    value = threshold_at_fpr(scores, golds, fpr).value
    assert (scores[~golds] >= value).mean() <= fpr
    lower = scores[scores < value]
    if len(lower):
        assert (scores[~golds] >= lower.max()).mean() > fpr


def test_threshold_at_fpr_edge_cases():
    assert threshold_at_fpr([0.4, 0.9], [True, True]) == (0.5, "one class: every labelled row is unsafe")
    assert threshold_at_fpr([], []).reason == "no labelled row"
    assert threshold_at_fpr([1.0, 1.0, 0.1], [False, True, False], 0.1).value > 1
    scores = np.arange(20) / 20
    assert threshold_at_fpr(scores, [False] * 20, 0.05).value == pytest.approx(0.925)


def brute_ece(scores, golds, bins):
    total = 0.0
    for b in range(bins):
        last = b == bins - 1
        inside = (scores >= b / bins) & ((scores < (b + 1) / bins) | last)
        if inside.any():
            total += inside.mean() * abs(golds[inside].mean() - scores[inside].mean())
    return total


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bins, decimals", [(15, 12), (8, 2), (10, 12), (1, 1)])
def test_ece_agrees_with_brute_force(seed, bins, decimals):
    scores, golds = draw(seed, decimals=decimals)
    assert expected_calibration_error(scores, golds, bins) == pytest.approx(brute_ece(scores, golds, bins), abs=1e-9)


def test_ece_known_values_and_edges():
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0
    assert expected_calibration_error([0.0, 1.0], [True, False]) == 1
    assert expected_calibration_error([0.75] * 4 + [0.1], [True, True, True, False, None]) == pytest.approx(0)
    assert expected_calibration_error([], []) is None


def test_shared_threshold_is_that_of_the_best_mean_f1():
    rng = np.random.default_rng(3)
    golds = (rng.random(240) < 0.4).tolist()
    groups = ["text"] * 200 + ["audio"] * 40
    scores = np.clip(np.array(golds) * 0.2 + rng.random(240) * 0.7, 0, 1)
    scores[200:] *= 0.6  # the rare group scores lower
    fitted = fit_shared_threshold(scores, golds, groups)

    def mean_f1(threshold: float) -> float:
        values = []
        for group in ("text", "audio"):
            rows = [(s >= threshold, g) for s, g, k in zip(scores, golds, groups) if k == group]
            hits = sum(f and g for f, g in rows)
            values.append(2 * hits / (sum(f for f, _ in rows) + sum(g for _, g in rows)))
        return float(np.mean(values))

    best = max(mean_f1(t) for t in np.linspace(0, 1, 2001))
    assert mean_f1(fitted.value) == pytest.approx(best, abs=1e-9)
    assert mean_f1(fit_threshold(scores, golds).value) < best
    # A group of one class says nothing; rows without a label neither.
    more = fit_shared_threshold([*scores, 0.99, 0.01], [*golds, False, None], [*groups, "video", "text"])
    assert more.value == fitted.value
    assert fit_shared_threshold([0.2, 0.9], [False, False], ["text", "text"]).reason
