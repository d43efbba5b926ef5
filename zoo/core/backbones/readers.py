"""How a backbone reads words: through MiniLM, or with the language model's own tokens.

Either way, text is tokenised apart with special tokens split: whoever types a delimiter gets plain characters. The
delimiters of the template are token ids that no text can produce.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from datamodules.schema import MediaError, shown
from zoo.core.backbones.branches import RowBranches, lay_out
from zoo.core.backbones.tokens import IDS, Source
from zoo.core.encoders.text import CHUNK
from zoo.core.prompts import Turn
from zoo.core.query import Query, Said

MEMO = 8192  # short texts that are remembered
AROUND = " \n\t-:,?"  # what stands around a phrase and is not read
_bare: WeakKeyDictionary[Any, Tokenizer | None] = WeakKeyDictionary()
_first = threading.Lock()


def marks_of(tokenizer: Any) -> dict[str, int]:
    """Every token that was added beside the words, special or not, with its id. Runs of spaces are words."""
    return {t.content: id for id, t in tokenizer.added_tokens_decoder.items() if t.content.strip()}


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of `text` as characters: no mark is added, and none is recognised.

    Tokenizers can split special tokens, but not added tokens that are not flagged special (tags of tool calls, say):
    where there are any, a copy that calls all of them special reads. Threads may share a tokenizer.
    """
    if tokenizer not in _bare:
        # A first call changes a fast tokenizer's settings, and fails ("Already borrowed") while another is at work.
        with _first:
            if tokenizer not in _bare:
                bare = _without_marks(tokenizer)
                if bare is None:
                    _plain(tokenizer, "")
                _bare[tokenizer] = bare
    bare = _bare[tokenizer]
    return _plain(tokenizer, text) if bare is None else bare.encode(text, add_special_tokens=False).ids


def _plain(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]


def frequent_pieces(tokenizer: Any, size: int) -> PreTrainedTokenizerFast:
    """The same word-piece tokenizer with the first `size` entries of its vocabulary, which is sorted by frequency.

    A rarer word falls into pieces. A small model spends most of its time on the rows of a wide output table. Raises
    ValueError where `size` cuts off a special token.
    """
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {piece: i for piece, i in inner["model"]["vocab"].items() if i < size}
    if lost := [t for t in tokenizer.all_special_tokens if t not in kept]:
        raise ValueError(f"a vocabulary of {size} lacks the special tokens {lost}")
    inner["model"]["vocab"] = kept
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    special = {n: getattr(tokenizer, n) for n in names if getattr(tokenizer, n) is not None}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(inner)), **special)


def _without_marks(tokenizer: Any) -> Tokenizer | None:
    """A copy of a fast tokenizer's backend that splits all marks; None where all are special, or it is slow."""
    added = tokenizer.added_tokens_decoder.values()
    if not getattr(tokenizer, "is_fast", False) or all(t.special or not t.content.strip() for t in added):
        return None
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in parts["added_tokens"]:  # none is taken out: those that stay would get other ids
        token["special"] = bool(token["content"].strip())
    bare = Tokenizer.from_str(json.dumps(parts))
    bare.encode_special_tokens = True
    bare.no_truncation()
    bare.no_padding()
    return bare


class _Memo(dict):
    """Token ids of short texts that come again and again: names, options, the template's words."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer

    def __missing__(self, text: str) -> list[int]:
        if len(self) >= MEMO:
            self.clear()
        self[text] = ids = plain_ids(self.tokenizer, text)
        return ids


class Reader(Protocol):
    """`speaker` reads a label of who speaks, in a way that no text can imitate; `phrase` the template's words, `rule`
    the policy's (None where there is nothing to read); `content` anybody's.
    """

    def phrase(self, text: str) -> Source | None: ...
    def rule(self, text: str) -> Source | None: ...
    def suffix(self, pieces: Sequence[str]) -> list[Source]: ...
    def content(self, ids: Sequence[int]) -> list[Source]: ...
    def turn(self, turn: Turn) -> Source: ...
    def answer(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


def answers(reader: Reader, query: Query) -> list[list[int]]:
    """Token ids of each option of a query. Raises ValueError where one begins another and none is terminated."""
    ids = [reader.answer(o) for o in query.options]
    if query.terminated:
        return ids
    bare = [i[:-1] for i in ids]
    if any(a is not b and b[: len(a)] == a for a in bare for b in bare):
        raise ValueError(f"of the options {query.options} one begins another: they need their terminators")
    return bare


class TokenReader:
    """The language model's own tokens. `turns` maps (role, start) to delimiter ids."""

    def __init__(
        self, tokenizer: Any, terminator: int, start: Sequence[int], end: Sequence[int], newline: Sequence[int]
    ):
        self.ids, self.terminator, self._tokenizer = _Memo(tokenizer), terminator, tokenizer
        self._start, self._end, self._newline = list(start), list(end), list(newline)

    def _ids(self, ids: Sequence[int]) -> Source | None:
        return Source(IDS, torch.tensor(ids, dtype=torch.long), len(ids)) if len(ids) else None

    def phrase(self, text: str) -> Source | None:
        return self._ids(self.ids[text])

    def rule(self, text: str) -> Source | None:
        return self.phrase(text)

    def suffix_ids(self, pieces: Sequence[str]) -> list[int]:
        """Token ids of a query's suffix; what was `Said` stands in the tokens that it was written in."""
        groups = itertools.groupby(pieces, lambda p: isinstance(p, Said))
        return [id for _, group in groups for id in self.ids["".join(group)]]

    def suffix(self, pieces: Sequence[str]) -> list[Source]:
        source = self._ids(self.suffix_ids(pieces))
        return [source] if source else []

    def content(self, ids: Sequence[int]) -> list[Source]:
        source = self._ids(ids)
        return [source] if source else []

    def speaker(self, text: str) -> Source | None:
        return self._ids([*self._start, *self.ids[text]])

    def turn(self, turn: Turn) -> Source:
        marks = [*self._start, *self.ids[turn.role]] if turn.start else self._end
        source = self._ids([*marks, *self._newline])
        assert source is not None
        return source

    def answer(self, text: str) -> list[int]:
        """Token ids of an option, terminator last. A leading space: options follow a colon."""
        return [*self.ids[" " + text], self.terminator]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()


def query_ids(reader: TokenReader, queries: Sequence[Query]) -> tuple[Tensor, RowBranches]:
    """One row's queries as input ids [T] of its branches, with their layout."""
    suffixes = [reader.suffix_ids(q.suffix) for q in queries]
    options = [[reader.answer(o) for o in q.options] for q in queries]
    layout, order = lay_out([len(s) for s in suffixes], options)
    ids: list[int] = []
    for what, q, *rest in order:
        ids += suffixes[q] if what == "suffix" else options[q][rest[0]][:-1]
    return torch.tensor(ids, dtype=torch.long), layout


class EncodedReader:
    """MiniLM's states. A phrase is one token, a content text what encoders of the kinds `contents` make of it.

    Options are word pieces of `answers`.
    """

    def __init__(self, tokenizer: Any, make: Any, answers: Any, contents: Sequence[str] = ("passage",)):
        self.ids, self._answers, self._tokenizer = _Memo(tokenizer), _Memo(answers), answers
        self.terminator = answers.sep_token_id
        self._contents = contents
        self._make = make  # (kind, raw ids) -> Source, through the feature cache
        self._known: dict[str, Source] = {}  # encoded phrases: a row has dozens, nearly all met before

    def phrase(self, text: str) -> Source | None:
        known = self._known.get(text)
        if known is not None:
            return known
        words = text.strip(AROUND)
        if not words:
            return None
        source = self._make("phrase", torch.tensor(self.ids[words], dtype=torch.long))
        if source.ready:
            if len(self._known) >= MEMO:
                self._known.clear()
            self._known[text] = source
        return source

    def rule(self, text: str) -> Source | None:
        """Raises `MediaError` for a rule that is longer than the encoder reads: its end would be ignored unseen."""
        words = text.strip(AROUND)
        size = len(self.ids[words])
        if size > CHUNK:
            raise MediaError(
                f"policy: {shown(words)} takes {size} word pieces, and of a name or a description {CHUNK} are read: "
                "shorten it, or part it into several entries"
            )
        return self.phrase(text)

    def suffix(self, pieces: Sequence[str]) -> list[Source]:
        return [s for s in (self._said(p) if isinstance(p, Said) else self.phrase(p) for p in pieces) if s is not None]

    def _said(self, text: str) -> Source | None:
        ids = self._answers[text]
        return Source(IDS, torch.tensor(ids, dtype=torch.long), len(ids)) if ids else None

    def content(self, ids: Sequence[int]) -> list[Source]:
        if not len(ids):
            return []
        words = torch.tensor(ids, dtype=torch.long)
        return [self._make(kind, words) for kind in self._contents]

    def speaker(self, text: str) -> Source | None:
        return self.phrase(text)

    def turn(self, turn: Turn) -> Source:
        source = self.phrase(f"{'begin' if turn.start else 'end'} {turn.role}")
        assert source is not None
        return source

    def answer(self, text: str) -> list[int]:
        return [*self._answers[text], self.terminator]

    def decode(self, ids: Sequence[int]) -> str:
        # Word pieces come back with spaces before punctuation; byte-level tokens do not.
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=True).strip()


class WordReader(EncodedReader):
    """The policy's and anybody's words in the language model's own word pieces, those of `answers`.

    Order, numbers and repeated names stay what they are. What is asked is one token a phrase all the same: a rule that
    is asked about after every step costs a token, not a sentence, and its words stand in the policy. `spelled`: what is
    asked is read in word pieces, too.
    """

    def __init__(self, tokenizer: Any, make: Any, answers: Any, spelled: bool = False):
        super().__init__(tokenizer, make, answers, ())
        self._spelled = spelled

    def suffix(self, pieces: Sequence[str]) -> list[Source]:
        if not self._spelled:
            return super().suffix(pieces)
        return [s for s in map(self._said, pieces) if s is not None]

    def rule(self, text: str) -> Source | None:
        return self._said(text)

    def content(self, ids: Sequence[int]) -> list[Source]:
        return [Source(IDS, torch.tensor(ids, dtype=torch.long), len(ids))] if len(ids) else []
