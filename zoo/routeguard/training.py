"""What a training step computes: each row through its own reader, all in one pass, and the router on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zoo.core.backbones import branches as br
from zoo.core.backbones.base import Scores
from zoo.core.backbones.forked import go_up
from zoo.core.backbones.soft_token import Batch, Prepared
from zoo.routeguard.backbone import RoutedBackbone


@dataclass
class Lesson:
    """One training row: its prompt with its reader's branches, the reader's number, and the router's targets."""

    prepared: Prepared
    reader: int
    routes: list[int]


@dataclass
class LessonBatch:
    """`reader` [b] numbers adapters; `routes` [b, k] is 1, 0 or −1 (unknown) for each expert."""

    prompt: Batch
    reader: Tensor
    routes: Tensor

    @property
    def branches(self) -> br.Branches:
        return self.prompt.branches

    @property
    def truncated(self) -> list[bool]:
        return self.prompt.truncated

    def to(self, device: torch.device | str, **kw: bool) -> LessonBatch:
        return LessonBatch(self.prompt.to(device, **kw), self.reader.to(device, **kw), self.routes.to(device, **kw))


def collate(backbone: RoutedBackbone, rows: Sequence[Lesson]) -> LessonBatch:
    routes = torch.tensor([r.routes for r in rows], dtype=torch.long).reshape(len(rows), -1)
    return LessonBatch(
        backbone.base.collate([r.prepared for r in rows]), torch.tensor([r.reader for r in rows]), routes
    )


def lesson_scores(backbone: RoutedBackbone, batch: LessonBatch) -> tuple[Scores, Tensor]:
    """Scores of each row's branches through its reader, and the router's log-odds [b, k].

    The base is frozen, so its lower layers take no gradient, and neither does what the router reads.
    """
    middle = backbone.lower(batch.prompt)
    with torch.no_grad():
        x = backbone.base.embed(batch.prompt.suffix)
    rows = torch.arange(len(batch.reader), device=x.device)
    hidden = go_up(
        backbone.split, backbone.bank, middle, rows, batch.reader, x, batch.branches, packed=backbone.base.packed
    )
    head = backbone.base.lm.get_output_embeddings()
    return br.gather_scores(batch.branches, hidden, head), backbone.router(middle.hidden, middle.lengths)


def route_loss(routes: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of log-odds [b, k] over the known targets [b, k]; 0 where there is none."""
    known = (targets >= 0).float()
    each = nn.functional.binary_cross_entropy_with_logits(routes, targets.clamp_min(0).float(), reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)
