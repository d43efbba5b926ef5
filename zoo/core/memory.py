"""What a training step needs on each GPU, computed from a model's own tensors without making them.

Weights are counted on the meta device. What a layer keeps for its backward pass is counted by running it on fake
tensors, which have shapes and types but no values: no formula has to follow the versions of a library.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as qwen
from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig

GIB = 2**30
MOMENTS = 2  # AdamW's, each as large and of the type of the weights
SHAPES: dict[str, dict[str, Any]] = {  # where the published configurations differ from those of the classes
    "Qwen2.5-Omni-3B": {
        "text_config": {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
        },
        "vision_config": {"hidden_size": 1280, "out_hidden_size": 2048},
        "audio_config": {"output_dim": 2048},
    },
    "Qwen2.5-Omni-7B": {"vision_config": {"hidden_size": 1280}},
}
TUNINGS = ("lora", "full")
LORA_RANK = 16
ROWS, TOKENS = 4, 1024  # of a forward pass on one GPU, in the printed table
STRATEGIES = (("one GPU, or ddp on any number", "ddp", 1), ("fsdp on 2", "fsdp", 2), ("fsdp on 8", "fsdp", 8))
STRATEGIES += (("deepspeed (ZeRO-2) on 8", "deepspeed", 8),)


@dataclass(frozen=True)
class Need:
    """Bytes on one GPU. `gathered`: copies of weights, and of their gradients, that live for a part of a step only."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations


def bytes_of(tensors: Iterable[Tensor], shares: int = 1) -> int:
    """Bytes of the largest of `shares` parts of each tensor, cut along its first dimension as FSDP2 cuts it."""
    out = 0
    for t in tensors:
        rows = -(-t.shape[0] // shares) if t.dim() else 1
        out += rows * (t.numel() // t.shape[0] if t.dim() and t.shape[0] else 1) * t.element_size()
    return out


def states(module: nn.Module, layers: Sequence[nn.Module], strategy: str, processes: int, mixed: bool = True) -> Need:
    """Weights, gradients and AdamW's state of `module` on one of `processes`, activations left at 0.

    `layers` are what FSDP2 gathers one at a time; `mixed` is bf16 autocast (bf16-mixed).
    """
    every = list(module.parameters())
    trained = [p for p in every if p.requires_grad]
    size = 2 if mixed else 4  # bytes of a number that is computed with
    if strategy == "ddp":
        copies = sum(p.numel() for p in trained if p.element_size() > 2) * size if mixed else 0
        return Need(bytes_of(every), bytes_of(trained), MOMENTS * bytes_of(trained), copies, 0)
    if strategy == "fsdp":
        units = [{id(p): p for p in layer.parameters()} for layer in layers]
        inside = {k for unit in units for k in unit}
        rest = [p for p in every if id(p) not in inside]
        largest = max(units, key=lambda u: sum(p.numel() for p in u.values())).values()
        # The rest stays gathered for the whole step, a layer while it runs; the next layer is fetched meanwhile.
        gathered = sum(p.numel() for p in rest) + 2 * sum(p.numel() for p in largest)
        gradients = sum(p.numel() for p in (*rest, *largest) if p.requires_grad)
        held = bytes_of(trained, processes)
        return Need(bytes_of(every, processes), held, MOMENTS * held, (gathered + gradients) * size, 0)
    if strategy == "deepspeed":  # ZeRO-2 in bf16, after arXiv 1910.02054: whole weights, parted gradients and states
        count = sum(p.numel() for p in trained)
        frozen = bytes_of(p for p in every if not p.requires_grad)
        return Need(frozen + 2 * count, 2 * count / processes, 4 * (1 + MOMENTS) * count / processes, 0, 0)
    raise ValueError(f"unknown strategy {strategy!r}")


def saved_bytes(forward: Callable[[], Any], own: Iterable[Tensor]) -> int:
    """What autograd keeps of `forward` for its backward pass, without the tensors `own` (weights and buffers)."""
    known = {t.untyped_storage()._cdata for t in own}
    seen: dict[int, Tensor] = {}

    def keep(t: Tensor) -> Tensor:
        if t.untyped_storage()._cdata not in known:
            seen[t.untyped_storage()._cdata] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = forward()
        total = sum(t.untyped_storage().nbytes() for t in seen.values())
    del out
    return total


def made(make: Callable[[], nn.Module], tuning: str, rank: int = LORA_RANK) -> nn.Module:
    """A model with bf16 weights and float32 LoRA layers beside them, or with float32 weights that all train."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if tuning == "lora" else torch.float32)
    try:
        model = make()
    finally:
        torch.set_default_dtype(usual)
    if tuning == "lora":
        model.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=rank, target_modules="all-linear"), model)
        for p in model.parameters():
            if p.requires_grad:
                p.data = p.data.float()
    return model


def faked(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """A module of the meta device as one of the CPU whose tensors have no values."""
    for m in module.modules():
        for name, p in m._parameters.items():
            if p is not None:
                fake = FakeTensor(mode, p.data, torch.device("cpu"))
                m._parameters[name] = nn.Parameter(fake, requires_grad=p.requires_grad)
        for name, b in m._buffers.items():
            if b is not None:
                m._buffers[name] = FakeTensor(mode, b, torch.device("cpu"))
    return module


def activations(config: Any, tuning: str, rows: int, tokens: int) -> int:
    """Bytes that a checkpointed decoder of `config` (a thinker's text part) keeps for `rows` × `tokens`, at its peak.

    Each layer keeps its input; the layer whose turn it is in the backward pass keeps everything. Output: a chunk of
    256 rows of logits with its gradient, in float32.
    """
    short = type(config)(**{**config.to_dict(), "num_hidden_layers": 1, "layer_types": None})
    with torch.device("meta"):
        lm = made(lambda: qwen.Qwen2_5OmniThinkerTextModel(short), tuning).train()
    mode = FakeTensorMode()
    faked(lm, mode)
    with mode:
        x = torch.empty(rows, tokens, config.hidden_size, dtype=lm.embed_tokens.weight.dtype, requires_grad=True)
        one = saved_bytes(lambda: decoded(lm, x), [*lm.parameters(), *lm.buffers()])
        kept = config.num_hidden_layers * x.untyped_storage().nbytes()
    return one + kept + 2 * 256 * config.vocab_size * 4


def decoded(lm: nn.Module, x: Tensor) -> Tensor:
    """A training pass of a decoder over embeddings [b, n, d] in mixed precision, with a mask as branches need it."""
    b, n, _ = x.shape
    mask = torch.zeros(b, 1, n, n, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        return lm(
            inputs_embeds=x, attention_mask=mask, position_ids=torch.arange(n).expand(3, b, n), use_cache=False
        ).last_hidden_state


def thinker(name: str, tuning: str) -> tuple[nn.Module, Any]:
    """A thinker of `SHAPES` on the meta device, its encoders frozen in bf16, and its text part's configuration."""
    config = Qwen2_5OmniThinkerConfig(**SHAPES[name])
    with torch.device("meta"):
        model = made(lambda: qwen.Qwen2_5OmniThinkerForConditionalGeneration(config), "full")
        model.to(torch.bfloat16).requires_grad_(False)
        model.model.language_model = made(lambda: qwen.Qwen2_5OmniThinkerTextModel(config.text_config), tuning)
        if tuning == "full":
            model.lm_head.float().requires_grad_(True)
    return model, config.text_config


def table(rows: int = ROWS, tokens: int = TOKENS) -> list[list[str]]:
    """Rows of GiB for every model, tuning and strategy."""
    out = []
    for name in SHAPES:
        for tuning in TUNINGS:
            model, text = thinker(name, tuning)
            kept = activations(text, tuning, rows, tokens)
            every = list(model.parameters())
            size = f"{name} ({sum(p.numel() for p in every) / 1e9:.2f}B)"
            trained = f"{tuning} ({sum(p.numel() for p in every if p.requires_grad) / 1e6:,.0f}M)"
            for label, strategy, processes in STRATEGIES:
                need = states(model, model.model.language_model.layers, strategy, processes)
                parts = (need.weights, need.gradients, need.optimizer, need.gathered, kept, need.total + kept)
                out.append([size, trained, label, *(f"{b / GIB:.1f}" for b in parts)])
    return out
