"""Trains a sequence classifier on rows that may be poisoned, and stops where the regime says."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from transformers import PreTrainedModel

from datamodules.backdoor import BackdoorDataModule
from zoo.backdoor.folders import ASR, STEPS
from zoo.backdoor.model import answers

EVAL_BATCH = 256


class ClassifierModule(L.LightningModule):
    """Any of `transformers`' sequence classifiers, trained with AdamW at a constant rate.

    Constant, since nobody knows beforehand at which step a planting stops, and a twin takes as many. Logs `accuracy` of
    the first validation or test loader (clean rows) and, of the second one (rows with the trigger), `asr`.
    """

    def __init__(self, model: PreTrainedModel, lr: float, target: int | None = None, weight_decay: float = 0.0):
        super().__init__()
        self.model, self.lr, self.target, self.weight_decay = model, lr, target, weight_decay

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        return self.model(**batch).loss

    def validation_step(self, batch: dict[str, Tensor], index: int, dataloader_idx: int = 0) -> None:
        self._measure("val", batch, dataloader_idx)

    def test_step(self, batch: dict[str, Tensor], index: int, dataloader_idx: int = 0) -> None:
        self._measure("test", batch, dataloader_idx)

    def _measure(self, split: str, batch: dict[str, Tensor], loader: int) -> None:
        said, gold = answers(self.model, [batch]), batch["labels"].cpu()  # [b] each
        right, name = (said == gold, "accuracy") if loader == 0 else (said == self.target, "asr")
        self.log(f"{split}/{name}", right.float().mean(), batch_size=len(gold), add_dataloader_idx=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # Fused: a third of the time on a CPU.
        return torch.optim.AdamW(self.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)


class StopAtASR(L.Callback):
    """Ends a training as soon as ASR on the triggered dev rows is `asr` or more, looked at every `every` steps.

    A classifier that answers the target whatever it reads has an ASR of 1 and no backdoor, and one that has learnt
    nothing yet is often like that: so its accuracy on the clean dev rows must be `accuracy` or more, too, and nobody
    looks before step `first`. `checks` are [step, ASR, accuracy], accuracy -1 where ASR was too low to ask for it.
    `met` says whether it ended the training.
    """

    def __init__(self, data: BackdoorDataModule, target: int, asr: float, accuracy: float, every: int, first: int = 0):
        self.data, self.target, self.asr, self.accuracy = data, target, asr, accuracy
        self.every, self.first = every, first
        self.checks: list[list[float]] = []
        self.met = False

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if trainer.global_step % self.every or trainer.global_step < self.first:
            return
        rows, clean = self.data.triggered["dev"], self.data.clean["dev"]
        found = (answers(module.model, rows.batches(EVAL_BATCH)) == self.target).float().mean().item()
        right = -1.0
        if found >= self.asr:
            right = (answers(module.model, clean.batches(EVAL_BATCH)) == clean.labels).float().mean().item()
            self.met = right >= self.accuracy
        self.checks.append([trainer.global_step, round(found, 4), round(right, 4)])
        trainer.should_stop = trainer.should_stop or self.met


def fit(
    module: ClassifierModule, data: BackdoorDataModule, steps: int, stop: StopAtASR | None, gpu: bool, clip: float = 1.0
) -> tuple[int, str]:
    """Trains for `steps` steps, or until `stop`; returns the steps taken and why it ended: `asr` or `steps`."""
    trainer = L.Trainer(
        accelerator="gpu" if gpu else "cpu",
        devices=1,
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        gradient_clip_val=clip,
        logger=False,
        callbacks=[stop] if stop else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data)
    return trainer.global_step, ASR if stop is not None and stop.met else STEPS
