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
from zoo.core.matching.reading import Event, RuleText, words

FIELDS = ("target", "value", "said")
OF_FIELD = 6  # equal, within the field, around it, share of its words, share of the field's, nearness
OF_VERB = 2  # the verb itself, nearness
OF_NUMBER = 3  # the value's first number is above it, equal, below
OF_PHRASE = 2  # the token is a part of the step's whole target, or value, as the rule says it
FEATURES = len(FIELDS) * OF_FIELD + OF_VERB + OF_NUMBER + OF_PHRASE
MEMO = 1 << 17  # words, and names in rules, that are remembered


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
    """Compares tokens with fields."""

    def __init__(self, vectors: WordVectors):
        self.vectors = vectors
        self._phrases: dict[tuple[tuple[str, ...], str], tuple[int, ...]] = {}

    def compare(self, rules: Sequence[RuleText], events: Sequence[Event]) -> list[np.ndarray]:
        """For each rule float32 [tokens, events, FEATURES]."""
        tokens = {text: i for i, text in enumerate(dict.fromkeys(t for rule in rules for t in rule.texts))}
        fields = {f: n for n, f in enumerate(dict.fromkeys(f for e in events for f in _fields(e) if f))}
        found = self.table(list(tokens), list(fields))  # [texts, fields + 1, OF_FIELD]
        at = np.array([[fields.get(f, len(fields)) for f in _fields(e)] for e in events], int).reshape(
            -1, 1 + len(FIELDS)
        )
        table = np.zeros((len(tokens), len(events), FEATURES), np.float32)
        table[:, :, :OF_VERB] = found[:, at[:, 0]][..., [0, 5]]
        for n in range(len(FIELDS)):
            first = OF_VERB + n * OF_FIELD
            table[:, :, first : first + OF_FIELD] = found[:, at[:, 1 + n]]
        out = []
        for rule in rules:
            mine = table[[tokens[text] for text in rule.texts]]  # [tokens, events, FEATURES]
            self._numbers(mine, rule, events)
            self._whole(mine, rule, events)
            out.append(mine)
        return out

    def table(self, texts: Sequence[str], fields: Sequence[str]) -> np.ndarray:
        """[texts, fields + 1, OF_FIELD], numbers up to 1: each text against each field; the last one is no field.

        All words are compared at once. A text or field without a word ("/") is equal to another or has nothing of it.
        """
        out = np.zeros((len(texts), len(fields) + 1, OF_FIELD), np.float32)
        if not texts or not fields:
            return out
        mine, theirs = [words(t) for t in texts], [words(f) for f in fields]
        ids: dict[str, int] = {}
        rows, starts, counts = _flat(mine, ids)
        columns, ends, lengths = _flat(theirs, ids)
        vectors = self.vectors.matrix(list(ids)) if ids else np.zeros((0, self.vectors.dim), np.float32)
        vectors = np.concatenate([vectors, np.zeros_like(vectors, shape=(1, self.vectors.dim))])  # −1: no word
        cosines = vectors[rows] @ vectors[columns].T  # [n, m]
        equal = ((rows[:, None] == columns) & (rows[:, None] >= 0)).astype(np.float32)
        across = np.maximum.reduceat(equal, ends, axis=1)  # [n, fields]
        down = np.maximum.reduceat(equal, starts, axis=0)  # [texts, m]
        near = np.maximum.reduceat(cosines, ends, axis=1)  # [n, fields]
        cover = np.add.reduceat(across, starts, axis=0) / counts[:, None]
        back = np.add.reduceat(down, ends, axis=1) / lengths
        folded = {t: n for n, t in enumerate(dict.fromkeys(fold(t) for t in (*texts, *fields)))}
        same = np.array([folded[fold(t)] for t in texts])[:, None] == np.array([folded[fold(f)] for f in fields])
        whole = out[:, :-1]
        whole[..., 0] = same
        whole[..., 1] = _runs(cover, mine, theirs)
        whole[..., 2] = _runs(back.T, theirs, mine).T
        whole[..., 3], whole[..., 4] = cover, back
        whole[..., 5] = np.add.reduceat(near, starts, axis=0) / counts[:, None]
        wordless = np.array([not w for w in mine])[:, None] | np.array([not w for w in theirs])
        whole[wordless] = same[wordless][:, None]
        out[[i for i, t in enumerate(texts) if not t]] = 0.0
        return out

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


def _fields(event: Event) -> tuple[str, ...]:
    """The verb, and those of FIELDS."""
    return event.verb, event.target, event.value or "", event.said


def _flat(texts: Sequence[tuple[str, ...]], ids: dict[str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of all words (−1: of a text without one), where each text's begin, and how many they are; `ids` grows."""
    flat = [ids.setdefault(w, len(ids)) if w else -1 for words_of in texts for w in words_of or ("",)]
    counts = np.array([max(1, len(w)) for w in texts])
    return np.array(flat), counts.cumsum() - counts, counts


def _runs(share: np.ndarray, parts: Sequence[tuple[str, ...]], wholes: Sequence[tuple[str, ...]]) -> np.ndarray:
    """Which parts' words stand in which wholes, one after the other [parts, wholes]; `share` of them are there."""
    out = share >= 1 - 1e-6
    for i, j in zip(*np.nonzero(out)):
        if len(parts[i]) > 1:
            out[i, j] = _places(parts[i], wholes[j]) != ()
    return out


def _places(part: Sequence[str], whole: Sequence[str]) -> tuple[int, ...]:
    """Where `part` begins within `whole`, one word after the other."""
    n = len(part)
    return tuple(s for s in range(len(whole) - n + 1) if whole[s] == part[0] and tuple(whole[s : s + n]) == tuple(part))
