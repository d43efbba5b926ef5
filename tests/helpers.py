"""Small random parts, the same classes as the real ones: tests need neither weights nor a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import torch
from native_helpers import random_native
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from zoo.core.backbones import small_llama
from zoo.core.backbones.base import Backbone
from zoo.core.backbones.matcher import MatcherBackbone
from zoo.core.backbones.readers import TokenReader, plain_ids
from zoo.core.backbones.soft_token import SoftTokenBackbone
from zoo.core.backbones.sources import ReadLimits
from zoo.core.encoders.audio import AudioEncoder, SoundNet
from zoo.core.encoders.image import ImageEncoder
from zoo.core.encoders.lexical import LexicalEncoder
from zoo.core.encoders.text import TextEncoder, adapted, random_bert

LETTERS = [chr(c) for c in range(33, 127) if not chr(c).isupper()]


def word_piece_tokenizer() -> PreTrainedTokenizerFast:
    """Word pieces down to single characters, with BERT's special tokens."""
    words = [
        "safe",
        "unsafe",
        "no",
        "yes",
        "the",
        "picture",
        "shows",
        "fire",
        "a",
        "un",
        "##safe",
        "user",
        "begin",
        "end",
    ]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words, *LETTERS, *("##" + c for c in LETTERS)]
    vocabulary = list(dict.fromkeys(vocabulary))
    inner = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges, with chat delimiters as special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    return tokenizer


# The kinds that the tests of scoring and of untrusted text go through. Another backbone joins by a name here, a case in
# `random_backbone`, and one in `reading.py` where it is neither soft-token nor native.
KINDS = ("encoded", "adapted", "tokens", "native")


def random_backbone(kind: str = "encoded", cache=None, seed: int = 0, text_tokens: int = 256) -> Backbone:
    """`kind`: encoded (words through an encoder, as `tiny`), adapted (that with what can be trained of it), tokens (the
    model's own, as `smollm2`), words (the model's own, beside phrases through an encoder, as `tiny_words`), spelled (as
    words, queries too), matcher or native.
    """
    if kind == "native":
        return random_native(seed, text_tokens)
    torch.manual_seed(seed)
    if kind == "matcher":
        tokenizer = word_piece_tokenizer()
        description = {
            "name": "test",
            "kind": kind,
            "reads": 1,
            "width": 16,
            "layers": 1,
            "match": 24,
            "memory": 24,
            "noise": 0.0,
            "blur": 0.0,
        }
        limits = ReadLimits(text_tokens, 64)
        return MatcherBackbone(random_bert(len(tokenizer), layers=2), tokenizer, description, limits).eval()
    if kind in ("words", "spelled"):
        tokenizer = word_piece_tokenizer()
        bert = random_bert(len(tokenizer))
        phrase = TextEncoder(bert, tokenizer.cls_token_id, tokenizer.sep_token_id, pool="phrase")
        lm = small_llama({"width": 24, "mlp": 32, "layers": 2, "heads": 2}, len(tokenizer), 0)
        description = {"name": "test", "kind": kind, "asks": "words" if kind == "spelled" else "phrases"}
        limits = ReadLimits(text_tokens)
        return SoftTokenBackbone(lm, tokenizer, {"phrase": phrase}, description, limits=limits, cache=cache).eval()
    trunk = nn.Sequential(nn.Conv2d(3, 8, 7, stride=16), nn.ReLU())
    encoders = {"image": ImageEncoder(trunk, dim=8), "sound": AudioEncoder(SoundNet(12, 4), 12)}
    tokenizer = byte_tokenizer() if kind == "tokens" else word_piece_tokenizer()
    reader = None
    if kind != "tokens":
        bert = random_bert(len(tokenizer))
        for pool in ("phrase", "passage"):
            if kind == "adapted" and pool == "passage":
                bert = adapted(bert, 1, 2, 4)
                for name, parameter in bert.named_parameters():
                    if ".lora_B" in name:  # zero at first: nothing would change
                        nn.init.normal_(parameter, std=0.1)
            encoders[pool] = TextEncoder(bert, tokenizer.cls_token_id, tokenizer.sep_token_id, pool=pool)
        if kind == "adapted":
            encoders["lexical"] = LexicalEncoder(64, 8)
    else:
        start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
        reader = TokenReader(tokenizer, end, [start], [end], plain_ids(tokenizer, "\n"))
    shape = {"width": 24, "mlp": 32, "layers": 2, "heads": 2}
    lm = small_llama(shape, len(tokenizer), 0)
    return SoftTokenBackbone(
        lm,
        tokenizer,
        encoders,
        {"name": "test", "kind": kind},
        reader=reader,
        limits=ReadLimits(text_tokens),
        cache=cache,
    ).eval()


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_audio(path: Path, seed: int = 0, seconds: float = 1.0, rate: int = 16_000) -> Path:
    wave = np.random.default_rng(seed).normal(0, 0.1, int(seconds * rate)).astype(np.float32)
    soundfile.write(path, wave, rate)
    return path


LANGUAGE_MODELS = {
    "llama": (LlamaConfig, {"num_key_value_heads": 1}),
    "gpt_neox": (GPTNeoXConfig, {}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 1}),
}


def save_language_model(folder: Path, kind: str = "llama", tokenizer=None, seed: int = 0, **settings) -> Path:
    """A small random language model whose answers depend on what it reads, as people save theirs."""
    config, own = LANGUAGE_MODELS[kind]
    tokenizer = tokenizer or byte_tokenizer()
    shape = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(seed)
    lm = AutoModelForCausalLM.from_config(
        config(
            vocab_size=len(tokenizer),
            max_position_embeddings=4096,
            initializer_range=0.3,
            **{**shape, **own, **settings},
        )
    )
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
