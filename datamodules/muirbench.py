"""MuirBench (arXiv 2406.09411): multiple-choice questions about several pictures, each with an unanswerable twin.

A record has the release's nine fields. `<image>` stands in the question and in the options where a picture belongs, in
the order of `image_list`. Of two twins (`counterpart_idx`) exactly one has "None of the choices provided" for answer.
Where records come from is `datamodules.muirbench_files`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datamodules.schema import DataError, Message, Part, Sample, inside, near, reject_unknown
from datamodules.sources.split import FRACTIONS, assign_splits

__all__ = [
    "FIELDS",
    "IMAGE",
    "NONE",
    "RELATIONS",
    "TASKS",
    "Record",
    "checked_pairs",
    "official_prompt",
    "reordered",
    "samples_of",
]

FIELDS = (
    "idx",
    "task",
    "image_relation",
    "image_type",
    "question",
    "options",
    "answer",
    "image_list",
    "counterpart_idx",
)
TASKS = (
    "Image-Text Matching",
    "Diagram Understanding",
    "Difference Spotting",
    "Visual Retrieval",
    "Counting",
    "Attribute Similarity",
    "Scene Understanding",
    "Action Understanding",
    "Geographic Understanding",
    "Visual Grounding",
    "Cartoon Understanding",
    "Ordering",
)
RELATIONS = (
    "Cropped/Zoomed",
    "Partial Similarity",
    "Ordered Pages",
    "Object-Multiview",
    "Overall Similarity",
    "Independent",
    "Complementary",
    "Temporal",
    "Scene-Multiview",
    "Narrative",
)
IMAGE = "<image>"
NONE = "None of the choices provided"
LETTERS = "ABCDE"
HINT = "Hint: Please provide the correct option letter, such as A, B, C, D, directly."
ANSWER = "Answer:"
SOURCE = "muirbench"
LEAST_OPTIONS, LEAST_IMAGES = 3, 2


@dataclass(frozen=True)
class Record:
    """One question. `image_list` holds absolute paths; `answer` is a letter; `task` and `image_relation` are spelt as
    in `TASKS` and `RELATIONS`.
    """

    idx: str
    task: str
    image_relation: str
    image_type: str
    question: str
    options: tuple[str, ...]
    answer: str
    image_list: tuple[str, ...]
    counterpart_idx: str

    @property
    def letters(self) -> tuple[str, ...]:
        return tuple(LETTERS[: len(self.options)])

    @property
    def none_letter(self) -> str:
        """The letter of "None of the choices provided"."""
        return LETTERS[[is_none(o) for o in self.options].index(True)]

    @property
    def answerable(self) -> bool:
        return self.answer != self.none_letter

    @property
    def pair(self) -> str:
        """One name for both twins."""
        return "+".join(sorted((self.idx, self.counterpart_idx)))

    @classmethod
    def from_dict(cls, row: Any, root: str | Path, where: str = "record") -> Record:
        """Checks a record whose `image_list` holds paths under `root`.

        Raises `DataError` that names `where` and the record: a field that is missing, unknown or of another type, an
        unknown task or relation, options without exactly one "None of the choices provided", an answer that is no
        option's letter, placeholders that are not as many as pictures, a picture that is missing or outside `root`.
        """
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object with the fields {', '.join(FIELDS)}")
        where = f"{where} (idx {row['idx']!r})" if "idx" in row else where
        reject_unknown(row, FIELDS, where)
        for key in FIELDS:
            if row.get(key) is None:
                raise DataError(f"{where}: the field {key!r} is missing: a record has {', '.join(FIELDS)}")
        for key in ("idx", "counterpart_idx"):
            if isinstance(row[key], bool) or not isinstance(row[key], (str, int)) or not str(row[key]).strip():
                raise DataError(f"{where}: {key!r} must be a name or a number, got {row[key]!r}")
        for key in ("task", "image_relation", "image_type", "question", "answer"):
            if not isinstance(row[key], str) or not row[key].strip():
                raise DataError(f"{where}: {key!r} must be a text that is not empty, got {row[key]!r}")
        for key in ("options", "image_list"):
            if not isinstance(row[key], list):
                raise DataError(f"{where}: {key!r} must be a list, got {type(row[key]).__name__}")
        options = _options(row["options"], where)
        answer = row["answer"].strip()
        if answer not in LETTERS[: len(options)] or len(answer) != 1:
            raise DataError(f"{where}: answer {answer!r} is not one of {', '.join(LETTERS[: len(options)])}")
        _check_placeholders(row["question"], options, len(row["image_list"]), where)
        return cls(
            idx=str(row["idx"]),
            task=_known(row["task"], TASKS, f"{where}: task"),
            image_relation=_known(row["image_relation"], RELATIONS, f"{where}: image_relation"),
            image_type=row["image_type"].strip(),  # any name: the release's twelve are nowhere written down
            question=row["question"],
            options=options,
            answer=answer,
            image_list=tuple(_picture(name, root, where) for name in row["image_list"]),
            counterpart_idx=str(row["counterpart_idx"]),
        )

    def to_dict(self, root: str | Path) -> dict[str, Any]:
        """The nine fields; pictures as paths under `root`. What `from_dict` reads."""
        root = Path(root).resolve()
        row = {key: getattr(self, key) for key in FIELDS}
        pictures = [Path(p).resolve().relative_to(root).as_posix() for p in self.image_list]
        return {**row, "options": list(self.options), "image_list": pictures}


def reordered(record: Record, order: Sequence[int]) -> Record:
    """The record with its options in another order: option `order[n]` comes at place n, with its pictures.

    The answer's letter goes with its option. Raises ValueError for an order that is none of these options.
    """
    if sorted(order) != list(range(len(record.options))):
        raise ValueError(f"{list(order)} is no order of {len(record.options)} options")
    first = record.question.count(IMAGE)
    shown, pictures = [], iter(record.image_list[first:])
    for option in record.options:
        shown.append([next(pictures) for _ in range(option.count(IMAGE))])
    return replace(
        record,
        options=tuple(record.options[n] for n in order),
        answer=LETTERS[list(order).index(LETTERS.index(record.answer))],
        image_list=(*record.image_list[:first], *(p for n in order for p in shown[n])),
    )


def plain(text: str) -> str:
    """`text` in lower case, spaces single, without punctuation or quotes around it."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'")


def is_none(option: str) -> bool:
    return plain(option) == plain(NONE)


def _options(raw: list[Any], where: str) -> tuple[str, ...]:
    if not LEAST_OPTIONS <= len(raw) <= len(LETTERS):
        raise DataError(f"{where}: {len(raw)} options: give {LEAST_OPTIONS} to {len(LETTERS)}")
    for option in raw:
        if not isinstance(option, str) or not option.strip():
            raise DataError(f"{where}: an option must be a text that is not empty, got {option!r}")
    nones = sum(map(is_none, raw))
    if nones != 1:
        raise DataError(f"{where}: {nones} of its options are {NONE!r}: exactly one must be")
    worded = Counter(plain(o) for o in raw if IMAGE not in o)
    if twice := [o for o, n in worded.items() if n > 1]:
        raise DataError(f"{where}: the option {twice[0]!r} stands twice: its letters could not be told apart")
    return tuple(raw)


def _check_placeholders(question: str, options: Sequence[str], pictures: int, where: str) -> None:
    asked, offered = question.count(IMAGE), sum(o.count(IMAGE) for o in options)
    if asked + offered != pictures:
        raise DataError(
            f"{where}: {asked} {IMAGE} in the question and {offered} in the options, but {pictures} in image_list: "
            "there must be one for each picture"
        )
    if pictures < LEAST_IMAGES:
        raise DataError(f"{where}: {pictures} pictures: a question is about {LEAST_IMAGES} or more")


def _known(name: str, known: tuple[str, ...], what: str) -> str:
    """`name` as `known` spells it: the release writes "Ordered_Pages" too."""
    keys = {_key(k): k for k in known}
    if _key(name) not in keys:
        raise DataError(f"{what}: {name!r} is none of MuirBench's{near(name, known)}")
    return keys[_key(name)]


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _picture(name: Any, root: str | Path, where: str) -> str:
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: an entry of image_list must be a path, got {type(name).__name__}")
    path = inside(root, name, where)
    if not path.is_file():
        raise DataError(f"{where}: {name}: no such picture under {root}")
    return str(path)


# --------------------------------------------------------------------------------------------------------------- pairs


def checked_pairs(records: Iterable[Record]) -> tuple[list[Record], list[dict[str, str]]]:
    """The records whose twins are all right, in their order, and an `{"id", "error"}` for each other one.

    A record whose twin is missing, names another one, is of another task, or is as answerable as itself is an error,
    and so is its twin: a benchmark of pairs has no use for half of one. An `idx` that stands twice is an error for all
    that have it.
    """
    records = list(records)
    times = Counter(r.idx for r in records)
    known = {r.idx: r for r in records}
    reasons = [_unpaired(r, known, times) for r in records]
    bad = {r.idx for r, reason in zip(records, reasons) if reason}
    good, errors = [], []
    for r, reason in zip(records, reasons):
        if not reason and r.counterpart_idx in bad:
            reason = f"its twin {r.counterpart_idx!r} cannot be used"
        if reason:
            errors.append({"id": r.idx, "error": f"record {r.idx!r}: {reason}"})
        else:
            good.append(r)
    return good, errors


def _unpaired(r: Record, known: dict[str, Record], times: Counter[str]) -> str | None:
    if times[r.idx] > 1:
        return f"idx stands {times[r.idx]} times: make it unique"
    if r.counterpart_idx == r.idx:
        return "counterpart_idx names the record itself"
    twin = known.get(r.counterpart_idx)
    if twin is None:
        return f"its twin {r.counterpart_idx!r} is not there or cannot be used"
    if twin.counterpart_idx != r.idx:
        return f"its twin {twin.idx!r} names {twin.counterpart_idx!r} as its own twin"
    if twin.task != r.task:
        return f"its twin {twin.idx!r} is of the task {twin.task}, not {r.task}"
    if twin.answerable == r.answerable:
        what = "have an answer" if r.answerable else f"have {NONE!r} for answer"
        return f"it and its twin {twin.idx!r} both {what}: exactly one of them must"
    return None


def groups_of(records: Sequence[Record]) -> list[str]:
    """The group of each record, which no split parts: twins, and whoever shows a picture (a file) that they show."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = name = parent[parent[name]]
        return name

    for r in records:
        for other in (f"idx {r.counterpart_idx}", *(f"file {p}" for p in r.image_list)):
            parent[root(other)] = root(f"idx {r.idx}")
    names: dict[str, str] = {}
    for r in records:
        top = root(f"idx {r.idx}")
        names[top] = min(names.get(top, r.pair), r.pair)
    return [f"{SOURCE}:{names[root(f'idx {r.idx}')]}" for r in records]


# ------------------------------------------------------------------------------------------------------------- samples


def official_prompt(record: Record, hint: bool = True) -> str:
    """The prompt of the paper's section 4 with `<image>` where a picture stands: question, choices, hint, "Answer:"."""
    choices = [f"({letter}) {option}" for letter, option in zip(record.letters, record.options)]
    lines = [f"Question: {record.question}", "Choices:", *choices, *((HINT,) if hint else ()), ANSWER]
    return "\n".join(lines).strip()


def interleaved(text: str, pictures: Sequence[str]) -> tuple[Part, ...]:
    """`text` as content parts, the pictures (paths) where its placeholders stand. Raises ValueError for other numbers.

    Line breaks and spaces around a picture stay in the text beside it; an empty text is no part.
    """
    pieces = text.split(IMAGE)
    if len(pieces) != len(pictures) + 1:
        raise ValueError(f"{len(pieces) - 1} placeholders but {len(pictures)} pictures")
    parts = []
    for n, piece in enumerate(pieces):
        if piece.strip():
            parts.append(Part("text", text=piece))
        if n < len(pictures):
            parts.append(Part("image", path=pictures[n]))
    return tuple(parts)


def by_lines(parts: Iterable[Part]) -> Iterator[Part]:
    """The same words, a text part for each line.

    A backbone that encodes each text by itself then reads an option apart from the others, beside its own letter, and
    meets the same line again in other questions. An empty line stays with the one before it.
    """
    for part in parts:
        if part.type != "text":
            yield part
            continue
        lines: list[str] = []
        for line in re.findall(r"[^\n]*\n|[^\n]+", part.text or ""):
            if lines and not (line.strip() and lines[-1].strip()):
                lines[-1] += line
            else:
                lines.append(line)
        yield from (Part("text", text=line) for line in lines)


def sample_of(record: Record, group: str | None = None, split: str | None = None) -> Sample:
    """The record as a user's message, pictures among the lines, up to the "Answer:" that a query begins with.

    `meta` holds what slices and the query need: letters, answer and the record's kinds.
    """
    text = official_prompt(record).removesuffix(ANSWER).rstrip("\n")
    return Sample(
        id=record.idx,
        messages=(Message("user", tuple(by_lines(interleaved(text, record.image_list)))),),
        target="prompt",
        source=SOURCE,
        group=group or f"{SOURCE}:{record.pair}",
        split=split,
        meta={
            "letters": "".join(record.letters),
            "options": list(record.options),
            "answer": record.answer,
            "none": record.none_letter,
            "task": record.task,
            "image_relation": record.image_relation,
            "image_type": record.image_type,
            "images": len(record.image_list),
        },
    )


def samples_of(
    records: Sequence[Record], seed: int | None = None, fractions: Sequence[float] = FRACTIONS
) -> list[Sample]:
    """All records as samples. The release is a test set: without a `seed` every sample is one of test.

    With a `seed` the groups are dealt out to train, val and test by `fractions`; twins stay together.
    """
    groups = groups_of(records)
    if seed is None:
        return [sample_of(r, g, "test") for r, g in zip(records, groups)]
    return assign_splits((sample_of(r, g) for r, g in zip(records, groups)), seed, fractions, near=None)
