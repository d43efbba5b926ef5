"""Low-rank adapters (LoRA, arXiv 2106.09685) on the linear layers of a module."""

from __future__ import annotations

from collections.abc import Sequence

from peft import LoraConfig, inject_adapter_in_model
from torch import nn


def add_lora(
    model: nn.Module, rank: int, alpha: int, dropout: float = 0.0, targets: str | Sequence[str] = "all-linear"
) -> None:
    """Adapters on the layers of `model` whose names end in `targets`; nothing else of it is trained afterwards.

    `all-linear` are all linear layers of a transformers model but its output layer. Adapters are float32 whatever the
    model is: in bfloat16 a step of 1e-4 is lost in rounding.
    """
    model.requires_grad_(False)
    names = targets if isinstance(targets, str) else list(targets)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names), model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
