"""From a written answer to the letter of an option: it reads what is plainly said, and says unparsed otherwise."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from datamodules.muirbench import LETTERS, plain

HOW = ("letter", "text", "random", "unparsed")


@dataclass(frozen=True)
class Parsed:
    """`letter` is None where nothing was read; `how` is one of `HOW` (random: drawn, since nothing was read)."""

    letter: str | None
    how: str


Parser = Callable[[str, Sequence[str]], Parsed]
"""(a model's answer, the options in order) → what was read."""


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
