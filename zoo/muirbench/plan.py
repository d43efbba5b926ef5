"""What the training goes through: records as lessons whose right option is a letter, in a new order each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.bank import rng_for
from datamodules.muirbench import IMAGE, LETTERS, Record, reordered, sample_of
from datamodules.schema import Policy
from zoo.core.lessons import Lesson, Row
from zoo.muirbench.protocol import ablated, answer_query

SFT = "sft"
IMAGES = ("multi", "single")
FORMS = {  # how an answer may be written: the letter in brackets where there are no words to an option
    "letter": "{letter}",
    "bracketed": "({letter})",
    "bold": "**{letter}**",
    "listed": "{letter}) {option}",
    "worded": "{option}",
}


@dataclass(frozen=True)
class Teaching:
    """How records are taught.

    `images`: all pictures of a question (multi) or its first alone (single): the words and the answers are the same.
    `unanswerable`: the share of pairs whose unanswerable twin is taught; all answerable ones are. `forms` are those
    of FORMS in which answers are written, equally often. `answers`: the closed ones, letters or words. `licence` is
    that of the pictures, None of rendered ones.
    """

    images: str = "multi"
    unanswerable: float = 1.0
    forms: tuple[str, ...] = ("letter",)
    answers: str = "letters"
    licence: str | None = None


def record_rows(records: Sequence[Record], teaching: Teaching, policy: Policy, seed: int, epoch: int) -> list[Row]:
    """A row of each taught record, its options in the order of this epoch: both twins have the same.

    Letters tell nothing that way, and a question is never met twice as it was. `policy` is what a training row must
    have; questions are read without it.
    """
    pairs = list(dict.fromkeys(r.pair for r in records))
    rng_for(seed, "muirbench", "unanswerable").shuffle(pairs)
    both = set(pairs[: round(len(pairs) * teaching.unanswerable)])
    out: list[Row] = []
    for r in records:
        if not r.answerable and r.pair not in both:
            continue
        order = list(range(len(r.options)))
        rng = rng_for(seed, "muirbench", r.pair, epoch)
        rng.shuffle(order)
        shown = reordered(r, order)
        sample = sample_of(shown, split="train")
        if teaching.images == "single":
            sample = ablated(sample, "single_image")
        lesson = Lesson(
            answer_query(sample, teaching.answers),
            LETTERS.index(shown.answer),
            written=written(shown, rng.choice(teaching.forms)),
        )
        meta = sample.meta if teaching.licence is None else {**sample.meta, "licence": teaching.licence}
        kind = "answerable" if r.answerable else "unanswerable"
        out.append((sample.replace(id=f"{sample.id}/{epoch}", policy=policy, meta=meta), lesson, kind))
    return out


def written(record: Record, form: str) -> str:
    """The record's right answer in one of FORMS."""
    option = record.options[LETTERS.index(record.answer)]
    if IMAGE in option:
        form = "bracketed" if form in ("listed", "worded") else form
    return FORMS[form].format(letter=record.answer, option=option)
