"""Which training source a row is from: the tag that a guard learns to name (DebugLM, arXiv 2603.17884).

A tag is a source's name, or `SOURCE/PART` where a row says so itself in `meta["tag"]`. It stands beside the text and
never in it: nothing that a row's text says can make another tag of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from datamodules.schema import DataError, Sample

SEPARATOR = "/"


def tag_of(sample: Sample) -> str:
    """`meta["tag"]`, else the source. Raises `DataError` for a tag that is not of the row's source."""
    tag = sample.meta.get("tag")
    if tag is None:
        return sample.source
    if not isinstance(tag, str) or source_of(tag) != sample.source or tag.endswith(SEPARATOR):
        raise DataError(
            f"sample {sample.id!r}: meta.tag is {tag!r}: expected its source {sample.source!r}, or "
            f"'{sample.source}{SEPARATOR}PART'"
        )
    return tag


def source_of(tag: str) -> str:
    return tag.split(SEPARATOR, 1)[0]


def count_tags(samples: Iterable[Sample]) -> dict[str, int]:
    """tag → rows, in alphabetical order. Each sample is read once."""
    return dict(sorted(Counter(tag_of(s) for s in samples).items()))
