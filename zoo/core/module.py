"""The one LightningModule that trains any guard. It does no mathematics: losses, queries and metrics live beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lightning as L
import torch
from torch import Tensor

from datamodules.base import Failed
from datamodules.sampling import process
from datamodules.schema import DataError, Policy, Sample
from datamodules.transforms.augment import Augment
from zoo.core import launch
from zoo.core.backbones.base import Scores
from zoo.core.guard import Guard
from zoo.core.losses import (
    PARTS,
    LossWeights,
    Targets,
    asked,
    collate_targets,
    loss_sums,
    named_means,
    training_queries,
    weighted_mean,
)
from zoo.core.metrics import GuardMetrics
from zoo.core.optim import build_optimizer
from zoo.core.prompts import Text, render
from zoo.core.query import verdict_query
from zoo.core.sharding import gather_into, number_by_model, shard
from zoo.core.warm import warm
from zoo.core.watch import training_steps


@dataclass
class Example:
    """One prepared sample, with its targets in training and what the metrics need otherwise."""

    prepared: Any
    options: list[int]
    kinds: list[int]
    sample: Sample
    policy: Policy


@dataclass
class GuardBatch:
    """What a loader yields once a GuardModule is attached. `failed` samples are counted, not hidden.

    `asked` [7] are the denominators of the batch's losses; `total` [7] those of the step that it is a part of.
    """

    inputs: Any
    targets: Targets
    samples: list[Sample]
    policies: list[Policy]
    failed: list[Failed]
    asked: Tensor
    total: Tensor

    def to(self, device: torch.device | str, **kw: bool) -> GuardBatch:
        inputs = self.inputs.to(device, **kw) if self.samples else None
        targets, counts = self.targets.to(device, **kw), (t.to(device, **kw) for t in (self.asked, self.total))
        return GuardBatch(inputs, targets, self.samples, self.policies, self.failed, *counts)


@dataclass
class Outcome:
    """One judged sample of `predict_step`: raw log-odds, so that a calibration can be fitted afterwards.

    `wide` are the two of the guard's wide half, NaN or None where it has no vote. `provenance` are P(tag) after a safe
    and after an unsafe verdict, [2][tags]; None where the guard has no tags.
    """

    sample: Sample
    policy: Policy
    log_odds: float
    category_log_odds: dict[str, float]
    truncated: bool
    wide: list[float] | None = None
    provenance: list[list[float]] | None = None

    def to(self, device: torch.device | str, **kw: bool) -> Outcome:
        """Itself: Lightning moves what it predicts, and cannot copy a frozen `Sample`."""
        return self


class GuardModule(L.LightningModule):
    """Fine-tunes a guard on verdict, categories and critique at once.

    Defaults of lr and decay are those of a public checkpoint that matches OmniGuard's settings where a backbone is
    adapted (lr 1e-4, weight decay 0.1, betas 0.9/0.95, warm-up 0.05, cosine); a model from scratch wants more.
    """

    def __init__(
        self,
        guard: Guard,
        lr: float = 1e-4,
        weight_decay: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup: float = 0.05,
        loss: LossWeights | None = None,
        critique: bool = True,
        max_categories: int | None = None,
        steps: int | None = 0,
    ):
        """`steps` of each labelled trajectory, at random, are asked about while it goes on; None: all of them."""
        super().__init__()
        self.guard = guard
        self.loss_weights = loss or LossWeights()
        self.critique = critique and self.loss_weights.critique > 0
        self.max_categories, self.steps = max_categories, steps
        self.save_hyperparameters({"lr": lr, "weight_decay": weight_decay, "betas": list(betas), "warmup": warmup})
        self.val_metrics = GuardMetrics(prefix="val/")
        self.test_metrics = GuardMetrics(prefix="test/")
        self.failed_ids: set[str] = set()
        self.strict_loading = False  # a checkpoint holds what trains; `on_load_checkpoint` sees that it is all there

    # ------------------------------------------------------------------------------------------------ data

    def attach(self, datamodule: Any) -> None:
        """Gives the DataModule this guard's hooks, and fills the feature cache of frozen encoders.

        Raises `MediaError` for the first sample with a medium that the backbone does not take.
        """
        self.guard.backbone.check(datamodule.corpus.samples)
        self.hook(datamodule)
        if self.guard.backbone.cache is not None:
            datamodule.reject(warm(self.guard.backbone, datamodule.corpus.samples, self.phrases(datamodule)))

    def hook(self, datamodule: Any) -> None:
        datamodule.transform, datamodule.collate, datamodule.group = self.prepare, self.collate, self.group

    def setup(self, stage: str) -> None:
        self.guard.backbone.in_step = process()[1] > 1
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None and datamodule.transform != self.prepare:
            self.attach(datamodule)
        if stage == "fit":
            if self.parts not in (1, self.trainer.accumulate_grad_batches):
                raise DataError(
                    f"the DataModule parts a step into {self.parts} batches, but the Trainer accumulates "
                    f"{self.trainer.accumulate_grad_batches}: give both the same number"
                )
            launch.own_randomness()

    def phrases(self, datamodule: Any) -> list[str]:
        """Every template, policy and query phrase that training or testing can meet."""
        entries = dict.fromkeys(datamodule.bank.wordings())
        templates: dict[str, None] = {}
        seen: set[tuple[Any, ...]] = set()
        for sample in datamodule.corpus.samples:  # once: they may have to be read
            entries |= dict.fromkeys((sample.policy or datamodule.default_policy).entries)
            shape = (sample.target, *(m.role for m in sample.messages), *(p.type for p in sample.parts))
            if shape not in seen:
                seen.add(shape)
                templates |= dict.fromkeys(
                    p.text
                    for p in render(sample, datamodule.default_policy)
                    if isinstance(p, Text) and p.role in ("template", "speaker")
                )
        order = self.guard.order
        out = dict.fromkeys(
            p.text
            for e in entries
            for q in (*order.queries(Policy("one", (e,))), *order.so_far(Policy("one", (e,)), 0))
            for p in _texts(q.suffix)
        )
        for entry in entries:
            out |= dict.fromkeys((entry.name, entry.description))
        for flagged in (False, True):
            out |= dict.fromkeys(order.critique(flagged, []).suffix)
        if self.guard.tags is not None:
            out |= dict.fromkeys(self.guard.tags.phrases())
        return list(out | templates)

    def prepare(self, sample: Sample, policy: Policy, train: bool, augment: Augment | None = None) -> Example:
        """Runs in the worker. `augment` changes the sample's media."""
        if train:
            lines, steps = self.loss_weights.lines > 0, self.steps_of(sample, policy)
            queries, options, kinds = training_queries(
                sample, policy, self.critique, self.max_categories, self.guard.order, lines, steps, self.guard.tags
            )
            if not queries:  # a row without a label is read all the same: every batch goes through the whole model
                queries, options, kinds = [verdict_query(policy)], [-1], [-1]
        else:
            policy = self.guard.asked_of(policy)
            queries, options, kinds = self.guard.queries(policy), [], []
        prepared = self.guard.backbone.prepare(sample, policy, queries, augment)
        return Example(prepared, options, kinds, sample, policy)

    def steps_of(self, sample: Sample, policy: Policy) -> list[int]:
        """The steps that training asks about, where the guard is one that watches."""
        if self.steps == 0 or not self.guard.order.watches or not self.loss_weights.states:
            return []
        return training_steps(self.guard, sample, policy, self.steps)

    def collate(self, rows: list[Example | Failed]) -> GuardBatch:
        good = [r for r in rows if isinstance(r, Example)]
        backbone = self.guard.backbone
        inputs = backbone.collate([r.prepared for r in good]) if good else None
        targets = collate_targets([(r.options, r.kinds) for r in good])
        counts = asked(targets, backbone.option_tokens(inputs)) if targets.option.numel() else torch.zeros(len(PARTS))
        failed = [r for r in rows if isinstance(r, Failed)]
        return GuardBatch(inputs, targets, [r.sample for r in good], [r.policy for r in good], failed, counts, counts)

    def group(self, batches: list[GuardBatch]) -> None:
        """Tells the batches of one step what the step asks for in all."""
        total = torch.stack([b.asked for b in batches]).sum(0)
        for batch in batches:
            batch.total = total

    @cached_property
    def idle(self) -> GuardBatch:
        """A row that teaches nothing: what a process reads in step with the others when its own batch has no row."""
        policy = self.guard.policy.subset(self.guard.policy.ids[:1])
        return self.collate([self.prepare(Sample.of("nothing", id="idle"), policy, train=True)])

    # ------------------------------------------------------------------------------------------------ steps

    def scores(self, batch: GuardBatch) -> Scores:
        """The batch's scores, through the call that strategies hook; those of `idle` where it has no row."""
        inputs = batch.inputs if batch.samples else self.idle.inputs.to(self.device)
        return Scores(*self.guard.backbone(inputs))

    def answers(self, batch: GuardBatch) -> Scores:
        """The scores that verdicts are made of: `scores`, or those of queries that follow what the guard says first."""
        if self.guard.order.explanation_first and batch.samples:
            return self.guard.answers(batch.inputs, batch.policies)[0]
        return self.scores(batch)

    def training_step(self, batch: GuardBatch, index: int) -> Tensor:
        self._count(batch)
        targets = batch.targets if batch.samples else self.idle.targets.to(self.device)
        sums = loss_sums(self.scores(batch), targets)
        done, counts, totals = launch.add_up(torch.stack([sums.detach(), batch.asked, batch.total]))
        rows = max(len(batch.samples), 1)
        self.log("train/loss", weighted_mean(done, counts, self.loss_weights), prog_bar=True, batch_size=rows)
        parts = named_means(done, counts)
        self.log_dict({f"train/{k}": v for k, v in parts.items()}, prog_bar=True, batch_size=rows)
        # Gradients are averaged over processes and over the parts of a step; what is wanted is their sum.
        return weighted_mean(sums, totals, self.loss_weights) * (process()[1] * self.parts)

    @property
    def parts(self) -> int:
        """The batches that the DataModule parts a step into on each process."""
        return getattr(getattr(self.trainer, "datamodule", None), "accumulate", 1)

    def _evaluate(self, batch: GuardBatch, metrics: GuardMetrics) -> None:
        self._count(batch)
        if not batch.samples and self.device_mesh is None:
            return
        scores = self.answers(batch)  # of a sharded model with no row too: the others wait for this process's shards
        if batch.samples:
            wide = self.guard.wide_odds(batch.samples, batch.policies, batch.inputs)
            judged = self.guard.judge(scores, [len(p) for p in batch.policies], wide)
            golds = [s.gold(p) for s, p in zip(batch.samples, batch.policies)]
            metrics.update(judged.score.float().tolist(), golds, [s.modality for s in batch.samples])

    def validation_step(self, batch: GuardBatch, index: int) -> None:
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: GuardBatch, index: int) -> None:
        self._evaluate(batch, self.test_metrics)

    def on_validation_epoch_end(self) -> None:
        self._report(self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._report(self.test_metrics)

    def _report(self, metrics: GuardMetrics) -> None:
        values = metrics.compute()
        self.log_dict({k: v for k, v in values.items() if not torch.isnan(v)}, prog_bar=False)
        metrics.reset()

    def predict_step(self, batch: GuardBatch, index: int) -> list[Outcome]:
        self._count(batch)
        if not batch.samples:
            return []
        scores = self.answers(batch)
        verdict, categories = scores.log_odds(0).tolist(), scores.log_odds(slice(1, None)).tolist()
        wide = self.guard.wide_odds(batch.samples, batch.policies, batch.inputs)
        votes = [None] * len(batch.samples) if wide is None else wide.tolist()
        tags, sources = self.guard.tags, [None] * len(batch.samples)
        if tags is not None:
            sources = tags.provenance(scores, [len(p) for p in batch.policies]).tolist()
        return [
            Outcome(
                sample,
                policy,
                verdict[i],
                dict(zip(policy.ids, categories[i])),
                batch.inputs.truncated[i],
                votes[i],
                sources[i],
            )
            for i, (sample, policy) in enumerate(zip(batch.samples, batch.policies))
        ]

    def _count(self, batch: GuardBatch) -> None:
        self.failed_ids |= {f.id for f in batch.failed}

    # ------------------------------------------------------------------------------------------------ fitting

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # Lightning sets it under ModelParallelStrategy
            shard(self.guard.backbone, self.device_mesh["data_parallel"], self.trainer.precision == "bf16-mixed")

    def whole(self, fresh: GuardModule, datamodule: Any) -> GuardModule:
        """`fresh`, a module of the same recipe, with the weights that this one holds in shards and in its place."""
        gather_into(fresh.guard.backbone, self.guard.backbone)
        fresh.failed_ids = self.failed_ids
        fresh.hook(datamodule)
        return fresh

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        return build_optimizer(
            self.guard, **{k: self.hparams[k] for k in ("lr", "weight_decay", "betas", "warmup")}, steps=steps
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Frozen parts are pinned by hash, not saved: a resumable checkpoint holds what training changes."""
        saved = {f"guard.backbone.{n}" for n in self.guard.backbone.saved_state()}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("guard.") or k in saved}
        checkpoint["failed_ids"] = sorted(self.failed_ids)
        if self.device_mesh is None:
            number_by_model(checkpoint.get("optimizer_states", ()), self.trainer.optimizers, self.parameters())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "state_dict" not in checkpoint:
            return  # the strategy of a sharded model has loaded it already
        own = self.state_dict()
        missing = {f"guard.backbone.{n}" for n in self.guard.backbone.saved_state()} - set(checkpoint["state_dict"])
        if missing:
            raise ValueError(f"the checkpoint lacks {sorted(missing)[:3]}: it is of another model")
        checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}
        self.failed_ids |= set(checkpoint.get("failed_ids", ()))


def _texts(suffix: tuple[str, ...]) -> list[Text]:
    return [Text(s, "template") for s in suffix]
