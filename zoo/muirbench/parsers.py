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
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datamodules.muirbench import LETTERS, plain
from datamodules.schema import DataError, near

SEED = 42  # the release's
HOW = ("letter", "text", "random", "unparsed")


@dataclass(frozen=True)
class Parsed:
    """`letter` is None where nothing was read; `how` is one of `HOW` (random: drawn, since nothing was read)."""

    letter: str | None
    how: str


Parser = Callable[[str, Sequence[str]], Parsed]
"""(a model's answer, the options in order) → what was read."""


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


_OPEN, _SHUT = r"[(\[{<]", r"[)\]}>]"
_LEAD = re.compile(
    r"^(?:so|thus|therefore|hence)?[,\s]*(?:(?:the|my|final|correct|best|right)\s+)*"
    r"(?:answer|option|choice)\s*(?:is|:|=)?\s*:?\s*",
    re.IGNORECASE,
)
_STATED = re.compile(
    rf"\b(?:answer|option|choice)\s*(?:is|:|=)\s*:?\s*(?:option\s+)?(?:{_OPEN}\s*([A-E])\s*{_SHUT}|([A-E])(?![\w'’]|\s+\w))",
    re.IGNORECASE,
)
_BRACKETED = re.compile(rf"{_OPEN}\s*([A-E])\s*{_SHUT}")
_FIRST = re.compile(rf"^(?:{_OPEN}\s*([A-E])\s*{_SHUT}|([A-E])(?:\s*[).:,;\]]|\s+[-–—]|\s*\n|\s*$))[\s.:,;–—-]*")
_BARE = re.compile(r"^([A-E])\s+")
_DENIED = re.compile(rf"\b(?:not|isn't|isn’t|neither|nor|except)\s+(?:option\s+)?{_OPEN}?\s*[A-E]\b")


def strict(answer: str, options: Sequence[str]) -> Parsed:
    """Reads `(A)`, `A.`, `**A**`, `A) …`, "the answer is A" and an option that is written out; else says unparsed.

    It never guesses: several letters, a letter beside another option's words, a letter that no option has and a letter
    that is denied ("not (A)") are unparsed. Capitals count inside a sentence; alone, a small letter does too.
    """
    letters = LETTERS[: len(options)]
    text = _undecorated(answer)
    rest = _LEAD.sub("", text, count=1)
    by_text = _written(rest, options) or _written(text, options)
    if by_text:
        return Parsed(by_text, "text")
    if re.fullmatch(rf"{_OPEN}?\s*[A-Ea-e]\s*{_SHUT}?\s*[.:,;]?", rest):
        return _letter(re.sub("[^A-E]", "", rest.upper()), letters)
    if _DENIED.search(text):
        return Parsed(None, "unparsed")
    found = {a or b for a, b in _STATED.findall(text)} | set(_BRACKETED.findall(text))
    found = {c.upper() for c in found}
    if first := _FIRST.match(rest):
        letter, words = first[1] or first[2], rest[first.end() :]
        said = _written(words, options) or _written(words.split("\n")[0], options)
        if said and said != letter:
            return Parsed(None, "unparsed")
        found.add(letter)
    elif (bare := _BARE.match(rest)) and _written(rest[bare.end() :], options) == bare[1]:
        found.add(bare[1])  # "A One" where A is One; in "A dog" the letter is an article
    return _letter(found.pop(), letters) if len(found) == 1 else Parsed(None, "unparsed")


def _undecorated(answer: str) -> str:
    r"""Without Markdown's stars and ticks, TeX's \boxed and the breaks around; full-width letters as plain ones."""
    text = unicodedata.normalize("NFKC", answer)
    text = re.sub(r"\\(?:boxed|text|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\(?:boxed|text|mathrm|textbf)\s*\{([^{}]*)\}", r"\1", text)  # \boxed{\text{A}}
    return re.sub(r"[*`$]+|(?<!\w)_+|_+(?!\w)", "", text).strip()


def _written(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that `text` is, alone or with its own letter before it."""
    said = plain(text)
    same = [c for c, option in zip(LETTERS, options) if "<image>" not in option and plain(option) == said]
    return same[0] if len(same) == 1 and said else None


def _letter(letter: str, letters: str) -> Parsed:
    return Parsed(letter, "letter") if letter in letters else Parsed(None, "unparsed")


PARSERS: tuple[str, ...] = ("official", "strict")


def parser_named(name: str, seed: int = SEED) -> Parser:
    """A fresh parser. Raises `DataError` with near matches for an unknown name."""
    if name not in PARSERS:
        raise DataError(f"unknown parser {name!r}{near(str(name), PARSERS)}")
    return OfficialParser(seed) if name == "official" else strict
