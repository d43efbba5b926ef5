"""Fine-tunes the attacker of RedCoder on prototype conversations. No mathematics here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
from torch import Tensor

from datamodules.base import Failed
from datamodules.schema import DataError, Policy, Sample
from datamodules.transforms.augment import Augment
from zoo.core.optim import build_optimizer
from zoo.redcoder.model import NextPrompt, PromptBatch, Row, Sums, figures, total

Chat = Callable[[Sample], list[dict[str, str]]]
"""A row of the data → the chat that its last message is the answer of."""


class RedCoderModule(L.LightningModule):
    """(history → next prompt) by next-token cross-entropy on the prompt alone (RedCoder, arXiv 2507.22063, section 3).

    `chat_of` says what is told of a row of `datamodules.games.load_prompts`. Only what training changes is in a
    checkpoint: a pretrained base is pinned by its hash.
    """

    def __init__(
        self,
        model: NextPrompt,
        chat_of: Chat,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        warmup: float,
    ):
        super().__init__()
        self.model, self.chat_of = model, chat_of
        self.save_hyperparameters({"lr": lr, "weight_decay": weight_decay, "betas": list(betas), "warmup": warmup})
        self.failed_ids: set[str] = set()
        self.rows: dict[str, Row] = {}
        self._sums: list[Sums] = []

    # ------------------------------------------------------------------------------------------------ data

    def attach(self, datamodule: Any) -> None:
        """Reads every row once. A row that is too long for the model leaves the data, and is listed in its errors.

        Raises `DataError` where no training row is left.
        """
        datamodule.transform, datamodule.collate = self.prepare, self.collate
        too_long = []
        for split in ("train", "val", "test"):
            for sample in datamodule.samples(split):
                if sample.id in self.rows:
                    continue
                try:
                    self.rows[sample.id] = self.model.row(self.chat_of(sample), sample.parts[-1].text or "")
                except DataError as e:
                    too_long.append((sample, f"{sample.id}: {e}"))
        datamodule.reject(too_long)
        if not datamodule.samples("train"):
            raise DataError(f"no training row is left: {too_long[0][1] if too_long else 'play more games'}")

    def setup(self, stage: str) -> None:
        if getattr(self.trainer, "datamodule", None) is not None:
            self.attach(self.trainer.datamodule)

    def prepare(self, sample: Sample, policy: Policy, train: bool, augment: Augment | None = None) -> Row:
        return self.rows[sample.id]

    def collate(self, rows: list[Row | Failed]) -> PromptBatch:
        return self.model.collate([r for r in rows if isinstance(r, Row)])  # texts cannot fail to be read

    # ------------------------------------------------------------------------------------------------ steps

    def training_step(self, batch: PromptBatch, index: int) -> Tensor:
        sums = self.model.sums(batch)
        loss = sums.nll / sums.tokens
        self.log("train/loss", loss, prog_bar=True, batch_size=sums.rows)
        return loss

    def validation_step(self, batch: PromptBatch, index: int) -> None:
        self._sums.append(self.model.sums(batch))

    test_step = validation_step

    def _report(self, prefix: str) -> None:
        if self._sums:
            values = figures(total(self._sums))
            self._sums.clear()
            self.log_dict({f"{prefix}/{k}": v for k, v in values.items()}, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    # ------------------------------------------------------------------------------------------------ fitting

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        settings = {k: self.hparams[k] for k in ("lr", "weight_decay", "betas", "warmup")}
        return build_optimizer(self.model, **settings, steps=steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = self.model.trained_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises `DataError` for a checkpoint of another model."""
        saved, own = checkpoint["state_dict"], self.model.trained_state()
        if saved.keys() != own.keys():
            raise DataError("the checkpoint is of another attacker: start a new run")
        checkpoint["state_dict"] = {**self.state_dict(), **{f"model.lm.{k}": v for k, v in saved.items()}}
