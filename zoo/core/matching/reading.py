"""What the matcher reads: a rule as words, names and numbers; a message of a trajectory as an event with fields.

A name is what stands in quotes: a button, a page, a value. Whatever it says, it is one token that is compared with the
fields of steps; the language of a rule is the words around it. Rules without quotes are read word by word.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.rules import fold, number_in, reply
from datamodules.schema import Message, PolicyEntry
from datamodules.trajectory import ALIASES, TO_PERSON, VERBS, Step, read_step
from zoo.core.backbones.cutting import cut_middle

WORD, NAME, NUMBER = range(3)  # kinds of a rule's tokens
TASK, ACTION, SEEN, ANSWER = range(
    4
)  # kinds of events: before the first action, the agent's, what came back, a person's
RULE_TOKENS = 96  # of one rule: the frozen encoder reads no more than 512 word pieces
LETTERS = "xyzwvu"  # stand for names where the language of a rule is read
COUNTS = {
    "once": 1, "twice": 2, "thrice": 3, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7,
    "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12,
}  # fmt: skip
_TOKEN = re.compile(
    r'"((?:[^"\\]|\\.)*)"|“([^”]*)”|`([^`]*)`|(?<!\w)\'([^\']+)\'(?!\w)'  # names
    r"|(\d[\d,]*(?:\.\d+)?(?!\w))"  # numbers
    r"|(\w+(?:['’]\w+)*|[^\w\s])"  # words and signs
)
_WORD = re.compile(r"\w+(?:['’]\w+)*")
_ESCAPED = re.compile(r"\\(.)")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)+)"|“([^”]+)”|`([^`]+)`')


@functools.lru_cache(maxsize=65536)
def _words(text: str) -> tuple[str, ...]:
    return tuple(_WORD.findall(text))


def words(text: str) -> tuple[str, ...]:
    """The words of a text, folded: `/issues/new` has two."""
    return _words(fold(text)) if len(text) < 200 else tuple(_WORD.findall(fold(text)))


@dataclass(frozen=True)
class RuleText:
    """A rule's tokens. `said` is what the language encoder reads of each: a letter for a name, 3 for a number.

    `numbers`: the number that a token names, or None. `cut`: whether tokens over the limit were left out.
    """

    texts: tuple[str, ...]
    kinds: tuple[int, ...]
    said: tuple[str, ...]
    numbers: tuple[float | None, ...]
    cut: bool

    def __len__(self) -> int:
        return len(self.texts)


@functools.lru_cache(maxsize=16384)
def read_rule(text: str) -> RuleText:
    """The tokens of a rule's wording, at least one; the same name has the same letter wherever it stands."""
    texts, kinds, said, numbers = [], [], [], []
    letters: dict[str, str] = {}
    for found in _TOKEN.finditer(text):
        *names, number, word = found.groups()
        name = next((x for x in names if x is not None), None)
        if name is not None:
            name = _ESCAPED.sub(r"\1", name)
            letter = letters.setdefault(fold(name), LETTERS[len(letters) % len(LETTERS)])
            token = (name, NAME, f'"{letter}"', number_in(name))
        elif number is not None:
            token = (number, NUMBER, "3", number_in(number))
        else:
            folded = fold(word)
            count = COUNTS.get(folded)
            token = (word, WORD, folded, None if count is None else float(count))
        for all_of, one in zip((texts, kinds, said, numbers), token):
            all_of.append(one)
    if not texts:
        return RuleText(("",), (WORD,), (".",), (None,), False)
    cut = len(texts) > RULE_TOKENS
    return RuleText(*(tuple(x[:RULE_TOKENS]) for x in (texts, kinds, said, numbers)), cut)


def entry_text(entry: PolicyEntry) -> str:
    """What is read of an entry: its name, and its description where it has one."""
    return f"{entry.name}: {entry.description}" if entry.description else entry.name


@dataclass(frozen=True)
class Event:
    """A message. `verb`, `target` and `value` are the action's: of an answer, those of the action that it answers.

    `said` is the text of a message that is no rendered step. `answer`: a person's yes (True) or no (False).
    """

    kind: int
    verb: str = ""
    target: str = ""
    value: str | None = None
    said: str = ""
    answer: bool | None = None


def read_event(message: Message, last: Event | None, limit: int) -> tuple[Event, bool]:
    """A message as an event after the event of the agent's `last` action, and whether more than `limit` words were cut.

    A step that is not rendered as `render_step` does it is read for its verb, where it begins with one, and for its
    first name in quotes.
    """
    text = "\n".join(p.text or "" for p in message.content if p.type == "text")
    if message.role == "assistant":
        step = read_step(text) if len(text) <= 100 * limit else None
        if step is not None:
            target, one = _short(step.target, limit)
            value, other = (None, False) if step.value is None else _short(step.value, limit)
            return Event(ACTION, step.verb, target, value), one or other
        said, cut = _short(text, limit)
        found = _QUOTED.search(said)
        return Event(ACTION, _verb(said), next(filter(None, found.groups()), "") if found else "", None, said), cut
    said, cut = _short(text, limit)
    if last is None:
        return Event(TASK, said=said), cut
    person = message.role == "user" and last.verb in TO_PERSON
    answer = reply(Step("ask", observation=said)) if person else None
    return Event(ANSWER if person else SEEN, last.verb, last.target, last.value, said, answer), cut


def _verb(text: str) -> str:
    first = words(text[:80])[:2]
    for verb in (" ".join(first), *first[:1]):
        if verb in VERBS or verb in ALIASES:
            return ALIASES.get(verb, verb)
    return ""


def _short(text: str, limit: int) -> tuple[str, bool]:
    """The text, or the first and last of its words where there are more than `limit`, or where they have no end."""
    parts = text.split()
    most = 40 * limit  # characters: a word without an end is no word
    if len(parts) <= limit and len(text) <= most:
        return text, False
    text = " ".join(cut_middle(parts, limit))
    return (text if len(text) <= most else f"{text[: most // 2]} {text[-(most // 2) :]}"), True


def read_messages(messages: Sequence[Message], limit: int) -> tuple[list[Event], list[bool]]:
    """An event a message, and which of them were cut."""
    events: list[Event] = []
    cuts: list[bool] = []
    last: Event | None = None
    for message in messages:
        event, cut = read_event(message, last, limit)
        if event.kind == ACTION:
            last = event
        events.append(event)
        cuts.append(cut)
    return events, cuts
