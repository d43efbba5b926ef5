"""A backbone parted among processes (FSDP2), and whole again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from zoo.core.backbones.base import Backbone


def shard(backbone: Backbone, mesh: DeviceMesh, mixed: bool = False) -> None:
    """Parts the language model's layers, each a unit that is gathered when its turn comes, and then the rest as one.

    Tied embeddings fall into the same unit. Frozen encoders stay whole: they are small, and they also run where no
    other process does (one that has a picture to encode while the others have none). `mixed`: what is gathered is
    bf16. Autocast alone would keep a bf16 copy of every gathered weight until the backward pass.
    """
    if isinstance(backbone, FSDPModule):
        return  # Lightning configures the model again before each validation
    encoders = getattr(backbone, "encoders", None)
    whole = set() if encoders is None else set(encoders.parameters())
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)  # features of frozen encoders stay float32
    if mixed:
        policy = replace(policy, param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in backbone.layers():
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(backbone, mesh=mesh, mp_policy=policy, ignored_params=whole)


@torch.no_grad()
def gather_into(target: Backbone, source: Backbone) -> None:
    """Copies what a checkpoint holds from a sharded backbone into a whole one, a tensor at a time.

    All processes take part; each ends up with all of it.
    """
    own = target.state_dict()
    for name, value in source.saved_state().items():
        own[name].copy_(full(value))


def number_by_model(
    states: Sequence[dict[str, Any]], optimizers: Sequence[torch.optim.Optimizer], parameters: Iterable[Tensor]
) -> None:
    """Numbers the parameters of saved optimizer states by their place in the model, in place.

    An optimizer numbers them by its groups, a sharded model by itself: alike, either's checkpoint serves the other.
    """
    place = {id(p): i for i, p in enumerate(parameters)}
    for state, optimizer in zip(states, optimizers):
        number: dict[int, int] = {}
        for saved, group in zip(state["param_groups"], optimizer.param_groups):
            number |= {old: place[id(p)] for old, p in zip(saved["params"], group["params"])}
            saved["params"] = [number[old] for old in saved["params"]]
        state["state"] = {number[old]: values for old, values in state["state"].items()}


def full(value: Tensor) -> Tensor:
    """The whole of a tensor that may be sharded. All processes take part."""
    return value.full_tensor() if isinstance(value, DTensor) else value
