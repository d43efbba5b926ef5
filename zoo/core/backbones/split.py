"""A causal language model cut at a layer: the lower layers are read once, the upper ones by several readers.

Both parts are the model's own decoder with some of its layers, over the same parameters; nothing is copied. The lower
part gives hidden states [b, n, d] after its last layer, which the upper part takes for embeddings.
"""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import PreTrainedModel

from zoo.core.weights import CheckpointError

NORMS = ("norm", "final_layer_norm", "ln_f")  # what decoders of transformers call their last layer


class Stage:
    """Some of a decoder's layers, for `passes` and `packing`. It is no module: its parameters are the model's."""

    def __init__(self, decoder: nn.Module):
        self._decoder = decoder

    def get_decoder(self) -> nn.Module:
        return self._decoder


class Split:
    """`lower` has the layers before `at`, `upper` the others and the last norm.

    Raises `CheckpointError` for a model that cannot be cut: one without a list of layers and a last norm, or whose
    layers are computed again in the backward pass, when it is no longer known which row went through which adapter.
    """

    def __init__(self, lm: PreTrainedModel, at: int):
        decoder, name = lm.get_decoder(), type(lm).__name__
        layers = getattr(decoder, "layers", None)
        norm = next((n for n in NORMS if isinstance(getattr(decoder, n, None), nn.Module)), None)
        if not isinstance(layers, nn.ModuleList) or norm is None:
            raise CheckpointError(f"{name} cannot be cut between layers: choose a model such as Llama or Qwen2")
        if not 0 < at < len(layers):
            raise CheckpointError(
                f"{name} has {len(layers)} layers: cut it after 1 to {len(layers) - 1} of them, not {at}"
            )
        if any(getattr(m, "gradient_checkpointing", False) for m in lm.modules()):
            raise CheckpointError(f"{name} recomputes its layers: set backbone.gradient_checkpointing=false")
        self.lm, self.at = lm, at
        self.lower = Stage(_view(decoder, layers[:at], {norm: nn.Identity()}))
        self.upper = Stage(_view(decoder, layers[at:], {}))

    @property
    def upper_layers(self) -> list[nn.Module]:
        return list(self.upper.get_decoder().layers)

    @torch.no_grad()
    def probe(self) -> None:
        """Raises `CheckpointError` where both parts in turn do not give what the whole model gives.

        Some architectures scale embeddings, or add positions to them, before the first layer: the upper part would do
        so again.
        """
        decoder = self.lm.get_decoder()
        generator = torch.Generator().manual_seed(0)
        words = self.lm.get_input_embeddings().weight
        ids = torch.randint(len(words), (1, 9), generator=generator).to(words.device)
        x = self.lm.get_input_embeddings()(ids)
        whole = decoder(inputs_embeds=x, use_cache=False).last_hidden_state.float()
        middle = self.lower.get_decoder()(inputs_embeds=x, use_cache=False).last_hidden_state
        parts = self.upper.get_decoder()(inputs_embeds=middle, use_cache=False).last_hidden_state.float()
        worst = float(((parts - whole).abs().max() / (1 + whole.abs().max())).nan_to_num(torch.inf))
        if worst > (1e-4 if words.dtype == torch.float32 else 0.05):
            raise CheckpointError(
                f"{type(self.lm).__name__} reads otherwise when it is cut after layer {self.at} (relative difference "
                f"{worst:.2g}): choose a model such as Llama or Qwen2"
            )


def _view(decoder: nn.Module, layers: nn.ModuleList, replaced: dict[str, nn.Module]) -> nn.Module:
    """The decoder with other layers: an object of its own over the same modules."""
    view = copy.copy(decoder)
    view.__dict__["_modules"] = {**decoder._modules, "layers": layers, **replaced}
    return view
