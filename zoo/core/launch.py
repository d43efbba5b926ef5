"""Several processes: how they start, and how they agree.

A run of several processes is one script that each of them runs. What they agree on goes over a group of its own on the
CPU that waits for as long as it takes: while one process renders a corpus or fetches weights, the others must not give
up. Where there is one process, everything here is a plain call.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor

from datamodules.sampling import process
from datamodules.schema import DataError
from zoo.core.processes import Plan

T = TypeVar("T")
FOREVER = timedelta(days=365)


def start(plan: Plan) -> None:
    """Starts the processes that `plan` asks for, unless torchrun or SLURM did, and connects them.

    The processes of one machine run the same command line as this one, as Lightning's strategies start them.
    """
    if plan.processes > 1 and not dist.is_initialized():
        L.Fabric(
            accelerator=plan.accelerator, devices=plan.devices, num_nodes=plan.nodes, strategy=DDPStrategy()
        ).launch()


def is_main() -> bool:
    """Whether this is the process that prints, writes the run's folder and gives the exit code."""
    if dist.is_available() and dist.is_initialized():
        return process()[0] == 0
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # before the processes are connected
    return int(next((os.environ[n] for n in names if n in os.environ), 0)) == 0


def gather(value: T) -> list[T]:
    """The value of every process, by rank, on every process."""
    if process()[1] == 1:
        return [value]
    out: list[Any] = [None] * process()[1]
    dist.all_gather_object(out, value, group=_agreement(dist.group.WORLD))
    return out


def place() -> tuple[int, int]:
    """This process's number on its machine, and how many there are on it."""
    return _place(dist.group.WORLD) if process()[1] > 1 else (0, 1)


def own_device(accelerator: str) -> int | list[int]:
    """The `devices` of a Trainer that this process runs by itself."""
    several_gpus = accelerator != "cpu" and torch.cuda.is_available() and process()[1] > 1
    return [place()[0]] if several_gpus else 1


def first(work: Callable[[], T]) -> T:
    """What `work` returns on the main process, told to all. A `DataError` there is raised on all."""
    result, error = _try(work) if is_main() else (None, None)
    _settle(error)
    return gather(result)[0]  # type: ignore[return-value]


def in_turn(work: Callable[[], T]) -> T:
    """`work` on one process of each machine, and then, with what it left on disk, on the others.

    A `DataError` of any is raised on all, so that no process waits for one that has given up.
    """
    result, early = None, place()[0] == 0
    for turn in (True, False):
        error = None
        if early == turn:
            result, error = _try(work)
        _settle(error)
    return result  # type: ignore[return-value]


def together(work: Callable[[], T]) -> T:
    """`work` on all processes at once. A `DataError` of any is raised on all."""
    result, error = _try(work)
    _settle(error)
    return result  # type: ignore[return-value]


def add_up(values: Tensor) -> Tensor:
    """The sum over all processes of a small tensor on the device, the same on each."""
    if process()[1] > 1:
        dist.all_reduce(values)
    return values


def own_randomness() -> None:
    """Noise and dropout of this process's own: seeded alike, all processes would draw the same."""
    if process()[0]:
        torch.manual_seed(torch.initial_seed() + process()[0])


def _try(work: Callable[[], T]) -> tuple[T | None, DataError | None]:
    try:
        return work(), None
    except DataError as e:
        return None, e


def _settle(error: DataError | None) -> None:
    """Raises on every process what one of them has raised."""
    for message in gather(None if error is None else str(error)):
        if message is not None:
            raise error or DataError(message)


@functools.cache
def _agreement(world: Any) -> Any:
    """The group that `world`'s processes agree over."""
    return dist.new_group(backend="gloo", timeout=FOREVER)


@functools.cache
def _place(world: Any) -> tuple[int, int]:
    host = socket.gethostname()
    mine = [rank for rank, other in enumerate(gather(host)) if other == host]
    return mine.index(process()[0]), len(mine)
