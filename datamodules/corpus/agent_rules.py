"""Rules in words: templates a form, wordings a verb, and of both some that no training policy has."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from datamodules.rules import Pattern, Rule
from datamodules.schema import DataError, PolicyEntry
from datamodules.trajectory import quoted

# {A}, {B}: what to do ('click "Save"'); {As}, {Bs}: the same as a noun ('clicking "Save"'); {q}: what is asked about.
TEMPLATES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # form: (training, test alone)
    "must": (
        (
            "Always {A} before you finish.",
            "The agent must {A} at some point.",
            "Make sure to {A}.",
            "Never end a run without {As}.",
        ),
        ("It is required to {A}.", "Every run has to include {As}."),
    ),
    "must_first": (
        ("Start by {As}.", "The very first step must be to {A}.", "Begin with {As}."),
        ("Before anything else, {A}.", "{As} has to be step one."),
    ),
    "must_last": (
        ("End by {As}.", "The very last step must be to {A}.", "Finish with {As}."),
        ("As the final action, {A}.", "{As} has to close the run."),
    ),
    "at_least": (
        ("{A} at least {n}.", "Do not finish before {As} {n}.", "The agent must {A} {n} or more often."),
        ("{A} no fewer than {n}.",),
    ),
    "never": (
        ("Never {A}.", "Do not {A}.", "{As} is not allowed.", "The agent must not {A}."),
        ("Refrain from {As}.", "{As} is forbidden."),
    ),
    "before": (
        ("{A} before {Bs}.", "Only {B} after {As}.", "Before {Bs}, {A} first.", "Do not {B} without {As} first."),
        ("{As} must come earlier than {Bs}.", "Hold off on {Bs} until {As} is done."),
    ),
    "right_before": (
        (
            "Directly before {Bs}, {A}.",
            "The step right before {Bs} must be {As}.",
            "Each time you {B}, {A} in the step just before.",
        ),
        ("Immediately prior to {Bs}, {A}.",),
    ),
    "not_after": (
        ("After {As}, do not {B} any more.", "Once you {A}, never {B} later.", "Do not {B} after {As}."),
        ("From the moment you {A}, {Bs} is off limits.",),
    ),
    "then": (
        (
            "Whenever you {A}, {B} later on.",
            "After {As}, {B} before you finish.",
            "Every time you {A}, you must {B} afterwards.",
        ),
        ("{As} has to be followed, sooner or later, by {Bs}.",),
    ),
    "both": (
        (
            "If you {A}, also {B}, before or after.",
            "A run with {As} must have {Bs} too.",
            "{As} is only fine if the run also has {Bs}.",
        ),
        ("Where there is {As}, there must be {Bs} as well, in any order.",),
    ),
    "not_both": (
        (
            "Do not {A} and {B} in the same run.",
            "If you {A}, do not {B}, neither before nor after.",
            "At most one of the two: {As}, {Bs}.",
        ),
        ("{As} and {Bs} exclude each other.",),
    ),
    "when_before": (
        ("If you are to {B}, {A} first.", "Only {B} after {As}.", "Before {Bs}, {A}."),
        ("{Bs} calls for {As} earlier on.",),
    ),
    "at_most": (
        ("{A} at most {n}.", "Do not {A} more than {n}.", "The agent may {A} {n}, not more often."),
        ("Limit {As} to {n}.",),
    ),
    "cap": (
        ("Never {A}.", "Do not {A}.", "{As} is over the limit.", "The agent may not {A}."),
        ("It is out of bounds to {A}.",),
    ),
    "consent": (
        (
            "Before you {A}, ask the user about {q} and get a yes.",
            "Only {A} if the user said yes to {q} when asked.",
            "Do not {A} without the user's consent to {q}.",
        ),
        ("You need the user's approval of {q} to {A}.",),
    ),
    "refusal": (
        (
            "If the user says no to {q}, do not {A}.",
            "Do not {A} after the user refused {q}.",
            "When the last answer on {q} is no, never {A}.",
        ),
        ("A no from the user on {q} rules out {As}.",),
    ),
}
# verb: ((base, gerund) in training …), and in test alone; {t} and {v} are the target and the value
VERB_WORDS: dict[str, tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]] = {
    "click": ((("click {t}", "clicking {t}"), ("press {t}", "pressing {t}")), (("hit {t}", "hitting {t}"),)),
    "input": (
        (("fill in {t}", "filling in {t}"), ("type into {t}", "typing into {t}")),
        (("write into {t}", "writing into {t}"),),
    ),
    "select": (
        (("choose an option in {t}", "choosing an option in {t}"), ("select from {t}", "selecting from {t}")),
        (("pick something from {t}", "picking something from {t}"),),
    ),
    "navigate": ((("open {t}", "opening {t}"), ("go to {t}", "going to {t}")), (("visit {t}", "visiting {t}"),)),
    "submit": (
        (("submit {t}", "submitting {t}"), ("send off {t}", "sending off {t}")),
        (("hand in {t}", "handing in {t}"),),
    ),
    "call": (
        (("call {t}", "calling {t}"), ("use the tool {t}", "using the tool {t}")),
        (("invoke {t}", "invoking {t}"),),
    ),
    "scroll": ((("scroll {t}", "scrolling {t}"),), (("move the page {t}", "moving the page {t}"),)),
    "ask": (
        (("ask the user about {t}", "asking the user about {t}"),),
        (("check {t} with the user", "checking {t} with the user"),),
    ),
    "say": ((("tell the user {t}", "telling the user {t}"),), (("inform the user {t}", "informing the user {t}"),)),
    "": ((("use {t}", "using {t}"),), (("touch {t}", "touching {t}"),)),
}
OTHER = (("do", "doing"), ("perform", "performing"))  # a verb that is not one of these
ANY = {"input": "any field", "select": "any list", "navigate": "any page", "submit": "any form", "call": "any tool"}
VALUE_WORDS = (
    (("set {t} to {v}", "setting {t} to {v}"), ("enter {v} in {t}", "entering {v} in {t}")),
    (("give {t} the value {v}", "giving {t} the value {v}"),),
)
ABOVE_WORDS = (
    (("enter more than {v} in {t}", "entering more than {v} in {t}"), ("set {t} above {v}", "setting {t} above {v}")),
    (("put a number over {v} into {t}", "putting a number over {v} into {t}"),),
)
CONTAINS_WORDS = (
    (("enter {v} anywhere", "entering {v} anywhere"), ("type a text with {v}", "typing a text with {v}")),
    (("let {v} appear in a field", "letting {v} appear in a field"),),
)
TIMES = {1: "once", 2: "twice"}


@dataclass(frozen=True)
class Phrase:
    """What a pattern says: as an order, and as a noun."""

    base: str
    gerund: str


def phrases(pattern: Pattern, test: bool) -> list[Phrase]:
    """The wordings of a pattern, those of training or those of test alone. Raises `DataError` where there is none."""
    side = 1 if test else 0
    verb = pattern.verbs[0] if pattern.verbs else ""
    if pattern == Pattern():
        return [
            Phrase(*x) for x in ((("act at all", "acting at all"),) if test else (("take a step", "taking a step"),))
        ]
    if len(pattern.verbs) > 1 or pattern.reply is not None:
        raise DataError(f"no wording for steps {pattern}")
    target = " or ".join(map(quoted, pattern.targets))
    if pattern.words:
        said = " or ".join(map(quoted, pattern.words))
        target = f"a page with {said} in its address" if verb == "navigate" else f"anything that says {said}"
    if pattern.unless:
        others = " and ".join(map(quoted, pattern.unless))
        target = f"anything except {others}"
    if not target:
        target = ANY.get(verb, "anything")
    value = ""
    words = VERB_WORDS.get(verb) or tuple(
        ((f'{do} "{verb}" on {{t}}', f'{ing} "{verb}" on {{t}}'),) for do, ing in OTHER
    )
    if pattern.values:
        words, value = VALUE_WORDS, " or ".join(map(quoted, pattern.values))
    elif pattern.above is not None:
        words, value = ABOVE_WORDS, f"{pattern.above:g}"
    elif pattern.contains:
        words, value = CONTAINS_WORDS, " or ".join(map(quoted, pattern.contains))
    return [Phrase(b.format(t=target, v=value), g.format(t=target, v=value)) for b, g in words[side]]


def wordings(rule: Rule, test: bool) -> Iterator[str]:
    """Every sentence for a rule: each template with each wording of its steps. `test`: those that no training has."""
    said = [phrases(p, test) for p in (rule.patterns[:1] if rule.type == "consent" else rule.patterns)]
    for template in TEMPLATES[rule.form][test]:
        for n in range(max(map(len, said))):
            slots = {}
            for name, of in zip("AB", said):
                phrase = of[n % len(of)]
                slots |= {name: phrase.base, f"{name}s": phrase.gerund}
            if rule.type == "consent":
                asked = rule.patterns[1]
                slots["q"] = " or ".join(map(quoted, asked.targets or asked.words))
            text = template.format(n=TIMES.get(rule.n, f"{rule.n} times"), **slots)
            yield text[0].upper() + text[1:]


def entries(id: str, rule: Rule, test: bool, most: int, seed: int = 0) -> list[PolicyEntry]:
    """Up to `most` wordings of a rule as entries: the sentence is the name, for that is what a query repeats."""
    texts = list(dict.fromkeys(wordings(rule, test)))
    chosen = random.Random(f"{seed}\x1f{id}\x1f{test}").sample(texts, min(most, len(texts)))
    return [PolicyEntry(id, text) for text in chosen]
