"""The soft-token backbone: encoders → projectors → a causal language model.

`tiny` reads words through MiniLM; `smollm2` reads them itself. Pictures, sound and video enter both as soft tokens that
carry their time; a video's sound and frames are interleaved by time. Without encoders it is a language model that
judges text alone: `causal_lm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from datamodules.schema import MediaError, Part, Policy, Sample
from datamodules.transforms.augment import Augment
from zoo.core.backbones import branches as br
from zoo.core.backbones import passes, sight
from zoo.core.backbones.base import Backbone, ExportParts, Scores, joined
from zoo.core.backbones.generation import Past, greedy
from zoo.core.backbones.packing import Packing, pack, packed_pass
from zoo.core.backbones.prefix import can_share, common_prefix
from zoo.core.backbones.projection import Projector, TimeEmbedding
from zoo.core.backbones.readers import EncodedReader, Reader, WordReader, answers
from zoo.core.backbones.sight import Sight, Window
from zoo.core.backbones.sources import ReadLimits, SourceMaker
from zoo.core.backbones.stream import Stream
from zoo.core.backbones.tokens import IDS, Row, Source, Tokens, collate_tokens
from zoo.core.backbones.warming import fill
from zoo.core.cache import FeatureCache
from zoo.core.encoders.base import Encoder
from zoo.core.encoders.text import TextEncoder
from zoo.core.prompts import CLOSING, Media, Piece, Turn, segments
from zoo.core.query import Query

TYPES = ("template", "policy", "content", "query", "image", "frame", "sound", "track", "turn", "speaker")
TYPE = {name: i for i, name in enumerate(TYPES)}
GROUP_TOKENS = 16384  # whose keys and values groups of queries have at once


@dataclass
class Prepared:
    id: str
    prompt: Row
    suffix: Row
    branches: br.RowBranches
    truncated: bool
    ends: dict[int, int]  # tokens of the prompt up to the end of message n, for those in sight
    sights: list[Sight]  # after none, one, … all messages; none where messages were not cut apart


@dataclass
class Batch:
    ids: list[str]
    prompt: Tokens
    suffix: Tokens
    branches: br.Branches
    truncated: list[bool]
    ends: list[dict[int, int]]
    shared: int = 0  # tokens that all prompts begin with
    packing: Packing | None = None

    @property
    def size(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, **kw: bool) -> Batch:
        moved = (x.to(device, **kw) for x in (self.prompt, self.suffix, self.branches))
        return Batch(
            self.ids, *moved, self.truncated, self.ends, self.shared, self.packing and self.packing.to(device, **kw)
        )


@dataclass
class State(Past):
    """The prompts' keys and values, and the batch they came from."""

    batch: Batch


class SoftTokenBackbone(Backbone):
    """`encoders` by kind: none, or image and sound; phrase and passage where words are read through an encoder, and
    lexical where the words of a text are counted too; phrase alone where only the template and queries are.

    `answers` is the language model's own tokenizer where the encoders' one (`tokenizer`) reads the words.
    """

    def __init__(
        self,
        lm: PreTrainedModel,
        tokenizer: Any,
        encoders: dict[str, Encoder],
        description: dict[str, Any],
        reader: Reader | None = None,
        limits: ReadLimits | None = None,
        cache: FeatureCache | None = None,
        noise: dict[str, float] | None = None,
        answers: Any = None,
        base: Path | None = None,
    ):
        """`base` is the folder that the language model came from."""
        super().__init__()
        self.lm = lm
        words = "phrase" in encoders and "passage" not in encoders  # contents are the language model's own tokens
        self.tokenizer = answers or tokenizer if words else tokenizer
        self.encoders = nn.ModuleDict({k: e.freeze() for k, e in encoders.items()})
        self.limits = limits or ReadLimits()
        self.sources = SourceMaker(self.encoders, self.limits, cache)
        self.description, self.base = description, base
        self.packed, self.shares = bool(description.get("packed")), can_share(lm)
        contents = [k for k in ("passage", "lexical") if k in encoders]
        if reader is None and words:
            reader = WordReader(tokenizer, self.sources.text, answers or tokenizer, description.get("asks") == "words")
        self.reader = reader or EncodedReader(tokenizer, self.sources.text, answers or tokenizer, contents)
        self.kinds = (IDS, *sorted(encoders))
        if "image" not in encoders:
            self.modalities = frozenset(("text",))
        if not encoders:  # nothing but the language model's own tokens
            return
        dim = lm.get_input_embeddings().weight.shape[1]
        self.projectors = nn.ModuleDict(
            {k: Projector(e.dim, dim, float((noise or {}).get(k, 0.0))) for k, e in encoders.items()}
        )
        self.types = nn.Embedding(len(TYPES), dim)
        if "image" in encoders:  # made before any is drawn anew: seeded models stay the ones they were
            self.grid = nn.Embedding(self.encoders["image"].grid ** 2, dim)
            self.time = TimeEmbedding(dim)
        nn.init.normal_(self.types.weight, std=0.5)
        if "image" in encoders:
            nn.init.normal_(self.grid.weight, std=0.5)

    def describe(self) -> dict[str, Any]:
        return self.description

    @property
    def cache(self) -> FeatureCache | None:
        return self.sources.cache

    @cache.setter
    def cache(self, cache: FeatureCache | None) -> None:
        self.sources.cache = cache

    # ------------------------------------------------------------------------------------------- reading (worker)

    def _add_media(self, row: Row, part: Part, augment: Augment | None) -> None:
        timed: list[tuple[float, int, int, int]] = []
        for source, type in self.sources.media(part, augment):
            at = len(row.sources)
            row.sources.append(source)
            if type == "frame" or source.kind == "image":
                times = [source.time] * source.tokens
            else:
                times = (self.encoders["sound"].token_times(source.tokens) + source.time).tolist()
            timed += [(t, at, i, TYPE[type]) for i, t in enumerate(times)]
        row.layout += [(at, i, type) for _, at, i, type in sorted(timed)]

    def prepare(
        self, sample: Sample, policy: Policy | None, queries: Sequence[Query] = (), augment: Augment | None = None
    ) -> Prepared:
        self.check([sample])
        opening, *messages, closing = segments(sample, policy)
        apart = any(q.after is not None for q in queries) or sight.grows(sample, self.limits)
        texts, cuts = sight.content_ids(self.tokenizer, sample, self.limits, apart)
        row = self.lay(opening)
        rows = [self.lay(pieces, ids, augment) for pieces, ids in zip(messages, texts)]
        shown = list(range(len(rows)))
        seen = self._sights(sample, len(row), rows, cuts) if apart else []
        if apart:
            shown = [*range(seen[-1].head), *range(seen[-1].start, len(rows))]
        ends: dict[int, int] = {0: len(row)}
        for n in shown:
            row.extend(rows[n])
            ends[n + 1] = len(row)
        row.extend(self.lay(closing))
        suffix, branches = self.lay_queries(queries, ends)
        truncated = any(cuts) or len(shown) < len(rows)
        size = len(row) + 1 + max(branches.depth.tolist(), default=0)
        context = getattr(self.lm.config, "max_position_embeddings", None) or size
        if size > context:
            raise MediaError(
                f"sample {sample.id!r} takes {size} tokens with its policy and queries, and the language model reads "
                f"{context}: give fewer files, a shorter policy or a smaller limits.text_tokens"
            )
        return Prepared(sample.id, row, suffix, branches, truncated, ends, seen)

    def lay(self, pieces: Sequence[Piece], texts: Sequence[Sequence[int]] = (), augment: Augment | None = None) -> Row:
        """Pieces as tokens; `texts` are the ids of their contents."""
        row, contents = Row(), iter(texts)
        read = {"speaker": self.reader.speaker, "policy": self.reader.rule}
        for piece in pieces:
            if isinstance(piece, Turn):
                row.add(self.reader.turn(piece), TYPE["turn"])
                continue
            if isinstance(piece, Media):
                self._add_media(row, piece.part, augment)
                continue
            if piece.role == "content":
                sources = self.reader.content(next(contents))
            else:
                sources = [read.get(piece.role, self.reader.phrase)(piece.text)]
            for source in sources:
                if source is not None:
                    row.add(source, TYPE[piece.role])
        return row

    def sights(self, sample: Sample, policy: Policy) -> list[Sight]:
        self.check([sample])
        head, *messages, _ = segments(sample, policy)
        texts, cuts = sight.content_ids(self.tokenizer, sample, self.limits, apart=True)
        return self._sights(sample, len(self.lay(head)), [self.lay(p, ids) for p, ids in zip(messages, texts)], cuts)

    def _sights(self, sample: Sample, opening: int, rows: Sequence[Row], cuts: Sequence[bool]) -> list[Sight]:
        window, out, cut = Window(self.room(opening)), [Sight(0, 0, False)], False
        for message, row, was in zip(sample.messages, rows, cuts):
            window.add(len(row), message.role == "assistant")
            cut |= was
            out.append(Sight(window.head, window.start, cut or window.start > window.head))
        return out

    def room(self, opening: int) -> int:
        """Tokens for messages after an opening of so many. Raises `MediaError` where there is hardly any."""
        return sight.room(self.limits.text_tokens, getattr(self.lm.config, "max_position_embeddings", None), opening)

    def lay_queries(
        self, queries: Sequence[Query], ends: Mapping[int, int] | None = None, streaming: bool = False
    ) -> tuple[Row, br.RowBranches]:
        """Branches as tokens. `ends[n]` is how many tokens the prompt has up to message n, for queries after some.

        Without `ends` all see all of the prompt. In `streaming` the prompt has not been closed.
        """
        suffixes = []
        for q in queries:
            closes = not q.open and (streaming or q.after is not None)
            closing = [(self.reader.turn(t), TYPE["turn"]) for t in CLOSING if closes]
            suffixes.append(closing + [(s, TYPE["query"]) for s in self.reader.suffix(q.suffix)])
        options = [answers(self.reader, q) for q in queries]
        views = None
        if ends is not None:
            views = [br.WHOLE if q.after is None else (ends[q.after],) * 2 for q in queries]  # a token, a position
        layout, order = br.lay_out([sum(s.tokens for s, _ in sources) for sources in suffixes], options, views)
        row = Row()
        for what, q, *rest in order:
            if what == "suffix":
                for source, type in suffixes[q]:
                    row.add(source, type)
            elif len(ids := options[q][rest[0]][:-1]):
                row.add(Source(IDS, torch.tensor(ids), len(ids)), TYPE["query"])
        return row, layout

    def collate(self, rows: Sequence[Prepared]) -> Batch:
        batch = Batch(
            [r.id for r in rows],
            collate_tokens([r.prompt for r in rows], self.kinds),
            collate_tokens([r.suffix for r in rows], self.kinds),
            br.collate([r.branches for r in rows]),
            [r.truncated for r in rows],
            [r.ends for r in rows],
            0 if self.in_step else common_prefix([r.prompt for r in rows]),
        )
        if self.packed:
            lengths, width = [len(r.prompt) for r in rows], batch.prompt.kind.shape[1]
            packing = pack(lengths, batch.branches, width, batch.shared if self.shares else 0)
            if len(packing.where) < len(rows):  # otherwise each row has a sequence to itself as it is
                batch.packing = packing
        return batch

    def _first(self, batch: Batch) -> int:
        """How many tokens to read once for all rows."""
        return batch.shared if self.shares or not self.training else 0

    # ------------------------------------------------------------------------------------------- encoding

    def embed(self, tokens: Tokens) -> Tensor:
        """[b, L, d]; zeros on padding. Differentiable down to the projectors and the embedding table.

        A kind that the batch lacks goes through its projector with no rows: in training every parameter takes part in
        every step, so that processes with other modalities need not wait for a gradient that never comes.
        """
        words = self.lm.get_input_embeddings().weight  # [v, d]
        device = words.device
        pad = torch.zeros(1, words.shape[1], device=device)
        table, offsets, used = [pad], [0] * len(tokens.kinds), 1
        for number, kind in enumerate(tokens.kinds):
            sources = tokens.sources[kind]
            offsets[number] = used
            if not sources and (kind == IDS or not torch.is_grad_enabled()):
                continue
            if kind == IDS:
                rows = self.lm.get_input_embeddings()(torch.cat([s.value for s in sources]).to(device))  # [n, d]
            else:
                self.sources.encode(kind, sources)
                encoder = self.encoders[kind]
                none = torch.zeros(0, encoder.dim + 1, device=device)
                if not sources and encoder.trains:
                    none = encoder.encode([torch.zeros(0, dtype=torch.long)])[0][:0]
                features = torch.cat([none, *(s.value.to(device) for s in sources)])  # [n, e + 1]
                spare = br.round_up(len(features), 64) - len(features)
                rows = self.projectors[kind](nn.functional.pad(features[:, :-1], (0, 0, 0, spare)))[: len(features)]
                if kind in ("image", "sound"):
                    shift = [0.0] * len(none) + [s.time for s in sources for _ in range(s.tokens)]
                    rows = rows + self.time(features[:, -1] + torch.tensor(shift, device=device))  # [n, d]
            table.append(rows.to(pad.dtype))
            used += len(rows)
        real = tokens.kind >= 0
        offset = torch.tensor(offsets, device=device)[tokens.kind.clamp_min(0)]
        out = torch.cat(table)[torch.where(real, offset + tokens.place, 0)]  # [b, L, d]
        if self.encoders:
            soft = real & (tokens.kind != tokens.kinds.index(IDS))
            out = out + self.types(tokens.type) * soft.unsqueeze(-1)
        if "image" in self.encoders:
            image = tokens.kind == tokens.kinds.index("image")
            out = out + self.grid(tokens.within.clamp_max(self.grid.num_embeddings - 1)) * image.unsqueeze(-1)
        return out.to(words.dtype)

    def input_embeddings(self, batch: Batch) -> Tensor:
        return self.embed(batch.prompt)

    def encode(self, batch: Batch, embeddings: Tensor | None = None) -> State:
        """`embeddings` [b, p, d] replaces the prompts' own (for gradients with respect to the input)."""
        x = self.embed(batch.prompt) if embeddings is None else embeddings
        lengths = batch.prompt.lengths.to(x.device)
        first = self._first(batch) if embeddings is None else 0
        return State(passes.encode(self.lm, x, lengths, first=first), lengths, x.shape[1], lengths, batch)

    def score(self, state: State, queries: Sequence[Sequence[Query]] | None = None) -> Scores:
        if queries is None:
            return self.go_on(state, state.batch.suffix, state.batch.branches)
        rows = [self.lay_queries(q, ends) for q, ends in zip(queries, state.batch.ends)]
        suffix = collate_tokens([r for r, _ in rows], self.kinds)
        return self.go_on(state, suffix, br.collate([b for _, b in rows]))

    def go_on(self, past: Past, suffix: Tokens, branches: br.Branches) -> Scores:
        """Scores of branches after prompts that have been read, which stay as they were."""
        suffix, branches = suffix.to(past.lengths.device), branches.to(past.lengths.device)
        hidden = passes.go_on(self.lm, past, self.embed(suffix), branches)  # [b, T, d]
        return br.gather_scores(branches, hidden, self.lm.get_output_embeddings())

    def score_groups(self, rows: Sequence[Prepared], groups: Sequence[tuple[int, Sequence[Query]]]) -> Scores:
        """Scores [g, q, o] of groups of queries, each after the row that it names; prompts are read once.

        Groups lie side by side: in one sequence, branches that are blind to each other would cost as if they were not.
        """
        state = self.encode(self.collate(rows).to(self.lm.get_input_embeddings().weight.device))
        laid = [self.lay_queries(queries, rows[n].ends) for n, queries in groups]
        size = max(1, GROUP_TOKENS // (state.width + max((len(r) for r, _ in laid), default=0)))
        parts = []
        for start in range(0, len(groups), size):
            mine = laid[start : start + size]
            at = torch.tensor([n for n, _ in groups[start : start + size]], device=state.lengths.device)
            past = Past(br.fork(state.cache, at), state.lengths[at], state.width, state.after[at])
            suffix = collate_tokens([r for r, _ in mine], self.kinds)
            parts.append(self.go_on(past, suffix, br.collate([b for _, b in mine])))
        return joined(parts)

    def stream(self, policy: Policy, target: str = "trajectory") -> Stream:
        return Stream(self, policy, target)

    def score_batch(self, batch: Batch) -> Scores:
        """Prompts and branches in one forward pass: half as many kernels, which is what a small model waits for.

        What all prompts begin with is read before, once.
        """
        if not batch.suffix.kind.shape[1]:
            return self.score(self.encode(batch))
        prompt, suffix = self.embed(batch.prompt), self.embed(batch.suffix)  # [b, p, d], [b, T, d]
        if batch.packing is not None:
            hidden = packed_pass(self.lm, prompt, suffix, batch.packing)  # [b, T, d]
        else:
            lengths, first = batch.prompt.lengths.to(prompt.device), self._first(batch)
            hidden = passes.at_once(self.lm, prompt, suffix, batch.branches, lengths, lengths, first=first)  # [b, T, d]
        return br.gather_scores(batch.branches, hidden, self.lm.get_output_embeddings())

    @torch.no_grad()
    def generate(self, state: State, suffixes: Sequence[Query], max_new_tokens: int = 64) -> list[str]:
        rows = []
        for query in suffixes:
            row = Row()
            for source in self.reader.suffix(query.suffix):
                row.add(source, TYPE["query"])
            rows.append(row)
        tokens = collate_tokens(rows, self.kinds).to(state.lengths.device)
        ids = greedy(self.lm, state, self.embed(tokens), tokens.lengths, self.reader.terminator, max_new_tokens)
        return [self.reader.decode(row) for row in ids]

    # ------------------------------------------------------------------------------------------- filling the cache

    def warm(self, samples: Sequence[Sample], phrases: Sequence[str] = ()) -> list[tuple[Sample, str]]:
        return [] if self.cache is None else fill(self, samples, phrases)

    def text_encoder(self) -> tuple[TextEncoder, Any, int] | None:
        """Where the passages' one is trained, the phrases' one reads passages here: what it makes of them stays."""
        if "passage" not in self.encoders:
            return None
        encoder, phrase = self.encoders["passage"], self.encoders["phrase"]
        if encoder.trains:
            encoder = TextEncoder(phrase.bert, phrase.cls_id, phrase.sep_id, "passage", encoder.window).freeze()
        return encoder, self.tokenizer, self.limits.text_tokens

    def encoded(self, batch: Batch) -> dict[str, Tensor]:
        return {s.key: s.value for s in batch.prompt.sources.get("passage", ()) if s.ready and s.key}

    # ------------------------------------------------------------------------------------------- giving away

    def export_parts(self) -> ExportParts:
        rest = {n: t for n, t in self.state_dict().items() if not n.startswith("lm.")}
        return ExportParts(
            self.lm,
            self.tokenizer,
            AutoModelForCausalLM,
            base=self.base,
            base_name=self.description.get("path") or (self.base and str(self.base)),
            base_revision=self.description.get("revision"),
            rest=rest,
            reads_text=not isinstance(self.reader, EncodedReader),
        )
