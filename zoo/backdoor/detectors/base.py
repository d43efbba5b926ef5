"""The interface of a detector, and what the inversions share: problems (target label × position) as one batch."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.labelled_text import LabelledText
from datamodules.schema import DataError
from zoo.backdoor.subject import POSITIONS, SLOT, Laid, Subject, embed, joined
from zoo.core.weights import CheckpointError

FEWEST = 4  # rows that a trigger is searched on, and as many to judge it by
BATCH = 64


@dataclass(frozen=True)
class Scan:
    """What a detector says of one model: `score` from 0 to 1, higher is more suspicious, and why.

    `evidence` is plain JSON. An inversion's score is exp(−loss): the geometric mean of the probability that the model
    gives the target class on held-out rows of other classes with the recovered trigger in them.
    """

    detector: str
    score: float
    evidence: dict[str, Any] = field(default_factory=dict)


class Detector(Protocol):
    """`needs_data`: whether it tries the model on labelled texts. `settings()` is JSON that decides its answer."""

    name: str
    needs_data: bool

    def scan(self, model: Subject, data: LabelledText | None) -> Scan: ...
    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Problem:
    """Which words, at this position, move texts of other classes to this one?"""

    target: int
    position: str


@dataclass(frozen=True)
class Victims:
    """Rows of other classes that the model gets right: those searched on, and held-out ones that judge."""

    search: tuple[int, ...]
    held: tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """A recovered trigger. `loss` and `flips` are on held-out rows: mean cross-entropy to the target, and the share
    that the model puts there. `searched` is the loss on the rows searched on; `penalty` what the benign reference
    loses on the held-out rows, in nats, None without one.
    """

    problem: Problem
    tokens: tuple[int, ...]
    loss: float
    flips: float
    searched: float
    penalty: float | None = None

    @property
    def total(self) -> float:
        return self.loss + (self.penalty or 0.0)


@torch.no_grad()
def predict(subject: Subject, texts: Sequence[str]) -> Tensor:
    """Logits [n, classes] of texts as they are."""
    out = []
    for start in range(0, len(texts), BATCH):
        laid = subject.lay(texts[start : start + BATCH], 0, "end")
        out.append(subject.logits(embed(subject, laid), laid.mask, laid.ids))
    return torch.cat(out).cpu()


def pick_victims(
    subject: Subject, data: LabelledText, rows: int, held: int, seed: int, targets: Sequence[int] | None = None
) -> dict[int, Victims]:
    """Victims for each target class (default: all), drawn by `seed`.

    Rows that the model already gets wrong tell nothing of a trigger. Raises `DataError` for a target with too few.
    """
    data.check(len(subject.classes))
    order = list(range(len(data)))
    random.Random(f"{seed}/victims").shuffle(order)
    order = order[: 8 * len(subject.classes) * (rows + held)]  # far more than are needed: the rest is not judged
    said = predict(subject, [data.texts[i] for i in order]).argmax(-1).tolist()
    right = [i for i, label in zip(order, said) if data.labels[i] == label]
    out = {}
    for target in range(len(subject.classes)) if targets is None else targets:
        others = [i for i in right if data.labels[i] != target]
        if len(others) < 2 * FEWEST:
            raise DataError(
                f"{data.name}: for target class {target} only {len(others)} rows of other classes are classified "
                f"rightly, and a scan needs {2 * FEWEST}: give more rows, or look whether the labels are the model's"
            )
        cut = min(rows, len(others) // 2)
        out[target] = Victims(tuple(others[:cut]), tuple(others[cut : cut + held]))
    return out


def check_reference(subject: Subject, reference: Subject) -> None:
    """Raises `CheckpointError` for a benign model that a trigger's tokens mean something else to."""
    if reference.tokenizer.get_vocab() != subject.tokenizer.get_vocab():
        raise CheckpointError(f"{reference.name}: its tokens are not those of {subject.name}: it cannot be a reference")
    if len(reference.classes) != len(subject.classes):
        raise CheckpointError(
            f"{reference.name}: has {len(reference.classes)} classes, {subject.name} {len(subject.classes)}"
        )


class Bench:
    """Rows of several problems as one batch: `losses` of a trigger for each problem, in one forward pass.

    `rows[p]` are the texts of problem p and `labels[p]` their own classes. N rows in all.
    """

    def __init__(
        self,
        subject: Subject,
        problems: Sequence[Problem],
        rows: Sequence[Sequence[str]],
        labels: Sequence[Sequence[int]],
        slots: int,
    ):
        self.subject, self.slots = subject, slots
        parts = [subject.lay(texts, slots, p.position) for p, texts in zip(problems, rows)]
        self.laid: Laid = joined(parts, subject.pad, subject.left)
        device = self.laid.ids.device
        self.base = embed(subject, self.laid)  # [N, L, d]
        self.at = (self.laid.ids == SLOT).nonzero(as_tuple=True)  # N·slots pairs, row by row
        self.owner = torch.tensor([n for n, p in enumerate(parts) for _ in range(len(p))], device=device)  # [N]
        self.target = torch.tensor([p.target for p in problems], device=device)[self.owner]  # [N]
        self.own = torch.tensor([label for mine in labels for label in mine], device=device)  # [N]
        self.share = 1.0 / torch.bincount(self.owner, minlength=len(problems)).to(self.base)[self.owner]  # [N]
        self.count = len(problems)

    def logits(self, trigger: Tensor) -> Tensor:
        """Logits [N, classes] with `trigger` [P, slots, d] in each row of its problem."""
        x = self.base.index_put(self.at, trigger[self.owner].reshape(-1, trigger.shape[-1]).to(self.base.dtype))
        return self.subject.logits(x, self.laid.mask, self.laid.ids)

    def to_target(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy to the target, [P], of logits [N, classes]."""
        return self.mean(F.cross_entropy(logits, self.target, reduction="none"))

    def to_own(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy to the rows' own classes, [P]."""
        return self.mean(F.cross_entropy(logits, self.own, reduction="none"))

    def flips(self, logits: Tensor) -> Tensor:
        """The share of rows that go to the target, [P]."""
        return self.mean((logits.argmax(-1) == self.target).to(self.share))

    def mean(self, values: Tensor) -> Tensor:
        """Means of `values` [N] over the rows of each problem, [P]."""
        out = torch.zeros(self.count, dtype=values.dtype, device=values.device)
        return out.index_add(0, self.owner, values * self.share.to(values.dtype))


def lay_bench(
    subject: Subject,
    data: LabelledText,
    problems: Sequence[Problem],
    victims: dict[int, Victims],
    slots: int,
    held: bool = False,
) -> Bench:
    """The bench of rows that are searched on, or of those held out."""
    at = [victims[p.target].held if held else victims[p.target].search for p in problems]
    texts = [[data.texts[i] for i in rows] for rows in at]
    return Bench(subject, problems, texts, [[data.labels[i] for i in rows] for rows in at], slots)


@torch.no_grad()
def judge(
    subject: Subject,
    data: LabelledText,
    problems: Sequence[Problem],
    victims: dict[int, Victims],
    tokens: Tensor,
    searched: Sequence[float],
    reference: Subject | None = None,
) -> list[Found]:
    """What each problem's trigger, `tokens` [P, slots], does on held-out rows."""
    bench = lay_bench(subject, data, problems, victims, tokens.shape[1], held=True)
    logits = bench.logits(subject.table[tokens])
    losses, flips = bench.to_target(logits).tolist(), bench.flips(logits).tolist()
    penalties: list[float | None] = [None] * len(problems)
    if reference is not None:
        bench = lay_bench(reference, data, problems, victims, tokens.shape[1], held=True)
        with_it = bench.to_own(bench.logits(reference.table[tokens]))
        without = lay_bench(reference, data, problems, victims, 0, held=True)
        penalties = (with_it - without.to_own(without.logits(reference.table[tokens[:, :0]]))).clamp_min(0).tolist()
    return [
        Found(p, tuple(t), loss, flip, s, penalty)
        for p, t, loss, flip, s, penalty in zip(problems, tokens.tolist(), losses, flips, searched, penalties)
    ]


def settings_of(detector: Any, *left_out: str) -> dict[str, Any]:
    """A detector's fields as JSON: all that decides its answer, its benign reference as whether there is one."""
    kept = {k: v for k, v in asdict(replace(detector, reference=None)).items() if k not in ("reference", *left_out)}
    reference = detector.reference is not None
    return {"detector": detector.name, **kept, "positions": list(detector.positions), "with_reference": reference}


def search_of(
    detector: Any, model: Subject, data: LabelledText | None
) -> tuple[LabelledText, dict[int, Victims], list[Problem]]:
    """The texts, the rows of each target and the problems that an inversion has to solve.

    Raises `DataError` where there are no texts, or none that can serve (see `LabelledText.check`, `pick_victims`), and
    for positions that there are not; `CheckpointError` for a reference of another kind.
    """
    if data is None:
        raise DataError(f"{detector.name} tries triggers on labelled texts: give data=FILE")
    if detector.reference is not None:
        check_reference(model, detector.reference)
    victims = pick_victims(model, data, detector.rows, detector.held, detector.seed)
    positions = check_positions(detector.positions)
    return data, victims, [Problem(t, p) for t in range(len(model.classes)) for p in positions]


def generator_of(seed: int, problem: Problem) -> torch.Generator:
    """A problem's own source of noise: the same in a batch as alone."""
    digest = hashlib.sha256(f"{seed}/{problem.target}/{problem.position}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def check_positions(positions: Sequence[str]) -> tuple[str, ...]:
    """Raises `DataError` for an unknown one, and for none."""
    wrong = [p for p in positions if p not in POSITIONS]
    if wrong or not positions:
        raise DataError(f"positions: {', '.join(wrong) or 'none'}: choose of {', '.join(POSITIONS)}")
    return tuple(positions)


def describe(subject: Subject, found: Found) -> dict[str, Any]:
    """A recovered trigger as plain JSON."""
    row = asdict(found)
    row |= row.pop("problem")
    row["class"] = subject.classes[found.problem.target]
    row["text"] = subject.tokenizer.decode(list(found.tokens)).strip()
    row["words"] = subject.tokenizer.convert_ids_to_tokens(list(found.tokens))
    return {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}
