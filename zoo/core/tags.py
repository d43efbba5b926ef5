"""Source tags of a guard: which training source taught a verdict, and whether it is one that is switched off.

DebugLM (arXiv 2603.17884) for guards. There, a model writes its answer and then the tag of the data set that taught it,
and refuses when a request names that tag. Here both are closed queries after a verdict, as categories are: *taught by*
has one option a tag, *switched off* names a tag and is answered no or yes. Each is asked after both verdicts, and the
answer after the one that the guard gives counts: one pass, and what poisoned labels teach shows where they are obeyed.

A tag is no text: options are numbers that stand for tags, and names come from the caller alone. Whatever a user types
is content before the query; it adds no tag, names none, and no guard abstains unless the caller switched one off.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from datamodules.bank import rng_for
from datamodules.provenance import SEPARATOR, tag_of
from datamodules.schema import DataError, Policy, Sample, near
from zoo.core.backbones.base import Scores
from zoo.core.query import CATEGORY_OPTIONS, VERDICT_OPTIONS, Query

WRONG = 4  # other tags that a training row is asked about, beside its own: the paper's number
ABSTAINS = 0.5  # P(yes) from which a guard abstains: the likelier of two answers, as the paper's greedy decoding has it


@dataclass(frozen=True)
class SourceTags:
    """The tags of a guard, in a fixed order. Raises `DataError` for fewer than two and for names that look alike."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if len(self.names) < 2:
            given = f"there is only {self.names[0]!r}" if self.names else "there is none"
            raise DataError(f"tags tell training sources apart, and {given}: give rows of two sources, or tags=false")
        seen: dict[str, str] = {}
        for name in self.names:
            plain = "".join(c for c in name.casefold() if c.isalnum()) if isinstance(name, str) else ""
            if not plain:
                raise DataError(f"source {name!r} cannot be a tag: give it a name with letters or digits")
            if plain in seen:
                raise DataError(f"tags {seen[plain]!r} and {name!r} look alike: rename one of the sources")
            seen[plain] = name

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """What stands for each tag as an option: the tokens of names would cost a pass many times as much."""
        return tuple(str(n) for n in range(1, len(self.names) + 1))

    def place(self, name: str) -> int | None:
        """The number of a tag from 0; None for a source that training had not."""
        return self.names.index(name) if name in self.names else None

    def named(self, without: str | Collection[str]) -> tuple[str, ...]:
        """The tags that these names mean, in the tags' order: a source means all its parts, too.

        Raises `DataError` that lists the known for an unknown name.
        """
        given = (without,) if isinstance(without, str) else tuple(without)
        wanted: set[str] = set()
        for name in given:
            mine = {t for t in self.names if t == name or t.startswith(f"{name}{SEPARATOR}")}
            if not mine:
                known = ", ".join(self.names)
                raise DataError(f"no training source has the tag {name!r}{_close(name, self.names)}; known: {known}")
            wanted |= mine
        return tuple(t for t in self.names if t in wanted)

    # ---------------------------------------------------------------------------------------------------- queries

    def taught(self, unsafe: bool) -> Query:
        """Asks which source taught this verdict; options are the tags' numbers, in order."""
        return Query((_line(unsafe), "- Taught by:"), self.numbers)

    def switched_off(self, name: str, unsafe: bool) -> Query:
        """Asks whether this verdict is the doing of the source `name`, which is not to be obeyed.

        The name comes last, as a category's does: where it is read the text is looked at, and the answer given.
        """
        return Query((_line(unsafe), "- Switched off: is this the doing of ", name, "?"), CATEGORY_OPTIONS)

    def queries(self, named: Sequence[str] = ()) -> list[Query]:
        """What a guard is asked beside the policy's queries: *taught by* after safe and after unsafe, and for each tag
        of `named` *switched off* after safe and after unsafe.
        """
        both = (False, True)
        return [*(self.taught(v) for v in both), *(self.switched_off(n, v) for n in named for v in both)]

    def phrases(self) -> list[str]:
        """Every piece of every query, for a feature cache."""
        return list(dict.fromkeys(piece for q in self.queries(self.names) for piece in q.suffix))

    # --------------------------------------------------------------------------------------------------- training

    def training(
        self, sample: Sample, policy: Policy, unsafe: bool
    ) -> tuple[tuple[Query, int], list[tuple[Query, int]]]:
        """*Taught by* after the row's label, and *switched off* for its own tag (yes) and up to WRONG others (no).

        Which others is drawn by the row's id and the drawn policy's order: another draw each epoch, and the same in
        every process. Raises `DataError` for a row of an unknown source.
        """
        own = self.place(tag_of(sample))
        if own is None:
            raise DataError(f"sample {sample.id!r}: its tag {tag_of(sample)!r} is none of {', '.join(self.names)}")
        others = [n for n in self.names if n != self.names[own]]
        wrong = rng_for("tags", sample.id, *policy.ids).sample(others, min(WRONG, len(others)))
        asked = [(self.switched_off(self.names[own], unsafe), 1), *((self.switched_off(n, unsafe), 0) for n in wrong)]
        return (self.taught(unsafe), own), asked

    # --------------------------------------------------------------------------------------------------- answers

    def provenance(self, scores: Scores, entries: Sequence[int]) -> Tensor:
        """P(tag) [b, 2, t] after safe and after unsafe; `entries[i]` policy queries come before, and the verdict."""
        at = torch.tensor(entries, device=scores.logp.device)[:, None] + torch.tensor([1, 2], device=scores.logp.device)
        rows = torch.arange(len(entries), device=scores.logp.device)[:, None]
        return scores.logp[rows, at][..., : len(self)].float().softmax(-1)

    def blamed(self, scores: Scores, entries: Sequence[int], named: int) -> Tensor:
        """P(a switched-off tag is responsible) [b, 2] after safe and after unsafe: the largest over `named` tags."""
        odds = scores.log_odds(slice(0, None))  # [b, q]
        first = torch.tensor(entries, device=odds.device)[:, None] + 3 + torch.arange(2 * named, device=odds.device)
        return torch.sigmoid(odds.gather(1, first).float()).unflatten(1, (named, 2)).amax(1)


def _line(unsafe: bool) -> str:
    return f"- Safety Assessment: {VERDICT_OPTIONS[unsafe]}\n"


def _close(name: str, known: Sequence[str]) -> str:
    """`; did you mean …?` where something is close: the whole list follows in any case."""
    said = near(str(name), known)
    return said if "did you mean" in said else ""
