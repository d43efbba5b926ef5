"""What the wide half reads of a sample: the text that the baselines read, as buckets and as one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from datamodules.assets import resolve
from datamodules.baselines import text_of
from datamodules.schema import Policy, Sample
from zoo.core.backbones.base import Backbone
from zoo.core.backbones.cutting import cut_texts
from zoo.core.backbones.readers import plain_ids
from zoo.core.backbones.sources import ReadLimits, SourceMaker
from zoo.core.encoders.lexical import hashed
from zoo.core.encoders.text import CHUNK, TextEncoder, load_minilm
from zoo.core.wide import BUCKETS, Features


def has_text(sample: Sample) -> bool:
    """Whether there is text, and no media beside it."""
    return not sample.media and any(p.text and p.text.strip() for p in sample.parts)


def can_read(sample: Sample, policy: Policy, own: Policy) -> bool:
    """Whether the readers have a vote: on text without media, under `own`, the policy that they were fitted to.

    They cannot read a policy. One with other entries, or with the same under other words, is the language model's.
    """
    return has_text(sample) and (policy is own or set(policy.entries) == set(own.entries))


class WideReader:
    """Words are read as the TF-IDF baseline reads them: roles and texts (`text_of`), whole. The sentence is the mean
    of MiniLM's token states over the sample's texts, without roles.

    A backbone that reads through a frozen MiniLM lends it, and the texts are cut as it cuts them: what it has encoded
    already, in this batch or in its cache, is not encoded again. Any other reads with one of its own, which is opened
    here, and texts are cut to what MiniLM reads at once.
    """

    def __init__(self, backbone: Backbone, buckets: int = BUCKETS):
        self.backbone, self.buckets = backbone, buckets
        lent = backbone.text_encoder()
        self.borrowed = lent is not None
        if lent is None:
            bert, tokenizer = load_minilm(resolve("minilm"))
            encoder = TextEncoder(bert, tokenizer.cls_token_id, tokenizer.sep_token_id, pool="passage").freeze()
            lent = encoder, tokenizer, CHUNK
        self.encoder, self.tokenizer, self.limit = lent
        limits = ReadLimits(text_tokens=self.limit)
        self.sources = SourceMaker(nn.ModuleDict({"passage": self.encoder}), limits, None)

    def read(
        self, samples: Sequence[Sample], known: Mapping[str, Tensor] | None = None, keep: bool = False
    ) -> Features:
        """`known` are passages' features by key; with `keep`, what has to be encoded goes into the backbone's cache."""
        self.sources.cache, known = self.backbone.cache, known or {}
        if not self.borrowed:
            self.encoder.to(next(self.backbone.parameters()).device)
        bags = [hashed(torch.tensor(self._ids(text_of(s)), dtype=torch.long), self.buckets) for s in samples]
        rows, sizes = [], []
        for sample in samples:
            texts = [self._ids(p.text) for p in sample.parts if p.type == "text" and p.text is not None]
            parts = [torch.tensor(ids, dtype=torch.long) for ids in cut_texts(texts, self.limit)[0] if ids]
            rows.append([self.sources.text("passage", ids) for ids in parts])
            sizes.append([len(ids) for ids in parts])
        fresh = [s for row in rows for s in row if not s.ready]
        for source in fresh:
            if source.key in known:
                source.value, source.ready = known[source.key], True
        fresh = [s for s in fresh if not s.ready]
        self.sources.encode("passage", fresh)
        if keep and self.backbone.cache is not None:
            for source in fresh:
                self.backbone.cache.put(source.key, source.value)
        means = [self._mean([s.value for s in row], n) for row, n in zip(rows, sizes)]
        return Features(bags, nn.functional.normalize(torch.stack(means), dim=-1))

    def _ids(self, text: str) -> list[int]:
        return plain_ids(self.tokenizer, text)

    def _mean(self, features: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
        """Mean token state [d] over passages of `sizes` word pieces; zeros where there are none."""
        total, states = torch.zeros(self.encoder.dim), 0
        for feature, size in zip(features, sizes):
            at = 0  # each chunk's mean stands before its windows
            for pieces in self.encoder.chunks(size):
                total = total + feature[at, :-1].cpu() * (pieces + 2)  # with [CLS] and [SEP]
                states += pieces + 2
                at += 1 + -(-pieces // self.encoder.window)
        return total / max(states, 1)
