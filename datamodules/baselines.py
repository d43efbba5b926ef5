"""The baselines beside every text number: logistic regression, over TF-IDF or any other features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from datamodules.schema import DataError, Sample

CS = (0.1, 1.0, 10.0, 100.0)  # inverse strengths of the L2 penalty that are tried


def text_of(sample: Sample) -> str:
    """All the text that a baseline reads: each message's role, then its text parts. Media leave no trace."""
    lines = []
    for m in sample.messages:
        texts = [p.text for p in m.content if p.type == "text" and p.text]
        lines.append(f"{m.role}: " + "\n".join(texts))
    return "\n".join(lines)


def tfidf(train: Sequence[str], *others: Sequence[str]) -> list[Any]:
    """Sparse TF-IDF features [n, v] of the training texts and of each other list, fitted on the first.

    Word 1- and 2-grams with sublinear counts (scikit-learn's vectoriser, min_df=2). An empty list gives None.
    """
    return tfidf_of(train, *others)[1]


def tfidf_of(train: Sequence[str], *others: Sequence[str]) -> tuple[TfidfVectorizer, list[Any]]:
    """The fitted vectoriser of `tfidf`, for texts that come later, and what `tfidf` returns."""
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train) >= 100 else 1)
    return vectoriser, [vectoriser.fit_transform(train), *(vectoriser.transform(t) if len(t) else None for t in others)]


def fit_logreg(
    x: Any, labels: Sequence[bool], val: Any = None, val_labels: Sequence[bool] = (), cs: Sequence[float] = CS
) -> LogisticRegression:
    """A logistic regression of `labels` on `x` [n, v], the classes weighted alike.

    C is the one of `cs` with the best AUPRC on the validation rows, the smaller of two that tie, or 1 where there are
    none. Raises `DataError` where a set to fit or choose on has one class only.
    """
    _two_classes(labels, val_labels)
    if not len(labels):
        raise DataError("baseline: no training texts")
    best: tuple[float, LogisticRegression] | None = None
    for c in sorted(cs) if val is not None else (1.0,):
        model = LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(x, np.asarray(labels, bool))
        score = 0.0
        if val is not None:
            score = float(average_precision_score(np.asarray(val_labels, bool), model.predict_proba(val)[:, 1]))
        if best is None or score > best[0]:
            best = (score, model)
    assert best is not None
    return best[1]


def logreg(
    x: Any,
    labels: Sequence[bool],
    others: Sequence[Any],
    val: Any = None,
    val_labels: Sequence[bool] = (),
    cs: Sequence[float] = CS,
) -> list[np.ndarray]:
    """P(unsafe) float [n] for each feature matrix of `others`, by `fit_logreg`. None there gives an empty array."""
    model = fit_logreg(x, labels, val, val_labels, cs)
    return [np.zeros(0) if o is None else model.predict_proba(o)[:, 1] for o in others]


def _two_classes(train: Sequence[bool], val: Sequence[bool]) -> None:
    for what, given in (("training", train), ("validation", val)):
        if len(given) and len({bool(y) for y in given}) < 2:
            raise DataError(f"baseline: the {what} labels are of one class: give safe and unsafe rows")


def tfidf_logreg(
    train_texts: Sequence[str],
    train_labels: Sequence[bool],
    test_texts: Sequence[str],
    *,
    val_texts: Sequence[str] = (),
    val_labels: Sequence[bool] = (),
    cs: Sequence[float] = CS,
) -> np.ndarray:
    """`logreg` on `tfidf`: P(unsafe) of each test text, float [n]. Raises `DataError` when lengths differ, too."""
    for what, texts, labels in (("training", train_texts, train_labels), ("validation", val_texts, val_labels)):
        if len(texts) != len(labels):
            raise DataError(f"baseline: {len(texts)} {what} texts for {len(labels)} labels")
    if not len(train_texts):
        raise DataError("baseline: no training texts")
    _two_classes(train_labels, val_labels)
    x, val, test = tfidf(train_texts, val_texts, test_texts)
    return logreg(x, train_labels, [test], val, val_labels, cs)[0]
