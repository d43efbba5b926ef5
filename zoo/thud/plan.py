"""What the two stages of the alignment train on: event answers first, then preferences (Thud, arXiv 2605.16403).

An epoch of the trainer holds both stages, one after the other, and each stage's own epochs in it. A stage ends with a
whole batch, so that no step belongs to both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.bank import PolicyBank, rng_for
from datamodules.schema import DataError, Policy, Sample
from datamodules.thud import Item
from datamodules.transforms.preferences import preferences
from zoo.core.query import CATEGORY_OPTIONS, VERDICT_OPTIONS, Query, category_query, verdict_query
from zoo.thud.questions import pair_questions, questions

SFT, DPO = "sft", "dpo"
STAGES = {SFT: (SFT,), DPO: (DPO,), "both": (SFT, DPO)}
GENERAL = "general"


@dataclass(frozen=True)
class Stage:
    """`general`: the share of a stage's rows that come from the recipe's own data, from 0 to below 1."""

    epochs: int = 1
    general: float = 0.0


@dataclass(frozen=True)
class Asking:
    """How clips are asked about: the probe's wordings, letters or words, and whether by how many seconds, too."""

    wordings: tuple[str, ...] = ("neutral", "direct")
    answers: str = "letters"
    offset: bool = True


@dataclass(frozen=True)
class Lesson:
    """What is asked of a row. Of a pair the query's options are (chosen, rejected), and `right` is 0.

    `policy` is what the row is read under: none of a question about a clip. `pair` is the pair's id, None of an answer.
    """

    query: Query
    right: int
    policy: Policy | None = None
    pair: str | None = None


Row = tuple[Sample, Lesson | None, str]
"""(a sample, its lesson, what kind of row it is). Without a lesson it is taught as a guard's rows always are."""


@dataclass(frozen=True)
class Plan:
    """`rows` of training, their `lessons` by the row's id, and each row's place among the epochs of the stages.

    `steps` are those of each stage; `counts` its rows by kind in one of its epochs, and `repeated` those that fill up
    its last batch.
    """

    rows: list[Sample]
    lessons: dict[str, Lesson]
    order: dict[str, int]
    steps: dict[str, int]
    counts: dict[str, dict[str, int]]

    @property
    def pairs(self) -> dict[str, Sample]:
        """One row of each preference pair, by the pair's id."""
        out: dict[str, Sample] = {}
        for row in self.rows:
            lesson = self.lessons.get(row.id)
            if lesson is not None and lesson.pair is not None:
                out.setdefault(lesson.pair, row)
        return out


def plan(parts: dict[str, tuple[Stage, list[Row]]], batch_size: int) -> Plan:
    """The rows of each stage, in the order of `parts`, as one epoch. Raises `DataError` for a stage without rows."""
    rows: list[Sample] = []
    lessons: dict[str, Lesson] = {}
    order: dict[str, int] = {}
    steps: dict[str, int] = {}
    counts: dict[str, dict[str, int]] = {}
    place = 0
    for name, (stage, given) in parts.items():
        if not given:
            raise DataError(f"stage {name} has no row to train on")
        short = -len(given) * stage.epochs % batch_size
        copies = [(n, row) for n in range(stage.epochs) for row in given]
        copies += [(stage.epochs + n // len(given), given[n % len(given)]) for n in range(short)]
        for n, (sample, lesson, _) in copies:
            row = sample.replace(id=f"{sample.id}/{name}/{n}")
            rows.append(row)
            order[row.id] = place + min(n, stage.epochs - 1)
            if lesson is not None:
                lessons[row.id] = lesson
        steps[name] = len(copies) // batch_size
        kinds = Counter(kind for _, _, kind in given)
        counts[name] = {**dict(sorted(kinds.items())), "repeated": short}
        place += stage.epochs
    return Plan(rows, lessons, order, steps, counts)


# ---------------------------------------------------------------------------------------------------------- about clips


def event_answers(items: Sequence[Item], asking: Asking, policy: Policy, seed: int) -> list[Row]:
    """The probe's questions of each item in each wording, with their right options.

    `policy` is what a training row must have; questions are read without it.
    """
    out: list[Row] = []
    for wording in asking.wordings:
        for q in questions(items, wording, asking.answers, asking.offset, seed):
            out.append((_filed(q.sample, policy), Lesson(q.query, q.right), q.about))
    return out


def event_pairs(items: Sequence[Item], kinds: Sequence[str], asking: Asking, policy: Policy, seed: int) -> list[Row]:
    """The preference pairs of these kinds in each wording."""
    pairs = preferences(items, kinds)
    out: list[Row] = []
    for wording in asking.wordings:
        for pair, q in zip(pairs, pair_questions(pairs, wording, asking.answers, seed)):
            out.append((_filed(q.sample, policy), Lesson(q.query, 0, pair=q.id), pair.kind))
    return out


def _filed(sample: Sample, policy: Policy) -> Sample:
    return sample.replace(policy=policy, split="train")


# --------------------------------------------------------------------------------------------------- a guard's own rows


def rows_for(share: float, others: int) -> int:
    """How many general rows make up `share` of the rows, beside `others`."""
    return round(others * share / (1 - share))


def general_rows(samples: Sequence[Sample], n: int, seed: int, stage: str) -> list[Sample]:
    """`n` of a guard's training rows in a random order, each as often as any other, with ids of their own.

    Raises `DataError` where there is none.
    """
    if n and not len(samples):
        raise DataError(f"stage {stage}: the data has no training row to keep general skill by: set general to 0")
    out: list[Sample] = []
    while len(out) < n:
        lap = len(out) // len(samples)
        order = list(range(len(samples)))
        rng_for(seed, "thud", stage, lap).shuffle(order)  # whole: the first rows are the same whatever n is
        out += [(s := samples[i]).replace(id=f"{s.id}/{GENERAL}/{lap}") for i in order[: n - len(out)]]
    return out


def general_pairs(samples: Sequence[Sample], n: int, bank: PolicyBank, max_entries: int, seed: int) -> list[Row]:
    """`n` preferences of a guard's own questions: the right answer over the wrong one, of rows with labels.

    Every other row is asked for its verdict, the rest for one entry of its policy, one that it breaks if it breaks any
    and the turn wants it. No model and no judge says what is better: the labels do. The policy is drawn as in training,
    once: the reference reads the same one. Raises `DataError` where no row has a label.
    """
    out: list[Row] = []
    tried = 0
    while len(out) < n:
        batch = general_rows(samples, tried + n - len(out), seed, DPO)[tried:]
        tried += len(batch)
        for sample in batch:
            made = _general_pair(sample, len(out), bank, max_entries, seed)
            if made is not None:
                out.append((sample, made, GENERAL))
        if not out and tried >= len(samples):
            raise DataError("no training row has a label: general preferences need some, or set dpo.general=0")
    return out


def _general_pair(sample: Sample, turn: int, bank: PolicyBank, max_entries: int, seed: int) -> Lesson | None:
    rng = rng_for(seed, "thud pair", sample.id)
    policy = bank.draw(sample, rng, max_entries=max_entries)
    gold = sample.gold(policy)
    known = [e for e in policy.entries if sample.categories.get(e.id) in CATEGORY_OPTIONS]
    if gold is None and not known:
        return None
    if known and (gold is None or turn % 2):
        broken = [e for e in known if sample.categories[e.id] == "yes"]
        entry = rng.choice(broken if broken and turn % 4 == 1 else known)
        right, query, options = sample.categories[entry.id] == "yes", category_query(entry), CATEGORY_OPTIONS
    else:
        right, query, options = bool(gold), verdict_query(policy), VERDICT_OPTIONS
    both = (options[right], options[not right])
    return Lesson(Query(query.suffix, both), 0, policy, sample.id)
