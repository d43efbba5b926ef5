"""MiniLM as a reader: a phrase becomes one soft token, a passage one for each window of word pieces.

A phrase (a policy entry, a template's words) is the mean of its token states, which is what the model was trained to
make meaningful (Sentence-Transformers all-MiniLM-L6-v2). A passage keeps the order of its windows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from zoo.core.encoders.base import Encoder, with_times
from zoo.core.lora import add_lora

CHUNK = 254  # word pieces in one forward pass: 256 with [CLS] and [SEP], the length the model was trained for


def load_minilm(folder: Path) -> tuple[BertModel, object]:
    """The encoder and its tokenizer from a verified folder."""
    model = AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def random_bert(vocab_size: int = 30522, width: int = 32, layers: int = 1) -> BertModel:
    """A small random encoder of the same class, for tests."""
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=width * 2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertModel(config, add_pooling_layer=False)


def adapted(bert: BertModel, layers: int, rank: int, alpha: int) -> BertModel:
    """The same encoder with LoRA in its last `layers` layers, which are copies; the rest is shared with `bert`.

    Raises ValueError for more layers than there are, or none.
    """
    have = len(bert.encoder.layer)
    if not 0 < layers <= have:
        raise ValueError(f"text_lora.layers={layers}: the text encoder has {have} layers; give 1 to {have}")
    out = BertModel(bert.config, add_pooling_layer=False)
    upper = [copy.deepcopy(layer) for layer in bert.encoder.layer[have - layers :]]
    for layer in upper:
        add_lora(layer, rank, alpha, targets=["query", "key", "value", "dense"])
    out.embeddings = bert.embeddings
    out.encoder.layer = nn.ModuleList([*bert.encoder.layer[: have - layers], *upper])
    return out


class TextEncoder(Encoder):
    """`pool="phrase"` → 1 token; `pool="passage"` → for each chunk its mean, then the mean of each `window` states.

    Raw input: word-piece ids [n] without special tokens. An encoder with LoRA (`adapted`) is trained through `encode`.
    """

    def __init__(self, bert: BertModel, cls_id: int, sep_id: int, pool: str, window: int = 4):
        super().__init__()
        if pool not in ("phrase", "passage"):
            raise ValueError(f"pool must be phrase or passage, got {pool!r}")
        self.bert = bert
        self.pool, self.window = pool, window
        self.cls_id, self.sep_id = cls_id, sep_id
        self.dim = bert.config.hidden_size
        self.setting = f"text/{pool}/{window}/{CHUNK}"

    def num_tokens(self, raw: Tensor) -> int:
        if self.pool == "phrase":
            return 1
        return sum(1 + -(-n // self.window) for n in self.chunks(len(raw)))

    @staticmethod
    def chunks(n: int) -> list[int]:
        """Word pieces in each chunk of a text of `n`."""
        return [min(CHUNK, n - i) for i in range(0, max(n, 1), CHUNK)]

    def encode(self, raws: Sequence[Tensor]) -> list[Tensor]:
        device = next(self.bert.parameters()).device
        chunks, owner = [], []
        for i, raw in enumerate(raws):
            limit = CHUNK if self.pool == "phrase" else len(raw)
            for part in raw[:limit].split(CHUNK) if len(raw) else [raw]:
                ids = [self.cls_id, *part.tolist(), self.sep_id]
                chunks.append(torch.tensor(ids))
                owner.append(i)
        out: list[list[Tensor]] = [[] for _ in raws]
        order = sorted(range(len(chunks)), key=lambda i: len(chunks[i]))
        states: list[Tensor | None] = [None] * len(chunks)
        for start in range(0, len(order), 64):  # neighbours in length share a batch: little padding
            picked = order[start : start + 64]
            # Rounded: kernels are compiled and kept for each shape. A row that is only padding reads one token.
            shape = [-(-n // step) * step for n, step in ((len(picked), 8), (max(len(chunks[i]) for i in picked), 16))]
            ids, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)  # [b, t]
            mask[:, 0] = 1
            for row, i in enumerate(picked):
                ids[row, : len(chunks[i])], mask[row, : len(chunks[i])] = chunks[i], 1
            hidden = self.bert(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state  # [b, t, d]
            for row, i in enumerate(picked):
                states[i] = hidden[row, : len(chunks[i])].float()
        for i, state in zip(owner, states):
            mean = state.mean(0, keepdim=True)  # [1, d]
            if self.pool == "phrase":
                out[i].append(mean)
                continue
            words = state[1:-1]  # [n, d]
            out[i] += [mean, *(w.mean(0, keepdim=True) for w in words.split(self.window) if len(w))]
        return [with_times(torch.cat(o), torch.zeros(sum(len(x) for x in o))) for o in out]
