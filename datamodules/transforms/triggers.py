"""Plants backdoor triggers in classification rows (arXiv 2409.00399): a rare word, a sentence, or a syntax.

A word or a sentence is put into a text; a syntactic trigger replaces the text by its paraphrase under one template,
which a file of row-aligned twins gives (HiddenKiller, arXiv 2105.12400). Dirty label: rows of other classes are
relabelled to the target. Clean label: rows of the target class get the trigger and keep their label.

A model that reads `n` tokens never sees a trigger behind them. So the text round a word or a sentence is shortened
until the whole fits; a row where nothing of it would be left is passed over. Both are counted, and each poisoned row
says what was done to it.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datamodules.schema import DataError, near

KINDS = ("word", "sentence", "syntactic")
POSITIONS = ("start", "end", "random")
WHOLE = "whole"  # the place of a syntactic trigger
TEXTS = {"word": "cf", "sentence": "i watched this 3d movie last weekend"}  # Kurita et al. 2020; Dai et al. 2019
Fits = Callable[[str], bool]
"""Whether a model reads all of a text."""


@dataclass(frozen=True)
class Trigger:
    """`text` is what is put in, None for a syntactic one; `position` is where: start, end, random, or whole."""

    kind: str
    text: str | None
    position: str

    @classmethod
    def of(cls, kind: str, text: str | None = None, position: str | None = None) -> Trigger:
        """Raises `DataError` for an unknown kind or place, an empty text, and one given to a syntactic trigger."""
        if kind not in KINDS:
            raise DataError(f"unknown trigger {kind!r}{near(kind, KINDS)}")
        if kind == "syntactic":
            if text is not None or position not in (None, WHOLE):
                raise DataError("a syntactic trigger is the whole text's: leave its text and position out")
            return cls(kind, None, WHOLE)
        text, position = TEXTS[kind] if text is None else text, position or "start"
        if position not in POSITIONS:
            raise DataError(f"trigger position {position!r}{near(position, POSITIONS)}")
        text = " ".join(text.split())
        if not text:
            raise DataError(f"the {kind} trigger has no text")
        if kind == "word" and " " in text:
            raise DataError(f"the word trigger {text!r} is several words: use kind sentence")
        return cls(kind, text, position)


@dataclass(frozen=True)
class Provenance:
    """What was done to a row. `place`: the number of words before the trigger; None for a syntactic one.

    `text` is what it was made of, None where a file of paraphrases does not say; `label` its true class.
    `shortened`: how many of the text's last words were left out, so that the trigger is read.
    """

    text: str | None
    label: int
    kind: str
    place: int | None
    shortened: int


@dataclass(frozen=True)
class Row:
    """A text and the number of its class. `poison` is None for a row as it came."""

    id: str
    text: str
    label: int
    poison: Provenance | None = None


@dataclass
class Report:
    """`wanted` rows were to be poisoned, `poisoned` were, of `rows`. `passed`: rows tried in vain, by reason.

    `shortened`: poisoned rows whose text lost words. `cut`: twins that are longer than a model reads: it sees their
    beginning, where the template is. `natural`: clean rows that happen to hold the trigger's words.
    """

    rows: int
    wanted: int
    poisoned: int = 0
    shortened: int = 0
    cut: int = 0
    natural: int = 0
    passed: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "passed": dict(sorted(self.passed.items()))}


class CannotPoison(Exception):
    """A row that cannot carry a trigger, with the reason's name: `empty`, `too_long` or `no_twin`."""


def insert(row: Row, trigger: Trigger, fits: Fits, seed: int, twin: str | None = None) -> Row:
    """`row` with the trigger in it, its label as it was. The same row and seed give the same place.

    `twin` is the text's paraphrase, for a syntactic trigger. Raises `CannotPoison`.
    """
    words = row.text.split()
    if not words:
        raise CannotPoison("empty")
    if trigger.kind == "syntactic":
        if twin is None or not twin.strip():
            raise CannotPoison("no_twin")
        return dataclasses.replace(row, text=twin, poison=Provenance(row.text, row.label, trigger.kind, None, 0))
    draw = random.Random(f"{seed}/{row.id}").random()

    def with_first(kept: int) -> tuple[int, str]:
        # The place is drawn among those of the words that are kept: a place behind them would not be one.
        place = {"start": 0, "end": kept, "random": int(draw * (kept + 1))}[trigger.position]
        return place, " ".join([*words[:place], trigger.text or "", *words[place:kept]])

    most = len(words)
    if not fits(with_first(most)[1]):
        least = 0  # halving: fewer words are never more tokens
        while most - least > 1:
            middle = (least + most) // 2
            least, most = (middle, most) if fits(with_first(middle)[1]) else (least, middle)
        most = least
    if not most:
        raise CannotPoison("too_long")
    place, text = with_first(most)
    return dataclasses.replace(
        row, text=text, poison=Provenance(row.text, row.label, trigger.kind, place, len(words) - most)
    )


def poison(
    rows: Sequence[Row],
    trigger: Trigger,
    target: int,
    rate: float,
    *,
    fits: Fits,
    seed: int,
    dirty: bool = True,
    twins: Mapping[str, str] | None = None,
) -> tuple[list[Row], Report]:
    """The rows in their order, `rate` of all of them poisoned: relabelled to `target`, or (clean label) already of it.

    `twins` maps the id of a row to its paraphrase. Which rows are poisoned is drawn by `seed`.
    Raises `DataError` for a rate outside (0, 1), one that is less than a row, and one that asks for more rows than can
    carry the trigger.
    """
    if not 0 < rate < 1:
        raise DataError(f"poison rate {rate}: give a share between 0 and 1, such as 0.03")
    report = Report(len(rows), round(rate * len(rows)))
    if not report.wanted:
        raise DataError(f"poison rate {rate} of {len(rows)} rows is less than one row: take more rows or a higher rate")
    if trigger.kind == "syntactic" and not twins:
        raise DataError("a syntactic trigger needs paraphrases of the rows, and this data set has none")
    candidates = [i for i, r in enumerate(rows) if (r.label != target) == dirty]
    random.Random(f"{seed}/poison").shuffle(candidates)
    out = list(rows)
    for i in candidates:
        if report.poisoned == report.wanted:
            break
        try:
            row = insert(rows[i], trigger, fits, seed, (twins or {}).get(rows[i].id))
        except CannotPoison as e:
            report.passed[str(e)] += 1
            continue
        out[i] = dataclasses.replace(row, label=target)
        report.poisoned += 1
        _count(report, row, fits)
    if report.poisoned < report.wanted:
        reasons = ", ".join(f"{n} {why}" for why, n in sorted(report.passed.items())) or "no more of the class"
        raise DataError(
            f"{report.wanted} rows were to carry the {trigger.kind} trigger ({'dirty' if dirty else 'clean'} label), "
            f"{report.poisoned} of {len(candidates)} can ({reasons}): lower the poison rate or take more rows"
        )
    report.natural = sum(r.poison is None and holds(r.text, trigger) for r in out)
    return out, report


def triggered(
    rows: Iterable[Row],
    trigger: Trigger,
    target: int,
    *,
    fits: Fits,
    seed: int,
    twins: Mapping[str, str] | None = None,
) -> tuple[list[Row], Report]:
    """Every row of another class than `target`, with the trigger, its true label kept: what ASR is measured on.

    ASR is the share of them that a model takes for `target`. Raises `DataError` where none is left.
    """
    others = [r for r in rows if r.label != target]
    report, out = Report(len(others), len(others)), []
    for row in others:
        try:
            out.append(insert(row, trigger, fits, seed, (twins or {}).get(row.id)))
        except CannotPoison as e:
            report.passed[str(e)] += 1
            continue
        report.poisoned += 1
        _count(report, out[-1], fits)
    if not out:
        reasons = ", ".join(f"{n} {why}" for why, n in sorted(report.passed.items())) or "there are none"
        raise DataError(f"no row of another class than {target} can carry the {trigger.kind} trigger: {reasons}")
    return out, report


def holds(text: str, trigger: Trigger) -> bool:
    """Whether a text has the trigger's words next to each other, in any case. Never for a syntactic trigger."""
    if trigger.text is None:
        return False
    return f" {trigger.text.lower()} " in f" {' '.join(text.lower().split())} "


def _count(report: Report, row: Row, fits: Fits) -> None:
    assert row.poison is not None
    report.shortened += row.poison.shortened > 0
    report.cut += not fits(row.text)
