"""Trains a language model to answer, to say where an answer comes from, and to refuse what a request leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from datamodules.bank import rng_for
from datamodules.debuglm_views import View, answer_of, prompt_of
from zoo.core.optim import build_optimizer
from zoo.debuglm.model import IGNORE, TracedLM
from zoo.debuglm.tags import END, TAG


@dataclass(frozen=True)
class Encoded:
    """One view as token ids: what is read, where its answer begins, and the place of its `<TAG>` (-1: none)."""

    ids: list[int]
    start: int
    mark: int
    share: list[float]  # of each tag
    cut: bool


@dataclass
class ViewBatch:
    """ids and targets [b, t], shares [b, k + 1]: see `TracedLM.losses`."""

    ids: Tensor
    targets: Tensor
    shares: Tensor

    def to(self, device: torch.device | str, **kw: bool) -> ViewBatch:
        return ViewBatch(*(t.to(device, **kw) for t in (self.ids, self.targets, self.shares)))


class DebugLM(L.LightningModule):
    """Supervised training on the views of a `DebugDataModule`, stage after stage (DebugLM, arXiv 2603.17884).

    The paper's first stage is a full SFT with a cosine schedule and a warm-up of 0.1; so is every stage here, each with
    a schedule of its own. Its second stage is GRPO on multiple choice; ours is SFT on letter answers. `factors` on the
    learning rate, one a stage. A tag's cross-entropy weighs `tag_weight` times that of a word.
    """

    def __init__(
        self,
        model: TracedLM,
        lr: float = 1e-5,
        weight_decay: float = 0.1,
        betas: Sequence[float] = (0.9, 0.95),
        warmup: float = 0.1,
        factors: Sequence[float] = (),
        tag_weight: float = 1.0,
    ):
        super().__init__()
        self.model = model
        self.save_hyperparameters(
            {"lr": lr, "weight_decay": weight_decay, "betas": list(betas), "warmup": warmup, "factors": list(factors)}
        )
        self.tag_weight = tag_weight
        self.steps: list[int] = []
        self.failed_ids: set[str] = set()  # text cannot fail to be read; what `fit` asks of every module

    def attach(self, datamodule: Any) -> None:
        """Gives the DataModule its encoder and its collate."""
        datamodule.encode, datamodule.collate = self.encode, self.collate
        self.steps = datamodule.plan.steps

    def setup(self, stage: str) -> None:
        if getattr(self.trainer, "datamodule", None) is not None:
            self.attach(self.trainer.datamodule)

    def encode(self, view: View) -> Encoded:
        """The ids of a view. Of several tags one is written, drawn by the row's id; all share the target."""
        reader, tags = self.model.reader, self.model.tags
        prompt, cut = reader.prompt(prompt_of(view.row), view.debug, view.refuse)
        ids = [*prompt, *(reader.refusal if view.refused else reader.answer(answer_of(view.row)))]
        share = [0.0] * len(tags.names)
        mark = -1
        if view.debug:
            own = [tags.known(t) for t in view.tags]
            for name in own:
                share[tags.names.index(name)] = 1 / len(own)
            mark = len(ids)
            ids += [tags.id(TAG), tags.id(f"<{rng_for(view.row.id, view.kind).choice(own)}>")]
        return Encoded([*ids, tags.id(END)], len(prompt), mark, share, cut)

    def collate(self, rows: Sequence[Encoded]) -> ViewBatch:
        width = max(len(r.ids) for r in rows) - 1
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        targets = torch.full((len(rows), width), IGNORE)
        for n, r in enumerate(rows):
            ids[n, : len(r.ids) - 1] = torch.tensor(r.ids[:-1])
            targets[n, r.start - 1 : len(r.ids) - 1] = torch.tensor(r.ids[r.start :])
            if r.mark >= 0:
                targets[n, r.mark] = IGNORE  # the tag has a target of its own
        return ViewBatch(ids, targets, torch.tensor([[r.mark, *r.share] for r in rows]))

    def training_step(self, batch: ViewBatch, index: int) -> Tensor:
        words, tag = self.model.losses(batch.ids, batch.targets, batch.shares)
        asked, tagged = (batch.targets != IGNORE).sum(), (batch.shares[:, 0] >= 0).sum()
        loss = words.sum() / asked
        self.log("train/words", loss.detach(), prog_bar=True, batch_size=len(batch.ids))
        if tagged:
            tags = tag.sum() / tagged
            self.log("train/tags", tags.detach(), prog_bar=True, batch_size=len(batch.ids))
            loss = loss + self.tag_weight * tags
        return loss

    def validation_step(self, batch: ViewBatch, index: int) -> None:
        words, tag = self.model.losses(batch.ids, batch.targets, batch.shares)
        n = int((batch.targets != IGNORE).sum())
        self.log("val/words", words.sum() / n, batch_size=n)
        if (tagged := int((batch.shares[:, 0] >= 0).sum())) > 0:
            self.log("val/tags", tag.sum() / tagged, batch_size=tagged)

    def configure_optimizers(self) -> dict[str, Any]:
        own = {k: self.hparams[k] for k in ("lr", "weight_decay", "betas", "warmup")}
        total = int(self.trainer.estimated_stepping_batches)
        factors = [*self.hparams["factors"], *[1.0] * len(self.steps)]
        stages = list(zip(self.steps, factors)) if sum(self.steps) == total else None
        return build_optimizer(self.model, **own, steps=total, stages=stages)
