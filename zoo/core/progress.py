"""Progress on standard error: one bar over the whole training, and a line after each validation."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
from tqdm import tqdm

from zoo.core.launch import is_main


class StderrProgress(L.Callback):
    """Lightning's own bars write to standard output, which is kept for results."""

    def __init__(self, what: str = "training"):
        self.what = what
        self.bar: tqdm | None = None

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            total = int(trainer.estimated_stepping_batches)
            self.bar = tqdm(
                total=total, initial=trainer.global_step, desc=self.what, unit="step", file=sys.stderr, mininterval=1.0
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if self.bar is not None:
            self.bar.update(trainer.global_step - self.bar.n)
            self.bar.set_postfix(
                {k.split("/")[-1]: f"{v:.3f}" for k, v in trainer.progress_bar_metrics.items()}, refresh=False
            )

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.bar is not None and not trainer.sanity_checking:
            values = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            line = "  ".join(f"{k} {v:.3f}" for k, v in sorted(values.items()))
            self.bar.write(f"epoch {trainer.current_epoch + 1}: {line}", file=sys.stderr)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def on_exception(self, trainer: L.Trainer, module: L.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, module)

    def on_predict_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if is_main():  # each process predicts with a Trainer of its own
            batches = sum(b for b in trainer.num_predict_batches if isinstance(b, int))
            self.bar = tqdm(total=batches, desc=self.what, unit="batch", file=sys.stderr, leave=False, mininterval=1.0)

    def on_predict_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        if self.bar is not None:
            self.bar.update()

    on_predict_end = on_train_end
