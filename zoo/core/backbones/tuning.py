"""Which of a language model's parameters are trained: low-rank adapters (LoRA, arXiv 2106.09685) or all of them."""

from __future__ import annotations

from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers import PreTrainedModel

from zoo.core.weights import CheckpointError

TUNINGS = ("lora", "full")


def add_lora(model: nn.Module, rank: int, alpha: int, dropout: float = 0.0) -> None:
    """Adapters on all linear layers of `model` but an output layer; nothing else of it is trained afterwards.

    They are float32 whatever the model is: in bfloat16 a step of 1e-4 is lost in rounding.
    """
    model.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear")
    inject_adapter_in_model(config, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def tune(lm: PreTrainedModel, tuning: str, rank: int, alpha: int, dropout: float) -> None:
    """Marks what is trained of a causal language model: adapters in its decoder, or decoder and vocabulary."""
    if tuning not in TUNINGS:
        raise CheckpointError(f"tuning={tuning}: expected one of {', '.join(TUNINGS)}")
    lm.requires_grad_(False)
    if tuning == "lora":
        add_lora(lm.get_decoder(), rank, alpha, dropout)
    else:
        for module in (lm.get_decoder(), lm.get_output_embeddings()):
            module.requires_grad_(True)


def checkpoint_activations(model: PreTrainedModel) -> None:
    """Layers keep their inputs alone and compute the rest again in the backward pass."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
