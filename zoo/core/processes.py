"""What a `trainer` group asks for, checked before any long work: devices, machines, the strategy, and the batch."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy

from datamodules.sampling import check_batch_size
from datamodules.schema import DataError, near

STRATEGIES = ("single", "ddp", "fsdp", "deepspeed")
ACCELERATORS = ("auto", "cpu", "gpu")
FSDP_PRECISIONS = ("32-true", "bf16-mixed", "bf16-true", "16-true")  # what ModelParallelStrategy takes


@dataclass(frozen=True)
class Plan:
    """`devices` processes on each of `nodes` machines, one a device."""

    accelerator: str
    devices: int
    nodes: int
    strategy: str
    precision: str
    accumulate: int

    @property
    def processes(self) -> int:
        return self.devices * self.nodes

    def trainer(self) -> dict[str, Any]:
        """Arguments of Lightning's Trainer. Samplers know their part themselves: Lightning's would repeat samples."""
        return {
            "accelerator": self.accelerator,
            "devices": self.devices,
            "num_nodes": self.nodes,
            "strategy": self._strategy(),
            "precision": self.precision,
            "accumulate_grad_batches": self.accumulate,
            "use_distributed_sampler": False,
        }

    def _strategy(self) -> str | Strategy:
        if self.strategy == "fsdp":
            # One group of data-parallel processes; a checkpoint is one whole file, as it is without sharding.
            return ModelParallelStrategy(self.processes, 1, save_distributed_checkpoint=False)
        if self.strategy == "deepspeed":
            # Weights stay whole on every process. The batch size is for its log alone.
            return DeepSpeedStrategy(stage=2, logging_batch_size_per_gpu=1)
        if self.processes == 1:
            return "auto"
        # Buffers are constants. To broadcast them at every pass would be a collective in the validation loop.
        return DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)


def plan(trainer: dict[str, Any], batch_size: int) -> Plan:
    """The plan of a recipe's `trainer` group. Raises `DataError` for what cannot be served."""
    accelerator = _one_of(trainer, "accelerator", ACCELERATORS)
    strategy = _one_of(trainer, "strategy", STRATEGIES)
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "cpu"
    nodes, accumulate = _at_least_one(trainer, "nodes"), _at_least_one(trainer, "accumulate")
    there = _gpus() if accelerator == "gpu" else 0
    if accelerator == "gpu" and not there:
        raise DataError("trainer.accelerator=gpu, but torch sees no GPU here: set trainer.accelerator=cpu")
    started = _started()
    devices = _devices(trainer, accelerator, there, started)
    if accelerator == "gpu" and devices > there:
        raise DataError(f"trainer.devices={devices}, but torch sees {there} GPU{'s' if there > 1 else ''} here")
    out = Plan(accelerator, devices, nodes, strategy, str(trainer["precision"]), accumulate)
    if started is not None and started[1] != out.processes:
        raise DataError(
            f"{started[0]} started {started[1]} processes, but trainer.devices={devices} × trainer.nodes={nodes} are "
            f"{out.processes}: make them agree (devices are those of one machine)"
        )
    _check_strategy(out)
    check_batch_size(batch_size, out.processes, accumulate)
    return out


def _check_strategy(plan: Plan) -> None:
    if plan.strategy == "single" and plan.processes > 1:
        raise DataError(
            f"trainer.devices={plan.devices} × trainer.nodes={plan.nodes} are {plan.processes} processes, and this "
            f"trainer runs one: choose trainer=ddp or trainer=fsdp (with trainer.accelerator={plan.accelerator})"
        )
    if plan.strategy == "fsdp":
        if plan.processes == 1:
            raise DataError(
                "trainer=fsdp parts a model among processes, and there is one: set trainer.devices, or trainer=gpu"
            )
        if plan.precision not in FSDP_PRECISIONS:
            raise DataError(f"trainer=fsdp: precision {plan.precision!r}{near(plan.precision, FSDP_PRECISIONS)}")
    if plan.strategy == "deepspeed":
        if plan.accelerator != "gpu":
            raise DataError("trainer=deepspeed needs GPUs: on CPUs choose trainer=ddp or trainer=fsdp")
        if importlib.util.find_spec("deepspeed") is None:
            raise DataError(
                "trainer=deepspeed needs a package that is not here: pip install 'guardrail-zoo[deepspeed]'"
            )


def _gpus() -> int:
    return torch.cuda.device_count() or int(torch.backends.mps.is_available())


def _started() -> tuple[str, int] | None:
    """Who started the processes there are, and how many; None where this process is to start the others."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun", int(os.environ["WORLD_SIZE"])
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        tasks = int(os.environ["SLURM_NTASKS"])
        if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise DataError(f"SLURM was asked for --ntasks={tasks}: give --ntasks-per-node (and --nodes) instead")
        return "SLURM", tasks
    return None


def _devices(trainer: dict[str, Any], accelerator: str, gpus: int, started: tuple[str, int] | None) -> int:
    """`devices` as a number. auto: as many as were started on this machine, else every GPU, else one process."""
    if str(trainer["devices"]) != "auto":
        return _at_least_one(trainer, "devices")
    if started is not None:
        here = os.environ.get("LOCAL_WORLD_SIZE" if started[0] == "torchrun" else "SLURM_NTASKS_PER_NODE")
        if here is not None:
            return int(here)
    return gpus if accelerator == "gpu" else 1


def _one_of(trainer: dict[str, Any], key: str, known: tuple[str, ...]) -> str:
    value = str(trainer[key])
    if value not in known:
        raise DataError(f"trainer.{key}={value}{near(value, known)}")
    return value


def _at_least_one(trainer: dict[str, Any], key: str) -> int:
    text = str(trainer[key])
    if not text.isdigit() or int(text) < 1:
        raise DataError(f"trainer.{key}={text}: expected a whole number of 1 or more")
    return int(text)
