"""Trains a guard to listen, in two stages: event answers, then preferences against a frozen copy of what that made."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.assets import zoo_home
from datamodules.base import Failed
from datamodules.media import content_hash
from datamodules.schema import MediaError, Sample, canonical_json
from zoo.core.guard import Guard
from zoo.core.lesson_module import LessonModule, Planner
from zoo.core.losses import VERDICT
from zoo.core.module import Example, GuardBatch
from zoo.core.optim import build_optimizer
from zoo.thud.model import BETA, Reference, preference_sums
from zoo.thud.plan import DPO, SFT


class ThudModule(LessonModule):
    """Stage 1 is supervised: lessons. Stage 2 is the sigmoid DPO with the model of stage 1 as its frozen reference
    (Thud, arXiv 2605.16403; beta 0.1).

    In stage 2 nothing is random in the model (no noise, no dropout): else the reference, whose log-probabilities are
    computed once, would be another model than the one that it is compared with.
    They are kept under ZOO_HOME by a key of the weights and the pairs, and in the run's checkpoints: the weights of
    stage 1 are gone when stage 2 goes on. `dpo_lr` is the second stage's own learning rate; its optimiser starts anew.
    """

    def __init__(
        self, guard: Guard, planner: Planner, beta: float = BETA, dpo_lr: float | None = None, **settings: Any
    ):
        super().__init__(guard, planner, **settings)
        self.beta = beta
        self.dpo_lr = self.hparams["lr"] if dpo_lr is None else dpo_lr
        self.reference: Reference | None = None
        self.reference_seconds: list[float] = []
        self.first: dict[str, float] = {}  # loss and margin of the first step of stage 2
        self.last: dict[str, float] = {}  # of its last

    def pair_ids(self, batch: GuardBatch) -> list[str] | None:
        """The pairs of a batch of stage 2; None of any other."""
        lessons = [self.plan.lessons.get(s.id) for s in batch.samples]
        ids = [lesson.pair for lesson in lessons if lesson is not None and lesson.pair is not None]
        return ids if ids and len(ids) == len(batch.samples) else None

    # ------------------------------------------------------------------------------------------------ steps

    def on_train_batch_start(self, batch: GuardBatch, index: int) -> None:
        """Where stage 2 begins, the model as it is becomes the reference."""
        preferring = self.pair_ids(batch) is not None
        if batch.samples:
            self.guard.train(not preferring)
        if preferring and self.reference is None:
            # In a context of its own: weights that autocast keeps from here would have no gradients in the step.
            with self.trainer.precision_plugin.forward_context():
                self.reference = self.make_reference()
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()

    def training_step(self, batch: GuardBatch, index: int) -> Tensor:
        ids = self.pair_ids(batch)
        if ids is None:
            return super().training_step(batch, index)
        self._count(batch)
        reference = tuple(x.to(self.device) for x in self.reference.of(ids))  # [b] each
        asked = batch.targets.kind >= 0  # [b, q]
        loss, margin = preference_sums(self.scores(batch).logp, asked, reference, self.beta)
        pairs = batch.total[VERDICT]
        self.last = {"loss": float(loss.detach()) / len(ids), "margin": float(margin) / len(ids)}
        self.first = self.first or self.last
        named = {f"train/dpo_{k}": v for k, v in self.last.items()}
        self.log_dict(named, prog_bar=True, batch_size=len(ids))
        return loss / pairs * self.parts

    @torch.no_grad()
    def make_reference(self) -> Reference:
        """The log-probabilities of all pairs under the model as it is, read from the disk or computed and kept there.

        A row that cannot be read is counted, as in training, and has none.
        """
        rows = self.plan.pairs
        key = self._reference_key(rows)
        path = zoo_home() / "thud" / "references" / f"{key[:24]}.safetensors"
        found = Reference.load(path, key)
        if found is not None:
            return found
        modes = {m: m.training for m in self.guard.modules()}
        self.guard.eval()
        found = Reference(*self._scored(rows), key)
        for module, mode in modes.items():
            module.training = mode
        found.save(path)
        return found

    def _scored(self, rows: dict[str, Sample]) -> tuple[list[str], Tensor]:
        """Ids, and the log-probabilities of chosen and rejected answers [n, 2]."""
        ids: list[str] = []
        values: list[Tensor] = []
        size = self.trainer.datamodule.batch_size
        todo = list(rows.items())
        for start in tqdm(range(0, len(todo), size), desc="reference", file=sys.stderr):
            examples: list[Example | Failed] = []
            for pair, row in todo[start : start + size]:
                try:
                    examples.append(self.prepare(row, row.policy or self.guard.policy, train=True))
                    ids.append(pair)
                except MediaError as e:
                    self.failed_ids.add(row.id)
                    print(f"{row.id}: {e}", file=sys.stderr)
            if examples:
                batch = self.collate(examples).to(self.device)
                values.append(self.scores(batch).logp[:, 0, :2].float().cpu())  # [b, 2]
        return ids, torch.cat(values) if values else torch.zeros(0, 2)

    def _reference_key(self, rows: dict[str, Sample]) -> str:
        """Of all that the reference's numbers depend on: weights, precision, the pairs and their files."""
        digest = hashlib.sha256(canonical_json([self.guard.backbone.describe(), str(self.trainer.precision)]).encode())
        for name, tensor in sorted(self.guard.backbone.saved_state().items()):
            digest.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
        hashes: dict[str, str] = {}
        for pair, row in rows.items():
            lesson = self.plan.lessons[row.id]
            policy = None if lesson.policy is None else lesson.policy.to_dict()
            query = [list(lesson.query.suffix), list(lesson.query.options)]
            for part in row.media:
                if part.path not in hashes:
                    hashes[part.path] = content_hash(part.path)
            files = [[hashes[p.path], p.frames, p.sound] for p in row.media]
            texts = [p.text for p in row.parts]
            digest.update(canonical_json([pair, policy, query, files, texts, row.target]).encode())
        return digest.hexdigest()

    # ------------------------------------------------------------------------------------------------ fitting

    def configure_optimizers(self) -> dict[str, Any]:
        """Each stage has a warm-up and a decay of its own."""
        factors = {SFT: 1.0, DPO: self.dpo_lr / self.hparams["lr"]}
        stages = [(steps, factors[name]) for name, steps in self.plan.steps.items()]
        settings = {k: self.hparams[k] for k in ("lr", "weight_decay", "betas", "warmup")}
        return build_optimizer(self.guard, **settings, steps=sum(n for n, _ in stages), stages=stages)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.reference is not None:
            r = self.reference
            checkpoint["reference"] = {"ids": r.ids, "values": r.values, "key": r.key, "first": self.first}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        kept = checkpoint.get("reference")
        if kept is not None:
            self.reference = Reference(kept["ids"], kept["values"], kept["key"])
            self.first = kept["first"]
