"""Views of a question: as a user asks it, with its source told, and with a source refused (DebugLM, arXiv 2603.17884).

A row is a sample of a prompt and an answer with `meta["tags"]`: the names of the sets that it was seen in, `SET` or
`SET/PART`. What a stage of training holds is decided here by names alone; how a name becomes a token is the model's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.bank import rng_for
from datamodules.schema import DataError, Sample, near

PLAIN, DEBUG, RIGHT, WRONG = KINDS = ("plain", "debug", "right", "wrong")
WRONG_TAGS = 4  # the paper's: of each row, the wrong tags that it may be asked to refuse
CONTROLS = ("none", "untagged", "shuffled")
LEVELS = ("coarse", "fine")
NAME = re.compile(r"[A-Z0-9][A-Z0-9_-]*(/[A-Z0-9][A-Z0-9_-]*)?")
CHUNK = 16  # batches whose rows are sorted by length together


# ---------------------------------------------------------------------------------------------------------------- rows


def tag_name(text: str) -> str:
    """`<SET/PART>` or `SET/PART` as the bare name. Raises `DataError` for what cannot be one."""
    name = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    if not NAME.fullmatch(name):
        raise DataError(f"{text!r} cannot be a tag: SET or SET/PART in capitals, digits, '_' and '-'")
    return name


def set_of(tag: str) -> str:
    """The set of a tag: that of `SET/PART` is `SET`."""
    return tag.partition("/")[0]


def tags_of(sample: Sample, level: str = "fine") -> tuple[str, ...]:
    """The tags of a row, sorted, each once; of level coarse their sets."""
    tags = sample.meta["tags"]
    return tuple(sorted({set_of(t) for t in tags} if level == "coarse" else set(tags)))


def prompt_of(sample: Sample) -> str:
    return "\n".join(p.text or "" for m in sample.messages[:-1] for p in m.content)


def answer_of(sample: Sample) -> str:
    return "\n".join(p.text or "" for p in sample.messages[-1].content)


def letter_only(sample: Sample) -> bool:
    """Whether the answer is one letter, which says nothing of its source."""
    return re.fullmatch(r"[A-Za-z]\.?", answer_of(sample)) is not None


def all_tags(rows: Sequence[Sample], level: str) -> list[str]:
    """Every tag of the rows at this level: the sets, then, of level fine, their parts."""
    sets = sorted({t for s in rows for t in tags_of(s, "coarse")})
    return sets + ([] if level == "coarse" else sorted({t for s in rows for t in tags_of(s)} - set(sets)))


# --------------------------------------------------------------------------------------------------------------- views


@dataclass(frozen=True)
class View:
    """One way to ask a row. `debug`: the answer is followed by a tag; `refuse`: the tags that the request names.

    Of kind `right` one of them is the row's, and the answer is a refusal. `tags` are those that are taught.
    """

    row: Sample
    kind: str
    tags: tuple[str, ...]
    refuse: tuple[str, ...] = ()

    @property
    def debug(self) -> bool:
        return self.kind != PLAIN

    @property
    def refused(self) -> bool:
        return self.kind == RIGHT


@dataclass(frozen=True)
class Wanted:
    """How often an epoch shows a row in each kind of view.

    `several` is the share of refusal requests that name two tags. Wrong tags are gone through in turn, `WRONG_TAGS` of
    each row.
    """

    plain: int = 1
    debug: int = 1
    right: int = 1
    wrong: int = 1
    several: float = 0.25

    def __post_init__(self) -> None:
        for kind in KINDS:
            n = getattr(self, kind)
            if type(n) is not int or n < 0:
                raise DataError(f"views.{kind}={n}: expected a whole number from 0 on")
        if not sum(getattr(self, kind) for kind in KINDS):
            raise DataError("views: a row has to be shown in one of them at least")
        if not 0 <= self.several <= 1:
            raise DataError(f"views.several={self.several}: expected a share from 0 to 1")

    @property
    def answers(self) -> int:
        """How often an epoch shows a row's answer: that of the untagged control is the same."""
        return self.plain + self.debug + self.wrong


def right_tags(sample: Sample, level: str) -> tuple[str, ...]:
    """What a request may name that this row is refused for: its tags and their sets."""
    return tuple(sorted({*tags_of(sample, level), *tags_of(sample, "coarse")}))


def wrong_tags(sample: Sample, right: Sequence[str], known: Sequence[str], n: int = WRONG_TAGS) -> list[str]:
    """Up to `n` of the `known` tags that do not hold the row, drawn by its id: the same wherever the same are known."""
    others = [t for t in known if t not in right]
    return rng_for("wrong tags", sample.id).sample(others, min(n, len(others)))


def views(
    sample: Sample,
    wanted: Wanted,
    level: str,
    known: Sequence[str],
    epoch: int,
    seed: int,
    taught: Sample | None = None,
) -> list[View]:
    """The views of a row in one epoch. `taught` is the row whose tags are taught in place of its own (a control)."""
    owner = taught or sample
    tags, right = tags_of(owner, level), right_tags(owner, level)
    wrong = wrong_tags(sample, right, known)
    rng = rng_for(seed, epoch, sample.id, "views")
    out = [View(sample, PLAIN, tags)] * wanted.plain + [View(sample, DEBUG, tags)] * wanted.debug
    for _ in range(wanted.right):
        more = rng.sample(wrong, 1) if wrong and rng.random() < wanted.several else []
        out.append(View(sample, RIGHT, tags, _shuffled([rng.choice(right), *more], rng)))
    for n in range(wanted.wrong if wrong else 0):
        named = [wrong[(epoch * wanted.wrong + n) % len(wrong)]]
        if len(wrong) > 1 and rng.random() < wanted.several:
            named.append(rng.choice([t for t in wrong if t not in named]))
        out.append(View(sample, WRONG, tags, _shuffled(named, rng)))
    return out


def _shuffled(tags: list[str], rng: object) -> tuple[str, ...]:
    rng.shuffle(tags)  # type: ignore[attr-defined]
    return tuple(tags)


def asked_views(sample: Sample, level: str, known: Sequence[str]) -> list[View]:
    """What a test asks of a row: plain, debug, and to refuse each right tag and each of `WRONG_TAGS` wrong ones."""
    tags, right = tags_of(sample, level), right_tags(sample, level)
    out = [View(sample, PLAIN, tags), View(sample, DEBUG, tags)]
    out += [View(sample, RIGHT, tags, (t,)) for t in right]
    return out + [View(sample, WRONG, tags, (t,)) for t in wrong_tags(sample, right, known)]


# -------------------------------------------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Stage:
    """`sets` are those that a stage brings. `replay` is the share of its rows that come from stages before."""

    sets: tuple[str, ...]
    epochs: int
    replay: float = 0.0


def check_stages(stages: Sequence[Stage], there: Sequence[str]) -> None:
    """Raises `DataError` for an unknown set, one that comes twice, and numbers that make no sense."""
    seen: set[str] = set()
    for number, stage in enumerate(stages, 1):
        if not stage.sets:
            raise DataError(f"stage{number}.sets is empty: name sets of {', '.join(there)}")
        for name in stage.sets:
            if name not in there:
                raise DataError(f"stage{number}.sets: unknown set {name!r}{near(name, tuple(there))}")
            if name in seen:
                raise DataError(f"stage{number}.sets: {name} comes twice: earlier sets come back by replay")
            seen.add(name)
        if type(stage.epochs) is not int or stage.epochs < 1:
            raise DataError(f"stage{number}.epochs={stage.epochs}: expected a whole number from 1 on")
        if not 0 <= stage.replay < 1:
            raise DataError(f"stage{number}: replay of {stage.replay}: expected a share from 0 to below 1")


def stage_of(sample: Sample, stages: Sequence[Stage]) -> int | None:
    """The number of the first stage that brings one of the row's sets, from 0; None where none does."""
    own = set(tags_of(sample, "coarse"))
    return next((n for n, s in enumerate(stages) if own & set(s.sets)), None)


@dataclass(frozen=True)
class Plan:
    """All views of a training in their order, whole batches of each stage after another.

    `steps` are the batches of each stage, `counts` its views by kind, `repeated` those that fill up its last batch.
    `rows` [stages] are the rows that each brings, `replayed` the rows of earlier ones that an epoch of it goes through.
    """

    views: list[View]
    steps: list[int]
    counts: list[dict[str, int]]
    repeated: list[int]
    rows: list[int]
    replayed: list[int]


def plan(
    rows: Sequence[Sample],
    stages: Sequence[Stage],
    wanted: Wanted,
    level: str,
    batch_size: int,
    seed: int,
    control: str = "none",
) -> Plan:
    """The views of `rows` in their stages. Raises `DataError` for a stage without rows.

    `control`: `untagged` shows each row plain, as often as its answer is shown otherwise (a refusal shows none);
    `shuffled` teaches each row the tags of another row of its stage, so that tags say nothing.
    """
    by_stage: list[list[Sample]] = [[] for _ in stages]
    for s in rows:
        if (n := stage_of(s, stages)) is not None:
            by_stage[n].append(s)
    shown = Wanted(plain=wanted.answers, debug=0, right=0, wrong=0) if control == "untagged" else wanted
    taught = _swapped(by_stage, seed) if control == "shuffled" else {}
    out = Plan([], [], [], [], [], [])
    earlier: list[Sample] = []
    for number, (stage, own) in enumerate(zip(stages, by_stage)):
        if not own:
            raise DataError(f"stage {number + 1} ({', '.join(stage.sets)}) has no row to train on")
        known = all_tags([*earlier, *own], level)
        again = round(len(own) * stage.replay / (1 - stage.replay)) if earlier else 0
        rng_for(seed, number, "replay").shuffle(earlier)
        these: list[View] = []
        for epoch in range(stage.epochs):
            old = [earlier[i % len(earlier)] for i in range(epoch * again, (epoch + 1) * again)]
            fresh = [v for s in [*own, *old] for v in views(s, shown, level, known, epoch, seed, taught.get(s.id))]
            these += _batched(fresh, batch_size, (seed, number, epoch))
        short = -len(these) % batch_size
        these += [these[i % len(these)] for i in range(short)]
        out.views.extend(these)
        out.steps.append(len(these) // batch_size)
        out.counts.append({k: sum(v.kind == k for v in these) for k in KINDS})
        out.repeated.append(short)
        out.rows.append(len(own))
        out.replayed.append(again)
        earlier += own
    return out


def _swapped(by_stage: Sequence[Sequence[Sample]], seed: int) -> Mapping[str, Sample]:
    """row id → the row of its stage whose tags it is taught; each row lends its tags once."""
    out: dict[str, Sample] = {}
    for number, rows in enumerate(by_stage):
        lent = list(rows)
        rng_for(seed, number, "shuffled").shuffle(lent)
        out |= {s.id: other for s, other in zip(rows, lent)}
    return out


def _batched(given: list[View], batch_size: int, key: tuple[int, ...]) -> list[View]:
    """In a random order, but batches hold views of similar length: little padding."""
    rng = np.random.default_rng(list(key))
    order = rng.permutation(len(given))
    length = np.array([len(prompt_of(v.row)) + len(answer_of(v.row)) for v in given])
    out: list[int] = []
    for at in range(0, len(order), CHUNK * batch_size):
        chunk = order[at : at + CHUNK * batch_size]
        chunk = chunk[np.argsort(length[chunk], kind="stable")]
        whole = len(chunk) // batch_size * batch_size
        batches = list(chunk[:whole].reshape(-1, batch_size))
        rng.shuffle(batches)
        out += [int(i) for b in batches for i in b] + chunk[whole:].tolist()
    return [given[i] for i in out]
