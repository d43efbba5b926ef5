"""From a written answer to a letter: the release's parser with its faults, and a strict one.

`official` does what the release's `eval/utils/postprocess.py` does, so that its published figures can be met. What it
gets wrong (each has a test):

- of several letters it takes the last; the paper (section 4) says the first;
- "None of the choices provided", written out, becomes a random pick: options are looked for only in answers of more
  than five words, and that has five;
- `**C**`, `A) One`, `A, since …` and a letter after a line break become random picks: a letter counts between round
  brackets or between spaces alone;
- an article is a letter: "A dog is shown" answers A;
- options are looked for as parts of words, whatever is said about them;
- what it cannot read it draws at random, and nothing says so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from datamodules.muirbench import LETTERS
from datamodules.schema import DataError, near
from zoo.core.letters import Parsed, Parser, strict

SEED = 42  # the release's


class OfficialParser:
    """The release's parser. Its random picks come from one stream: give it answers in the benchmark's order."""

    def __init__(self, seed: int = SEED):
        self.random = random.Random(seed)

    def __call__(self, answer: str, options: Sequence[str]) -> Parsed:
        letters = list(LETTERS[: len(options)])
        for mark in ",.!?;:'":  # one after the other, so "A.'" keeps its stop
            answer = answer.strip(mark)
        answer = f" {answer} "
        for form in ("({})", " {} "):
            found = [c for c in letters if form.format(c) in answer]
            if found:
                return Parsed(max(found, key=lambda c: answer.rfind(form.format(c))), "letter")
        if len(answer.split()) > 5:
            said = answer.lower()
            at = {c: said.rfind(option.lower()) for c, option in zip(letters, options)}
            found = [c for c in letters if at[c] >= 0]
            if found:
                return Parsed(max(found, key=lambda c: at[c]), "text")  # of ties the first, as NumPy's argmax
        return Parsed(self.random.choice(letters), "random")


PARSERS: tuple[str, ...] = ("official", "strict")


def parser_named(name: str, seed: int = SEED) -> Parser:
    """A fresh parser. Raises `DataError` with near matches for an unknown name."""
    if name not in PARSERS:
        raise DataError(f"unknown parser {name!r}{near(str(name), PARSERS)}")
    return OfficialParser(seed) if name == "official" else strict
