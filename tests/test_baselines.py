import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from datamodules.baselines import logreg, text_of, tfidf_logreg
from datamodules.schema import DataError, Sample


def _texts(n, seed):
    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(30)]
    labels = [bool(i % 2) for i in range(n)]
    return [" ".join(rng.choice(words, 8)) + (" red flag" if y else " green leaf") for y in labels], labels


def test_separable_texts_are_ranked_and_c_is_chosen_on_validation():
    train, y = _texts(120, 0)
    val, vy = _texts(40, 1)
    test, ty = _texts(40, 2)
    scores = tfidf_logreg(train, y, test, val_texts=val, val_labels=vy)
    assert scores.shape == (40,)
    assert scores[np.array(ty)].min() > scores[~np.array(ty)].max()
    again = tfidf_logreg(train, y, test, val_texts=val, val_labels=vy)
    assert np.array_equal(scores, again)


def test_without_validation_and_without_test_texts():
    train, y = _texts(120, 0)
    assert tfidf_logreg(train, y, []).shape == (0,)
    assert tfidf_logreg(train, y, train[:3]).shape == (3,)


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(train_texts=["a b"], train_labels=[True, False]), "1 training texts for 2 labels"),
        (dict(train_texts=["a b", "c d"], train_labels=[True, True]), "training labels are of one class"),
        (dict(train_texts=[], train_labels=[]), "no training texts"),
        (
            dict(train_texts=["a b", "c d"], train_labels=[True, False], val_texts=["a"], val_labels=[True]),
            "validation labels are of one class",
        ),
    ],
)
def test_bad_input_is_named(kwargs, message):
    with pytest.raises(DataError, match=message):
        tfidf_logreg(test_texts=["a"], **kwargs)


def test_text_of_keeps_roles_and_leaves_media_out():
    sample = Sample.of(text="hello", image="a.png", response="good day")
    assert text_of(sample) == "user: hello\nassistant: good day"


def test_any_features_will_do():
    """Against scikit-learn fitted by hand at the C that validation prefers."""
    rng = np.random.default_rng(0)
    x, val, other = (rng.normal(size=(n, 5)) for n in (80, 60, 7))
    y, vy = (m[:, 0] + rng.normal(size=len(m)) > 0 for m in (x, val))
    models = {c: LogisticRegression(C=c, class_weight="balanced", max_iter=1000).fit(x, y) for c in (0.01, 1.0)}
    best = max(models, key=lambda c: average_precision_score(vy, models[c].predict_proba(val)[:, 1]))
    got, none = logreg(x, y, [other, None], val, vy, cs=(0.01, 1.0))
    np.testing.assert_allclose(got, models[best].predict_proba(other)[:, 1])
    assert none.shape == (0,)
