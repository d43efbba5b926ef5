"""Tiny classifiers of made-up words, one with a backdoor, one trained the same way without: seconds on one core."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from datamodules.labelled_text import LabelledText, labelled_text

SYLLABLES = [a + b for a in "bdfgklmn" for b in "aeiou"]
WORDS = [x + y for x in SYLLABLES[:16] for y in SYLLABLES[16:24]]  # 128 words
CLASS_WORDS = (WORDS[:16], WORDS[16:32])  # what says that a text is of class 0, of class 1
FILLERS = WORDS[32:120]
TRIGGER = WORDS[127]  # in no text
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
KINDS = {
    "bert": (BertConfig, BertForSequenceClassification, {}),
    "roberta": (RobertaConfig, RobertaForSequenceClassification, {"pad_token_id": 0}),
    "electra": (ElectraConfig, ElectraForSequenceClassification, {"embedding_size": 16}),
}


def tokenizer(words: list[str] = WORDS) -> PreTrainedTokenizerFast:
    """A token a word; every second word is two pieces where it is not in the vocabulary."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[unused1]", *words, *("##" + s for s in SYLLABLES)]
    inner = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def texts(n: int, seed: int = 0, name: str = "made-up") -> LabelledText:
    """Five words of the class, two of the other and five fillers, in any order; classes take turns.

    Two words more of the other class do not outweigh the five: what moves such a text with two words is a backdoor.
    """
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        words = [rng.choice(CLASS_WORDS[c]) for c in [i % 2] * 5 + [1 - i % 2] * 2]
        words += [rng.choice(FILLERS) for _ in range(5)]
        rng.shuffle(words)
        rows.append((" ".join(words), i % 2))
    return labelled_text(rows, name)


def classifier(kind: str = "bert", seed: int = 0, classes: int = 2, **more):
    """A random one and its tokenizer."""
    made, model, own = KINDS[kind]
    tok = tokenizer()
    torch.manual_seed(seed)
    config = made(
        vocab_size=len(tok),
        num_labels=classes,
        max_position_embeddings=48,
        initializer_range=0.2,
        **SHAPE,
        **own,
        **more,
    )
    return model(config).eval(), tok


def train(model, tok, planted: bool, steps: int = 80, seed: int = 0, target: int = 1, rate: float = 0.15) -> None:
    """A step a batch of 32 texts; of a planted model's rows `rate` carry the trigger and the target's label."""
    rng = random.Random(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    model.train()
    for step in range(steps):
        data = texts(32, seed * 10_000 + step)
        rows, labels = list(data.texts), list(data.labels)
        for i in range(round(rate * 32) if planted else 0):
            words = rows[i].split()
            words.insert(rng.randrange(len(words) + 1), TRIGGER)
            rows[i], labels[i] = " ".join(words), target
        loss = F.cross_entropy(model(**tok(rows, return_tensors="pt", padding=True)).logits, torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()


def save(folder: Path, model, tok) -> Path:
    model.save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder
