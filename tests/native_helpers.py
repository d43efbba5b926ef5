"""A tiny random Qwen2.5-Omni thinker of the real classes, in a folder as the hub has it; no network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from zoo.core.backbones.native import NativeBackbone
from zoo.core.backbones.omni_media import MediaReader
from zoo.core.backbones.omni_source import Processors, codes_of
from zoo.core.backbones.sources import ReadLimits

MARKS = {
    "image_token": "<|IMAGE|>",
    "audio_token": "<|AUDIO|>",
    "video_token": "<|VIDEO|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
}
BANDS = 16


def omni_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, with the model's marks and the chat delimiters as special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={**MARKS, "im_start_token": "<|im_start|>"},
    )


def omni_processor() -> Qwen2_5OmniProcessor:
    return Qwen2_5OmniProcessor(
        Qwen2VLImageProcessor(),
        Qwen2VLVideoProcessor(),
        WhisperFeatureExtractor(feature_size=BANDS, chunk_length=30),
        omni_tokenizer(),
    )


def omni_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5OmniThinkerConfig:
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in MARKS.items()}
    return Qwen2_5OmniThinkerConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "window_size": 56,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        audio_config={
            "num_mel_bins": BANDS,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 24,
            "d_model": 16,
            "output_dim": 32,
        },
        image_token_index=ids["image_token"],
        video_token_index=ids["video_token"],
        audio_token_index=ids["audio_token"],
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
    )


def random_thinker(processor: Qwen2_5OmniProcessor, seed: int = 0) -> Qwen2_5OmniThinkerForConditionalGeneration:
    """Its weights are as large as its width asks for: what it says depends on what it reads, sees and hears."""
    torch.manual_seed(seed)
    thinker = Qwen2_5OmniThinkerForConditionalGeneration(omni_config(processor.tokenizer))
    with torch.no_grad():
        for p in thinker.parameters():
            if p.dim() >= 2:
                p.normal_(0, p[0].numel() ** -0.5)
    return thinker.eval()


def random_native(seed: int = 0, text_tokens: int = 256) -> NativeBackbone:
    """The backbone without a folder."""
    processor = omni_processor()
    thinker = random_thinker(processor, seed)
    parts = Processors(
        processor.tokenizer, processor.image_processor, processor.video_processor, processor.feature_extractor
    )
    media = MediaReader(parts, ReadLimits(text_tokens, frames=16), image_tokens=16, frame_tokens=4)
    codes = codes_of(processor.tokenizer, thinker.config, Path("memory"))
    return NativeBackbone(thinker, processor.tokenizer, codes, media, {"name": "test", "kind": "native"}).eval()


def write_thinker(folder: Path, seed: int = 0) -> Path:
    """A thinker's folder."""
    processor = omni_processor()
    random_thinker(processor, seed).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_whole(folder: Path, thinker: Path) -> Path:
    """The same weights inside a whole Omni model, with names, config and processors as the hub has them."""
    folder.mkdir()
    state = {f"thinker.{name}": t for name, t in load_file(thinker / "model.safetensors").items()}
    names = sorted(state)
    parts = {"a": names[::2], "b": names[1::2]}
    others = {"talker.lm_head.weight": torch.zeros(3), "token2wav.x": torch.zeros(2)}
    index = {}
    for part, mine in parts.items():
        file = f"model-{part}.safetensors"
        tensors = {n: state[n] for n in mine} | (others if part == "b" else {})
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    config = read_json(thinker / "config.json")
    write_json(folder / "config.json", {"model_type": "qwen2_5_omni", "thinker_config": config})
    (folder / "tokenizer.json").write_bytes((thinker / "tokenizer.json").read_bytes())
    words = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    words |= {"additional_special_tokens": ["<|im_start|>", *MARKS.values()], "extra_special_tokens": MARKS}
    write_json(folder / "tokenizer_config.json", words)
    parts = read_json(thinker / "processor_config.json")
    flat = {**parts["feature_extractor"], **parts["image_processor"]}
    flat |= {"min_pixels": 3136, "max_pixels": 12845056}
    del flat["size"]
    write_json(folder / "preprocessor_config.json", flat)
    return folder


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value))


def write_clip(path: Path, seconds: float = 2.0, sound: bool = True, size: tuple[int, int] = (64, 48), seed: int = 0):
    """A clip of changing noise, 8 frames a second, with noise for a track."""
    random = np.random.default_rng(seed)
    with av.open(str(path), "w") as out:
        video = out.add_stream("mpeg4", rate=8)
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        track = out.add_stream("aac", rate=16_000) if sound else None
        for _ in range(int(seconds * 8)):
            pixels = random.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            for packet in video.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                out.mux(packet)
        for packet in video.encode():
            out.mux(packet)
        if track is not None:
            wave = random.normal(0, 0.1, (1, int(seconds * 16_000))).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate = 16_000
            for packet in [*track.encode(frame), *track.encode()]:
                out.mux(packet)
    return path


def copied(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def without(folder: Path, part: str) -> None:
    """Takes one of the processors out."""
    config = read_json(folder / "processor_config.json")
    del config[part]
    write_json(folder / "processor_config.json", config)
