"""Sequence classifiers to plant backdoors in: a small one of its own, or any folder in Hugging Face's layout.

The small one is a 2-layer ELECTRA encoder whose word embeddings are MiniLM's, projected on their principal axes; its
layers are random. It reads MiniLM's word pieces. All models of a farm start from the same encoder, as all of the
paper's (arXiv 2409.00399) start from one RoBERTa: they differ in the head, the rows and their order.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ElectraConfig,
    ElectraForSequenceClassification,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from datamodules.assets import resolve
from datamodules.hub import snapshot
from datamodules.schema import DataError
from zoo.core.backbones.hub_folders import check_folder

SMALL = "small"
FAMILIES = ("bert", "roberta", "electra", "distilbert", "mpnet", "xlm-roberta")  # encoders; what the audit reads
PATTERNS = ("*.json", "*.safetensors", "*.txt")
ENCODER_SEED = 0  # of the small encoder's random layers, the same for all models
EMBEDDING_NORM = 4.0  # mean length of a projected word embedding


@dataclass(frozen=True)
class Net:
    """Sizes of the small classifier. `embedding` may differ from `width`: ELECTRA projects between them."""

    width: int = 64
    embedding: int = 64
    layers: int = 2
    heads: int = 4
    intermediate: int = 128
    dropout: float = 0.0


def principal(table: Tensor, size: int) -> Tensor:
    """The rows of `table` [v, d], centred, on their first `size` principal axes: [v, size], of mean length
    EMBEDDING_NORM.

    An axis has a sign of its own choice, which is fixed here: its largest entry is positive. Raises ValueError for more
    axes than there are.
    """
    if not 0 < size <= table.shape[1]:
        raise ValueError(f"{size} axes of {table.shape[1]}")
    centred = (table - table.mean(0)).double()  # [v, d]
    _, axes = torch.linalg.eigh(centred.T @ centred)  # [d, d], ascending
    axes = axes[:, -size:].flip(1)  # [d, size]
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    out = centred @ axes  # [v, size]
    return (out * (EMBEDDING_NORM / out.norm(dim=1).mean())).float()


@functools.lru_cache(maxsize=2)
def _words(folder: Path, size: int) -> Tensor:
    (table,) = [v for k, v in load_file(folder / "model.safetensors").items() if k.endswith("word_embeddings.weight")]
    return principal(table, size)


def small(classes: Sequence[str], net: Net, max_tokens: int, minilm: Path | None = None) -> tuple[PreTrainedModel, Any]:
    """The small classifier and MiniLM's tokenizer. `minilm` is its folder; by default the verified asset.

    The head is drawn from torch's present random state; everything else is the same each time.
    """
    folder = minilm or resolve("minilm")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    config = ElectraConfig(
        vocab_size=len(tokenizer),
        embedding_size=net.embedding,
        hidden_size=net.width,
        num_hidden_layers=net.layers,
        num_attention_heads=net.heads,
        intermediate_size=net.intermediate,
        hidden_dropout_prob=net.dropout,
        attention_probs_dropout_prob=net.dropout,
        max_position_embeddings=2 * max_tokens,  # a detector may read a trigger before a whole text
        initializer_range=0.05,
        pad_token_id=tokenizer.pad_token_id,
        **_labels(classes),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(ENCODER_SEED)
        model = ElectraForSequenceClassification(config)
    with torch.no_grad():
        model.electra.embeddings.word_embeddings.weight.copy_(_words(folder, net.embedding))
    _draw_head(model)
    return model, tokenizer


def from_folder(
    backbone: str, classes: Sequence[str], layers: int | None, max_tokens: int
) -> tuple[PreTrainedModel, Any]:
    """A new head on the first `layers` layers (None: all) of a model in Hugging Face's layout, and its tokenizer.

    `backbone`: a folder, `minilm`, or a name on the hub. Raises `DataError` (as its subclass `CheckpointError`) for a
    folder without safetensors weights, of another architecture, or with fewer layers or positions than are asked for.
    """
    folder = Path(backbone).expanduser()
    if backbone == "minilm":
        folder = resolve("minilm")
    elif not folder.is_dir():
        folder = snapshot(backbone, PATTERNS, "give backbone=FOLDER with config.json, safetensors and tokenizer")
    config = check_folder(folder, FAMILIES, "a text encoder")
    have, places = config.get("num_hidden_layers", config.get("n_layers")), config.get("max_position_embeddings", 512)
    if layers is not None and not 0 < layers <= have:
        raise DataError(f"layers={layers}: {backbone} has {have} layers; give 1 to {have}")
    if max_tokens > places - 2:  # RoBERTa counts positions from 2 on
        raise DataError(f"max_tokens={max_tokens}: {backbone} reads at most {places - 2} tokens")
    key = "n_layers" if "n_layers" in config else "num_hidden_layers"
    fewer = {} if layers is None else {key: layers}
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with _silent():  # what is missing or left over is judged here
        model, found = AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # a head for other classes, which goes
            output_loading_info=True,
            **_labels(classes),
            **fewer,
        )
    body = f"{model.base_model_prefix}."
    missing = sorted(k for k in found["missing_keys"] if k.startswith(body) and ".pooler." not in k)
    missing += sorted(str(k) for k in found["mismatched_keys"] if str(k[0]).startswith(body))
    if missing:
        raise DataError(f"{backbone}: {len(missing)} weights are not in its files ({missing[0]}): get them again")
    _draw_head(model)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        raise DataError(
            f"{backbone}: its tokenizer has {len(tokenizer)} tokens and its model "
            f"{model.get_input_embeddings().num_embeddings} embeddings: they do not belong together"
        )
    return model, tokenizer


def create(
    backbone: str, classes: Sequence[str], *, net: Net, layers: int | None, max_tokens: int, seed: int
) -> tuple[PreTrainedModel, Any]:
    """A classifier into `classes` and its tokenizer, which cuts texts at `max_tokens`; the head is drawn by `seed`.

    Leaves torch's random state at `seed`, so that two trainings that begin here draw the same dropout.
    """
    torch.manual_seed(seed)
    made = small(classes, net, max_tokens) if backbone == SMALL else from_folder(backbone, classes, layers, max_tokens)
    made[1].model_max_length, made[1].padding_side = max_tokens, "right"
    made[0].train()  # a model read from a folder comes without dropout
    torch.manual_seed(seed)
    return made


def _draw_head(model: PreTrainedModel) -> None:
    """Draws the layers after the encoder anew, whatever a checkpoint brought."""
    for name, part in model.named_children():
        if name == model.base_model_prefix:
            continue
        for layer in part.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=model.config.initializer_range)
                nn.init.zeros_(layer.bias)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the report and the bar that transformers prints about every folder."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)


def _labels(classes: Sequence[str]) -> dict[str, Any]:
    """Configuration keys that name the classes."""
    names = dict(enumerate(classes))
    return {"num_labels": len(names), "id2label": names, "label2id": {v: k for k, v in names.items()}}


def encoder(tokenizer: Any, max_tokens: int) -> Callable[[Sequence[str]], dict[str, Tensor]]:
    """Texts → `input_ids` and `attention_mask`, int [n, max_tokens] each: cut at their end, filled up at the right."""

    def encode(texts: Sequence[str]) -> dict[str, Tensor]:
        found = tokenizer(
            list(texts), truncation=True, max_length=max_tokens, padding="max_length", return_tensors="pt"
        )
        return {"input_ids": found["input_ids"], "attention_mask": found["attention_mask"]}

    return encode


def reads_all_of(tokenizer: Any, max_tokens: int) -> Callable[[str], bool]:
    """Whether a text is at most `max_tokens` long, special tokens included."""
    return lambda text: len(tokenizer(text, verbose=False)["input_ids"]) <= max_tokens


@torch.no_grad()
def answers(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """The class that the model gives each row, int [n]. Draws nothing at random, and leaves its mode as it was."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    out = []
    for batch in batches:
        logits = model(
            input_ids=batch["input_ids"].to(device), attention_mask=batch["attention_mask"].to(device)
        ).logits  # [b, classes]
        out.append(logits.argmax(-1).cpu())
    model.train(training)
    return torch.cat(out)
