"""PolicyGuard's metrics on hand-computed cases and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score

from zoo.policyguard.metrics import binary, by_slice, detection, ea_f1, prefix_at, prefix_metrics


def test_binary_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    y, p = rng.random(500) < 0.424, rng.random(500)
    p = 0.5 * p + 0.4 * y
    got = binary(p, y)
    assert got["f1"] == pytest.approx(f1_score(y, p >= 0.5))
    assert got["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(y, p >= 0.5))
    assert got["auprc"] == pytest.approx(average_precision_score(y, p))
    assert got["accuracy"] == pytest.approx(np.mean((p >= 0.5) == y)) and got["positives"] == y.sum()


def test_always_violation_has_the_papers_f1():
    got = binary(np.ones(1000), np.arange(1000) < 424)
    assert round(got["f1"], 4) == 0.5955 and got["balanced_accuracy"] == 0.5 and got["recall"] == 1


def test_what_is_not_defined_is_none():
    empty, kept = binary([], []), binary([0.1, 0.9], [False, False])
    assert empty["accuracy"] is None and empty["f1"] is None
    assert kept["auprc"] is None and kept["balanced_accuracy"] is None and kept["accuracy"] == 0.5
    assert binary([0.1, 0.2], [True, False])["f1"] == 0 and binary([0.1], [True])["precision"] is None
    for bad in ([np.nan], [0.5, 0.5]):
        with pytest.raises(ValueError, match=r"no numbers|one length"):
            binary(bad, [True])


def test_slices():
    got = by_slice([0.9, 0.1, 0.9], [True, True, False], {"type": ["a", "a", "b"]})
    assert got["overall"]["all"]["n"] == 3 and got["type"]["a"]["accuracy"] == 0.5 and got["type"]["b"]["accuracy"] == 0
    with pytest.raises(ValueError, match="2 values for 3 pairs"):
        by_slice([0.9, 0.1, 0.9], [True, True, False], {"type": ["a", "a"]})


def test_prefixes():
    assert [prefix_at(share, 9) for share in (0.2, 0.4, 0.6, 0.8, 1.0)] == [2, 4, 6, 8, 9]
    assert [prefix_at(0.2, n) for n in (1, 5, 6)] == [1, 1, 2] and prefix_at(0.6, 5) == 3
    scores = [[0.1, 0.9, 0.9], [0.8, 0.2], [0.1, 0.1, 0.1]]
    states = [["open", "violated", "violated"], ["open", "safe"], ["open", "open", "open"]]
    got = prefix_metrics(scores, states, [True, False, True], prefixes=(1, 2, 3), shares=(0.5,))
    assert got["1"]["already"]["positives"] == 0 and got["1"]["already"]["f1"] is None
    assert got["1"]["already"]["accuracy"] == pytest.approx(2 / 3) and got["1"]["already"]["majority_accuracy"] == 1
    assert got["1"]["finally"]["positives"] == 2 and got["1"]["finally"]["majority_accuracy"] == pytest.approx(2 / 3)
    assert got["2"]["already"]["f1"] == 1 and got["2"]["finally"]["recall"] == 0.5
    assert got["3"]["already"]["n"] == 2  # the second is over by then
    assert got["50%"]["already"]["n"] == 3 and got["50%"]["already"]["positives"] == 1
    with pytest.raises(ValueError, match="pair 0: 1 scores for 2 states"):
        prefix_metrics([[0.1]], [["open", "open"]], [True])


def test_time_to_detection():
    scores = [
        [0.1, 0.2, 0.9, 0.9],  # broken by step 2, seen a step later
        [0.9, 0.1, 0.1],  # broken by step 3, stopped too early
        [0.1, 0.9],  # kept, but stopped
        [0.1, 0.1],  # broken by its end alone
        [0.2, 0.7],  # broken by step 2, seen at once
        [0.1, 0.1],  # broken by step 1, not seen
    ]
    (got,) = detection(scores, [2, 3, None, 3, 2, 1], ["a", "a", "b", "b", "c", "d"], [0.5])
    assert got["violations"] == 4 and got["detected"] == 0.5 and got["at_once"] == 0.25
    assert got["delay_mean"] == 0.5 and got["false_alarms_per_trajectory"] == 2 / 4
    (never,) = detection(scores, [2, 3, None, 3, 2, 1], ["a", "a", "b", "b", "c", "d"], [1.1])
    assert never["detected"] == 0 and never["delay_mean"] is None and never["false_alarms_per_trajectory"] == 0


def test_ea_f1():
    assert ea_f1(0.8759, 22.5) == pytest.approx(0.03893, abs=1e-5)
    with pytest.raises(ValueError, match="above 0"):
        ea_f1(0.9, 0)
