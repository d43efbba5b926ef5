"""DBS: trigger inversion with a temperature that falls, and rolls back (Shen et al. 2022, arXiv 2202.05749).

A trigger of `tokens` slots is a softmax over the vocabulary for each slot, which mixes the words' embeddings. Adam
lowers the cross-entropy to the target class. Every `check_every` steps, once the loss has been under the barrier: where
it is under it now the temperature is halved, so that the mixture comes near single words; else it is doubled and noise
lets the search leave where it is stuck. After `rollbacks` of these the barrier is doubled; a trigger that is nearly
single words is recorded, and the barrier is half its loss. All pairs of target class and position are searched at
once: what they compute differs in nothing but rows of one batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.labelled_text import LabelledText
from zoo.backdoor.detectors.base import (
    Bench,
    Problem,
    Scan,
    Victims,
    describe,
    generator_of,
    judge,
    lay_bench,
    search_of,
    settings_of,
)
from zoo.backdoor.subject import Subject

COLDEST, HOTTEST = 1e-2, 2.0
RELAX, TIGHTEN = 2.0, 0.5


@dataclass(frozen=True)
class DBS:
    """`rows` are searched on for each target class, `held` judge what is found; `steps` are DBS's epochs.

    `penalty` weighs what the benign `reference` loses on the rows' own classes: a trigger that moves it, too, is a word
    of the class and no backdoor. `dominance`: mean probability of the likeliest word from which a trigger is nearly
    single words. `batched`: all problems at once, or one after the other (the same answer, slower).
    """

    tokens: int = 10  # of a trigger; the paper's
    steps: int = 200  # the paper's epochs
    lr: float = 0.5  # the paper's
    rows: int = 12
    held: int = 64
    positions: tuple[str, ...] = ("start", "end")
    temperature: float = 2.0  # the paper's, at first
    check_every: int = 5  # the paper's
    barrier: float = 0.5
    rollbacks: int = 5  # the paper's
    noise: float = 10.0
    dominance: float = 0.9
    penalty: float = 1.0
    seed: int = 0
    reference: Subject | None = None
    batched: bool = True

    name = "dbs"
    needs_data = True

    def settings(self) -> dict[str, Any]:
        return settings_of(self, "batched")

    def scan(self, model: Subject, data: LabelledText | None) -> Scan:
        """Raises what `search_of` raises."""
        data, victims, problems = search_of(self, model, data)
        groups = [problems] if self.batched else [[p] for p in problems]
        found = []
        for group in groups:
            tokens, searched = self.invert(model, data, group, victims)
            found += judge(model, data, group, victims, tokens, searched, self.reference)
        best = min(found, key=lambda f: f.total)
        used = victims[best.problem.target]
        return Scan(
            self.name,
            math.exp(-best.total),
            {
                "trigger": describe(model, best),
                "problems": [describe(model, f) for f in found],
                "rows_searched": len(used.search),
                "rows_held_out": len(used.held),
                "reference": None if self.reference is None else self.reference.name,
            },
        )

    def invert(
        self, model: Subject, data: LabelledText, problems: Sequence[Problem], victims: dict[int, Victims]
    ) -> tuple[Tensor, list[float]]:
        """Token ids [P, tokens] of the best trigger of each problem, and its loss on the rows searched on, [P].

        Best: of what single words the search stood nearest to at its checks, the lowest loss (and penalty).
        """
        bench = lay_bench(model, data, problems, victims, self.tokens)
        other = self.reference and lay_bench(self.reference, data, problems, victims, self.tokens)
        ids = model.allowed.nonzero()[:, 0]  # [v]
        tables = [model.table[ids]] + ([self.reference.table[ids]] if self.reference is not None else [])  # [v, d]
        benches = [bench] + ([other] if other else [])
        sources = [generator_of(self.seed, p) for p in problems]
        shape, device = (self.tokens, len(ids)), model.table.device
        dtype = model.table.dtype
        logits = torch.stack([torch.rand(shape, generator=g, dtype=dtype) for g in sources]).to(device)  # [P, k, v]
        logits.requires_grad_()
        optimizer = torch.optim.Adam([logits], lr=self.lr, fused=True)
        cooling = Cooling(self, len(problems), device)
        best = [(math.inf, None)] * len(problems)
        noise = None
        for step in range(self.steps):
            scaled = logits / cooling.temperature.to(dtype)[:, None, None]
            mixture = (scaled if noise is None else scaled + noise).softmax(-1)  # [P, k, v]
            ce, penalty = self._losses(benches, [mixture @ t for t in tables])  # [P] each
            optimizer.zero_grad(set_to_none=True)
            (ce + self.penalty * penalty).sum().backward()  # problems share no number: each has its own gradient
            with torch.no_grad():
                noise = None
                if (step + 1) % self.check_every == 0 or step + 1 == self.steps:
                    words = mixture.argmax(-1)  # [P, k]
                    hard, more = self._losses(benches, [t[words] for t in tables])
                    for p, total in enumerate((hard + self.penalty * more).tolist()):
                        if total < best[p][0]:
                            best[p] = (total, words[p])
                    rolled = cooling.check(ce, mixture.amax(-1).mean(-1))
                    if rolled.any():
                        noise = torch.zeros_like(mixture)
                        for p in rolled.nonzero()[:, 0].tolist():
                            drawn = torch.rand(shape, generator=sources[p], dtype=dtype)
                            noise[p] = self.noise * drawn.to(device)
            optimizer.step()
        return ids[torch.stack([w for _, w in best])], [loss for loss, _ in best]

    def _losses(self, benches: Sequence[Bench], triggers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Cross-entropy to the target and the reference's to the rows' own classes, [P] each."""
        ce = benches[0].to_target(benches[0].logits(triggers[0]))
        if len(benches) == 1:
            return ce, torch.zeros_like(ce)
        return ce, benches[1].to_own(benches[1].logits(triggers[1]))


class Cooling:
    """Temperature, barrier and rollbacks of each problem, [P] each."""

    def __init__(self, settings: DBS, problems: int, device: torch.device):
        self.settings = settings
        self.temperature = torch.full((problems,), settings.temperature, device=device)
        self.barrier = torch.full((problems,), settings.barrier, device=device)
        self.rolled = torch.zeros(problems, dtype=torch.long, device=device)
        self.started = torch.zeros(problems, dtype=torch.bool, device=device)

    def check(self, ce: Tensor, dominance: Tensor) -> Tensor:
        """Takes the losses and dominances [P] of a check; returns which problems are to be shaken, bool [P]."""
        s = self.settings
        ce = ce.to(self.barrier)
        under = ce < self.barrier
        record = under & (dominance >= s.dominance)
        self.started |= under
        shaken = self.started & ~under
        self.temperature = torch.where(under, self.temperature / 2, self.temperature)
        self.temperature = torch.where(shaken, self.temperature * 2, self.temperature).clamp(COLDEST, HOTTEST)
        self.barrier = torch.where(record, ce * TIGHTEN, self.barrier)
        self.rolled += shaken
        relax = self.rolled >= s.rollbacks
        self.barrier = torch.where(relax, self.barrier * RELAX, self.barrier)
        self.rolled[relax] = 0
        return shaken
