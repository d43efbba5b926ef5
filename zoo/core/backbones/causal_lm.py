"""Any causal language model in Hugging Face's format: found, checked before it is loaded, loaded, and made trainable.

Nothing in its folder is run: pickled weights are never opened, and code that a repository brings is never imported.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from datamodules.schema import Policy, PolicyEntry, Sample
from zoo.core.backbones.base import Backbone
from zoo.core.backbones.readers import TokenReader, marks_of, plain_ids
from zoo.core.query import CATEGORY_OPTIONS, VERDICT_OPTIONS, category_query, verdict_query
from zoo.core.weights import CheckpointError, sha256_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TUNINGS = ("lora", "full")
SETTINGS: dict[str, Any] = {
    "tuning": "lora",
    "lora_rank": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "dtype": "float32",
    "gradient_checkpointing": False,
    "packed": False,
}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.h5", "*.msgpack")
TEXTS = ("*.json", "*.txt", "*.model")  # what a hub repository is asked for, besides *.safetensors
ROOM = 2048  # tokens that a policy and its queries may take beside the conversation's


def check_settings(settings: dict[str, Any], where: str) -> None:
    """Raises `CheckpointError` for a `tuning` or `dtype` that does not exist."""
    for key, known in (("tuning", TUNINGS), ("dtype", tuple(DTYPES))):
        if settings[key] not in known:
            raise CheckpointError(f"{where}: {key}={settings[key]!r}: one of {', '.join(known)}")


# ------------------------------------------------------------------------------------------------------- finding


def is_hub_name(path: str) -> bool:
    """Whether `path` can be a repository's name (`name` or `owner/name`) and is no folder here."""
    return not Path(path).exists() and re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", path) is not None


def locate(path: str | None, revision: str | None = None) -> Path:
    """The checked folder of a causal LM: a local one, or the hub's files at `revision`, weights last.

    Raises `CheckpointError` for a folder that does not exist or holds no loadable causal LM.
    """
    if not path:
        raise CheckpointError("backbone causal_lm needs backbone.path=FOLDER (or a hub name)")
    if not is_hub_name(path):
        folder = Path(path)
        if not folder.is_dir():
            raise CheckpointError(f"{path}: no such folder: give the folder of a causal LM, or a hub name (owner/name)")
        check_folder(folder)
        return folder
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(path, revision=revision, allow_patterns=list(TEXTS)))
        check_config(folder, path)
        return Path(snapshot_download(path, revision=revision, allow_patterns=[*TEXTS, "*.safetensors"]))
    except CheckpointError:
        raise
    except (OSError, ValueError, RuntimeError) as e:  # the hub's errors and the network's derive from these
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:200]
        raise CheckpointError(f"{path}: no such folder here, and not to be had from the hub: {reason}") from e


def check_folder(folder: Path) -> None:
    """Raises `CheckpointError` unless `folder` holds config, safetensors weights and a tokenizer of a causal LM."""
    check_config(folder, str(folder))
    if not weight_files(folder):
        pickled = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
        if pickled:
            raise CheckpointError(
                f"{folder}: only pickled weights ({pickled[0]}), which are never loaded: save them as safetensors "
                "(save_pretrained does) on a machine where you trust them"
            )
        raise CheckpointError(f"{folder}: no weights: expected model.safetensors, whole or in shards")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise CheckpointError(f"{folder}: no tokenizer: expected one of {', '.join(TOKENIZERS)}")


def check_config(folder: Path, name: str) -> None:
    """Raises `CheckpointError` unless `config.json` names a causal LM that transformers itself knows."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{name}: config.json is missing: not a model folder in Hugging Face's format")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        kind, named = config.get("model_type"), list(config.get("architectures") or [])
    except (OSError, ValueError, AttributeError, TypeError) as e:
        raise CheckpointError(f"{path}: not readable as a model's configuration: {e}") from e
    expected = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    if expected is None or (named and expected not in named):
        found = f"{', '.join(map(str, named)) or 'no architecture'} (model_type {kind!r})"
        raise CheckpointError(f"{name}: holds {found}, not a causal language model (…ForCausalLM)")


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises `CheckpointError` for a shard that is missing."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [p for p in [folder / "model.safetensors"] if p.is_file()]
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{index}: not readable as an index of shards: {e}") from e
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{folder}: the shard {name} that the index names is missing: get the model again")
    return [folder / n for n in names]


def folder_hash(folder: Path) -> str:
    """sha256 over config, tokenizer and weights: what pins a language model that is not published here."""
    files = {*weight_files(folder), *(p for t in TEXTS for p in folder.glob(t) if p.name != "generation_config.json")}
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.name}:{sha256_of(path)}\n".encode())
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------- loading


def load(folder: Path, settings: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer of a checked folder, with LoRA layers or wholly trainable, as `settings` (SETTINGS) say.

    Raises `CheckpointError` for damaged, incomplete or unsuitable parts.
    """
    lm, tokenizer = read(folder, settings["dtype"])
    _check_shape(lm, tokenizer, folder)
    make_trainable(lm, settings)
    return lm, tokenizer


def read(folder: Path, dtype: str) -> tuple[PreTrainedModel, Any]:
    """Model and tokenizer of a checked folder as they are. Raises `CheckpointError` for damaged or incomplete parts."""
    try:
        lm, report = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=DTYPES[dtype],
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as e:
        raise CheckpointError(f"{folder}: the weights cannot be loaded: {_line(e)}") from e
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(f"{folder}: the weights lack {', '.join(missing[:3])}: not a whole causal LM")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, ImportError) as e:
        raise CheckpointError(f"{folder}: the tokenizer cannot be loaded: {_line(e)}") from e
    return lm, tokenizer


def _line(e: BaseException) -> str:
    return next((line.strip() for line in str(e).splitlines() if line.strip()), type(e).__name__)[:200]


def _check_shape(lm: PreTrainedModel, tokenizer: Any, folder: Path) -> None:
    """Branches need masks, positions and a cache that reach the attention, and a plain output layer."""
    name = type(lm).__name__
    head = lm.get_output_embeddings()
    takes = inspect.signature(lm.get_decoder().forward).parameters
    lacks = [p for p in ("inputs_embeds", "attention_mask", "position_ids", "past_key_values") if p not in takes]
    if lacks:
        raise CheckpointError(f"{folder}: {name} takes no {lacks[0]}: its prompts cannot be branched")
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise CheckpointError(f"{folder}: {name} has an output layer with a bias, which scoring does not know")
    marks = {*marks_of(tokenizer).values()} - {tokenizer.bos_token_id, tokenizer.eos_token_id}
    rows, last = lm.get_input_embeddings().weight.shape[0], max({*tokenizer.get_vocab().values()} - marks)
    if last >= rows:
        raise CheckpointError(f"{folder}: the tokenizer has {last + 1} tokens, the model only {rows}")


def make_trainable(lm: PreTrainedModel, settings: dict[str, Any]) -> None:
    """LoRA on all linear layers in float32 beside frozen weights, or every weight trainable."""
    lm.requires_grad_(settings["tuning"] == "full")
    if settings["tuning"] == "lora":
        lora = LoraConfig(
            r=settings["lora_rank"],
            lora_alpha=settings["lora_alpha"],
            lora_dropout=settings["lora_dropout"],
            target_modules="all-linear",
        )
        inject_adapter_in_model(lora, lm)
        for p in lm.parameters():
            if p.requires_grad:
                p.data = p.data.float()  # an update is often smaller than the step between two bfloat16 numbers
    if settings["gradient_checkpointing"]:
        lm.gradient_checkpointing_enable({"use_reentrant": False})


def check_window(lm: PreTrainedModel, text_tokens: int, name: str) -> None:
    """Raises `CheckpointError` where a prompt may not fit into the model's context or its attention window."""
    config = lm.config
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and context <= text_tokens:
        raise CheckpointError(
            f"{name}: reads {context} tokens at most: set backbone.limits.text_tokens below that, with room for the "
            "policy and its queries"
        )
    window = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    slides = window is not None and (layers is None or "sliding_attention" in layers)
    if slides and window < text_tokens + ROOM:
        raise CheckpointError(
            f"{name}: attends to the last {window} tokens only, and branches would look further: set "
            f"backbone.limits.text_tokens below {max(0, window - ROOM)} or choose a model without a window"
        )


# ------------------------------------------------------------------------------------------------------- reading


def chat_reader(tokenizer: Any, name: str) -> TokenReader:
    """Turns as the tokenizer has them: ChatML's marks, else its own bos and eos beside plain role words.

    Raises `CheckpointError` for a tokenizer that has neither, that lets text produce its marks, or that cannot tell the
    answers apart.
    """
    marks = marks_of(tokenizer)
    if {"<|im_start|>", "<|im_end|>"} <= set(marks):
        start, end = marks["<|im_start|>"], marks["<|im_end|>"]
    else:
        end = tokenizer.eos_token_id
        if end is None:
            raise CheckpointError(f"{name}: the tokenizer has neither ChatML's marks nor an end-of-sequence token")
        start = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    for text, id in marks.items():
        unknown = id == tokenizer.unk_token_id and id not in (start, end)  # what any unknown word becomes
        if not unknown and id in plain_ids(tokenizer, text):
            raise CheckpointError(f"{name}: the tokenizer cannot read {text!r} as characters: text could forge it")
    reader = TokenReader(tokenizer, end, [start], [end], plain_ids(tokenizer, "\n"))
    answers = [*VERDICT_OPTIONS, *CATEGORY_OPTIONS]
    if len({tuple(reader.answer(a)) for a in answers}) < len(answers):
        raise CheckpointError(f"{name}: the tokenizer cannot tell {', '.join(answers)} apart")
    return reader


@torch.no_grad()
def probe(backbone: Backbone, name: str) -> None:
    """Scores a few branches and compares them with whole sequences that the plain model reads.

    Architectures differ in whether masks and positions that they are given reach every layer, and in what they do to
    logits at the end. Raises `CheckpointError` where that makes a difference.
    """
    policy = Policy("probe", (PolicyEntry("a", "open fire"),))
    asked = [("Is it warm in here?", verdict_query()), ("No.", category_query(policy.entries[0]))]
    rows = [backbone.prepare(Sample.of(text), policy, [query]) for text, query in asked]
    backbone.eval()
    batch = backbone.collate(rows)
    ways = torch.stack([backbone.score(backbone.encode(batch)).logp, backbone.score_batch(batch).logp])
    lm, reader = backbone.lm, backbone.reader
    worst = 0.0
    for i, (row, (_, query)) in enumerate(zip(rows, asked)):
        parts = [s.value for s in (*row.prompt.sources, *reader.suffix(query.suffix))]
        answer = torch.tensor(reader.answer(query.options[1]))  # [n]
        logits = lm(torch.cat([*parts, answer])[None], use_cache=False).logits[0, -len(answer) - 1 : -1]  # [n, v]
        expected = logits.float().log_softmax(-1).gather(1, answer[:, None]).sum()
        error = (ways[:, i, 0, 1] - expected).abs().max() / (1 + expected.abs())
        worst = max(worst, float(error.nan_to_num(torch.inf)))
    if worst > (1e-3 if lm.dtype == torch.float32 else 0.1):
        raise CheckpointError(
            f"{name}: {type(lm).__name__} scores a branch otherwise than a whole sequence (relative difference "
            f"{worst:.2g}): choose a model with ordinary causal attention, such as Llama, Qwen2, Mistral or GPT-NeoX"
        )
