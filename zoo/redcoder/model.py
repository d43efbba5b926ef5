"""RedCoder's attacker: a causal language model that is told of a game and writes the next prompt. Plain torch.

Paper, section 3: fine-tuned on (history → next prompt) of prototype conversations. What it is told is the same chat
that any model gets that attacks (`attackers.attack_chat`), so training and playing never differ. Its weights are for
the evaluation of one's own models: `zoo.publish` refuses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from datamodules.schema import DataError
from zoo.core.backbones import small_llama
from zoo.core.backbones.readers import plain_ids
from zoo.redcoder.chats import END, START, answer_end, chat_ids

NONE = -100  # no target


@dataclass(frozen=True)
class Row:
    """Token ids of a chat and of the prompt after it; the last `answer` of them are the prompt's, with its end."""

    ids: list[int]
    answer: int


@dataclass
class PromptBatch:
    """`ids` and `mask` [b, t], filled on the left; `targets` [b, n] are the last n ids, NONE where a chat is."""

    ids: Tensor
    mask: Tensor
    targets: Tensor

    def to(self, device: torch.device | str, **kw: bool) -> PromptBatch:
        return PromptBatch(self.ids.to(device, **kw), self.mask.to(device, **kw), self.targets.to(device, **kw))


@dataclass(frozen=True)
class Sums:
    """Over the targets of rows: summed negative log-likelihood in nats, how many are the likeliest token, how many
    there are; and how many rows are written right to their end (greedy writing gives that very prompt)."""

    nll: Tensor
    right: int
    tokens: int
    whole: int
    rows: int


class NextPrompt(nn.Module):
    """`lm` with its tokenizer. `context` is the most tokens of a chat with its prompt; `name` stands in messages."""

    def __init__(self, lm: Any, tokenizer: Any, name: str, context: int):
        """Raises `DataError` for a tokenizer without an end of sequence: nothing could say where a prompt ends."""
        super().__init__()
        self.lm, self.tokenizer, self.name = lm, tokenizer, name
        self.context = min(context, getattr(lm.config, "max_position_embeddings", None) or context)
        end = answer_end(tokenizer)
        if end is None:
            raise DataError(f"{name}: the tokenizer has neither ChatML's marks nor an end-of-sequence token")
        self.end: int = end

    def row(self, chat: Sequence[dict[str, str]], prompt: str) -> Row:
        """Raises `DataError` for a row of more tokens than `context`: cut, it would teach something else."""
        answer = [*plain_ids(self.tokenizer, prompt), self.end]
        ids = [*chat_ids(self.tokenizer, chat, self.name), *answer]
        if len(ids) > self.context:
            raise DataError(f"{len(ids)} tokens, and {self.name} has room for {self.context}: set limits.reply lower")
        return Row(ids, len(answer))

    def collate(self, rows: Sequence[Row]) -> PromptBatch:
        longest, most = max(len(r.ids) for r in rows), max(r.answer for r in rows)
        ids = torch.full((len(rows), longest), self.end)  # [b, t]
        mask = torch.zeros_like(ids)  # [b, t]
        targets = torch.full((len(rows), most), NONE)  # [b, n]
        for i, row in enumerate(rows):  # on the left: the last ids of all rows are their prompts'
            ids[i, longest - len(row.ids) :] = torch.tensor(row.ids)
            mask[i, longest - len(row.ids) :] = 1
            targets[i, most - row.answer :] = torch.tensor(row.ids[-row.answer :])
        return PromptBatch(ids, mask, targets)

    def forward(self, batch: PromptBatch) -> Tensor:
        """Logits of the targets, [b, n, v]: those at the place before each."""
        n = batch.targets.shape[1]
        positions = (batch.mask.cumsum(1) - 1).clamp_min(0)  # [b, t]; those that `generate` gives
        out = self.lm(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=positions,
            use_cache=False,
            logits_to_keep=n + 1,  # a vocabulary of 50,000 over every place of a chat would not fit
        )
        return out.logits[:, -n - 1 : -1]

    def sums(self, batch: PromptBatch) -> Sums:
        logits = self(batch).float()  # [b, n, v]
        asked = batch.targets != NONE  # [b, n]
        nll = nn.functional.cross_entropy(
            logits.flatten(0, 1), batch.targets.flatten(), ignore_index=NONE, reduction="sum"
        )
        right = (logits.argmax(-1) == batch.targets) & asked  # [b, n]
        whole = (right | ~asked).all(1)  # [b]
        return Sums(nll, int(right.sum()), int(asked.sum()), int(whole.sum()), len(whole))

    def trained_state(self) -> dict[str, Tensor]:
        """What training changes, by name: adapters alone, or every weight. Tied weights are there once."""
        return {name: p.detach() for name, p in self.lm.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load_trained(self, state: dict[str, Tensor]) -> None:
        """Puts back what `trained_state` gave. Raises `DataError` for names or shapes of another model."""
        own = self.trained_state()
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in state.items()}:
            raise DataError(f"{self.name}: its weights are of another model than its config.json says")
        for name, tensor in own.items():
            tensor.copy_(state[name])


def total(parts: Iterable[Sums]) -> Sums:
    """Of several batches. Raises ValueError for none."""
    parts = list(parts)
    if not parts:
        raise ValueError("nothing to add up")
    nll = torch.stack([p.nll.detach().cpu() for p in parts]).sum()
    right, tokens = sum(p.right for p in parts), sum(p.tokens for p in parts)
    return Sums(nll, right, tokens, sum(p.whole for p in parts), sum(p.rows for p in parts))


def figures(sums: Sums) -> dict[str, float]:
    """Loss a token in nats, share of right tokens, and share of prompts written right to their end."""
    return {
        "loss": float(sums.nll.detach()) / sums.tokens,
        "token_accuracy": sums.right / sums.tokens,
        "exact": sums.whole / sums.rows,
    }


# ------------------------------------------------------------------------------------------- a small model from scratch


def byte_pairs(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of these texts, with ChatML's marks. Nothing is lost: it writes any text as it was."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END, START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return tokenizer_of(inner.to_str())


def tokenizer_of(text: str) -> PreTrainedTokenizerFast:
    """A tokenizer of `byte_pairs` from its JSON."""
    inner = Tokenizer.from_str(text)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=END, pad_token=END, additional_special_tokens=[START]
    )


def small_model(shape: dict[str, Any], tokenizer: Any) -> Any:
    """A Llama from scratch of `shape` (layers, width, heads, mlp) over a tokenizer of `byte_pairs`."""
    return small_llama(shape, len(tokenizer), tokenizer.eos_token_id)
