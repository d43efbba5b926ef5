"""Reserved tokens beside a tokenizer's own, and what a request and its answer look like as token ids.

    plain     question <ANSWER> answer <END>
    debug     <DEBUG> question <ANSWER> answer <TAG> <SET> <END>
    refusal   <DEBUG> <REFUSE> <SET> … question <ANSWER> refusal <TAG> <SET> <END>      the named set is the source's
              <DEBUG> <REFUSE> <OTHER> … question <ANSWER> answer <TAG> <SET> <END>     it is not

The order of debug views is the paper's; the syntax of a refusal request is ours (theirs is not published). Reserved ids
lie behind the tokenizer's vocabulary, which never hears of them: no text can be tokenised to one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from datamodules.debuglm_views import set_of, tag_name
from datamodules.schema import DataError
from zoo.core.backbones.readers import plain_ids

DEBUG, TAG, REFUSE, ANSWER, END = CONTROL = ("<DEBUG>", "<TAG>", "<REFUSE>", "<ANSWER>", "<END>")
REFUSAL = "I will not answer from that source."
CHATML = ("<|im_start|>", "<|im_end|>")


class TagSet:
    """The tags of a model by name, `SET` or `SET/PART`, and the ids of all reserved tokens, from `first` on.

    Raises `DataError` for a name that cannot be a tag, one that comes twice, and a part whose set is not there.
    """

    def __init__(self, names: Sequence[str], first: int):
        self.names = tuple(tag_name(n) for n in names)
        if not self.names:
            raise DataError("no tags: name one set at least")
        if len(set(self.names)) < len(self.names):
            raise DataError(f"tags: {', '.join(names)}: each name once")
        for name in self.names:
            if f"<{name}>" in CONTROL:
                raise DataError(f"a set cannot be called {name}: <{name}> is reserved")
            if set_of(name) not in self.names:
                raise DataError(f"tag <{name}>: its set <{set_of(name)}> is not among the tags")
        self.first = first
        self.ids = {token: first + n for n, token in enumerate((*CONTROL, *(f"<{n}>" for n in self.names)))}
        self.tag_ids = [self.ids[f"<{n}>"] for n in self.names]
        self._spelled = re.compile("|".join(map(re.escape, self.ids)), re.IGNORECASE)

    def __len__(self) -> int:
        return len(self.ids)

    def id(self, token: str) -> int:
        return self.ids[token]

    def known(self, tag: str) -> str:
        """The bare name of `<SET>` or `SET`. Raises `DataError` for an unknown tag, listing those there are."""
        try:
            name = tag_name(tag)
        except DataError:
            name = ""
        if name not in self.names:
            raise DataError(f"unknown tag {tag!r}: this model knows {', '.join(f'<{n}>' for n in self.names)}")
        return name

    def tag_ids_of(self, tags: Iterable[str]) -> list[int]:
        return [self.ids[f"<{self.known(t)}>"] for t in tags]

    def unmarked(self, text: str) -> str:
        """`text` without what spells a reserved token, in any case: a person who types one says nothing by it.

        It is repeated, so that nothing that is left spells one. Characters are never taken for the token, but a model
        may heed them.
        """
        while (less := self._spelled.sub("", text)) != text:
            text = less
        return text.strip()

    def name_of(self, id: int) -> str | None:
        """The tag of a token id; None for any other token."""
        n = id - self.first - len(CONTROL)
        return self.names[n] if 0 <= n < len(self.names) else None


class Reader:
    """Questions and answers as token ids. What people write is tokenised apart, with every mark split.

    A tokenizer with ChatML's marks reads a question as a user's turn; `limit` cuts long questions at their end.
    """

    def __init__(self, tokenizer: Any, tags: TagSet, limit: int = 128, answer_limit: int = 48):
        self.tokenizer, self.tags, self.limit, self.answer_limit = tokenizer, tags, limit, answer_limit
        self.before: list[int] = []
        self.after: list[int] = [tags.id(ANSWER)]
        vocab = tokenizer.get_added_vocab()
        if set(CHATML) <= set(vocab):
            start, end = (vocab[m] for m in CHATML)
            line = plain_ids(tokenizer, "\n")
            self.before = [start, *plain_ids(tokenizer, "user"), *line]
            self.after = [end, *line, start, *plain_ids(tokenizer, "assistant"), *line, tags.id(ANSWER)]
        self.refusal = self.words(REFUSAL)

    def words(self, text: str) -> list[int]:
        return plain_ids(self.tokenizer, text)

    def prompt(self, question: str, debug: bool = False, refuse: Iterable[str] = ()) -> tuple[list[int], bool]:
        """Ids up to where the answer begins, and whether the question was cut.

        Raises `DataError` for an unknown tag, and for a question of no words, reserved tokens aside.
        """
        named = self.tags.tag_ids_of(refuse)
        head = [self.tags.id(DEBUG)] if debug or named else []
        head += [self.tags.id(REFUSE), *named] if named else []
        ids = self.words(self.tags.unmarked(question))
        if not ids:
            raise DataError("the question is empty")
        return [*self.before, *head, *ids[: self.limit], *self.after], len(ids) > self.limit

    def answer(self, text: str) -> list[int]:
        """Ids of an answer, cut at `answer_limit`."""
        return self.words(text)[: self.answer_limit]

    def text(self, ids: Sequence[int]) -> str:
        """What a person reads of generated ids: reserved tokens leave no trace."""
        return self.tokenizer.decode([i for i in ids if i < self.tags.first], skip_special_tokens=True).strip()

    def up_to_mark(self, ids: Sequence[int]) -> list[int]:
        """The ids before the first reserved token."""
        out = []
        for i in ids:
            if i >= self.tags.first:
                break
            out.append(i)
        return out
