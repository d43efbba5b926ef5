"""Fitting a guard's wide half: logistic regressions on the training rows, as the baselines are fitted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm import tqdm

from datamodules import GuardDataModule
from datamodules.baselines import fit_logreg
from datamodules.schema import Sample
from zoo.core import launch
from zoo.core.guard import Guard
from zoo.core.wide import BUCKETS, Features, inverse_frequency, weighted
from zoo.core.wide_reader import has_text

BATCH = 256  # samples that are read in one go


def fit_wide(guard: Guard, data: GuardDataModule) -> dict[str, str]:
    """Fits the wide half of a guard that has one and whose is not fitted yet; returns why where it cannot be.

    It learns the verdicts of the training's text rows under the guard's own policy or a part of it: a set about one
    matter is labelled for that alone, and teaches the baselines, too. Penalties are those with the best AUPRC on such
    validation rows. One process fits, and tells the others.
    """
    if guard.wide is None or guard.wide.fitted:
        return {}
    state, why = launch.first(lambda: _fitted(guard, data))
    if state is None:
        return {"wide": why}
    guard.wide.set({name: value.to(guard.device) for name, value in state.items()})
    return {}


def _fitted(guard: Guard, data: GuardDataModule) -> tuple[dict[str, Tensor] | None, str]:
    rows = {split: _labelled(guard, data, split) for split in ("train", "val")}
    for split, (_, golds) in rows.items():
        if set(golds) != {True, False}:
            return None, f"the {split} split has no text rows of both classes: the language model judges alone"
    train, val = (_features(guard, rows[split][0], split) for split in ("train", "val"))
    if cache := guard.backbone.cache:
        cache.flush()
    return fit(train, rows["train"][1], val, rows["val"][1], guard.wide.buckets), ""


def fit(
    train: Features, golds: Sequence[bool], val: Features, val_golds: Sequence[bool], buckets: int = BUCKETS
) -> dict[str, Tensor]:
    """The weights of a wide half. Raises `DataError` for rows of one class."""
    idf = inverse_frequency(train.bags, buckets)
    words = fit_logreg(matrix(train, idf), golds, matrix(val, idf), val_golds)
    sentence = fit_logreg(train.sentences.numpy(), golds, val.sentences.numpy(), val_golds)
    biases = torch.tensor([float(m.intercept_[0]) for m in (words, sentence)])
    return {"idf": idf, "words": _weights(words), "sentence": _weights(sentence), "biases": biases}


def matrix(features: Features, idf: Tensor) -> csr_matrix:
    """The tf-idf values of n bags, [n, buckets]."""
    ids, values, _ = weighted(features.bags, idf)
    starts = np.cumsum([0, *(len(b) for b in features.bags)])
    return csr_matrix((values.numpy(), ids.numpy(), starts), shape=(len(features.bags), len(idf)))


def _weights(model: LogisticRegression) -> Tensor:
    return torch.from_numpy(model.coef_[0]).float()


def _labelled(guard: Guard, data: GuardDataModule, split: str) -> tuple[list[Sample], list[bool]]:
    own = set(guard.policy.entries)
    policies = ((s, data.fixed_policy(s)) for s in data.samples(split))
    judged = [(s, s.gold(p)) for s, p in policies if has_text(s) and set(p.entries) <= own]
    kept = [(s, g) for s, g in judged if g is not None]
    return [s for s, _ in kept], [g for _, g in kept]


@torch.no_grad()
def _features(guard: Guard, samples: Sequence[Sample], what: str) -> Features:
    bags: list[Tensor] = []
    sentences = []
    starts = range(0, len(samples), BATCH)
    for start in tqdm(starts, desc=f"wide: {what}", unit="batch", disable=len(starts) < 2, leave=False):
        part = guard.reader.read(samples[start : start + BATCH], keep=True)
        bags += part.bags
        sentences.append(part.sentences)
    return Features(bags, torch.cat(sentences))
