"""Filling the feature cache before training: every file and phrase goes through its frozen encoder once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from datamodules.sampling import process
from datamodules.schema import MediaError, Part, Sample
from zoo.core.backbones.tokens import Source
from zoo.core.prompts import Turn

if TYPE_CHECKING:
    from zoo.core.backbones.soft_token import SoftTokenBackbone

BATCH = {"phrase": 1024, "passage": 1024, "image": 64, "sound": 64}


class _Queue:
    """Sources that wait for their encoder, a batch of each kind at a time."""

    def __init__(self, backbone: SoftTokenBackbone):
        self.backbone = backbone
        self.waiting: dict[str, dict[str, Source]] = {k: {} for k in backbone.encoders}

    def offer(self, source: Source | None) -> None:
        if source is None or source.ready or not source.key:
            return
        self.waiting[source.kind][source.key] = source
        if len(self.waiting[source.kind]) >= BATCH[source.kind]:
            self.drain(source.kind)

    def drain(self, kind: str) -> None:
        sources, self.waiting[kind] = list(self.waiting[kind].values()), {}
        self.backbone.sources.encode(kind, sources)
        for source in sources:
            self.backbone.cache.put(source.key, source.value)


def fill(backbone: SoftTokenBackbone, samples: Sequence[Sample], phrases: Sequence[str]) -> list[tuple[Sample, str]]:
    """Computes what the cache lacks; returns the samples that cannot be read, with the reason."""
    bad: list[tuple[Sample, str]] = []
    queue, reader = _Queue(backbone), backbone.reader
    for text in dict.fromkeys(phrases):
        queue.offer(reader.phrase(text))
    for role, start in itertools.product(("system", "user", "assistant"), (True, False)):
        queue.offer(reader.turn(Turn(role, start)))
    done: dict[Part, str | None] = {}
    for sample in tqdm(
        samples, desc="features", unit="sample", disable=len(samples) < 64 or process()[0] > 0, leave=False
    ):
        reason = None
        for part in sample.media:
            if part not in done:
                try:
                    for source, _ in backbone.sources.media(part):
                        queue.offer(source)
                    done[part] = None
                except MediaError as e:
                    done[part] = str(e)
            reason = reason or done[part]
        if reason:
            bad.append((sample, reason))
            continue
        for ids in backbone.text_ids([p.text or "" for p in sample.parts if p.type == "text"])[0]:
            queue.offer(reader.content(ids))
    for kind in queue.waiting:
        queue.drain(kind)
    backbone.cache.flush()
    return bad
