"""What a soft-token backbone needs to know of an encoder."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """Turns raw inputs (what `load` returns in a worker) into features [n, dim + 1].

    The last column is the time in seconds at which a token stands (zero where time means nothing). The number of
    tokens is known before encoding, so that a batch can be laid out in the worker.
    """

    dim: int
    setting: str  # everything but the weights that changes the features
    _frozen: tuple[nn.Parameter, ...] = ()  # its parameters, once no module is added: asked for each text that is read

    @abstractmethod
    def num_tokens(self, raw: Tensor) -> int: ...

    @abstractmethod
    def encode(self, raws: Sequence[Tensor]) -> list[Tensor]:
        """One feature matrix [n, dim + 1] for each raw input, in float32."""

    def fingerprint(self) -> str:
        """A hash of the weights and the setting: part of the key of a cached feature."""
        if not hasattr(self, "_fingerprint"):
            digest = hashlib.sha256(self.setting.encode())
            for name, value in sorted(self.state_dict().items()):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
            self._fingerprint = digest.hexdigest()[:32]
        return self._fingerprint

    def freeze(self) -> Encoder:
        """Nothing is trained afterwards but LoRA weights, where there are any."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(".lora_" in name)
        self._frozen = tuple(self.parameters())
        return self.eval()

    @property
    def trains(self) -> bool:
        """Whether its features change in training: they are then neither cached nor computed without gradients."""
        return any(p.requires_grad for p in self._frozen or self.parameters())

    def train(self, mode: bool = True) -> Encoder:
        """Stays in evaluation mode once frozen: batch statistics would change the features."""
        return super().train(mode and self.trains)


def with_times(features: Tensor, times: Tensor) -> Tensor:
    """Appends the time column: [n, d] and [n] → [n, d + 1]."""
    return torch.cat([features.float(), times.to(features.device, torch.float32).unsqueeze(-1)], dim=-1)
