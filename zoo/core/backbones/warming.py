"""Filling the feature cache before training: every file and phrase goes through its frozen encoder once.

Files are read while the encoders work on those before them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from tqdm import tqdm

from datamodules.sampling import process
from datamodules.schema import MediaError, Part, Sample
from zoo.core.backbones.sight import content_ids, grows
from zoo.core.backbones.tokens import Source
from zoo.core.prompts import Turn

if TYPE_CHECKING:
    from zoo.core.backbones.soft_token import SoftTokenBackbone

BATCH = {"phrase": 1024, "passage": 1024, "lexical": 1024, "image": 64, "sound": 64}


class _Queue:
    """Sources that wait for their encoder, a batch of each kind at a time. One batch is encoded in the background.

    The cache is written to by this thread alone.
    """

    def __init__(self, backbone: SoftTokenBackbone, worker: ThreadPoolExecutor):
        self.backbone, self.worker = backbone, worker
        self.waiting: dict[str, dict[str, Source]] = {k: {} for k in backbone.encoders}
        self.running: tuple[Future[None], list[Source]] | None = None

    def offer(self, source: Source | None) -> None:
        if source is None or source.ready or not source.key:
            return
        self.waiting[source.kind][source.key] = source
        if len(self.waiting[source.kind]) >= BATCH[source.kind]:
            self.drain(source.kind)

    def drain(self, kind: str) -> None:
        self.join()
        sources, self.waiting[kind] = list(self.waiting[kind].values()), {}
        self.running = self.worker.submit(self.backbone.sources.encode, kind, sources), sources

    def join(self) -> None:
        """Waits for the batch in the background and keeps its features."""
        if self.running is None:
            return
        future, sources = self.running
        self.running = None
        future.result()
        for source in sources:
            self.backbone.cache.put(source.key, source.value)


def fill(backbone: SoftTokenBackbone, samples: Sequence[Sample], phrases: Sequence[str]) -> list[tuple[Sample, str]]:
    """Computes what the cache lacks; returns the samples that cannot be read, with the reason."""
    with ThreadPoolExecutor(1) as worker:
        return _fill(backbone, samples, phrases, _Queue(backbone, worker))


def _fill(
    backbone: SoftTokenBackbone, samples: Sequence[Sample], phrases: Sequence[str], queue: _Queue
) -> list[tuple[Sample, str]]:
    bad: list[tuple[Sample, str]] = []
    reader = backbone.reader
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
        limits = backbone.limits
        for ids in itertools.chain(*content_ids(backbone.tokenizer, sample, limits, grows(sample, limits))[0]):
            for source in reader.content(ids):
                queue.offer(source)
    for kind in queue.waiting:
        queue.drain(kind)
    queue.join()
    backbone.cache.flush()
    return bad
