"""Trains the readers of a RouteGuard and its router in one run: every row is a lesson for one reader."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from datamodules.base import Failed
from datamodules.schema import Policy, Sample
from datamodules.transforms.augment import Augment
from zoo.core.losses import asked, collate_targets, loss_sums, named_means, weighted_mean
from zoo.core.module import Example, GuardBatch, GuardModule
from zoo.core.optim import build_optimizer
from zoo.core.query import verdict_query
from zoo.routeguard.experts import MONOLITH
from zoo.routeguard.model import RouteGuard
from zoo.routeguard.plan import READER, Shares, plan, reader_of, reader_queries, route_targets, stage_of
from zoo.routeguard.training import Lesson, collate, lesson_scores, route_loss


class RouteGuardModule(GuardModule):
    """`readers` names what is trained: the monolith, experts. Each gets `rows` training rows an epoch.

    The training split is replaced by the plan's copies; validation and test rows stay as they come. With `sequential`
    the monolith's adapter takes all lessons, one reader's after the other's, each with a schedule of its own: what a
    single model becomes that is fine-tuned domain by domain.
    """

    def __init__(
        self,
        guard: RouteGuard,
        readers: Sequence[str],
        rows: int = 2400,
        shares: Shares | None = None,
        seed: int = 0,
        sequential: bool = False,
        **settings: Any,
    ):
        super().__init__(guard, critique=False, **settings)
        self.sequential = sequential
        self.readers, self.rows, self.shares, self.seed = list(readers), rows, shares or Shares(), seed
        self.pools: dict[str, dict[str, int]] = {}
        self.train_rows: list[Sample] = []

    @property
    def routed(self) -> Any:
        return self.guard.backbone

    def attach(self, datamodule: Any) -> None:
        """Also plans the lessons. Raises `DataError` for an expert without a training row of its own domain."""
        super().attach(datamodule)
        self.train_rows = list(datamodule.samples("train"))
        readers = [self.routed.reader(n) for n in self.readers]
        lessons, self.pools = plan(self.train_rows, readers, self.guard.policy, self.rows, self.shares, self.seed)
        others = [s for split in ("val", "test") for s in datamodule.samples(split)]
        datamodule.corpus.samples = [*lessons, *others]
        datamodule.stage = stage_of if self.sequential else None

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        settings = {k: self.hparams[k] for k in ("lr", "weight_decay", "betas", "warmup")}
        return build_optimizer(self.guard, **settings, steps=steps, cycles=len(self.readers) if self.sequential else 1)

    def prepare(self, sample: Sample, policy: Policy, train: bool, augment: Augment | None = None) -> Example:
        """A training row is read under the guard's whole policy, whatever part of it its reader answers for."""
        if not train:
            return super().prepare(sample, policy, train, augment)
        reader, whole = self.routed.reader(reader_of(sample)), self.guard.policy
        queries, options, kinds = reader_queries(sample, reader, whole, self.max_categories, self.seed)
        if not queries:  # read all the same, as by `GuardModule`
            queries, options, kinds = [verdict_query(whole)], [-1], [-1]
        prepared = self.routed.base.prepare(sample, whole, queries, augment)
        routes = route_targets(sample, self.routed.experts.values(), whole)
        adapter = self.routed.bank.index(MONOLITH if self.sequential else reader.name)
        return Example(Lesson(prepared, adapter, routes), options, kinds, sample, whole)

    def collate(self, rows: list[Example | Failed]) -> GuardBatch:
        good = [r for r in rows if isinstance(r, Example)]
        if not good or not isinstance(good[0].prepared, Lesson):
            return super().collate(rows)
        inputs = collate(self.routed, [r.prepared for r in good])
        targets = collate_targets([(r.options, r.kinds) for r in good])
        counts = asked(targets, inputs.branches.counts)
        failed = [r for r in rows if isinstance(r, Failed)]
        return GuardBatch(inputs, targets, [r.sample for r in good], [r.policy for r in good], failed, counts, counts)

    @property
    def idle_row(self) -> Sample:
        return Sample.of("nothing", id="idle", meta={READER: self.readers[0]})

    def training_step(self, batch: GuardBatch, index: int) -> Tensor:
        self._count(batch)
        if not batch.samples:  # every row of it failed: a lesson without an answer moves nothing
            batch = self.collate([self.prepare(self.idle_row, self.guard.policy, train=True)]).to(self.device)
        scores, routes = lesson_scores(self.routed, batch.inputs)
        sums = loss_sums(scores, batch.targets)
        loss, routing = weighted_mean(sums, batch.total, self.loss_weights), route_loss(routes, batch.inputs.routes)
        rows = len(batch.samples)
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=rows)
        parts = {**named_means(sums.detach(), batch.asked), "route": routing.detach()}
        self.log_dict({f"train/{k}": v for k, v in parts.items()}, prog_bar=True, batch_size=rows)
        return (loss + routing / self.parts) * self.parts


def trained_parameters(guard: RouteGuard, readers: Sequence[str], router: bool = True) -> None:
    """Leaves trainable what is named: adapters of `readers`, and the router. Everything else is frozen."""
    guard.requires_grad_(False)
    for name in readers:
        guard.backbone.bank.adapters[name].requires_grad_(True)
    guard.backbone.router.requires_grad_(router)


def all_readers(guard: RouteGuard) -> list[str]:
    """The monolith, and the experts that are adapters."""
    return [n for n in (MONOLITH, *guard.backbone.experts) if n in guard.backbone.bank.adapters]
