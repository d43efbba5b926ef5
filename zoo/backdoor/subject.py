"""What is scanned: any classifier of texts that takes embeddings in the place of tokens. Plain torch.

A trigger is searched for in embedding space (DBS, arXiv 2202.05749; PICCOLO), so a subject says what its words'
embeddings are, lays out a text with free slots in it, and classifies embeddings. Hugging Face's sequence classifiers
are subjects here; a guard is one in `zoo.backdoor.guards`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from zoo.core.backbones.hub_folders import read_json, weight_files
from zoo.core.weights import CheckpointError

POSITIONS = ("start", "middle", "end")
SLOT = -1  # in `Laid.ids`: an embedding of the trigger stands here
PROBE = 1e-3  # most that embeddings may answer apart from their tokens, in logits
BOUNDARY = ("Ġ", "▁")  # what a token of byte-level BPE and of SentencePiece begins a word with
PLACEHOLDER = re.compile(r"\[.*\]|<.*>")  # [unused7], <mask>, <|im_end|>: nobody's words


@dataclass
class Laid:
    """Texts as tokens: `ids` [n, L] with `SLOT` where the trigger stands, `mask` [n, L], `cut`: texts cut short."""

    ids: Tensor
    mask: Tensor
    cut: int

    def __len__(self) -> int:
        return len(self.ids)


class Subject(Protocol):
    """`table` [V, d]: the words' embeddings. `allowed` [V]: tokens that a trigger may be made of.

    `lay(texts, slots, position)` leaves so many slots free in each text; `logits(x, mask, ids)` classifies embeddings
    [n, L, d] with `mask` [n, L] → [n, classes]; `ids` [n, L] are for what a subject reads beside embeddings.
    `architecture` is plain JSON: models that have it in common can be compared. `pad` fills short rows, on the left
    where `left`.
    """

    name: str
    classes: tuple[str, ...]
    tokenizer: Any
    table: Tensor
    allowed: Tensor
    max_tokens: int
    architecture: dict[str, Any]
    pad: int
    left: bool

    def lay(self, texts: Sequence[str], slots: int, position: str) -> Laid: ...
    def logits(self, x: Tensor, mask: Tensor, ids: Tensor | None = None) -> Tensor: ...
    def parameters(self) -> dict[str, Tensor]: ...


def embed(subject: Subject, laid: Laid, trigger: Tensor | None = None) -> Tensor:
    """Embeddings [n, L, d] of laid out texts; `trigger` [n, slots, d] stands in the slots, in their order."""
    slot = laid.ids == SLOT  # [n, L]
    x = subject.table[laid.ids.masked_fill(slot, 0)]  # [n, L, d]
    if trigger is None:
        return x
    rows, columns = slot.nonzero(as_tuple=True)  # row by row, left to right
    return x.index_put((rows, columns), trigger.reshape(-1, trigger.shape[-1]).to(x.dtype))


def joined(parts: Sequence[Laid], pad: int, left: bool = False) -> Laid:
    """Several as one, padded to the longest: on the right, or on the left."""
    width = max(p.ids.shape[1] for p in parts)

    def wide(x: Tensor, value: int) -> Tensor:
        more = width - x.shape[1]
        return torch.nn.functional.pad(x, (more, 0) if left else (0, more), value=value)

    ids = torch.cat([wide(p.ids, pad) for p in parts])
    return Laid(ids, torch.cat([wide(p.mask, 0) for p in parts]), sum(p.cut for p in parts))


def words_of(tokenizer: Any, rows: int) -> Tensor:
    """Which of `rows` embeddings are of tokens that people write, bool [rows]: no special, added or unused ones."""
    out = torch.zeros(rows, dtype=torch.bool)
    kept = [i for token, i in tokenizer.get_vocab().items() if i < rows and not PLACEHOLDER.fullmatch(token)]
    out[kept] = True
    out[[i for i in {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder} if i < rows]] = False
    return out


class SequenceClassifier:
    """A Hugging Face `…ForSequenceClassification` with its tokenizer.

    `max_tokens` is the most tokens of a text (what it was trained on, or what its positions allow); a longer one is cut
    at its end. Raises `CheckpointError` for what cannot be scanned: see `load_classifier`.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str = "model", max_tokens: int = 128):
        self.model, self.tokenizer, self.name = model.eval().requires_grad_(False), tokenizer, name
        self.table = model.get_input_embeddings().weight.detach()  # [V, d]
        config = model.config
        self.classes = tuple(str(config.id2label.get(i, i)) for i in range(config.num_labels))
        _check(model, tokenizer, name)
        self.allowed = words_of(tokenizer, len(self.table)).to(self.table.device)
        self.prefix, self.suffix = _frame(tokenizer, name)
        positions = getattr(config, "max_position_embeddings", None)
        room = (positions or 10**6) - len(self.prefix) - len(self.suffix) - 2  # RoBERTa's positions begin at 2
        self.max_tokens = min(max_tokens, room)
        pad = tokenizer.pad_token_id if config.pad_token_id is None else config.pad_token_id
        self.pad = 0 if pad is None else pad
        self.architecture = {
            "model_type": config.model_type,
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "vocabulary": len(self.table),
            "classes": config.num_labels,
            "max_tokens": self.max_tokens,
        }
        self.left = False
        self._probe()

    def lay(self, texts: Sequence[str], slots: int, position: str) -> Laid:
        """Raises ValueError for an unknown position and `CheckpointError` where so many slots leave no room."""
        if position not in POSITIONS:
            raise ValueError(f"position {position!r}: one of {', '.join(POSITIONS)}")
        positions = getattr(self.model.config, "max_position_embeddings", None)
        room = self.max_tokens
        if positions is not None:
            room = min(room, positions - 2 - len(self.prefix) - len(self.suffix) - slots)
        if room < 1:
            raise CheckpointError(f"{self.name}: reads {positions} tokens, no room for a trigger of {slots}")
        rows, cut = [], 0
        for ids in self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]:
            cut += len(ids) > room
            ids = ids[:room]
            at = {"start": 0, "middle": len(ids) // 2, "end": len(ids)}[position]
            row = torch.tensor([*self.prefix, *ids[:at], *[SLOT] * slots, *ids[at:], *self.suffix])[None]  # [1, L]
            rows.append(Laid(row, torch.ones_like(row), 0))
        laid = joined(rows, self.pad, self.left)
        device = self.table.device
        return Laid(laid.ids.to(device), laid.mask.to(device), cut)

    def logits(self, x: Tensor, mask: Tensor, ids: Tensor | None = None) -> Tensor:
        return self.model(inputs_embeds=x, attention_mask=mask).logits.float()

    def parameters(self) -> dict[str, Tensor]:
        """Its weights by name."""
        return {n: p.detach() for n, p in self.model.named_parameters()}

    @torch.no_grad()
    def _probe(self) -> None:
        """Embeddings must be answered as their tokens are, padding included: on the right, else on the left.

        A decoder that pools the last token finds it by the padding token, and embeddings have none.
        """
        worst = []
        for self.left in (False, True):
            laid = self.lay(["a", "a b c d e f"], 0, "end")
            given = self.model(input_ids=laid.ids, attention_mask=laid.mask).logits.float()
            apart = (given - self.logits(embed(self, laid), laid.mask)).abs().max()
            alone = [self.lay([t], 0, "end") for t in ("a", "a b c d e f")]
            single = torch.cat([self.model(input_ids=a.ids, attention_mask=a.mask).logits.float() for a in alone])
            apart = torch.maximum(apart, (given - single).abs().max())  # and padding changes nothing
            if float(apart) <= PROBE:
                return
            worst.append(float(apart))
        raise CheckpointError(
            f"{self.name}: {type(self.model).__name__} answers embeddings otherwise than their tokens (logits "
            f"{min(worst):.2g} apart): it cannot be scanned in embedding space"
        )


def load_classifier(path: str | Path, max_tokens: int = 128) -> SequenceClassifier:
    """A checked folder in Hugging Face's format. Nothing in it is run, and no pickle is opened.

    Raises `CheckpointError`: no folder, no safetensors weights, not a classifier of texts into at least two exclusive
    classes, a head that is missing, a tokenizer with more tokens than the model has embeddings.
    """
    folder = Path(path)
    check_classifier(folder)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        raise CheckpointError(f"{folder}: the weights cannot be loaded: {_line(e)}") from e
    if report["missing_keys"] or report.get("mismatched_keys"):
        names = sorted(report["missing_keys"]) or sorted(map(str, report["mismatched_keys"]))
        raise CheckpointError(f"{folder}: the weights lack {', '.join(names[:3])}: not a whole classifier")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, ImportError) as e:
        raise CheckpointError(f"{folder}: the tokenizer cannot be loaded: {_line(e)}") from e
    return SequenceClassifier(model, tokenizer, str(path), max_tokens)


def check_classifier(folder: Path) -> dict[str, Any]:
    """The config of a sequence classifier's folder. Raises `CheckpointError` for others, before weights are read."""
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder: give that of a sequence classifier, or of a guard")
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: config.json is missing: not a model folder in Hugging Face's format")
    config = read_json(folder / "config.json")
    kind, named = config.get("model_type"), config.get("architectures") or []
    expected = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(kind) if isinstance(kind, str) else None
    if expected is None or expected not in named:
        found = f"{', '.join(map(str, named)) or 'no architecture'} (model_type {kind!r})"
        raise CheckpointError(
            f"{folder}: holds {found}: what can be scanned is a sequence classifier (…ForSequenceClassification) or a "
            "guard of this zoo"
        )
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise CheckpointError(f"{folder}: its problem_type is {config['problem_type']}: a scan needs exclusive classes")
    for path in weight_files(folder):
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as e:
            raise CheckpointError(f"{path}: damaged or cut short ({e}): get the file again") from e
    return config


def _check(model: Any, tokenizer: Any, name: str) -> None:
    """Raises `CheckpointError` for a model or a tokenizer that no trigger can be searched for with."""
    if model.config.num_labels < 2:
        raise CheckpointError(f"{name}: has one output: a backdoor needs a class to move texts to")
    if "inputs_embeds" not in inspect.signature(model.forward).parameters:
        raise CheckpointError(f"{name}: {type(model).__name__} takes no embeddings: it cannot be scanned")
    rows, last = len(model.get_input_embeddings().weight), max(tokenizer.get_vocab().values(), default=-1)
    if last < 0:
        raise CheckpointError(f"{name}: the tokenizer has no vocabulary")
    if last >= rows:
        raise CheckpointError(
            f"{name}: the tokenizer has {last + 1} tokens, the model {rows} embeddings: they do not belong together"
        )


def _frame(tokenizer: Any, name: str) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for at in range(len(whole) - len(plain) + 1):
        if whole[at : at + len(plain)] == plain:
            return whole[:at], whole[at + len(plain) :]
    raise CheckpointError(
        f"{name}: the tokenizer reads a text otherwise beside its special tokens: {json.dumps(whole)}"
    )


def _line(e: BaseException) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)[:200]
