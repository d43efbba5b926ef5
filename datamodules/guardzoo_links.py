"""Which samples of many sources belong together: near-duplicate texts, answers to one question, the sources' groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.schema import Sample
from datamodules.sources.similar import merge_similar, normalise

THRESHOLD = 0.8  # Jaccard similarity of character 5-grams from which texts are near-duplicates
QUESTION = 20  # characters from which an equal question tells that two samples belong together ("hi" does not)


@dataclass(frozen=True)
class Links:
    """For each sample the number of its cluster of near-duplicate texts, and the name of its group.

    A group holds whole clusters, whole groups of the sources, and all samples that begin with the same question.
    """

    clusters: list[int]
    groups: list[str]


def link(samples: Sequence[Sample]) -> Links:
    """Clusters and groups over all `samples`. A group is named by the first of its sources' groups in the alphabet."""
    texts = (normalise("\n".join(p.text or "" for p in spoken(s))) for s in samples)
    clusters = merge_similar(texts, np.arange(len(samples), dtype=np.int32), THRESHOLD).tolist()
    parent: dict[object, object] = {}

    def root(key: object) -> object:
        while (up := parent.setdefault(key, key)) != key:
            parent[key] = parent[up]
            key = up
        return key

    for n, (sample, cluster) in enumerate(zip(samples, clusters)):
        keys: list[object] = [("group", sample.group or sample.id), ("cluster", cluster)]
        asked = question(sample)
        if asked is not None:
            keys.append(("question", asked))
        for key in keys:
            parent[root(key)] = root(("sample", n))
    names: dict[object, str] = {}
    roots = [root(("sample", n)) for n in range(len(samples))]
    for sample, r in zip(samples, roots):
        own = sample.group or sample.id
        names[r] = min(own, names.get(r, own))
    return Links(clusters, [names[r] for r in roots])


def spoken(sample: Sample) -> list:
    """The parts of a sample but for system messages, which whole sources share."""
    return [p for m in sample.messages if m.role != "system" for p in m.content]


def question(sample: Sample) -> str | None:
    """What the user asked first, normalised; None where it is short, or where what follows makes the task: in
    trajectories and over documents many begin alike."""
    if sample.target not in ("prompt", "response"):
        return None
    asked = next(("\n".join(p.text or "" for p in m.content) for m in sample.messages if m.role == "user"), "")
    asked = normalise(asked)
    return asked if len(asked) >= QUESTION else None
