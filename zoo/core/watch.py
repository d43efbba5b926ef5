"""A trajectory judged after each of its steps: all of them in one pass, or one by one while the agent acts.

Both give the same scores. A verdict after a step says what is known by then; only the end decides obligations, so the
verdict of the closed trajectory is another question. What was broken stays broken, and what can no longer be broken
cannot: where old steps go out of sight, the last verdict that saw them is carried on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from datamodules.bank import rng_for
from datamodules.schema import DataError, Message, Part, Policy, Sample
from datamodules.trajectory import STATES, Step, prefixes_of, step_messages
from zoo.core.backbones.base import Scores
from zoo.core.verdict import Verdict, rounded

if TYPE_CHECKING:
    from zoo.core.backbones.sight import Sight
    from zoo.core.guard import Calibration, Guard

SAFE = STATES.index("safe")


@dataclass
class StepVerdict(Verdict):
    """What is known after `step` steps; with `closed`, that no more will come.

    `categories` is P(broken by now) of each entry, and `settled` P(it cannot be broken any more); a guard that does not
    watch rules knows nothing of the latter. `broken` maps entries to the first step after which P(broken) reached the
    threshold of categories. `truncated` is about all that was said up to then.
    """

    step: int = 0
    closed: bool = False
    settled: dict[str, float] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "settled": {k: rounded(v) for k, v in self.settled.items()}}


@dataclass
class Known:
    """Probabilities after a step: of a flag, and of each entry [k] that it is broken, and that it is settled."""

    score: float
    broken: Tensor
    settled: Tensor

    def after(self, earlier: Known) -> Known:
        """Where steps that `earlier` saw are out of sight: with what it says of them, this holds for the rest."""
        rest = 1 - earlier.broken - earlier.settled
        return Known(
            earlier.score + (1 - earlier.score) * self.score,
            earlier.broken + rest * self.broken,
            earlier.settled + rest * self.settled,
        )


def known(guard: Guard, scores: Scores) -> list[Known]:
    """One for each row of `scores` [n, 1 + k, o], which are answers to `Order.queries` or `Order.so_far`."""
    entries = scores.logp.shape[1] - 1
    judged = guard.judge(scores, [entries] * len(scores.logp))
    broken = judged.categories.double().clamp(0, 1)  # [n, k]
    settled = _settled(scores, guard.calibration, broken)
    return [Known(s, b, t) for s, b, t in zip(judged.score.tolist(), broken, settled)]


def _settled(scores: Scores, calibration: Calibration, broken: Tensor) -> Tensor:
    """[n, k]: of what is not P(broken), the share of `safe` against `open`; zeros where states were not asked for."""
    if scores.logp.shape[-1] <= SAFE:
        return torch.zeros_like(broken)
    z = scores.logp[:, 1:].double() / calibration.category_temperature  # [n, k, o]
    share = torch.sigmoid(z[..., SAFE] - z[..., 0])
    return (1 - broken) * torch.where(scores.tokens[:, 1:, SAFE] > 0, share, torch.zeros_like(share))


class Tally:
    """Turns what is known after each step into verdicts, in the order of the steps."""

    def __init__(self, guard: Guard, policy: Policy, id: str, threshold: float | None):
        c = guard.calibration
        self.name, self.policy, self.id = guard.name, policy, id
        self.threshold = c.threshold if threshold is None else threshold
        self.category_threshold = c.category_threshold
        self.last: Known | None = None
        self.carried: Known | None = None
        self.broken: dict[str, int] = {}

    def verdict(self, now: Known, step: int, closed: bool, truncated: bool, moved: bool) -> StepVerdict:
        """`moved`: steps went out of sight since the last verdict."""
        if moved and self.last is not None:
            self.carried = self.last
        if self.carried is not None:
            now = now.after(self.carried)
        self.last = now
        categories = dict(zip(self.policy.ids, now.broken.tolist()))
        for id, p in categories.items():
            if p >= self.category_threshold:
                self.broken.setdefault(id, step)
        verdict = StepVerdict(
            id=self.id,
            model=self.name,
            flagged=True,  # until `decide`
            score=now.score,
            threshold=self.threshold,
            categories=categories,
            truncated=truncated,
            step=step,
            closed=closed,
            settled=dict(zip(self.policy.ids, now.settled.tolist())),
            broken=dict(self.broken),
        )
        verdict.decide(self.threshold)
        return verdict


def check(guard: Guard, threshold: float | None) -> None:
    """Raises `DataError` for a guard that cannot answer after each step, and for a threshold that is none."""
    if guard.order.explanation_first:
        raise DataError(f"{guard.name} judges by an explanation that it writes first: it cannot judge after each step")
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        raise DataError(f"threshold {threshold} is not a probability: give a number from 0 to 1")


# ------------------------------------------------------------------------------------------------- all in one pass


def step_ends(sample: Sample) -> tuple[int, ...]:
    """How many messages there are after each step: as `meta["prefixes"]` has it.

    Otherwise a step is a message of the agent's with what follows it up to the next one.
    """
    marked = prefixes_of(sample)
    if marked is not None:
        return marked.ends
    starts = [n for n, m in enumerate(sample.messages) if m.role == "assistant"]
    return (*starts[1:], len(sample.messages)) if starts else ()


def training_steps(guard: Guard, sample: Sample, policy: Policy, most: int | None) -> list[int]:
    """Steps, from 1, of a trajectory with labelled prefixes: at most `most`, drawn by its id and the policy's order.

    Of a trajectory that does not fit, those that are seen as the whole is.
    """
    marked = prefixes_of(sample)
    if marked is None or not set(policy.ids) & set(marked.states):
        return []
    sights = guard.backbone.sights(sample, policy)
    whole = _shown(sights[-1])
    steps = [n for n, end in enumerate(marked.ends, 1) if _shown(sights[end]) == whole]
    if most is None or len(steps) <= most:
        return steps
    return sorted(rng_for("steps", sample.id, *policy.ids).sample(steps, most))


def _shown(sight: Sight) -> int:
    """The first message after the head that is in sight; 0 where all are."""
    return sight.start if sight.start > sight.head else 0


@dataclass(frozen=True)
class Span:
    """Steps that are asked about in one row: those after messages `ends`, which are numbered as the row has them."""

    messages: tuple[Message, ...]
    ends: tuple[int, ...]
    last: bool  # whether the closed trajectory is asked about, too
    truncated: tuple[bool, ...]  # of each step, and of the closed trajectory


def spans(sample: Sample, sights: Sequence[Sight]) -> list[Span]:
    """The sample's steps by what is in sight after them: one span, unless old steps have to go."""
    ends = step_ends(sample)
    total = len(sample.messages)
    places = [*ends, total]  # the last one closes
    out: list[Span] = []
    for first in dict.fromkeys(_shown(sights[n]) for n in places):
        mine = [n for n in places if _shown(sights[n]) == first]
        closes = first == _shown(sights[total])
        head = sights[mine[-1]].head if first else 0
        shown = (*range(head), *range(first, mine[-1]))
        steps = mine[:-1] if closes else mine
        out.append(
            Span(
                tuple(sample.messages[n] for n in shown),
                tuple(n - first + head for n in steps),
                closes,
                tuple(sights[n].truncated for n in mine),
            )
        )
    return out


@torch.no_grad()
def prefixes(
    guard: Guard, samples: Sequence[Sample], policy: Policy | None, threshold: float | None, batch_size: int
) -> list[list[StepVerdict]]:
    """See `Guard.prefixes`."""
    check(guard, threshold)
    policies = [guard.policy_for(s, policy) for s in samples]
    whole = [_row(guard, s, p) for s, p in zip(samples, policies)]
    laid = [spans(s, row.sights) for s, row in zip(samples, whole)]
    flat = [(i, span) for i, all_spans in enumerate(laid) for span in all_spans]
    known_of: dict[int, list[list[Known]]] = {i: [] for i in range(len(samples))}
    for start in range(0, len(flat), batch_size):
        part = flat[start : start + batch_size]
        rows, groups = [], []
        for n, (i, span) in enumerate(part):
            shown = samples[i].replace(messages=span.messages)
            rows.append(whole[i] if len(laid[i]) == 1 else _row(guard, shown, policies[i]))
            groups += [(n, guard.order.so_far(policies[i], end)) for end in span.ends]
            if span.last:  # asked after all of them: it closes them itself
                queries = guard.order.queries(policies[i])
                groups.append((n, [dataclasses.replace(q, after=len(span.messages)) for q in queries]))
        scores = guard.backbone.score_groups(rows, groups)
        done = 0
        for i, span in part:
            asked, width = len(span.ends) + span.last, 1 + len(policies[i])
            mine = slice(done, done + asked)
            known_of[i].append(known(guard, Scores(scores.logp[mine, :width], scores.tokens[mine, :width])))
            done += asked
    return [
        _verdicts(guard, s, p, x, known_of[i], threshold) for i, (s, p, x) in enumerate(zip(samples, policies, laid))
    ]


def _row(guard: Guard, sample: Sample, policy: Policy) -> Any:
    """The sample prepared for queries within it; the one that says so is not scored."""
    return guard.backbone.prepare(sample, policy, guard.order.so_far(policy, len(sample.messages))[:1])


def _verdicts(
    guard: Guard,
    sample: Sample,
    policy: Policy,
    laid: Sequence[Span],
    found: Sequence[Sequence[Known]],
    threshold: float | None,
) -> list[StepVerdict]:
    tally, out = Tally(guard, policy, sample.id, threshold), []
    for number, (span, answers) in enumerate(zip(laid, found)):
        for n, now in enumerate(answers):
            closed = span.last and n == len(span.ends)
            step = len(out) if closed else len(out) + 1
            out.append(tally.verdict(now, step, closed, span.truncated[n], moved=number > 0 and n == 0))
    return out


# ---------------------------------------------------------------------------------------------------- as a stream


class Watch:
    """One trajectory while it grows: `step` after each action, `close` at its end. See `Guard.watch`."""

    def __init__(self, guard: Guard, policy: Policy, task: str | None, id: str, threshold: float | None):
        check(guard, threshold)
        self.guard, self.policy = guard, policy
        self._stream = guard.backbone.stream(policy)
        self._tally = Tally(guard, policy, id, threshold)
        self._moved = False
        self._messages = 0
        self.steps = 0
        self.verdict: StepVerdict | None = None  # the latest one
        if task is not None:
            self._read([_said(task, "user")])

    @property
    def closed(self) -> bool:
        return self.verdict is not None and self.verdict.closed

    def step(self, action: Step | Message | str | Sequence[Message], observation: str | None = None) -> StepVerdict:
        """The verdict after one more step: a `Step`, the agent's message (a string: its text), or several messages.

        What came back may be part of it, or follow as `observe`. Raises `DataError` after `close`, and `MediaError` for
        a file in it that cannot be read.
        """
        messages = _messages(action)
        if observation is not None:
            messages.append(_said(observation, "tool"))
        self._read(messages)
        self.steps += 1
        return self._judge(closed=False)

    def observe(self, observation: str | Message) -> None:
        """What the last step brought back. It is judged with the next step. Raises `DataError` after `close`."""
        self._read([observation if isinstance(observation, Message) else _said(observation, "tool")])

    def close(self) -> StepVerdict:
        """The verdict on the whole trajectory, empty or not; asked for again, the same one."""
        if self.closed:
            assert self.verdict is not None
            return self.verdict
        return self._judge(closed=True)

    def _read(self, messages: Sequence[Message]) -> None:
        if self.closed:
            raise DataError(f"trajectory {self._tally.id!r} is closed: call watch again for another one")
        with self.guard.evaluating():
            for message in messages:
                self._moved |= self._stream.read(message)
                self._messages += 1

    def _judge(self, closed: bool) -> StepVerdict:
        order = self.guard.order
        asked = order.queries(self.policy) if closed else order.so_far(self.policy, self._messages)
        with self.guard.evaluating():
            (now,) = known(self.guard, self._stream.ask(asked))
        self.verdict = self._tally.verdict(now, self.steps, closed, self._stream.truncated, self._moved)
        self._moved = False
        return self.verdict


def _said(text: str, role: str) -> Message:
    if not isinstance(text, str):
        raise DataError(f"expected text, got {type(text).__name__}")
    return Message(role, (Part("text", text=text),))


def _messages(action: Step | Message | str | Sequence[Message]) -> list[Message]:
    if isinstance(action, Step):
        return list(step_messages(action))
    if isinstance(action, Message):
        return [action]
    if isinstance(action, str):
        return [_said(action, "assistant")]
    messages = list(action)
    if not messages or not all(isinstance(m, Message) for m in messages):
        raise DataError("a step is a Step, a Message, the text of one, or a list of Messages that is not empty")
    return messages
