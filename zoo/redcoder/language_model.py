"""A causal language model that answers chats, greedy: any folder in the hub's layout, or SmolLM2-135M.

Messages are tokenised apart from the marks between them, with special tokens split: nobody can type a turn's end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.schema import DataError
from zoo.core.backbones import causal_lm, converted_smollm2
from zoo.redcoder.chats import chat_ids, ends_of
from zoo.redcoder.conversation import ERROR, TIMED_OUT
from zoo.redcoder.victims import Answer, Messages, checked

SMOLLM2 = "smollm2"


class LanguageModel:
    """`timeout`: seconds for one batch; answers not finished then are timed out. `longest` is in characters."""

    def __init__(
        self,
        lm: Any,
        tokenizer: Any,
        name: str,
        longest: int,
        timeout: float,
        max_new_tokens: int = 400,
        batch_size: int = 8,
    ):
        self.lm, self.tokenizer, self.name = lm.eval(), tokenizer, name
        self.longest, self.timeout = longest, timeout
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.context = getattr(lm.config, "max_position_embeddings", None)
        self.ends = ends_of(lm, tokenizer)

    @classmethod
    def named(
        cls, name: str, role: str, longest: int, timeout: float, device: str, dtype: str, max_new_tokens: int,
        batch_size: int,
    ) -> LanguageModel:  # fmt: skip
        """`smollm2`, a folder, or a hub name. Raises `CheckpointError` for what is no causal language model."""
        if dtype not in causal_lm.DTYPES:
            raise DataError(f"lm.dtype={dtype}: one of {', '.join(causal_lm.DTYPES)}")
        if name != SMOLLM2 and not Path(name).is_dir() and "/" not in name:
            known = "scripted:NAME, endpoint, " if role == "victim" else "scripted:NAME (see the recipe), endpoint, "
            raise DataError(f"{role}={name}: expected {known}smollm2, a model's folder, or a hub name OWNER/NAME")
        folder = converted_smollm2() if name == SMOLLM2 else causal_lm.locate(name)
        lm, tokenizer = causal_lm.read(folder, dtype)
        return cls(lm.to(device), tokenizer, name, longest, timeout, max_new_tokens, batch_size)

    def prompt(self, chat: Messages) -> list[int]:
        """Token ids of a chat up to where the answer begins: the model's own template, ChatML, or plain words."""
        return chat_ids(self.tokenizer, chat, self.name)

    @torch.no_grad()
    def answers(self, chats: Sequence[Messages]) -> list[Answer]:
        out: dict[int, Answer] = {}
        prompts = [self.prompt(chat) for chat in chats]
        room = None if self.context is None else self.context - self.max_new_tokens
        for i, ids in enumerate(prompts):
            if room is not None and len(ids) > room:
                out[i] = Answer("", ERROR, f"{len(ids)} tokens, and the model has room for {room}")
        left = sorted((i for i in range(len(chats)) if i not in out), key=lambda i: len(prompts[i]))
        for start in range(0, len(left), self.batch_size):
            at = left[start : start + self.batch_size]
            out |= zip(at, self._batch([prompts[i] for i in at]))
        return [out[i] for i in range(len(chats))]

    def _batch(self, prompts: Sequence[list[int]]) -> list[Answer]:
        device = next(self.lm.parameters()).device
        longest = max(map(len, prompts))
        pad = min(self.ends) if self.ends else 0
        ids = torch.full((len(prompts), longest), pad, dtype=torch.long)  # [b, t]
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):  # on the left: all answers begin at one place
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        started = time.monotonic()
        said: Tensor = self.lm.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            max_time=self.timeout,
            eos_token_id=sorted(self.ends) or None,
            pad_token_id=pad,
        )[:, longest:].cpu()  # [b, n]
        late = time.monotonic() - started >= self.timeout and said.shape[1] < self.max_new_tokens
        out = []
        for row in said.tolist():
            end = next((n for n, t in enumerate(row) if t in self.ends), None)
            if late and end is None:
                out.append(Answer("", TIMED_OUT, f"not finished within {self.timeout:g} s"))
            else:
                out.append(checked(self.tokenizer.decode(row[:end], skip_special_tokens=True), self.longest))
        return out
