"""Several low-rank adapters (LoRA, arXiv 2106.09685) on the same layers, and rows that each go through one of them.

peft holds one adapter active for a whole batch, or loops over those of a mixed one. Here the matrices of a site are
stacked and picked by row, so that a batch of (row, adapter) pairs takes one pass: two small batched products a site.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Iterator, Sequence

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from datamodules.schema import DataError
from zoo.core.weights import CheckpointError

NONE = -1  # the index of a row that goes through no adapter


def sites_of(layers: Sequence[nn.Module], first: int = 0) -> dict[str, nn.Module]:
    """The linear maps of decoder layers by name, numbered from `first`; one with LoRA of its own counts as one."""
    out: dict[str, nn.Module] = {}

    def walk(module: nn.Module, name: str) -> None:
        if isinstance(module, (nn.Linear, BaseTunerLayer)):
            out[name] = module
            return
        for child, inner in module.named_children():
            walk(inner, f"{name}.{child}")

    for number, layer in enumerate(layers, first):
        walk(layer, f"layers.{number}")
    return out


class Adapter(nn.Module):
    """One adapter: `down` [r, in] and `up` [out, r] for each site. It starts as no change: `up` is zero."""

    def __init__(self, shapes: dict[str, tuple[int, int]], rank: int):
        super().__init__()
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for site, (wide, out) in shapes.items():
            key = site.replace(".", "_")
            self.down[key] = nn.Parameter(torch.empty(rank, wide))
            self.up[key] = nn.Parameter(torch.zeros(out, rank))
            nn.init.kaiming_uniform_(self.down[key], a=math.sqrt(5))


class AdapterBank(nn.Module):
    """Adapters by name over the linear maps of some decoder layers, in float32.

    While `using(index)` is open, row i of what passes through those layers also goes through adapter number `index[i]`
    (in the order of `names`), or through none where it is `NONE`: then its outputs are the base's to the last bit.
    """

    def __init__(self, layers: Sequence[nn.Module], first: int, rank: int, alpha: float):
        super().__init__()
        if rank < 1:
            raise DataError(f"adapters: rank {rank}: give at least 1")
        sites = sites_of(layers, first)
        self.shapes = {name: (m.in_features, m.out_features) for name, m in sites.items()}
        self.rank, self.alpha = rank, alpha
        self.adapters = nn.ModuleDict()
        self._index: Tensor | None = None
        for name, module in sites.items():
            module.register_forward_hook(functools.partial(self._hook, name.replace(".", "_")))

    @property
    def names(self) -> list[str]:
        return list(self.adapters)

    def index(self, name: str) -> int:
        return self.names.index(name)

    def add(self, name: str, state: dict[str, Tensor] | None = None) -> Adapter:
        """A new adapter, the last in `names`; the others stay as they are.

        `state` holds its tensors, from `state_of`. Raises `DataError` for a name that is taken or cannot be one,
        and `CheckpointError` for tensors of another base or rank.
        """
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or hasattr(nn.ModuleDict(), name):
            raise DataError(f"{name!r} cannot be an adapter's name: use letters, digits, '_' and '-'")
        if name in self.adapters:
            raise DataError(f"there is an adapter {name!r} already: give the new one another name")
        adapter = Adapter(self.shapes, self.rank).to(self._device())
        if state is not None:
            own = adapter.state_dict()
            if set(own) != set(state) or any(own[k].shape != v.shape for k, v in state.items()):
                raise CheckpointError(
                    f"adapter {name!r} does not fit: it was trained for other layers or another rank than {self.rank}"
                )
            adapter.load_state_dict(state)
        self.adapters[name] = adapter
        return adapter

    def state_of(self, name: str) -> dict[str, Tensor]:
        return self.adapters[name].state_dict()

    def _device(self) -> torch.device:
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    @contextlib.contextmanager
    def using(self, index: Tensor) -> Iterator[None]:
        """`index` [n] names the adapter of each row of the passes inside, by number."""
        before, self._index = self._index, None if bool((index == NONE).all()) else index
        try:
            yield
        finally:
            self._index = before

    def _hook(self, site: str, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
        """Adds what the rows' adapters say to a site's outputs [n, t, out]."""
        if self._index is None:
            return None
        index, adapters = self._index, self.adapters.values()
        down = torch.stack([a.down[site] for a in adapters])[index.clamp_min(0)]  # [n, r, in]
        up = torch.stack([a.up[site] for a in adapters])[index.clamp_min(0)]  # [n, out, r]
        up = up * ((index != NONE) * (self.alpha / self.rank)).view(-1, 1, 1)
        x = args[0] if torch.is_autocast_enabled(out.device.type) else args[0].to(down.dtype)
        return out + torch.bmm(torch.bmm(x, down.mT), up.mT).to(out.dtype)
