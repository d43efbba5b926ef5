"""Where Qwen2.5-Omni comes from: a local folder, or the hub at a fixed revision; its thinker and its processors."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    PreTrainedTokenizerBase,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from datamodules.hub import snapshot
from zoo.core.backbones.hub_folders import check_folder, read_json, weight_files
from zoo.core.backbones.omni_layout import Codes
from zoo.core.backbones.readers import plain_ids
from zoo.core.weights import CheckpointError

FAMILIES = ("qwen2_5_omni", "qwen2_5_omni_thinker")  # the whole model, or its thinker alone
PATTERNS = ("*.json", "*.safetensors", "merges.txt", "LICENSE*")  # spk_dict.pt, a pickle of voices, stays where it is


@dataclass(frozen=True)
class HubModel:
    repo: str
    revision: str
    licence: str


HUB = {
    "qwen_omni_3b": HubModel(
        "Qwen/Qwen2.5-Omni-3B",
        "f75b40e3da2003cdd6e1829b1f420ca70797c34e",
        "Qwen Research License (no commercial use)",
    ),
    "qwen_omni_7b": HubModel(
        "Qwen/Qwen2.5-Omni-7B",
        "ae9e1690543ffd5c0221dc27f79834d0294cba00",
        "Apache-2.0",
    ),
}


def locate(name: str, path: str | None) -> Path:
    """The checked folder of backbone `name`: `path`, or a snapshot of the hub. Raises `CheckpointError`."""
    folder = Path(path).expanduser().resolve() if path else _snapshot(name)
    check_folder(folder, FAMILIES, "Qwen2.5-Omni")
    return folder


@functools.cache
def _tell(line: str) -> None:
    """Once a process: a recipe locates its backbone more than once."""
    print(line, file=sys.stderr, flush=True)


def _snapshot(name: str) -> Path:
    """The hub's files, from its cache where they are whole; otherwise fetched (tens of gigabytes)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    model = HUB[name]
    _tell(f"{name}: {model.repo} at {model.revision[:12]}; licence: {model.licence}")
    wanted = {"repo_id": model.repo, "revision": model.revision, "allow_patterns": list(PATTERNS)}
    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
        weight_files(folder)
        return folder
    except (LocalEntryNotFoundError, CheckpointError):
        pass  # not there, or left incomplete by a run that was killed
    fix = "run once with a network, or give a folder with backbone.path=DIR"
    return snapshot(model.repo, PATTERNS, fix, model.revision, error=CheckpointError)


def load_thinker(folder: Path, dtype: torch.dtype) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """The thinker of a checked folder. Raises `CheckpointError` where its weights are not those of its config."""
    try:
        thinker, report = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            attn_implementation="sdpa",  # the branches' additive mask needs it, or eager
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as e:
        line = " ".join(str(e).split())[:300]
        raise CheckpointError(f"{folder}: its weights and its config.json do not fit Qwen2.5-Omni: {line}") from e
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing, e.g. {missing[0]}: is it the folder of an adapter?"
        )
    return thinker


TYPE_KEYS = {
    Qwen2VLImageProcessor: "image_processor_type",
    Qwen2VLVideoProcessor: "video_processor_type",
    WhisperFeatureExtractor: "feature_extractor_type",
}


@dataclass(frozen=True)
class Processors:
    """What turns text and media into a model's inputs; None for a kind of media that the folder has nothing for."""

    tokenizer: PreTrainedTokenizerBase
    image: Qwen2VLImageProcessor | None
    video: Qwen2VLVideoProcessor | None
    sound: WhisperFeatureExtractor | None


def load_processors(folder: Path) -> Processors:
    """The folder's own processors, each in the layout of transformers 5 (processor_config.json) or in the older one.

    Read part by part: transformers would fill a part that is missing with defaults. Raises `CheckpointError`.
    """
    nested, flat, clip = (
        read_json(folder / name) if (folder / name).is_file() else {}
        for name in ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")
    )
    image = nested.get("image_processor") or (flat if "image_processor_type" in flat else None)
    sound = nested.get("feature_extractor") or (flat if "feature_extractor_type" in flat else None)
    video = nested.get("video_processor") or clip or (None if nested.get("image_processor") else image)
    return Processors(
        _tokenizer(folder),
        _part(Qwen2VLImageProcessor, image, folder),
        _part(Qwen2VLVideoProcessor, video, folder),
        _part(WhisperFeatureExtractor, sound, folder),
    )


def _part(kind: Any, config: dict[str, Any] | None, folder: Path) -> Any:
    """`kind` made from its config; None without one. The config may name a class, and it must be this one."""
    if config is None:
        return None
    named = config.get(TYPE_KEYS[kind])
    if named is not None and named.removesuffix("Fast") != kind.__name__:
        raise CheckpointError(f"{folder}: its {TYPE_KEYS[kind]} is {named}, expected {kind.__name__}")
    try:
        return kind.from_dict(dict(config))
    except (TypeError, ValueError, KeyError) as e:
        raise CheckpointError(f"{folder}: its {kind.__name__} cannot be made: {e}") from e


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise CheckpointError(f"{folder}: no tokenizer: tokenizer.json is missing")
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise CheckpointError(f"{folder}: its tokenizer cannot be read: {' '.join(str(e).split())[:300]}") from e


MARKS = ("vision_bos_token", "vision_eos_token", "audio_bos_token", "audio_eos_token")
PLACEHOLDERS = ("image_token", "video_token", "audio_token")


def codes_of(tokenizer: PreTrainedTokenizerBase, config: Any, folder: Path) -> Codes:
    """The ids of marks and placeholders, by the tokenizer's names. Raises `CheckpointError` where the config differs.

    Each of them, and each delimiter of the chat template, must be out of reach for text.
    """
    ids = {}
    for name in (*PLACEHOLDERS, *MARKS):
        token = getattr(tokenizer, name, None)
        if token is None:
            raise CheckpointError(f"{folder}: its tokenizer has no {name}: it is not that of Qwen2.5-Omni")
        ids[name] = tokenizer.convert_tokens_to_ids(token)
    same = {**{p: f"{p}_id" for p in PLACEHOLDERS}, "audio_bos_token": "audio_start_token_id"}
    for own, name in {**same, "audio_eos_token": "audio_end_token_id"}.items():
        if getattr(config, name) != ids[own]:
            raise CheckpointError(
                f"{folder}: {own} is {ids[own]} to its tokenizer and {getattr(config, name)} to its config.json"
            )
    for token in [*(getattr(tokenizer, n) for n in ids), "<|im_start|>", "<|im_end|>"]:
        code = tokenizer.convert_tokens_to_ids(token)
        if code is None or code == tokenizer.unk_token_id:
            raise CheckpointError(f"{folder}: its tokenizer does not know {token}")
        if code in plain_ids(tokenizer, f"a{token} b"):
            raise CheckpointError(f"{folder}: its tokenizer reads {token} in anybody's text as a delimiter")
    return Codes(
        image=ids["image_token"],
        video=ids["video_token"],
        audio=ids["audio_token"],
        vision_marks=(ids["vision_bos_token"], ids["vision_eos_token"]),
        audio_marks=(ids["audio_bos_token"], ids["audio_eos_token"]),
        merge=config.vision_config.spatial_merge_size,
        per_second=config.position_id_per_seconds,
        per_chunk=int(config.position_id_per_seconds * config.seconds_per_chunk),
    )
