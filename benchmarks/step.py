"""A training step under Lightning against the same model, batches and arithmetic in a bare PyTorch loop."""

from __future__ import annotations

import copy
import time
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from datamodules.base import GuardDataModule
from zoo.config import compose, plain
from zoo.core.losses import guard_loss
from zoo.core.module import GuardModule
from zoo.core.optim import build_optimizer
from zoo.fit import build_data
from zoo.methods import METHODS

STEPS, SKIPPED, ROUNDS = 24, 4, 3


class _Stopwatch(L.Callback):
    """Seconds from the end of step SKIPPED to the end of the last step."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == SKIPPED:
            self.started = time.perf_counter()
        elif trainer.global_step == STEPS:
            self.seconds = time.perf_counter() - self.started


def _as_it_is(batch: Any) -> Any:
    return batch


def under_lightning(module: GuardModule, batches: list[Any], t: dict[str, Any]) -> float:
    watch = _Stopwatch()
    trainer = L.Trainer(
        accelerator="cpu", devices=1, precision=t["precision"], max_steps=STEPS, gradient_clip_val=t["gradient_clip"],
        logger=False, callbacks=[watch], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, train_dataloaders=DataLoader(batches, batch_size=None, collate_fn=_as_it_is), weights_only=True)
    return watch.seconds


def bare(module: GuardModule, batches: list[Any], t: dict[str, Any]) -> float:
    guard, hparams = module.guard.train(), dict(module.hparams)
    fitted = build_optimizer(guard, steps=STEPS, **hparams)
    optimizer, schedule = fitted["optimizer"], fitted["lr_scheduler"]["scheduler"]
    trainable = [p for p in guard.parameters() if p.requires_grad]
    for step, batch in enumerate(batches, 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=t["precision"] == "bf16-mixed"):
            loss, _ = guard_loss(guard.backbone.score_batch(batch.inputs), batch.targets, module.loss_weights)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable, t["gradient_clip"])
        optimizer.step()
        schedule.step()
        if step == SKIPPED:
            started = time.perf_counter()
    return time.perf_counter() - started


def training_step() -> dict[str, Any]:
    """`ratio` is the speed of the zoo's step over that of the bare loop: medians of ROUNDS, in turns."""
    config = plain(compose(["recipe=omniguard", "data.scale=0.1", f"data.epoch_size={16 * STEPS}"]))
    L.seed_everything(0, verbose=False)
    data: GuardDataModule = build_data(config)
    module = METHODS["omniguard"].build(config, data)
    module.attach(data)
    batches = list(data.train_dataloader())
    times: dict[str, list[float]] = {"zoo": [], "bare": []}
    for _ in range(ROUNDS):
        for name, run in (("zoo", under_lightning), ("bare", bare)):
            times[name].append(run(copy.deepcopy(module), batches, config["trainer"]))
    zoo, loop = (sorted(times[k])[ROUNDS // 2] for k in ("zoo", "bare"))
    return {"steps": STEPS - SKIPPED, "zoo_seconds": zoo, "bare_seconds": loop, "ratio": loop / zoo}
