"""How alike a token of a rule and the fields of an event are: equal, contained, or near in meaning. Nothing is learned.

Words are near by the cosine of MiniLM's word vectors, frozen: "deleting" is near "delete". So a matcher knows what a
name refers to before its first step of training, on sites that it has never seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datamodules.rules import fold, number_in
from zoo.core.backbones.readers import plain_ids
from zoo.core.matching.reading import NAME, Event, RuleText, words

FIELDS = ("target", "value", "said")
OF_FIELD = 6  # equal, within the field, around it, share of its words, share of the field's, nearness
OF_VERB = 2  # the verb itself, nearness
OF_NUMBER = 3  # the value's first number is above it, equal, below
OF_PHRASE = 2  # the token is a part of the step's whole target, or value, as the rule says it
FEATURES = len(FIELDS) * OF_FIELD + OF_VERB + OF_NUMBER + OF_PHRASE
MEMO = 1 << 18  # comparisons that are remembered
NOTHING = (0.0,) * OF_FIELD


class WordVectors:
    """Frozen vectors of words [e], of length 1: the mean of their word pieces' vectors, less that of all pieces."""

    def __init__(self, table: Any, tokenizer: Any):
        """`table` [v, e]: the input embeddings of the tokenizer's encoder."""
        table = np.asarray(table, dtype=np.float32)
        self.table, self.mean = table, table.mean(0)
        self.tokenizer = tokenizer
        self.dim = table.shape[1]
        self._memo: dict[str, np.ndarray] = {}

    def __call__(self, word: str) -> np.ndarray:
        found = self._memo.get(word)
        if found is None:
            ids = plain_ids(self.tokenizer, word)
            vector = self.table[ids].mean(0) - self.mean if ids else np.zeros(self.dim, np.float32)
            found = vector / max(float(np.linalg.norm(vector)), 1e-6)
            if len(self._memo) >= MEMO:
                self._memo.clear()
            self._memo[word] = found
        return found

    def matrix(self, of: Sequence[str]) -> np.ndarray:
        """[n, e]"""
        return np.stack([self(w) for w in of])

    def mean_of(self, of: Sequence[str]) -> np.ndarray:
        """[e]; zeros of no word."""
        return self.matrix(of).mean(0) if len(of) else np.zeros(self.dim, np.float32)


class Likeness:
    """Compares tokens with fields, and remembers what it has compared."""

    def __init__(self, vectors: WordVectors):
        self.vectors = vectors
        self._fields: dict[tuple[str, str], tuple[float, ...]] = {}
        self._phrases: dict[tuple[tuple[str, ...], str], tuple[int, ...]] = {}

    def compare(self, rules: Sequence[RuleText], events: Sequence[Event]) -> list[np.ndarray]:
        """For each rule float32 [tokens, events, FEATURES]."""
        tokens: dict[tuple[str, bool], int] = {}
        for rule in rules:
            for text, kind in zip(rule.texts, rule.kinds):
                tokens.setdefault((text, kind == NAME), len(tokens))
        table = np.zeros((len(tokens), len(events), FEATURES), np.float32)
        texts = [text for text, _ in tokens]
        table[:, :, :OF_VERB] = self._against(texts, [e.verb for e in events])[..., [0, 5]]
        for n, name in enumerate(FIELDS):
            first = OF_VERB + n * OF_FIELD
            table[:, :, first : first + OF_FIELD] = self._against(texts, [getattr(e, name) or "" for e in events])
        out = []
        for rule in rules:
            at = [tokens[text, kind == NAME] for text, kind in zip(rule.texts, rule.kinds)]
            mine = table[at]  # [tokens, events, FEATURES]
            self._numbers(mine, rule, events)
            self._whole(mine, rule, events)
            out.append(mine)
        return out

    def _against(self, texts: Sequence[str], fields: Sequence[str]) -> np.ndarray:
        """[texts, fields, OF_FIELD]; a field that comes again is compared once."""
        places = {field: n for n, field in enumerate(dict.fromkeys(f for f in fields if f))}
        found = np.zeros((len(texts), len(places) + 1, OF_FIELD), np.float32)  # the last one is no field at all
        for field, n in places.items():
            found[:, n] = [self.field(text, field) for text in texts]
        return found[:, [places.get(f, len(places)) for f in fields]]

    def field(self, text: str, field: str) -> tuple[float, ...]:
        """OF_FIELD numbers up to 1 for a token's text and a field's; zeros where one is empty."""
        if not text or not field:
            return NOTHING
        key = text, field
        found = self._fields.get(key)
        if found is None:
            if len(self._fields) >= MEMO:
                self._fields.clear()
            found = self._fields[key] = self._compare(text, field)
        return found

    def _compare(self, text: str, field: str) -> tuple[float, ...]:
        same = float(fold(text) == fold(field))
        mine, theirs = words(text), words(field)
        if not mine or not theirs:
            return (same, same, same, same, same, same)
        ours, others = set(mine), set(theirs)
        cosines = self.vectors.matrix(mine) @ self.vectors.matrix(theirs).T  # [n, m]
        return (
            same,
            float(_places(mine, theirs) != ()),
            float(_places(theirs, mine) != ()),
            sum(w in others for w in mine) / len(mine),
            sum(w in ours for w in theirs) / len(theirs),
            float(cosines.max(1).mean()),
        )

    def _numbers(self, out: np.ndarray, rule: RuleText, events: Sequence[Event]) -> None:
        first = OF_VERB + len(FIELDS) * OF_FIELD
        named = [(i, n) for i, n in enumerate(rule.numbers) if n is not None]
        for t, event in enumerate(events if named else ()):
            number = number_in(event.value[:200]) if event.value else None
            if number is None:
                continue
            for i, n in named:
                out[i, t, first : first + OF_NUMBER] = number > n, number == n, number < n

    def _whole(self, out: np.ndarray, rule: RuleText, events: Sequence[Event]) -> None:
        first = FEATURES - OF_PHRASE
        for t, event in enumerate(events):
            for k, field in enumerate((event.target, event.value)):
                for i in self.phrase(rule, field) if field else ():
                    out[i, t, first + k] = 1.0

    def phrase(self, rule: RuleText, field: str) -> tuple[int, ...]:
        """The rule's tokens that the whole field covers where its words stand in the rule."""
        key = rule.texts, field
        found = self._phrases.get(key)
        if found is None:
            said = [(w, i) for i, text in enumerate(rule.texts) for w in words(text)]
            theirs = words(field)
            starts = _places(theirs, [w for w, _ in said]) if theirs else ()
            found = tuple(sorted({i for s in starts for _, i in said[s : s + len(theirs)]}))
            if len(self._phrases) >= MEMO:
                self._phrases.clear()
            self._phrases[key] = found
        return found


def _places(part: Sequence[str], whole: Sequence[str]) -> tuple[int, ...]:
    """Where `part` begins within `whole`, one word after the other."""
    if len(part) > len(whole):
        return ()
    return tuple(
        s
        for s in range(len(whole) - len(part) + 1)
        if whole[s] == part[0] and tuple(whole[s : s + len(part)]) == tuple(part)
    )
