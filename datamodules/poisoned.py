"""Training rows made wrong on purpose, and training rows left out: what audits measure themselves against.

Nothing here is for a guard that anybody uses: a run on poisoned rows says so, and is never published.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from datamodules.corpus.types import Corpus
from datamodules.lazy import keep
from datamodules.schema import SPLITS, DataError, Policy, near
from datamodules.sources.split import draw


def flip(corpus: Corpus, source: str, share: float, policy: Policy, seed: int = 0) -> Corpus:
    """The corpus with the verdicts of a share of one source's training rows turned round.

    Which rows: those whose seeded draw is under `share`, so a larger share flips these and more. A flipped row keeps
    its text and loses its categories and its critique, which spoke for the old label; it holds under its own policy
    (`policy` where it has none). Rows without a verdict stay. `meta["flipped"]` marks the rows, and the report counts
    them under "poisoned". Raises `DataError` for an unknown source, a share outside (0, 1], and where none is flipped.
    """
    if not 0.0 < share <= 1.0:
        raise DataError(f"flip_share={share}: give a share of the rows, over 0 and up to 1")
    _known(corpus, (source,), "flip")
    counts: Counter[str] = Counter()
    out = []
    for s in corpus.samples:
        if s.split == "train" and s.source == source:
            counts["rows"] += 1
            gold = s.gold(s.policy or policy)
            if gold is None:
                counts["without a verdict"] += 1
            elif draw(s.id, seed) < share:
                counts["unsafe to safe" if gold else "safe to unsafe"] += 1
                meta = {**s.meta, "flipped": True}
                s = s.replace(policy=s.policy or policy, unsafe=not gold, categories={}, critique=None, meta=meta)
        out.append(s)
    flipped = counts["unsafe to safe"] + counts["safe to unsafe"]
    if not flipped:
        raise DataError(f"flip={source}: none of its {counts['rows']} training rows was flipped: there is no poison")
    report = {"kind": "flipped labels", "source": source, "share": share, "flipped": flipped, **counts}
    return replace(corpus, samples=out, report={**corpus.report, "poisoned": report})


def leave_out(corpus: Corpus, sources: Collection[str]) -> Corpus:
    """The corpus without the training and validation rows of these sources; its test rows stay, to be compared on.

    Raises `DataError` for an unknown source, and where no training row is left.
    """
    _known(corpus, sources, "leave_out")
    gone = frozenset(sources)
    stay = keep(corpus.samples, lambda s: s.split == "test" or s.source not in gone)
    report = {**corpus.report, "left_out": len(corpus.samples) - len(stay)}
    out = replace(corpus, samples=stay, report=report)
    if not len(out.split("train")):
        raise DataError(f"leave_out={', '.join(sorted(gone))}: no training row is left")
    return out


def _known(corpus: Corpus, sources: Collection[str], what: str) -> None:
    known = sorted({s.source for s in corpus.split(SPLITS[0])})
    for name in sources:
        if name not in known:
            raise DataError(f"{what}: no training row is of source {name!r}{near(str(name), known)}")
