"""A conversation that is read message by message, with the keys and values of what was read kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from datamodules.schema import Message, Policy, Sample
from zoo.core.backbones import branches as br
from zoo.core.backbones import passes
from zoo.core.backbones.base import Scores
from zoo.core.backbones.generation import Past
from zoo.core.backbones.sight import Window, content_ids
from zoo.core.backbones.tokens import Row, collate_tokens
from zoo.core.prompts import opening, spoken
from zoo.core.query import Query

if TYPE_CHECKING:
    from zoo.core.backbones.soft_token import SoftTokenBackbone


class Stream:
    """What one pass over a prompt reads and answers, a message at a time.

    Messages are cut, and old ones go out of sight, as `Backbone.prepare` does it for queries within the conversation:
    answers are those of one pass, up to rounding. When the window moves, what is left in it is read anew.
    Raises `MediaError` for a policy that leaves no room.
    """

    def __init__(self, backbone: SoftTokenBackbone, policy: Policy, target: str = "trajectory"):
        self.backbone, self.target = backbone, target
        self._rows: list[Row | None] = []
        self._counts: dict[str, int] = {}
        self._opening = backbone.lay(opening(policy, target))
        self.window = Window(backbone.room(len(self._opening)))
        self.cut = False  # whether anything of a message was cut
        self._past = self._read(self._opening)

    @property
    def truncated(self) -> bool:
        """Whether anything of what was said is not in sight: cut from a message, or a message too old."""
        return self.cut or self.window.start > self.window.head

    @torch.no_grad()
    def read(self, message: Message) -> bool:
        """One more message; whether older ones went out of sight. Raises `MediaError` for a bad file."""
        sample = Sample("message", (message,), target=self.target)
        self.backbone.check([sample])
        (ids,), (cut,) = content_ids(self.backbone.tokenizer, sample, self.backbone.limits, apart=True)
        row = self.backbone.lay(spoken(message, self._counts), ids)
        self._rows.append(row)
        self.cut |= cut
        moved = self.window.add(len(row), message.role == "assistant")
        if moved:
            whole = Row()
            whole.extend(self._opening)
            for n in self.window.shown:
                whole.extend(self._rows[n])
            for n in range(self.window.head, self.window.start):
                self._rows[n] = None  # never read again
            self._past = self._read(whole)
        else:
            self._past = self._read(row, self._past)
        return moved

    @torch.no_grad()
    def ask(self, queries: Sequence[Query]) -> Scores:
        """Scores [1, q, o] of queries after what has been read; those that are not open close it themselves."""
        row, branches = self.backbone.lay_queries(queries, streaming=True)
        return self.backbone.go_on(self._past, collate_tokens([row], self.backbone.kinds), br.collate([branches]))

    def _read(self, row: Row, past: Past | None = None) -> Past:
        device = self.backbone.lm.get_input_embeddings().weight.device
        x = self.backbone.embed(collate_tokens([row], self.backbone.kinds).to(device))[:, : len(row)]  # no padding
        if past is None:
            zero = torch.zeros(1, dtype=torch.long, device=device)
            past = Past(DynamicCache(), zero, 0, zero)
        return passes.read_on(self.backbone.lm, past, x)
