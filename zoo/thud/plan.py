"""What the two stages of the alignment train on: event answers first, then preferences (Thud, arXiv 2605.16403).

An epoch of the trainer holds both stages, one after the other, and each stage's own epochs in it (`zoo.core.lessons`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.bank import PolicyBank, rng_for
from datamodules.schema import DataError, Policy, Sample
from datamodules.thud import Item
from datamodules.transforms.preferences import preferences
from zoo.core.lessons import GENERAL, Lesson, Row, general_rows
from zoo.core.query import CATEGORY_OPTIONS, VERDICT_OPTIONS, Query, category_query, verdict_query
from zoo.thud.questions import pair_questions, questions

SFT, DPO = "sft", "dpo"
STAGES = {SFT: (SFT,), DPO: (DPO,), "both": (SFT, DPO)}


@dataclass(frozen=True)
class Asking:
    """How clips are asked about: the probe's wordings, letters or words, and whether by how many seconds, too."""

    wordings: tuple[str, ...] = ("neutral", "direct")
    answers: str = "letters"
    offset: bool = True


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


def general_pairs(samples: Sequence[Sample], n: int, bank: PolicyBank, max_entries: int, seed: int) -> list[Row]:
    """`n` preferences of a guard's own questions: the right answer over the wrong one, of rows with labels.

    Every other row is asked for its verdict, the rest for one entry of its policy, one that it breaks if it breaks any
    and the turn wants it. No model and no judge says what is better: the labels do. The policy is drawn as in training,
    once: the reference reads the same one. Raises `DataError` where no row has a label.
    """
    out: list[Row] = []
    tried = 0
    while len(out) < n:
        batch = general_rows(samples, tried + n - len(out), seed, "thud", DPO)[tried:]
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
