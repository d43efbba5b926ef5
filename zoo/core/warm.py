"""Filling the feature cache before training, by all processes of a machine together."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from datamodules.schema import Sample
from zoo.core import launch
from zoo.core.backbones.base import Backbone


def owner(sample: Sample, processes: int) -> int:
    """Which of a machine's processes encodes a sample: the same for all with the same first file, or the same text."""
    content = sample.media[0].path if sample.media else "\n".join(p.text or "" for p in sample.parts)
    return zlib.crc32(content.encode()) % processes


def warm(backbone: Backbone, samples: Sequence[Sample], phrases: Sequence[str]) -> list[tuple[Sample, str]]:
    """Every process of a machine encodes its part, then sees what the others wrote.

    Returns the samples that cannot be read with the reason, in their order and the same on all processes.
    """
    number, there = launch.place()
    mine = [s for s in samples if owner(s, there) == number]
    bad = launch.together(lambda: backbone.warm(mine, phrases[number::there]))
    reasons = {id: why for part in launch.gather([(s.id, why) for s, why in bad]) for id, why in part}
    if there > 1:
        backbone.cache.refresh()
    return [(s, reasons[s.id]) for s in samples if s.id in reasons]
