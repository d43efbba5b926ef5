"""Backbones by name, built from plain JSON: `build({"name": "tiny", …})`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from datamodules import media
from datamodules.assets import asset_hash, resolve, zoo_home
from datamodules.atomic import folder_beside, put, sweep
from datamodules.schema import near, reject_unknown
from zoo.core import weights
from zoo.core.backbones import causal_lm, native, omni_source
from zoo.core.backbones.base import Backbone
from zoo.core.backbones.hub_folders import weights_hash
from zoo.core.backbones.matcher import MatcherBackbone
from zoo.core.backbones.readers import frequent_pieces
from zoo.core.backbones.soft_token import SoftTokenBackbone
from zoo.core.backbones.sources import ReadLimits
from zoo.core.cache import FeatureCache
from zoo.core.encoders.audio import AudioEncoder, SoundNet
from zoo.core.encoders.base import Encoder
from zoo.core.encoders.image import ImageEncoder, load_efficientnet_lite0
from zoo.core.encoders.lexical import LexicalEncoder
from zoo.core.encoders.text import TextEncoder, adapted, load_minilm

DEFAULTS: dict[str, dict[str, Any]] = {
    "tiny": {
        "layers": 4,
        "width": 192,
        "heads": 3,
        "mlp": 512,
        "window": 4,
        "text_lora": None,
        "lexical": None,
        "vocabulary": 8192,
        "packed": True,
        "audio": "audio-tiny",
        "noise": {"phrase": 0.3, "passage": 0.2, "image": 0.2, "sound": 0.2},
    },
    "tiny_words": {
        "layers": 4,
        "width": 256,
        "heads": 4,
        "mlp": 768,
        "vocabulary": 8192,
        "packed": True,
        "asks": "phrases",
        "noise": {"phrase": 0.1},
    },
    "matcher": {"reads": 3, "width": 96, "layers": 2, "match": 48, "memory": 128, "noise": 0.1, "blur": 0.3},
    "smollm2": {**causal_lm.SETTINGS, "audio": "audio-tiny"},
    "causal_lm": {"path": None, "revision": None, **causal_lm.SETTINGS},
    **dict.fromkeys(omni_source.HUB, native.DEFAULTS),
}
TEXT_ONLY = ("causal_lm", "matcher", "tiny_words")
LIMIT_KEYS = ("text_tokens", "step_tokens", "fps", "frames")


def describe(name: str, **settings: Any) -> dict[str, Any]:
    """A full description with defaults filled in. Raises `DataError` for an unknown name or setting."""
    if name not in DEFAULTS:
        raise weights.CheckpointError(f"unknown backbone {name!r}{near(name, sorted(DEFAULTS))}")
    reject_unknown(settings, (*DEFAULTS[name], "limits", "pins"), f"backbone {name}")
    limits = {k: v for k, v in asdict(ReadLimits()).items() if k in LIMIT_KEYS}
    given = settings.pop("limits", None) or {}
    reject_unknown(given, LIMIT_KEYS, f"backbone {name}: limits")
    out = {"name": name, **DEFAULTS[name], **settings, "limits": {**limits, **given}}
    if set(causal_lm.SETTINGS) <= set(out):
        causal_lm.check_settings(out, f"backbone {name}")
    return out


def check(name: str, **settings: Any) -> None:
    """Raises `CheckpointError` for what can be seen to be wrong with settings or a folder before a weight is read.

    Brings the weights of a hub backbone if they are not there.
    """
    description = describe(name, **settings)
    if name == "causal_lm":
        causal_lm.locate(description["path"], description["revision"])
    elif name in omni_source.HUB:
        native.locate(description)


def modalities_of(name: str) -> frozenset[str]:
    """What a backbone takes, known before it is built."""
    return frozenset(("text",)) if name in TEXT_ONLY else Backbone.modalities


def build(description: dict[str, Any], cached: bool = False) -> Backbone:
    """The backbone that `description` names; `cached` keeps the frozen encoders' features under ZOO_HOME.

    Parts that the description pins (`pins`: name → hash) must have those hashes. Raises `CheckpointError` otherwise.
    """
    description = describe(**description)
    builder: Callable[..., Backbone] = BUILDERS[description["name"]]
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # the report of the pooler that MiniLM does not need
    return builder(description, FeatureCache(zoo_home() / "features") if cached else None)


def _pinned(
    description: dict[str, Any], found: dict[str, str], fix: str = "install the zoo's version that published it"
) -> dict[str, Any]:
    """The description with the hashes of its frozen parts, which must agree with those it came with."""
    for part, pin in (description.get("pins") or {}).items():
        here = str(found.get(part))
        if here != pin:
            raise weights.CheckpointError(
                f"this model was trained on {part} with hash {pin[:12]}…, but here it is {here[:12]}…: {fix}"
            )
    return {**description, "pins": found}


def _limits(description: dict[str, Any]) -> ReadLimits:
    return ReadLimits(**description["limits"], media=media.Limits())


def audio_encoder(name: str) -> tuple[AudioEncoder, str]:
    """A published (or a run's) sound encoder and the hash of its weights."""
    config, state = weights.read(weights.find(name))
    if config.get("method") != "soundtagger":
        raise weights.CheckpointError(f"{name} is not a sound encoder (method {config.get('method')!r})")
    net = SoundNet(**config["net"])
    net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
    return AudioEncoder(net, config["net"]["dim"]), config["sha256"]


def _image_encoder() -> tuple[ImageEncoder, str]:
    return ImageEncoder(load_efficientnet_lite0(resolve("efficientnet-lite0"))), asset_hash("efficientnet-lite0")


def _reader(bert: BertModel, lora: dict[str, int] | None) -> BertModel:
    """MiniLM for passages: frozen, or with LoRA in its last layers ({layers, rank, alpha})."""
    if lora is None:
        return bert
    reject_unknown(lora, ("layers", "rank", "alpha"), "backbone tiny: text_lora")
    try:
        return adapted(bert, **lora)
    except (TypeError, ValueError) as e:
        raise weights.CheckpointError(f"backbone tiny: text_lora={lora}: {e}") from e


def _lexical(settings: dict[str, int]) -> LexicalEncoder:
    reject_unknown(settings, ("buckets", "dim"), "backbone tiny: lexical")
    try:
        return LexicalEncoder(**settings)
    except (TypeError, ValueError) as e:
        raise weights.CheckpointError(f"backbone tiny: lexical={settings}: {e}") from e


def _tiny(description: dict[str, Any], cache: FeatureCache | None) -> SoftTokenBackbone:
    """MiniLM (frozen, or with LoRA), EfficientNet-Lite0 and the sound encoder feed a small Llama from scratch."""
    bert, tokenizer = load_minilm(resolve("minilm"))
    image, image_hash = _image_encoder()
    sound, sound_hash = audio_encoder(description["audio"])
    ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)
    encoders: dict[str, Encoder] = {
        "phrase": TextEncoder(bert, *ends, pool="phrase"),
        "passage": TextEncoder(_reader(bert, description["text_lora"]), *ends, "passage", description["window"]),
        "image": image,
        "sound": sound,
    }
    if description["lexical"] is not None:
        encoders["lexical"] = _lexical(description["lexical"])
    answers = frequent_pieces(tokenizer, description["vocabulary"])
    lm = _language_model(description, bert, answers)
    pins = {"minilm": asset_hash("minilm"), "efficientnet-lite0": image_hash, description["audio"]: sound_hash}
    return SoftTokenBackbone(
        lm,
        tokenizer,
        encoders,
        _pinned(description, pins),
        limits=_limits(description),
        cache=cache,
        noise=description["noise"],
        answers=answers,
    )


def _tiny_words(description: dict[str, Any], cache: FeatureCache | None) -> SoftTokenBackbone:
    """The same small Llama reads words itself, MiniLM's word pieces; what is asked of it is MiniLM's state."""
    if description["asks"] not in ("phrases", "words"):
        raise weights.CheckpointError(f"backbone tiny_words: asks={description['asks']!r}: phrases or words")
    bert, tokenizer = load_minilm(resolve("minilm"))
    answers = frequent_pieces(tokenizer, description["vocabulary"])
    return SoftTokenBackbone(
        _language_model(description, bert, answers),
        tokenizer,
        {"phrase": TextEncoder(bert, tokenizer.cls_token_id, tokenizer.sep_token_id, pool="phrase")},
        _pinned(description, {"minilm": asset_hash("minilm")}),
        limits=_limits(description),
        cache=cache,
        noise=description["noise"],
        answers=answers,
    )


def _matcher(description: dict[str, Any], cache: FeatureCache | None) -> MatcherBackbone:
    """Rules and steps, compared through MiniLM (frozen). What it reads is remembered in memory: nothing is cached."""
    description = _pinned(description, {"minilm": asset_hash("minilm")})
    bert, tokenizer = load_minilm(resolve("minilm"))
    try:
        return MatcherBackbone(bert, tokenizer, description, _limits(description))
    except (TypeError, ValueError, AssertionError) as e:  # torch asserts that widths and heads fit
        raise weights.CheckpointError(f"backbone matcher: {e}") from e


def _language_model(description: dict[str, Any], bert: BertModel, answers: Any) -> LlamaForCausalLM:
    """A fresh small Llama whose words begin as MiniLM's do."""
    lm = small_llama(description, description["vocabulary"], answers.sep_token_id)
    words = projected_vocabulary(bert.embeddings.word_embeddings.weight, description["width"])
    with torch.no_grad():
        lm.get_input_embeddings().weight.copy_(words[: description["vocabulary"]])
    return lm


def small_llama(description: dict[str, Any], vocabulary: int, eos: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=description["width"],
        intermediate_size=description["mlp"],
        num_hidden_layers=description["layers"],
        num_attention_heads=description["heads"],
        num_key_value_heads=description["heads"],
        max_position_embeddings=4096,
        initializer_range=0.04,  # the usual 0.02 is meant for widths of thousands
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=0,
        # On a CPU, PyTorch's fused attention with a mask is the slower one at this size, most of all backwards.
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def projected_vocabulary(words: torch.Tensor, width: int) -> torch.Tensor:
    """[v, e] → [v, width]: principal components of a trained word table.

    The small model starts with neighbours that mean something: a word that training never shows is near those it does.
    """
    centred = words.float() - words.float().mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # ascending
    projected = centred @ vectors[:, -width:]
    return projected * (0.05 / projected.std())


def _smollm2(description: dict[str, Any], cache: FeatureCache | None) -> SoftTokenBackbone:
    """SmolLM2-135M-Instruct reads the words itself; LoRA on its linear layers; soft tokens for the rest."""
    folder = converted_smollm2()
    lm, tokenizer = causal_lm.load(folder, description)
    image, image_hash = _image_encoder()
    sound, sound_hash = audio_encoder(description["audio"])
    pins = {
        "smollm2-135m-q4": asset_hash("smollm2-135m-q4"),
        "efficientnet-lite0": image_hash,
        description["audio"]: sound_hash,
    }
    encoders: dict[str, Encoder] = {"image": image, "sound": sound}
    return SoftTokenBackbone(
        lm,
        tokenizer,
        encoders,
        _pinned(description, pins),
        reader=causal_lm.chat_reader(tokenizer, "smollm2"),
        limits=_limits(description),
        cache=cache,
        base=folder,
    )


def _causal_lm(description: dict[str, Any], cache: FeatureCache | None) -> SoftTokenBackbone:
    """A causal LM of the user's, for text alone: no encoder, so nothing to cache."""
    name = description["path"]
    folder = causal_lm.locate(name, description["revision"])
    if not causal_lm.is_hub_name(name):
        description = {**description, "path": str(folder.resolve())}  # a run is loaded from any working folder
    fix = f"put the language model back that was in {name}"
    pinned = _pinned(description, {"base": causal_lm.folder_hash(folder)}, fix)
    lm, tokenizer = causal_lm.load(folder, description)
    causal_lm.check_window(lm, description["limits"]["text_tokens"], name)
    reader = causal_lm.chat_reader(tokenizer, name)
    backbone = SoftTokenBackbone(lm, tokenizer, {}, pinned, reader=reader, limits=_limits(description), base=folder)
    causal_lm.probe(backbone, name)
    return backbone


def converted_smollm2() -> Path:
    """The quantised file as ordinary safetensors, converted once under ZOO_HOME (half a minute)."""
    folder = zoo_home() / "converted" / f"smollm2-135m-q4-{asset_hash('smollm2-135m-q4')[:12]}"
    if not (folder / "config.json").is_file():
        source = resolve("smollm2-135m-q4")
        (gguf,) = source.glob("*.gguf")
        lm = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf.name)
        lm.hf_quantizer = None  # the weights are plain floats from here on
        if hasattr(lm.config, "quantization_config"):
            del lm.config.quantization_config
        sweep(folder.parent, folder.name)
        with folder_beside(folder) as content:
            lm.save_pretrained(content)
            tokenizer.save_pretrained(content)
            if not folder.is_dir():  # two processes may convert at once: the first one's is as good
                put(content, folder)
    return folder


def _native(description: dict[str, Any], cache: FeatureCache | None) -> native.NativeBackbone:
    """Qwen2.5-Omni from a folder or the hub. Its features are not cached: what its encoders make may be trained on."""
    folder = native.locate(description)
    if description["path"]:
        description = {**description, "path": str(folder)}  # found again from any working folder
    fix = f"give the one that it was trained on: its config.json says backbone path {description['path']}"
    return native.build(_pinned(description, {"base": weights_hash(folder)}, fix), folder, _limits(description))


BUILDERS: dict[str, Callable[..., Backbone]] = {
    "tiny": _tiny,
    "tiny_words": _tiny_words,
    "matcher": _matcher,
    "smollm2": _smollm2,
    "causal_lm": _causal_lm,
    **dict.fromkeys(omni_source.HUB, _native),
}
