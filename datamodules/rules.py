"""Rules about an agent's steps, and a checker that decides them: what is broken, by which step, and since when.

A `Rule` is a form with one or two patterns of steps. Each form is a small automaton over the steps, so that what can be
known of a prefix is decided exactly: `violated` where no continuation keeps the rule, `safe` where none breaks it. The
six types are the four of arXiv 2510.03485 (obligation, prohibition, ordering, conditional), and limit and consent.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from datamodules.schema import DataError, near, reject_unknown
from datamodules.trajectory import Outcome, Step

TYPES = ("obligation", "prohibition", "ordering", "conditional", "limit", "consent")
YES = frozenset(["yes", "y", "yeah", "yep", "sure", "ok", "okay", "confirmed", "confirm", "approved"])
NO = frozenset(["no", "n", "nope", "don't", "dont", "never", "stop", "cancel", "refused", "declined"])
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_WORD = re.compile(r"[\w']+")
MOST = 10_000  # of n: a form that counts has as many states
OTHER = "…"  # stands for whatever no pattern names

Letter = tuple[bool, ...]  # which of a rule's patterns a step matches
State = int


def fold(text: str) -> str:
    """For comparing: case and white space do not count. Short texts come over and over: they are kept."""
    return (
        _fold(text) if len(text) < 200 else " ".join(text.casefold().split())
    )  # the same few texts come over and over


@functools.lru_cache(maxsize=65536)
def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


def number_in(text: str) -> float | None:
    """The first number in a text: 1200.5 in "$1,200.50"."""
    found = _NUMBER.search(text)
    return float(found[0].replace(",", "")) if found else None


def reply(step: Step) -> bool | None:
    """A person's answer by its first word: True (yes), False (no), None where it is neither or there is none."""
    word = _WORD.search((step.observation or "").lstrip()[:50].casefold().replace("’", "'"))
    return True if word and word[0] in YES else False if word and word[0] in NO else None


@dataclass(frozen=True)
class Pattern:
    """Which steps are meant. Every field that is given must hold; an empty pattern is any step.

    `verbs`, `targets`, `values`: the step's is one of them (case and white space do not count). `words`, `contains`:
    one of them is in the target, in the value, as whole words. `unless`: the target is none of these. `above`: the
    first number in the value is greater. `reply`: the person answered yes (True) or no (False).
    """

    verbs: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()
    above: float | None = None
    reply: bool | None = None

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in ("above", "reply") and not isinstance(value, tuple):
                raise DataError(f"pattern: {f.name} must be a list of texts, got {value!r}")

    @functools.cached_property
    def _fold(self) -> dict[str, frozenset[str]]:
        return {name: frozenset(map(fold, getattr(self, name))) for name in ("targets", "unless", "values")}

    def matches(self, step: Step) -> bool:
        if self.verbs and step.verb not in self.verbs:
            return False
        if self.targets or self.words or self.unless:
            target = fold(step.target)
            if self.targets and target not in self._fold["targets"]:
                return False
            if self.unless and target in self._fold["unless"]:
                return False
            if self.words and not _has_words(target, self.words):
                return False
        if self.values or self.contains or self.above is not None:
            if step.value is None:
                return False
            value = fold(step.value)
            if self.values and value not in self._fold["values"]:
                return False
            if self.contains and not _has_words(value, self.contains):
                return False
            if self.above is not None:
                number = number_in(value)
                if number is None or not number > self.above:
                    return False
        return self.reply is None or reply(step) is self.reply


@functools.lru_cache(maxsize=65536)
def _words_pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(rf"(?<!\w){re.escape(fold(w))}(?!\w)" for w in words))


def _has_words(text: str, words: tuple[str, ...]) -> bool:
    return _words_pattern(words).search(text) is not None


# --------------------------------------------------------------------------------------------------------------- forms


@dataclass(frozen=True)
class Form:
    """An automaton: `next(state, letter, n)` after each step, from state 0; `broken(state, n)` where the end decides.

    `meaning` is what it says of the patterns A and B (and C); `patterns` is how many there are; `counts`: it has an n.
    """

    type: str
    patterns: int
    meaning: str
    next: Callable[[State, Letter, int], State]
    broken: Callable[[State, int], bool]
    counts: bool = False


def _before(s: State, x: Letter, n: int) -> State:
    """0: no A yet; 1: A has been, so every later B is allowed; 2: B came without an A before it."""
    return s if s else 2 if x[1] else 1 if x[0] else 0


def _right_before(s: State, x: Letter, n: int) -> State:
    """0, 1: whether the last step was an A; 2: broken."""
    return 2 if s == 2 or (x[1] and s != 1) else int(x[0])


def _not_after(s: State, x: Letter, n: int) -> State:
    return 2 if s == 2 or (s == 1 and x[1]) else 1 if s == 1 or x[0] else 0


def _then(s: State, x: Letter, n: int) -> State:
    """1: an A waits for a later B. A step that is both answers earlier ones, and waits for another."""
    return 1 if x[0] else 0 if x[1] else s


def _both(s: State, x: Letter, n: int) -> State:
    """Bit 1: A has been; bit 2: B has been."""
    return s | x[0] | (x[1] << 1)


def _consent(s: State, x: Letter, n: int) -> State:
    """0: no, or not asked; 1: the last answer was yes; 2: broken."""
    return 2 if s == 2 or (x[0] and s != 1) else 1 if x[1] else 0 if x[2] else s


def _refusal(s: State, x: Letter, n: int) -> State:
    """1: the last answer was no; 2: broken."""
    return 2 if s == 2 or (x[0] and s == 1) else 1 if x[2] else 0 if x[1] else s


def _done(s: State, x: Letter, n: int) -> State:
    return int(s or x[0])


def _trap(s: State, n: int) -> bool:
    return s == 2


FORMS: dict[str, Form] = {
    "must": Form("obligation", 1, "A is done", _done, lambda s, n: s == 0),
    "must_first": Form(
        "obligation", 1, "the first step is A", lambda s, x, n: s or (1 if x[0] else 2), lambda s, n: s != 1
    ),
    "must_last": Form("obligation", 1, "the last step is A", lambda s, x, n: int(x[0]), lambda s, n: s == 0),
    "at_least": Form(
        "obligation", 1, "A is done n times or more", lambda s, x, n: min(n, s + x[0]), lambda s, n: s < n, True
    ),
    "never": Form("prohibition", 1, "A is never done", _done, lambda s, n: s == 1),
    "before": Form("ordering", 2, "no B without an earlier A", _before, _trap),
    "right_before": Form("ordering", 2, "the step directly before each B is A", _right_before, _trap),
    "not_after": Form("ordering", 2, "no B after an A", _not_after, _trap),
    "then": Form("conditional", 2, "after every A there is a later B", _then, lambda s, n: s == 1),
    "both": Form("conditional", 2, "where A is done, B is done, before or after", _both, lambda s, n: s == 1),
    "not_both": Form("conditional", 2, "A and B are not both done", _both, lambda s, n: s == 3),
    "when_before": Form("conditional", 2, "no B (with that value) without an earlier A", _before, _trap),
    "at_most": Form(
        "limit", 1, "A is done n times or less", lambda s, x, n: min(n + 1, s + x[0]), lambda s, n: s > n, True
    ),
    "cap": Form("limit", 1, "no A (with a value above a number)", _done, lambda s, n: s == 1),
    "consent": Form("consent", 3, "no A unless the person's last answer about it was yes", _consent, _trap),
    "refusal": Form("consent", 3, "no A where the person's last answer about it was no", _refusal, _trap),
}


@dataclass(frozen=True)
class Rule:
    """`form` of `FORMS` over `patterns` (A, B, …); `n` for forms that count.

    For consent and refusal A is the action, B the person's yes and C the no: `consent_patterns`. Raises `DataError` for
    an unknown form and a wrong number of patterns.
    """

    form: str
    patterns: tuple[Pattern, ...]
    n: int = 0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise DataError(f"unknown form of rule {self.form!r}{near(str(self.form), list(FORMS))}")
        form = FORMS[self.form]
        if len(self.patterns) != form.patterns:
            raise DataError(f"a rule {self.form!r} has {form.patterns} patterns, got {len(self.patterns)}")
        if type(self.n) is not int or not 0 <= self.n <= (MOST if form.counts else 0):
            fix = f"give a whole number up to {MOST}" if form.counts else "leave it out"
            raise DataError(f"a rule {self.form!r} has n={self.n!r}: {fix}")

    @property
    def type(self) -> str:
        return FORMS[self.form].type

    def to_dict(self) -> dict[str, Any]:
        patterns = [{k: v for k, v in asdict(p).items() if v not in ((), None)} for p in self.patterns]
        return {"form": self.form, "patterns": patterns, **({"n": self.n} if self.n else {})}

    @functools.cached_property
    def known(self) -> dict[State, str]:
        """For each state that can be reached: open, violated or safe."""
        return _reach(self.form, self.n, letters(self))

    @classmethod
    def from_dict(cls, raw: Any, where: str = "rule") -> Rule:
        """What `to_dict` wrote. Raises `DataError` that names `where`."""
        if not isinstance(raw, dict) or not isinstance(raw.get("patterns"), list) or "form" not in raw:
            raise DataError(f"{where}: expected a mapping with form and a list of patterns")
        reject_unknown(raw, ("form", "patterns", "n"), where)
        patterns = []
        for given in raw["patterns"]:
            if not isinstance(given, dict):
                raise DataError(f"{where}: a pattern must be a mapping")
            reject_unknown(given, tuple(f.name for f in fields(Pattern)), f"{where}: pattern")
            patterns.append(Pattern(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}))
        return cls(raw["form"], tuple(patterns), raw.get("n", 0))


def consent_patterns(action: Pattern, about: str) -> tuple[Pattern, Pattern, Pattern]:
    """The action, and the yes and the no of a person who was asked about `about`."""
    return action, Pattern(("ask",), (about,), reply=True), Pattern(("ask",), (about,), reply=False)


# ------------------------------------------------------------------------------------------------------------- checker


def check(rule: Rule, steps: Sequence[Step]) -> Outcome:
    """What is true of the closed trajectory, and of each of its prefixes while it runs."""
    form, n = FORMS[rule.form], rule.n
    state, states, first = 0, [], None
    for number, step in enumerate(steps, 1):
        state = form.next(state, tuple(p.matches(step) for p in rule.patterns), n)
        states.append(rule.known[state])
        if first is None and states[-1] == "violated":
            first = number
    violated = form.broken(state, n)
    if violated and first is None:
        first = len(steps) + 1
    return Outcome(violated, first, tuple(states))


@functools.lru_cache(maxsize=4096)
def _reach(name: str, n: int, alphabet: frozenset[Letter]) -> dict[State, str]:
    form = FORMS[name]
    before: dict[State, set[State]] = {0: set()}
    todo = [0]
    while todo:
        state = todo.pop()
        for after in {form.next(state, letter, n) for letter in alphabet}:
            if after not in before:
                before[after] = set()
                todo.append(after)
            before[after].add(state)
    breakable = _leading_to({s for s in before if form.broken(s, n)}, before)
    keepable = _leading_to({s for s in before if not form.broken(s, n)}, before)
    return {s: "safe" if s not in breakable else "open" if s in keepable else "violated" for s in before}


def _leading_to(ends: set[State], before: dict[State, set[State]]) -> set[State]:
    """The states from which one of `ends` can be reached, these themselves too."""
    found, todo = set(ends), list(ends)
    while todo:
        new = before[todo.pop()] - found
        found |= new
        todo += new
    return found


def letters(rule: Rule) -> frozenset[Letter]:
    """Which of its patterns a step can match at once: tried on steps made of what the patterns name, and others."""
    named = rule.patterns
    verbs = {OTHER, *(v for p in named for v in p.verbs)}
    targets = _texts([(p.targets, (*p.words, *p.unless)) for p in named])
    values: set[str | None] = {None}
    if any(p.values or p.contains or p.above is not None for p in named):
        values |= _texts([(p.values, p.contains) for p in named])
    for limit in (p.above for p in named if p.above is not None):
        values |= {join(v, f"{limit + d:f}") for d in (-1, 0, 1) for v in ("", *(x for x in values if x))}
    said = (None, "yes", "no") if any(p.reply is not None for p in named) else (None,)
    steps = (Step(*made) for made in itertools.product(verbs, targets, values, said))
    return frozenset(tuple(p.matches(step) for p in named) for step in steps)


def join(text: str, number: str) -> str:
    """The number first: it is the one that counts."""
    return f"{number} {text}".strip()


def _texts(named: Sequence[tuple[Sequence[str], Sequence[str]]]) -> set[str]:
    """The texts that patterns name, and one word of each pattern put together."""
    out = {OTHER}
    for whole, words in named:
        out |= {*whole, *words}
    for words in itertools.product(*[("", *words) for _, words in named]):
        out.add(" ".join(w for w in words if w) or OTHER)
    return out
