"""The matcher's network: what a rule means, what of it each event does, and what is known of the rule by then.

A rule's words, with a letter for each name, come as states of a frozen encoder, so that its form is read apart from
what it is about. Each token meets each event with the features of `likeness`; their sum over the tokens says what the
event means to the rule. A recurrent net goes over the events, as an automaton would: it sees no later event, so a
prefix is scored as if it were alone, and a stream costs the same for each step however long it is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from datamodules.trajectory import STATES, VERBS
from zoo.core.matching.likeness import FEATURES

KINDS = 4  # of events
TOKEN_KINDS = 3
FLAGS = 4  # of an event: a yes, a no, a target, a value
COUNTS = 16  # numbers that are told apart
CELLS = 1 << 18  # token-event pairs that are compared at once when nothing is learned


@dataclass(frozen=True)
class Rules:
    """n rules of a batch, padded to l tokens.

    `states` [n, l, s] of the frozen encoder; `kinds` [n, l]; `numbers` [n, l], NaN where a token names none; `real`
    [n, l]; `row` [n]: the sample that each is asked of.
    """

    states: Tensor
    kinds: Tensor
    numbers: Tensor
    real: Tensor
    row: Tensor

    def to(self, device: torch.device | str, **kw: bool) -> Rules:
        return Rules(*(getattr(self, f.name).to(device, **kw) for f in fields(self)))


@dataclass(frozen=True)
class Events:
    """b samples of up to t events: `kinds` [b, t], `verbs` [b, t] (a number in VERBS, or the one after them), `vectors`
    [b, t, 2e] of the verb and of what was said, `flags` [b, t, FLAGS].
    """

    kinds: Tensor
    verbs: Tensor
    vectors: Tensor
    flags: Tensor

    def to(self, device: torch.device | str, **kw: bool) -> Events:
        return Events(*(getattr(self, f.name).to(device, **kw) for f in fields(self)))


@dataclass(frozen=True)
class Memory:
    """What goes on from event to event: of n rules `tokens` [n, l, d] and `meaning` [n, d], and what was seen."""

    tokens: Tensor
    meaning: Tensor
    real: Tensor
    hidden: Tensor  # [n, d]
    cell: Tensor  # [n, d]


@dataclass(frozen=True)
class Known:
    """After none, one, … t events: `states` [n, t + 1, 3], logits of STATES; `broken` [n, t + 1], log-odds that the
    rule is broken if the trajectory ends there.
    """

    states: Tensor
    broken: Tensor


class MatchNet(nn.Module):
    """`states`: width of the frozen encoder's states; `words`: of its word vectors.

    `noise` is dropout within; `blur` that of the frozen states: other words for the same are near, and not the same.
    """

    def __init__(
        self,
        states: int,
        words: int,
        width: int = 96,
        layers: int = 2,
        match: int = 48,
        memory: int = 128,
        noise: float = 0.1,
        blur: float = 0.3,
    ):
        super().__init__()
        self.read = nn.Linear(states, width)
        self.token_kind = nn.Embedding(TOKEN_KINDS, width)
        self.count = nn.Linear(COUNTS + 2, width)
        self.norm = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, noise, "gelu", batch_first=True, norm_first=True)
        self.language = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.pool = nn.Linear(width, 1)
        self.event_kind = nn.Embedding(KINDS, width)
        self.verb = nn.Embedding(len(VERBS) + 1, width)
        self.event = nn.Linear(2 * words + FLAGS, width)
        self.by_event, self.by_token = nn.Linear(width, match), nn.Linear(width, match, bias=False)
        self.by_likeness = nn.Linear(FEATURES, match, bias=False)
        self.asks, self.answers = nn.Linear(width, width), nn.Linear(width, width)  # a token's words against a verb
        self.heads = 8
        self.by_heads = nn.Linear(self.heads, match, bias=False)
        self.happens = nn.Sequential(nn.Linear(match + width, memory), nn.GELU(), nn.Dropout(noise))
        self.begin = nn.Linear(width, 2 * memory)
        self.goes_on = nn.LSTM(memory + width, memory, batch_first=True)
        self.judge = nn.Sequential(nn.Linear(memory + width, memory), nn.GELU(), nn.Linear(memory, len(STATES) + 1))
        self.dropout, self.blur = nn.Dropout(noise), nn.Dropout(blur)

    def start(self, rules: Rules) -> Memory:
        """What the rules mean, before any event."""
        known = ~rules.numbers.isnan()  # [n, l]
        number = rules.numbers.nan_to_num()
        exact = nn.functional.one_hot(number.clamp(0, COUNTS - 1).long(), COUNTS) * known[..., None]  # [n, l, c]
        size = torch.stack([known.float(), number.clamp_min(0).log1p() / 5], -1)  # [n, l, 2]
        x = self.read(self.blur(rules.states)) + self.token_kind(rules.kinds)
        x = self.norm(x + self.count(torch.cat([exact.to(size.dtype), size], -1)))
        x = self.language(x, src_key_padding_mask=~rules.real)  # [n, l, d]
        share = self.pool(x).squeeze(-1).masked_fill(~rules.real, -1e4).softmax(-1)  # [n, l]
        meaning = (share.unsqueeze(-1) * x).sum(1)  # [n, d]
        hidden, cell = torch.tanh(self.begin(meaning)).chunk(2, -1)
        return Memory(x, meaning, rules.real, hidden, cell)

    def forward(self, memory: Memory, events: Events, likeness: Tensor, row: Tensor) -> tuple[Known, Memory]:
        """What is known, and the memory after all. `likeness` [n, l, t, FEATURES]; `row` [n]: each rule's sample."""
        happened = self._meet(memory, events, likeness, row)  # [n, t, m]
        n, t, _ = happened.shape
        x = torch.cat([happened, memory.meaning.unsqueeze(1).expand(n, t, -1)], -1)
        first = memory.hidden.unsqueeze(0).contiguous(), memory.cell.unsqueeze(0).contiguous()
        if t:
            out, (hidden, cell) = self.goes_on(x, first)  # [n, t, m]
            out = torch.cat([memory.hidden.unsqueeze(1).to(out.dtype), out], 1)  # [n, t + 1, m]
        else:
            out, (hidden, cell) = memory.hidden.unsqueeze(1), first
        logits = self.judge(
            torch.cat([out, memory.meaning.unsqueeze(1).expand(n, t + 1, -1).to(out.dtype)], -1)
        ).float()
        return Known(logits[..., :-1], logits[..., -1]), replace(memory, hidden=hidden[0], cell=cell[0])

    def _meet(self, memory: Memory, events: Events, likeness: Tensor, row: Tensor) -> Tensor:
        """What each event means to each rule [n, t, m]; a part of the events at a time where nothing is learned."""
        n, length, t, _ = likeness.shape
        size = t if torch.is_grad_enabled() else max(1, CELLS // max(1, n * length))
        parts = []
        for start in range(0, t, max(1, size)):
            at = slice(start, start + size)
            mine = Events(*(getattr(events, f.name)[:, at] for f in fields(events)))
            parts.append(self._met(memory, mine, likeness[:, :, at], row))
        return torch.cat(parts, 1) if parts else memory.hidden.new_zeros(n, 0, memory.hidden.shape[-1])

    def _met(self, memory: Memory, events: Events, likeness: Tensor, row: Tensor) -> Tensor:
        u = self.event(self.dropout(torch.cat([events.vectors, events.flags], -1)))
        u = nn.functional.gelu(u + self.event_kind(events.kinds) + self.verb(events.verbs))[row]  # [n, t, d]
        ask = self.asks(memory.tokens).unflatten(-1, (self.heads, -1))  # [n, l, h, d / h]
        answer = self.answers(u).unflatten(-1, (self.heads, -1))  # [n, t, h, d / h]
        fits = torch.einsum("nlhe,nthe->nlth", ask, answer) / ask.shape[-1] ** 0.5  # [n, l, t, h]
        z = self.by_likeness(likeness.to(fits.dtype)) + self.by_heads(fits)  # [n, l, t, d]
        z = z + self.by_token(memory.tokens).unsqueeze(2) + self.by_event(u).unsqueeze(1)
        z = nn.functional.gelu(z)  # [n, l, t, z]
        total = torch.einsum("nltz,nl->ntz", z, memory.real.to(z.dtype)) / 4
        return self.happens(torch.cat([total, u.to(total.dtype)], -1))
