"""What has to be beaten: a constant, each side of a pair alone, and word counts of both.

`always` says violation (F1 .5955 at the paper's 42.4 %). `policy_only` and `trajectory_only` are shortcuts: on a bench
without leaks they are near chance. `tfidf_pair` sees both sides, what they share, and how alike they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from datamodules.baselines import logreg, tfidf
from datamodules.schema import DataError, near
from zoo.policyguard.metrics import by_slice
from zoo.policyguard.pairs import Pairs

CS = (0.1, 1.0, 10.0)
Features = tuple[Any, Any, Any]  # of the training, validation and test pairs


def policy_only(train: Pairs, val: Pairs, test: Pairs) -> Features:
    """TF-IDF of the rule alone."""
    return tuple(tfidf(train.rule, val.rule, test.rule))


def trajectory_only(train: Pairs, val: Pairs, test: Pairs) -> Features:
    """TF-IDF of the trajectory alone."""
    return tuple(tfidf(train.text, val.text, test.text))


def tfidf_pair(train: Pairs, val: Pairs, test: Pairs) -> Features:
    """TF-IDF of the rule, of the trajectory, their product term by term (what both name), and their cosine."""
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train) >= 100 else 1)
    vectoriser.fit(train.rule + list(dict.fromkeys(train.text)))

    def of(pairs: Pairs) -> Any:
        rule, text = vectoriser.transform(pairs.rule), vectoriser.transform(pairs.text)
        both = rule.multiply(text)
        alike = sparse.csr_matrix(both.sum(axis=1))
        return sparse.hstack([rule, text, normalize(both), alike], format="csr")

    return of(train), of(val), of(test)


FITTED: dict[str, Callable[[Pairs, Pairs, Pairs], Features]] = {
    "policy_only": policy_only,
    "trajectory_only": trajectory_only,
    "tfidf_pair": tfidf_pair,
}
BASELINES = ("always", *FITTED)


def baseline_scores(name: str, train: Pairs, val: Pairs, test: Pairs) -> np.ndarray:
    """P(violation) of each test pair, float [n]: a logistic regression, its penalty chosen on the validation pairs.

    Raises `DataError` for an unknown name, and where training or validation pairs have one label only.
    """
    if name == "always":
        return np.ones(len(test))
    if name not in FITTED:
        raise DataError(f"unknown baseline {name!r}{near(str(name), BASELINES)}")
    x, x_val, x_test = FITTED[name](train, val, test)
    return logreg(x, train.gold, [x_test], x_val, val.gold, CS)[0]


def judge(name: str, train: Pairs, val: Pairs, test: Pairs) -> dict[str, Any]:
    """`metrics.by_slice` of a baseline on the test pairs, at 0.5: the regression weighs both labels alike."""
    return by_slice(baseline_scores(name, train, val, test), test.gold, test.slices)
