"""The language of a rule: states of a frozen MiniLM for each of its tokens, names and numbers taken out.

Only the lower layers of MiniLM are read: who does what to what is plainer there than in its last ones, which were
trained to make one vector of a sentence; and each of them costs as much as all that is trained here.

What is left of a rule without its names ('only press "x" after filling in "y"') is a sentence that comes again with
other names: each is encoded once and remembered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertModel

from zoo.core.backbones.readers import plain_ids

PIECES = 5  # of one word: longer ones are no words
BATCH = 64
MEMO = 1 << 14  # sentences that are remembered


class Language(nn.Module):
    """`layers` of the encoder are read; `dim` is the width of its states, those of the last one beside its embeddings.

    Raises `ValueError` for more layers than it has.
    """

    def __init__(self, bert: BertModel, tokenizer: Any, layers: int = 3):
        super().__init__()
        if not 0 <= layers <= len(bert.encoder.layer):
            raise ValueError(f"reads={layers}: the text encoder has {len(bert.encoder.layer)} layers")
        self.bert = BertModel(bert.config, add_pooling_layer=False).eval().requires_grad_(False)
        self.bert.embeddings = bert.embeddings.requires_grad_(False)
        self.bert.encoder.layer = bert.encoder.layer[:layers].requires_grad_(False)
        self.ends = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.tokenizer = tokenizer
        self.dim = (2 if layers else 1) * bert.config.hidden_size
        self._words: dict[str, list[int]] = {}
        self._memo: dict[tuple[str, ...], Tensor] = {}

    def train(self, mode: bool = True) -> Language:
        """Stays in evaluation mode: it is frozen."""
        return super().train(False)

    def states(self, sentences: Sequence[tuple[str, ...]]) -> list[Tensor]:
        """For each sentence [words, dim], half precision, on the CPU; a word of several pieces has their mean."""
        new = [s for s in dict.fromkeys(sentences) if s not in self._memo]
        if len(self._memo) + len(new) > MEMO:
            self._memo.clear()
            new = list(dict.fromkeys(sentences))
        new.sort(key=len)
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            self._memo.update(zip(part, self._encode(part)))
        return [self._memo[s] for s in sentences]

    @torch.no_grad()
    def _encode(self, sentences: Sequence[tuple[str, ...]]) -> list[Tensor]:
        pieces = [[self._pieces(w) for w in s] for s in sentences]
        rows = [[self.ends[0], *(i for w in s for i in w), self.ends[1]] for s in pieces]
        device = self.bert.embeddings.word_embeddings.weight.device
        ids, mask = (torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long) for _ in range(2))
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
        with torch.autocast(device.type, enabled=False):
            found = [self.bert.embeddings(input_ids=ids.to(device))]
            if len(self.bert.encoder.layer):
                found.append(self.bert(ids.to(device), attention_mask=mask.to(device)).last_hidden_state)
        hidden = torch.cat(found, -1).cpu()  # [b, t, dim]
        out = []
        for i, sentence in enumerate(pieces):
            lengths = torch.tensor([len(w) for w in sentence])
            owner = torch.repeat_interleave(torch.arange(len(sentence)), lengths)
            total = torch.zeros(len(sentence), self.dim).index_add_(0, owner, hidden[i, 1 : 1 + len(owner)])
            out.append((total / lengths.clamp_min(1)[:, None]).half())
        return out

    def _pieces(self, word: str) -> list[int]:
        found = self._words.get(word)
        if found is None:
            if len(self._words) >= MEMO:
                self._words.clear()
            found = self._words[word] = plain_ids(self.tokenizer, word)[:PIECES]
        return found
