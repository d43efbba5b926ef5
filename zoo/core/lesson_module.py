"""Trains a guard on lessons: questions that it answers by their options, in place of its data's training split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datamodules.schema import Policy, Sample
from datamodules.transforms.augment import Augment
from zoo.core.guard import Guard
from zoo.core.lessons import Plan
from zoo.core.losses import LINE, VERDICT
from zoo.core.module import Example, GuardModule
from zoo.core.query import Query

Planner = Callable[[Any], Plan]
"""(a DataModule with a guard's own rows) → what to train on."""


class LessonModule(GuardModule):
    """A lesson is supervised twice: its right option among its options, and as it is written, among all words.

    The training split is replaced by the plan's rows; validation and test rows stay the guard's own, so that it is
    calibrated and judged as any guard is.
    """

    def __init__(self, guard: Guard, planner: Planner, **settings: Any):
        super().__init__(guard, **settings)
        self.planner = planner
        self.plan: Plan | None = None

    def attach(self, datamodule: Any) -> None:
        """Also plans what to train on. Raises `DataError` for a stage without rows."""
        if self.plan is None:
            self.plan = self.planner(datamodule)
            others = [s for split in ("val", "test") for s in datamodule.samples(split)]
            datamodule.corpus.samples = [*self.plan.rows, *others]
        datamodule.stage = self.place_of
        super().attach(datamodule)

    def place_of(self, sample: Sample) -> int:
        """The place of a training row among the epochs of the stages."""
        return self.plan.order[sample.id]

    def phrases(self, datamodule: Any) -> list[str]:
        asked = dict.fromkeys(p for lesson in self.plan.lessons.values() for p in lesson.query.suffix)
        return [*super().phrases(datamodule), *asked]

    def prepare(self, sample: Sample, policy: Policy, train: bool, augment: Augment | None = None) -> Example:
        """A row with a lesson is read under the lesson's policy, or none; any other as by `GuardModule`."""
        lesson = self.plan.lessons.get(sample.id) if train and self.plan is not None else None
        if lesson is None:
            return super().prepare(sample, policy, train, augment)
        queries, options, kinds = [lesson.query], [lesson.right], [VERDICT]
        if lesson.pair is None and self.loss_weights.lines > 0:
            said = lesson.query.options[lesson.right] if lesson.written is None else lesson.written
            queries.append(Query(lesson.query.suffix, (said,)))
            options.append(0)
            kinds.append(LINE)
        prepared = self.guard.backbone.prepare(sample, lesson.policy, queries, augment)
        return Example(prepared, options, kinds, sample, policy)
