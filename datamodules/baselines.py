"""The baseline beside every text number: TF-IDF features and logistic regression."""

from __future__ import annotations

from collections.abc import Sequence

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


def tfidf_logreg(
    train_texts: Sequence[str],
    train_labels: Sequence[bool],
    test_texts: Sequence[str],
    *,
    val_texts: Sequence[str] = (),
    val_labels: Sequence[bool] = (),
    cs: Sequence[float] = CS,
) -> np.ndarray:
    """Probability of the unsafe class of each test text, float [n].

    Word 1- and 2-grams with sublinear counts (scikit-learn's vectoriser, min_df=2); C is the one of `cs` with the best
    AUPRC on the validation texts, the smaller of two that tie, or 1 where there are none. Raises `DataError` when
    lengths differ or a set to fit or choose on has one class only.
    """
    for what, texts, labels in (("training", train_texts, train_labels), ("validation", val_texts, val_labels)):
        if len(texts) != len(labels):
            raise DataError(f"baseline: {len(texts)} {what} texts for {len(labels)} labels")
        if len(texts) and len({bool(y) for y in labels}) < 2:
            raise DataError(f"baseline: the {what} labels are of one class: give safe and unsafe rows")
    if not len(train_texts):
        raise DataError("baseline: no training texts")
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(train_texts) >= 100 else 1)
    x, y = features.fit_transform(train_texts), np.asarray(train_labels, bool)
    test = features.transform(test_texts) if len(test_texts) else None
    val = features.transform(val_texts) if len(val_texts) else None
    best: tuple[float, LogisticRegression] | None = None
    for c in sorted(cs) if val is not None else (1.0,):
        model = LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(x, y)
        score = 0.0
        if val is not None:
            score = float(average_precision_score(np.asarray(val_labels, bool), model.predict_proba(val)[:, 1]))
        if best is None or score > best[0]:
            best = (score, model)
    assert best is not None
    return best[1].predict_proba(test)[:, 1] if test is not None else np.zeros(0)
