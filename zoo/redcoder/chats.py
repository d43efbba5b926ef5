"""A chat as token ids: by the tokenizer's own template, ChatML's marks, or plain words.

Messages are tokenised apart from the marks between them, with special tokens split: nobody can type a turn's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from datamodules.schema import DataError
from zoo.core.backbones.readers import marks_of, plain_ids

START, END = "<|im_start|>", "<|im_end|>"
HOLE = "\ue000{}\ue001"  # stands for the n-th message while a chat template is rendered


def chat_ids(tokenizer: Any, chat: Sequence[dict[str, str]], name: str) -> list[int]:
    """Token ids of a chat up to where the answer begins. Raises `DataError` for a template that leaves words out."""
    if getattr(tokenizer, "chat_template", None):
        holes = [{"role": m["role"], "content": HOLE.format(n)} for n, m in enumerate(chat)]
        try:
            text = tokenizer.apply_chat_template(holes, add_generation_prompt=True, tokenize=False)
        except TemplateError:  # some take no system message: its words go before the user's
            text = tokenizer.apply_chat_template(_folded(holes), add_generation_prompt=True, tokenize=False)
    else:
        marked = {START, END} <= set(marks_of(tokenizer))
        before, after = (START + "{}\n", END + "\n") if marked else ("{}:\n", "\n\n")
        turns = [before.format(m["role"]) + HOLE.format(n) + after for n, m in enumerate(chat)]
        text = "".join(turns) + before.format("assistant")
    out: list[int] = []
    for n, m in enumerate(chat):
        fixed, hole, text = text.partition(HOLE.format(n))
        if not hole:
            raise DataError(f"{name}: its chat template leaves out message {n + 1} of the conversation")
        out += _marked(tokenizer, fixed) + plain_ids(tokenizer, m["content"])
    return out + _marked(tokenizer, text)


def _marked(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


def _folded(chat: list[dict[str, str]]) -> list[dict[str, str]]:
    """A system message as the beginning of the message after it."""
    if len(chat) < 2 or chat[0]["role"] != "system":
        return chat
    first, second, *others = chat
    return [{**second, "content": f"{first['content']}\n\n{second['content']}"}, *others]


def ends_of(lm: Any, tokenizer: Any) -> set[int]:
    """The tokens that end an answer: the model's own, the tokenizer's, and ChatML's."""
    ends = lm.generation_config.eos_token_id
    own = ends if isinstance(ends, list) else [ends]
    return {*own, tokenizer.eos_token_id, marks_of(tokenizer).get(END)} - {None}


def answer_end(tokenizer: Any) -> int | None:
    """The token that a written answer ends with: ChatML's where the tokenizer has it, else its end of sequence."""
    return marks_of(tokenizer).get(END, tokenizer.eos_token_id)
