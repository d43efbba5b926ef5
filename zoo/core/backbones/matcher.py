"""The matcher: a backbone that judges an agent's trajectory by rules, and nothing else.

It writes no language. A rule is read by a frozen MiniLM without its names; names are compared with the fields of the
steps; a small recurrent net goes over the steps (`zoo.core.matching`). It answers the closed queries of a policy's
entries, and the verdict is made of these: P(unsafe) = 1 − Π (1 − P(broken)). It sees no later step, so all prefixes are
scored in one pass, and no step is ever out of sight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import BertModel

from datamodules.schema import DataError, MediaError, Policy, Sample
from datamodules.trajectory import VERBS
from datamodules.transforms.augment import Augment
from zoo.core.backbones.base import Backbone, Scores
from zoo.core.backbones.sight import Sight, message_limit
from zoo.core.backbones.sources import ReadLimits
from zoo.core.matching import asking
from zoo.core.matching.asking import Asked
from zoo.core.matching.evidence import evidence
from zoo.core.matching.language import Language
from zoo.core.matching.likeness import FEATURES, Likeness, WordVectors
from zoo.core.matching.net import FLAGS, Events, Known, MatchNet, Rules
from zoo.core.matching.reading import Event, RuleText, entry_text, read_messages, read_rule, words
from zoo.core.query import Query

VERB = {verb: n for n, verb in enumerate(VERBS)}


@dataclass
class Prepared:
    """One sample: its rules, its events, how alike they are, and what is asked (`asking.lay`)."""

    id: str
    policy: Policy
    rules: list[RuleText]
    events: list[Event]
    texts: list[str]  # of the messages
    vectors: np.ndarray  # [events, 2e]
    likeness: list[np.ndarray]  # of each rule [tokens, events, FEATURES]
    asked: list[tuple[int, int, int]]
    truncated: bool
    sights: list[Sight]  # after none, one, … all messages


@dataclass
class Batch:
    """b samples with n rules in all, of up to l tokens, and up to t events."""

    rows: list[Prepared]
    rules: Rules  # its states are still to be filled in
    events: Events
    likeness: Tensor  # [n, l, t, FEATURES]
    first: Tensor  # [b]
    asked: Asked

    @property
    def ids(self) -> list[str]:
        return [r.id for r in self.rows]

    @property
    def size(self) -> int:
        return len(self.rows)

    @property
    def truncated(self) -> list[bool]:
        return [r.truncated for r in self.rows]

    def to(self, device: torch.device | str, **kw: bool) -> Batch:
        moved = (x.to(device, **kw) for x in (self.rules, self.events, self.likeness, self.first, self.asked))
        return Batch(self.rows, *moved)


@dataclass
class State:
    known: Known
    batch: Batch


class MatcherBackbone(Backbone):
    """`bert` is read, and never trained."""

    modalities = frozenset(("text",))
    needs_policy = True

    def __init__(self, bert: BertModel, tokenizer: Any, description: dict[str, Any], limits: ReadLimits | None = None):
        super().__init__()
        self.language = Language(bert, tokenizer, description["reads"])
        table = bert.embeddings.word_embeddings.weight.detach()
        self.likeness = Likeness(WordVectors(table.float().cpu().numpy(), tokenizer))
        settings = {k: description[k] for k in ("width", "layers", "match", "memory", "noise", "blur")}
        self.net = MatchNet(self.language.dim, self.likeness.vectors.dim, **settings)
        self.limits, self.description = limits or ReadLimits(), description

    def describe(self) -> dict[str, Any]:
        return self.description

    def layers(self) -> list[nn.Module]:
        return [self.net]

    # ------------------------------------------------------------------------------------------- reading (worker)

    def prepare(
        self, sample: Sample, policy: Policy | None, queries: Sequence[Query] = (), augment: Augment | None = None
    ) -> Prepared:
        if policy is None:
            raise MediaError(f"sample {sample.id!r}: backbone matcher judges by rules: give a policy")
        self.check([sample])
        events, cuts = read_messages(sample.messages, message_limit(self.limits))
        rules = self.rules_of(policy)
        texts = ["\n".join(p.text or "" for p in m.content if p.type == "text") for m in sample.messages]
        asked = asking.lay(queries, policy, len(events))
        return self.row(sample.id, policy, rules, events, texts, asked, _sights(rules, cuts))

    def row(
        self,
        id: str,
        policy: Policy,
        rules: list[RuleText],
        events: list[Event],
        texts: list[str],
        asked: list[tuple[int, int, int]],
        sights: list[Sight],
    ) -> Prepared:
        likeness = self.likeness.compare(rules, events)
        cut = sights[-1].truncated
        return Prepared(id, policy, rules, events, texts, self.vectors(events), likeness, asked, cut, sights)

    @staticmethod
    def rules_of(policy: Policy) -> list[RuleText]:
        return [read_rule(entry_text(e)) for e in policy.entries]

    def vectors(self, events: Sequence[Event]) -> np.ndarray:
        """[events, 2e]: of the verb, and the mean of what was said."""
        of = self.likeness.vectors
        rows = [np.concatenate([of.mean_of(words(e.verb)), of.mean_of(words(e.said)[:64])]) for e in events]
        return np.stack(rows) if rows else np.zeros((0, 2 * of.dim), np.float32)

    def sights(self, sample: Sample, policy: Policy) -> list[Sight]:
        """All messages are always in sight; some may be cut."""
        self.check([sample])
        return _sights(self.rules_of(policy), read_messages(sample.messages, message_limit(self.limits))[1])

    def collate(self, rows: Sequence[Prepared]) -> Batch:
        rules = [(i, rule, like) for i, row in enumerate(rows) for rule, like in zip(row.rules, row.likeness)]
        n, length = len(rules), max((len(r) for _, r, _ in rules), default=1)
        t = max((len(r.events) for r in rows), default=0)
        kinds, real = torch.zeros(n, length, dtype=torch.long), torch.zeros(n, length, dtype=torch.bool)
        numbers, likeness = torch.full((n, length), torch.nan), np.zeros((n, length, t, FEATURES), np.float32)
        for k, (_, rule, like) in enumerate(rules):
            kinds[k, : len(rule)], real[k, : len(rule)] = torch.tensor(rule.kinds), True
            numbers[k, : len(rule)] = torch.tensor([torch.nan if x is None else x for x in rule.numbers])
            likeness[k, : len(rule), : like.shape[1]] = like
        counts = torch.tensor([len(r.rules) for r in rows])
        owner = torch.tensor([i for i, _, _ in rules], dtype=torch.long)
        return Batch(
            list(rows),
            Rules(torch.zeros(n, 0, 0), kinds, numbers, real, owner),
            self.collate_events([(r.events, r.vectors) for r in rows]),
            torch.from_numpy(likeness),
            counts.cumsum(0) - counts,
            asking.collate([r.asked for r in rows]),
        )

    @staticmethod
    def collate_events(rows: Sequence[tuple[Sequence[Event], np.ndarray]]) -> Events:
        b, t = len(rows), max((len(e) for e, _ in rows), default=0)
        kinds, verbs = (torch.zeros(b, t, dtype=torch.long) for _ in range(2))
        flags = torch.zeros(b, t, FLAGS)
        vectors = torch.zeros(b, t, rows[0][1].shape[1] if rows else 0)
        for i, (events, of) in enumerate(rows):
            for j, e in enumerate(events):
                kinds[i, j], verbs[i, j] = e.kind, VERB.get(e.verb, len(VERB))
                flags[i, j] = torch.tensor([e.answer is True, e.answer is False, bool(e.target), e.value is not None])
            vectors[i, : len(events)] = torch.from_numpy(of)
        return Events(kinds, verbs, vectors, flags)

    # ------------------------------------------------------------------------------------------- scoring

    def filled(self, rules: Rules, texts: Sequence[RuleText]) -> Rules:
        """With the frozen encoder's states of their language."""
        states = self.language.states([r.said for r in texts])
        padded = nn.utils.rnn.pad_sequence(states, batch_first=True) if states else torch.zeros(0, 1, self.language.dim)
        return replace(rules, states=padded.to(rules.kinds.device).float())

    def encode(self, batch: Batch) -> State:
        rules = self.filled(batch.rules, [r for row in batch.rows for r in row.rules])
        known, _ = self.net(self.net.start(rules), batch.events, batch.likeness, rules.row)
        return State(known, batch)

    def score(self, state: State, queries: Sequence[Sequence[Query]] | None = None) -> Scores:
        batch = state.batch
        asked = batch.asked
        if queries is not None:
            laid = [asking.lay(q, row.policy, len(row.events)) for q, row in zip(queries, batch.rows)]
            asked = asking.collate(laid).to(batch.first.device)
        return asking.read_out(state.known, batch.first, batch.rules.row, asked)

    def option_tokens(self, batch: Batch) -> Tensor:
        return batch.asked.counts

    def score_groups(self, rows: Sequence[Prepared], groups: Sequence[tuple[int, Sequence[Query]]]) -> Scores:
        """Scores [g, q, o] of groups of queries within prepared rows: the rows are read once."""
        device = self.net.pool.weight.device
        state = self.encode(self.collate(rows).to(device))
        laid = [asking.lay(queries, rows[n].policy, len(rows[n].events)) for n, queries in groups]
        at = torch.tensor([n for n, _ in groups], dtype=torch.long, device=device)
        return asking.read_out(
            state.known, state.batch.first, state.batch.rules.row, asking.collate(laid).to(device), at
        )

    def stream(self, policy: Policy, target: str = "trajectory") -> Any:
        from zoo.core.matching.stream import MatchStream

        return MatchStream(self, policy)

    @torch.no_grad()
    def generate(self, state: State, suffixes: Sequence[Query], max_new_tokens: int = 64) -> list[str]:
        """The step that breaks a rule, where the suffix says `unsafe`: put together, at most `max_new_tokens` words."""
        out = []
        for i, (row, suffix) in enumerate(zip(state.batch.rows, suffixes)):
            at = slice(int(state.batch.first[i]), int(state.batch.first[i]) + len(row.rules))
            mine = Known(state.known.states[at], state.known.broken[at])
            said = evidence(mine, row.events, row.texts, row.policy) if "unsafe" in suffix.text else ""
            out.append(" ".join(said.split()[:max_new_tokens]))
        return out

    def input_embeddings(self, batch: Batch) -> Tensor:
        raise DataError("backbone matcher compares words with words: it has no input embeddings to search in")


def _sights(rules: Sequence[RuleText], cuts: Sequence[bool]) -> list[Sight]:
    """After none, one, … all messages: every one is in sight, and some were cut."""
    cut = any(r.cut for r in rules)
    out = [Sight(0, 0, cut)]
    for was in cuts:
        cut |= was
        out.append(Sight(0, 0, cut))
    return out
