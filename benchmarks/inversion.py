"""Trigger inversion: all target classes and positions in one batch, against the loop over them, in one run.

A classifier of the farm's shape with random weights, in turns; both searches start from the same noise.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import ElectraConfig, ElectraForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.timing import in_turns
from datamodules.labelled_text import labelled_text
from zoo.backdoor.detectors.base import Problem, Victims
from zoo.backdoor.detectors.dbs import DBS
from zoo.backdoor.subject import POSITIONS, SequenceClassifier

STEPS, WORDS = 6, 20


def subject(vocabulary: int, width: int, classes: int) -> SequenceClassifier:
    """A random 2-layer ELECTRA, as the farm's, over made-up words."""
    tokens = ["[PAD]", "[UNK]", *(f"w{n}" for n in range(vocabulary - 2))]
    inner = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")
    torch.manual_seed(0)
    config = ElectraConfig(
        vocab_size=vocabulary, embedding_size=width, hidden_size=width, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=2 * width, max_position_embeddings=64, num_labels=classes, initializer_range=0.1,
    )  # fmt: skip
    return SequenceClassifier(ElectraForSequenceClassification(config), tokenizer, "random", 32)


def compare(vocabulary: int, width: int, classes: int, rows: int, tokens: int = 10) -> dict[str, Any]:
    """Seconds of `STEPS` steps at once and in a loop, and how far the losses of the two are apart after them."""
    model = subject(vocabulary, width, classes)
    g = torch.Generator().manual_seed(1)
    texts = [
        (" ".join(f"w{int(i)}" for i in torch.randint(vocabulary - 2, (WORDS,), generator=g)), n % classes)
        for n in range(classes * rows)
    ]
    data = labelled_text(texts, "made-up")
    others = {t: [i for i, (_, label) in enumerate(texts) if label != t] for t in range(classes)}
    victims = {t: Victims(tuple(at[:rows]), tuple(at[:rows])) for t, at in others.items()}
    problems = [Problem(t, p) for t in range(classes) for p in POSITIONS]
    detector = DBS(tokens=tokens, steps=STEPS)
    found: dict[str, list[float]] = {}

    def at_once() -> None:
        found["batch"] = detector.invert(model, data, problems, victims)[1]

    def loop() -> None:
        found["loop"] = [detector.invert(model, data, [p], victims)[1][0] for p in problems]

    batch, one_by_one = in_turns(at_once, loop, rounds=3)
    apart = max(abs(a - b) for a, b in zip(found["batch"], found["loop"]))
    shape = {"vocabulary": vocabulary, "width": width, "classes": classes, "rows": rows, "problems": len(problems)}
    return {**shape, "batch_seconds": batch, "loop_seconds": one_by_one, "ratio": one_by_one / batch, "apart": apart}


def inversion() -> dict[str, Any]:
    """The farm's models on few rows and on DBS's, and a model so small that the overhead of a call is all there is."""
    return {
        "grid": compare(30522, 64, 4, rows=12),
        "grid_few_rows": compare(30522, 64, 4, rows=2),
        "small": compare(400, 16, 4, rows=2, tokens=4),
    }
