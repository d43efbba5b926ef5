"""A trajectory that the matcher reads message by message: it keeps what its recurrent net remembers of each rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from datamodules.schema import Message, Policy, Sample
from zoo.core.backbones.base import Scores
from zoo.core.backbones.sight import Sight, message_limit
from zoo.core.matching import asking
from zoo.core.matching.net import Known
from zoo.core.matching.reading import ACTION, Event, read_event
from zoo.core.query import Query

if TYPE_CHECKING:
    from zoo.core.backbones.matcher import MatcherBackbone


class MatchStream:
    """Answers are those of one pass; a message costs the same however many came before, and none goes out of sight."""

    @torch.no_grad()
    def __init__(self, backbone: MatcherBackbone, policy: Policy):
        self.backbone, self.policy = backbone, policy
        self.rules = backbone.rules_of(policy)
        self.truncated = any(r.cut for r in self.rules)  # whether anything of what was said was cut
        self._last: Event | None = None
        empty = backbone.prepare(Sample("stream", (), target="trajectory"), policy)
        batch = backbone.collate([empty]).to(backbone.net.pool.weight.device)
        self._row, self._first = batch.rules.row, batch.first
        self._memory = backbone.net.start(backbone.filled(batch.rules, self.rules))
        self._known = self._after(batch)

    @torch.no_grad()
    def read(self, message: Message) -> bool:
        """One more message; False: none went out of sight. Raises `MediaError` for a medium."""
        backbone = self.backbone
        backbone.check([Sample("message", (message,), target="trajectory")])
        event, cut = read_event(message, self._last, message_limit(backbone.limits))
        self._last = event if event.kind == ACTION else self._last
        self.truncated |= cut
        row = backbone.row("stream", self.policy, self.rules, [event], [""], [], [Sight(0, 0, cut)])
        self._known = self._after(backbone.collate([row]).to(self._row.device))
        return False

    def ask(self, queries: Sequence[Query]) -> Scores:
        """Scores [1, q, o] of queries after what has been read."""
        laid = [(kind, entry, 0) for kind, entry, _ in asking.lay(queries, self.policy, 0)]
        return asking.read_out(self._known, self._first, self._row, asking.collate([laid]).to(self._row.device))

    def _after(self, batch: object) -> Known:
        known, self._memory = self.backbone.net(self._memory, batch.events, batch.likeness, self._row)
        return Known(known.states[:, -1:], known.broken[:, -1:])
