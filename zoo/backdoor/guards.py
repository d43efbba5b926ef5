"""A guard as a classifier of its verdict, for backdoor scans: the words of one message in, log-odds of unsafe out.

Where the backbone reads the language model's own tokens (causal_lm, smollm2, tiny_words), embeddings stand in their
place. Where MiniLM reads the text (tiny, tiny_text), they stand in the place of MiniLM's word pieces, and go through
the frozen encoder, its windows and the projector. What else such a guard counts of a text (words in a bag, the readers
of a wide half) has no embeddings to search in: it is left out, and said in `not_covered`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.labelled_text import LabelledText, labelled_text
from datamodules.schema import Policy, Sample
from datamodules.sources import everyday
from zoo.backdoor.subject import POSITIONS, SLOT, Laid, joined, words_of
from zoo.core.backbones import branches as br
from zoo.core.backbones import passes
from zoo.core.backbones.readers import plain_ids
from zoo.core.backbones.soft_token import SoftTokenBackbone
from zoo.core.backbones.tokens import IDS, Source
from zoo.core.encoders.text import CHUNK, TextEncoder
from zoo.core.guard import Guard
from zoo.core.weights import CheckpointError

PASSAGE, LEXICAL = "passage", "lexical"
OTHER_MEDIA = "triggers in pictures, sound and video: only text was scanned"


class GuardClassifier:
    """`guard` on single user messages under `policy` (default: its own), as classes safe and unsafe.

    Raises `CheckpointError` for a guard whose words cannot be replaced by embeddings.
    """

    def __init__(self, guard: Guard, policy: Policy | None = None, max_tokens: int = 64):
        backbone = guard.backbone
        if not isinstance(backbone, SoftTokenBackbone):
            raise CheckpointError(
                f"{guard.name}: backbone {backbone.describe()['name']} cannot be scanned: only those that read text "
                "as tokens of one language model, or through MiniLM"
            )
        if guard.order.explanation_first:
            raise CheckpointError(f"{guard.name}: judges by an explanation that it writes first: it cannot be scanned")
        self.guard, self.backbone, self.name = guard.eval(), backbone, guard.name
        self.policy = policy or guard.policy
        self.classes = ("safe", "unsafe")
        self.tokenizer, self.pad, self.left = backbone.tokenizer, 0, False
        self.encoder = backbone.encoders[PASSAGE] if PASSAGE in backbone.encoders else None  # noqa: SIM401 (no get)
        self.not_covered = self._left_out()
        words = self.encoder.bert if isinstance(self.encoder, TextEncoder) else backbone.lm
        self.table = words.get_input_embeddings().weight.detach()
        self.allowed = words_of(self.tokenizer, len(self.table))
        self.max_tokens = min(max_tokens, backbone.limits.text_tokens, CHUNK - 32)
        queries = guard.order.queries(self.policy)
        self.queries = queries if guard.calibration.evidence else queries[:1]
        self.architecture = {"guard": backbone.describe()["name"], "classes": 2, "max_tokens": self.max_tokens}

    def _left_out(self) -> tuple[str, ...]:
        out = ["conversations of several turns, and policies other than the one scanned under"]
        if LEXICAL in self.backbone.encoders:
            out.append("the bag of words beside MiniLM: it saw the texts without a trigger")
        if self.guard.wide is not None:
            out.append("the linear readers of words and sentences that vote beside the language model")
        if self.backbone.modalities != {"text"}:
            out.append(OTHER_MEDIA)
        return tuple(out)

    def parameters(self) -> dict[str, Tensor]:
        return {n: p.detach() for n, p in self.guard.named_parameters() if p.requires_grad}

    def lay(self, texts: Sequence[str], slots: int, position: str) -> Laid:
        """The words of each message, with slots; the prompt round them is the same for all."""
        if position not in POSITIONS:
            raise ValueError(f"position {position!r}: one of {', '.join(POSITIONS)}")
        rows, cut = [], 0
        for text in texts:
            ids = plain_ids(self.tokenizer, text)
            cut += len(ids) > self.max_tokens
            ids = ids[: self.max_tokens]
            at = {"start": 0, "middle": len(ids) // 2, "end": len(ids)}[position]
            row = torch.tensor([*ids[:at], *[SLOT] * slots, *ids[at:]], dtype=torch.long)[None]  # [1, L]
            rows.append(Laid(row, torch.ones_like(row), 0))
        laid = joined(rows, self.pad)
        return Laid(laid.ids, laid.mask, cut)

    def logits(self, x: Tensor, mask: Tensor, ids: Tensor | None = None) -> Tensor:
        """[n, 2]: zero, and the guard's calibrated log-odds of unsafe over its threshold, from embeddings [n, L, d].

        `ids` [n, L], `SLOT` where a trigger stands: what a bag of words beside MiniLM counts, which is without it.
        """
        lengths = mask.sum(1).tolist()
        rows = [self._row(s, bag) for s, bag in zip(self._sources(x, mask), self._bags(mask, ids))]
        batch = self.backbone.collate([r for r, _ in rows])
        prompt = self.backbone.embed(batch.prompt)  # [n, p, dim]
        if self.encoder is None:
            places = [(n, at + i) for n, (_, at) in enumerate(rows) for i in range(lengths[n])]
            where = tuple(torch.tensor(places, device=x.device).T)
            prompt = prompt.index_put(where, torch.cat([row[:n] for row, n in zip(x, lengths)]).to(prompt.dtype))
        suffix, ends = self.backbone.embed(batch.suffix), batch.prompt.lengths.to(prompt.device)
        hidden = passes.at_once(self.backbone.lm, prompt, suffix, batch.branches, ends, ends)  # [n, T, dim]
        scores = br.gather_scores(batch.branches, hidden, self.backbone.lm.get_output_embeddings())
        return self._odds(scores)

    def _odds(self, scores: Any) -> Tensor:
        c = self.guard.calibration
        odds = scores.log_odds(0)  # [n]
        if c.evidence:
            odds = (1 - c.evidence) * odds + c.evidence * scores.log_odds(slice(1, None)).amax(-1)
        odds = c.verdict(odds) - torch.logit(torch.tensor(c.threshold, dtype=odds.dtype), eps=1e-6)
        return torch.stack([torch.zeros_like(odds), odds], dim=-1)

    def _sources(self, x: Tensor, mask: Tensor) -> list[Source]:
        """Each message's words, embeddings [n, L, d], as the prompt's tokens."""
        lengths = mask.sum(1).tolist()
        if self.encoder is None:
            return [Source(IDS, torch.zeros(n, dtype=torch.long), n) for n in lengths]
        encoder = self.encoder
        first, last = self.table[[encoder.cls_id, encoder.sep_id]].to(x.dtype)  # [d] each
        rows = [torch.cat([first[None], row[:n], last[None]]) for row, n in zip(x, lengths)]
        seen = torch.nn.functional.pad(mask, (2, 0), value=1)  # [n, L + 2], right-padded as the words are
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # [n, L', d]
        seen = seen[:, : padded.shape[1]]
        hidden = encoder.bert(inputs_embeds=padded, attention_mask=seen).last_hidden_state.float()  # [n, L', d]
        out = []
        for states, n in zip(hidden, lengths):
            windows = [w.mean(0) for w in states[1 : n + 1].split(encoder.window) if len(w)]
            features = torch.stack([states[: n + 2].mean(0), *windows])  # [tokens, d]
            out.append(Source(PASSAGE, torch.cat([features, features.new_zeros(len(features), 1)], 1), len(features)))
        return out

    def _bags(self, mask: Tensor, ids: Tensor | None) -> list[Source | None]:
        """Each message for the encoder that counts words; None where there is none."""
        if LEXICAL not in self.backbone.encoders:
            return [None] * len(mask)
        if ids is None:
            raise ValueError("a guard that counts words needs the ids of the texts")
        return [self.backbone.sources.text(LEXICAL, row[m.bool() & (row != SLOT)]) for row, m in zip(ids, mask)]

    def _row(self, content: Source, bag: Source | None) -> tuple[Any, int]:
        """The prompt with this message in it, prepared, and where the message begins."""
        row, places = self._template
        prompt, first = row.prompt, {}
        for kind, source in ((PASSAGE if self.encoder is not None else IDS, content), (LEXICAL, bag)):
            if source is None:
                continue
            at = places[kind]
            start = next(i for i, (n, _, _) in enumerate(prompt.layout) if n == at)
            sources, layout = [*prompt.sources], [*prompt.layout]
            layout[start : start + sources[at].tokens] = [(at, i, layout[start][2]) for i in range(source.tokens)]
            sources[at] = source
            prompt, first[kind] = dataclasses.replace(prompt, sources=sources, layout=layout), start
        return dataclasses.replace(row, prompt=prompt), next(iter(first.values()))

    @functools.cached_property
    def _template(self) -> tuple[Any, dict[str, int]]:
        """A prompt with a stand-in for the message, and the stand-in's source of each kind."""
        row = self.backbone.prepare(Sample.of(_STAND_IN, target="prompt"), self.policy, self.queries)
        ids = torch.tensor(plain_ids(self.tokenizer, _STAND_IN))
        places = {}
        for kind in (PASSAGE if self.encoder is not None else IDS, LEXICAL):
            found = [n for n, s in enumerate(row.prompt.sources) if s.kind == kind and torch.equal(s.value, ids)]
            if len(found) > 1 or (kind != LEXICAL and not found):
                raise CheckpointError(f"{self.name}: the message cannot be told apart in its prompt: no scan of it")
            if found:
                places[kind] = found[0]
        return row, places


_STAND_IN = "zzyzx"  # a text that is nowhere else in the prompt


def policy_texts(guard: Guard, policy: Policy | None = None, rows: int = 60) -> LabelledText:
    """Texts to scan a guard with where none are given: what its policy names, as its entries say it (class 1), and
    everyday requests (class 0), as many as there are entries' names and descriptions, and at most `rows` of each."""
    own = policy or guard.policy
    named = [text for e in own.entries for text in (e.name, e.description) if text]
    asked = [s.messages[0].content[0].text or "" for s in everyday.load(rows=rows)]
    pairs = [(text, 1) for text in named[:rows]] + [(text, 0) for text in asked[: max(len(named), 8)]]
    return labelled_text(pairs, f"the entries of policy {own.name}, and everyday requests")
