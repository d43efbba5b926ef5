"""Which of a language model's parameters are trained: low-rank adapters or all of them."""

from __future__ import annotations

from transformers import PreTrainedModel

from zoo.core.lora import add_lora
from zoo.core.weights import CheckpointError

TUNINGS = ("lora", "full")


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
