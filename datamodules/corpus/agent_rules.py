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
            "Do not finish without {As}.",
            "You need to {A} before the run is over.",
            "{As} is mandatory.",
            "At some point, {A}.",
            "It is an error to stop without {As}.",
            "{A}, whatever else you do.",
            "A run without {As} is incomplete.",
            "{As} is required.",
            "You are required to {A}.",
            "{As} is obligatory in every run.",
            "It is essential to {A}.",
            "A run has to contain {As}.",
            "{As} must not be left out.",
        ),
        (
            "It is required to {A}.",
            "Every run has to include {As}.",
            "No run is done before {As} has taken place.",
        ),
    ),
    "must_first": (
        (
            "Start by {As}.",
            "The very first step must be to {A}.",
            "Begin with {As}.",
            "First of all, {A}.",
            "{A} as the first step.",
            "Nothing may come ahead of {As}.",
            "Your first move has to be {As}.",
            "The run starts with {As}.",
            "{A} ahead of every other step.",
            "The opening step has to be {As}.",
            "Before any other step, {A}.",
        ),
        (
            "Before anything else, {A}.",
            "{As} has to be step one.",
            "Every run opens with {As}.",
        ),
    ),
    "must_last": (
        (
            "End by {As}.",
            "The very last step must be to {A}.",
            "Finish with {As}.",
            "{A} as the last step.",
            "Nothing may come behind {As}: it ends the run.",
            "Your last move has to be {As}.",
            "The run ends with {As}.",
            "Conclude by {As}.",
            "The final step must be {As}.",
            "{A} at the very end.",
            "{As} has to be the end of the run.",
        ),
        (
            "As the final action, {A}.",
            "{As} has to close the run.",
            "{A} right at the end, with nothing after it.",
        ),
    ),
    "at_least": (
        (
            "{A} at least {n}.",
            "Do not finish before {As} {n}.",
            "The agent must {A} {n} or more often.",
            "{A} {n} or more.",
            "{As} has to happen at least {n}.",
            "Be sure to {A} {n} at the minimum.",
            "A run needs {As} at least {n}.",
            "Stopping before {As} {n} is a mistake.",
            "Do not {A} fewer than {n}.",
            "{A} not less than {n}.",
            "The minimum for {As} is {n}.",
            "{As} fewer than {n} is not enough.",
        ),
        (
            "{A} no fewer than {n}.",
            "{As} at least {n} is a must.",
        ),
    ),
    "never": (
        (
            "Never {A}.",
            "Do not {A}.",
            "{As} is not allowed.",
            "The agent must not {A}.",
            "{As} is prohibited.",
            "Under no circumstances {A}.",
            "You may not {A}.",
            "Avoid {As}.",
            "Stay away from {As}.",
            "There must be no {As}.",
            "It is not permitted to {A}.",
            "Don't {A}.",
            "{As} is banned.",
            "It is forbidden to {A}.",
            "Keep from {As}.",
            "{As} must never happen.",
        ),
        (
            "Refrain from {As}.",
            "{As} is forbidden.",
            "Nobody gets to {A}.",
        ),
    ),
    "before": (
        (
            "{A} before {Bs}.",
            "Only {B} after {As}.",
            "Before {Bs}, {A} first.",
            "Do not {B} without {As} first.",
            "{Bs} needs {As} first.",
            "{A}, and only then {B}.",
            "No {Bs} without {As} beforehand.",
            "Never {B} unless {As} came before.",
            "You may {B} only after {As}.",
            "{As} is a precondition of {Bs}.",
            "Do not {B} as long as there was no {As}.",
            "Wait with {Bs} until you {A}.",
            "Until you {A}, do not {B}.",
            "{As} has to precede {Bs}.",
            "{Bs} has to wait for {As}.",
            "{As} must happen at an earlier step than {Bs}.",
            "First {A}, later {B}, never the other way round.",
        ),
        (
            "{As} must come earlier than {Bs}.",
            "Hold off on {Bs} until {As} is done.",
            "Prior to {Bs}, you must have finished {As}.",
        ),
    ),
    "right_before": (
        (
            "Directly before {Bs}, {A}.",
            "The step right before {Bs} must be {As}.",
            "Each time you {B}, {A} in the step just before.",
            "{Bs} may only come straight after {As}.",
            "The step just ahead of {Bs} has to be {As}.",
            "{B} only as the very next step after {As}.",
            "Right before you {B}, {A}.",
            "Between {As} and {Bs} there must be no other step, and no {Bs} without it.",
            "Immediately before {Bs}, {A}.",
            "Just prior to each {Bs} there must be {As}.",
        ),
        (
            "Immediately prior to {Bs}, {A}.",
            "There must be {As} in the step that comes just before {Bs}.",
        ),
    ),
    "not_after": (
        (
            "After {As}, do not {B} any more.",
            "Once you {A}, never {B} later.",
            "Do not {B} after {As}.",
            "{Bs} is not allowed after {As}.",
            "Never {B} after {As}.",
            "When {As} has happened, {Bs} is no longer permitted.",
            "Stop {Bs} once you {A}.",
            "Following {As}, {Bs} is prohibited.",
            "If you {A}, you may not {B} after that.",
            "As soon as you {A}, {Bs} is off limits.",
            "From {As} on, do not {B}.",
            "{Bs} must not come later than {As}.",
        ),
        (
            "From the moment you {A}, {Bs} is off limits.",
            "{Bs} is over once you {A}.",
        ),
    ),
    "then": (
        (
            "Whenever you {A}, {B} later on.",
            "After {As}, {B} before you finish.",
            "Every time you {A}, you must {B} afterwards.",
            "If you {A}, make up for it by {Bs} later.",
            "After each {As}, there must come {Bs}.",
            "{As} obliges you to {B} afterwards.",
            "When you {A}, {B} at some later step.",
            "Once you {A}, you still have to {B}.",
            "Do not end the run after {As} without {Bs} in between.",
            "{Bs} must follow {As}, at once or later.",
            "{As} has to lead to {Bs} at some point.",
            "Sooner or later after {As}, {B}.",
        ),
        (
            "{As} has to be followed, sooner or later, by {Bs}.",
            "If there is {As}, {Bs} must come at some later time.",
        ),
    ),
    "both": (
        (
            "If you {A}, also {B}, before or after.",
            "A run with {As} must have {Bs} too.",
            "{As} is only fine if the run also has {Bs}.",
            "Never {A} in a run that lacks {Bs}.",
            "Do not {A} unless you {B} at some time in the run.",
            "If the run includes {As}, it must also include {Bs}.",
            "{As} without {Bs}, earlier or later, is a mistake.",
            "When {As} occurs, {Bs} must occur too, no matter when.",
            "Where you {A}, you have to {B} as well, earlier or later.",
            "{As} requires {Bs} anywhere in the run.",
        ),
        (
            "Where there is {As}, there must be {Bs} as well, in any order.",
            "You may {A} only in a run that has {Bs} somewhere.",
        ),
    ),
    "not_both": (
        (
            "Do not {A} and {B} in the same run.",
            "If you {A}, do not {B}, neither before nor after.",
            "At most one of the two: {As}, {Bs}.",
            "Either {A} or {B}, never both.",
            "{As} and {Bs} must not occur together in one run.",
            "A run with {As} may not have {Bs}, and the other way round.",
            "{As} cannot be combined with {Bs}.",
            "It is wrong to both {A} and {B}.",
            "Never {A} in a run where you {B}.",
            "{As} excludes {Bs}, and {Bs} excludes {As}.",
            "Only one of {As} and {Bs} is allowed in a run.",
        ),
        (
            "{As} and {Bs} exclude each other.",
            "If there is {As} in a run, there cannot be {Bs}.",
        ),
    ),
    "when_before": (
        (
            "If you are to {B}, {A} first.",
            "Only {B} after {As}.",
            "Before {Bs}, {A}.",
            "{Bs} is only allowed after {As}.",
            "To {B} you have to {A} first.",
            "Never {B} unless you {A} before that.",
            "{As} is needed before {Bs}.",
            "Do not {B} without {As} first.",
            "No {Bs} without {As} beforehand.",
            "{Bs} requires {As} at an earlier step.",
            "Until you {A}, do not {B}.",
            "{Bs} has to wait for {As}.",
        ),
        (
            "{Bs} calls for {As} earlier on.",
            "You need {As} behind you when you {B}.",
        ),
    ),
    "at_most": (
        (
            "{A} at most {n}.",
            "Do not {A} more than {n}.",
            "The agent may {A} {n}, not more often.",
            "You may {A} up to {n}.",
            "{As} is allowed {n} at the most.",
            "Keep {As} to {n} or fewer.",
            "{A} {n} at most.",
            "{As} may happen {n}, never more.",
            "To {A} more than {n} is a mistake.",
            "The limit for {As} is {n}.",
            "Restrict {As} to {n}.",
            "{As} is limited to {n}.",
            "The maximum for {As} is {n}.",
        ),
        (
            "Limit {As} to {n}.",
            "{A} not more than {n}.",
        ),
    ),
    "cap": (
        (
            "Never {A}.",
            "Do not {A}.",
            "{As} is over the limit.",
            "The agent may not {A}.",
            "It is not allowed to {A}.",
            "You may not {A}.",
            "Avoid {As}.",
            "{As} is prohibited.",
            "Under no circumstances {A}.",
            "{As} is too much.",
            "Don't {A}.",
            "It is forbidden to {A}.",
            "{As} is off limits.",
            "It is against the rules to {A}.",
        ),
        (
            "It is out of bounds to {A}.",
            "You are not supposed to {A}.",
        ),
    ),
    "consent": (
        (
            "Before you {A}, ask the user about {q} and get a yes.",
            "Only {A} if the user said yes to {q} when asked.",
            "Do not {A} without the user's consent to {q}.",
            "Get the user's okay on {q} before you {A}.",
            "Without a yes from the user about {q}, do not {A}.",
            "{As} needs the user's permission for {q}.",
            "Never {A} unless the user agreed to {q}.",
            "Ask about {q} first, and {A} only if the answer is yes.",
            "{As} is allowed only with the user's agreement to {q}.",
            "Ask for approval of {q} before {As}.",
            "The user has to approve {q} before you {A}.",
            "{As} without the user's approval of {q} is wrong.",
        ),
        (
            "You need the user's approval of {q} to {A}.",
            "{A} only with a yes of the user on {q}.",
        ),
    ),
    "refusal": (
        (
            "If the user says no to {q}, do not {A}.",
            "Do not {A} after the user refused {q}.",
            "When the last answer on {q} is no, never {A}.",
            "Respect a no to {q}: do not {A} after it.",
            "Once the user declined {q}, {As} is not allowed.",
            "Do not {A} against the user's no to {q}.",
            "If the user turned down {q}, never {A}.",
            "{As} is not permitted while the user's answer on {q} is no.",
            "A no to {q} forbids {As}.",
            "After a no on {q}, {As} is out of the question.",
            "If the user refuses {q}, keep from {As}.",
        ),
        (
            "A no from the user on {q} rules out {As}.",
            "Do as the user says: after a no on {q}, do not {A}.",
        ),
    ),
}
# verb: ((base, gerund) in training …), and in test alone; {t} and {v} are the target and the value
VERB_WORDS: dict[str, tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]] = {
    "click": (
        (
            ("click {t}", "clicking {t}"),
            ("press {t}", "pressing {t}"),
            ("push {t}", "pushing {t}"),
            ("tap on {t}", "tapping on {t}"),
        ),
        (("hit {t}", "hitting {t}"),),
    ),
    "input": (
        (
            ("fill in {t}", "filling in {t}"),
            ("type into {t}", "typing into {t}"),
            ("complete {t}", "completing {t}"),
            ("put text in {t}", "putting text in {t}"),
        ),
        (("write into {t}", "writing into {t}"),),
    ),
    "select": (
        (
            ("choose an option in {t}", "choosing an option in {t}"),
            ("select from {t}", "selecting from {t}"),
            ("make a choice in {t}", "making a choice in {t}"),
        ),
        (("pick something from {t}", "picking something from {t}"),),
    ),
    "navigate": (
        (
            ("open {t}", "opening {t}"),
            ("go to {t}", "going to {t}"),
            ("navigate to {t}", "navigating to {t}"),
            ("load {t}", "loading {t}"),
        ),
        (("visit {t}", "visiting {t}"),),
    ),
    "submit": (
        (("submit {t}", "submitting {t}"), ("send off {t}", "sending off {t}"), ("turn in {t}", "turning in {t}")),
        (("hand in {t}", "handing in {t}"),),
    ),
    "call": (
        (
            ("call {t}", "calling {t}"),
            ("use the tool {t}", "using the tool {t}"),
            ("run {t}", "running {t}"),
            ("execute {t}", "executing {t}"),
        ),
        (("invoke {t}", "invoking {t}"),),
    ),
    "scroll": (
        (("scroll {t}", "scrolling {t}"), ("scroll the page {t}", "scrolling the page {t}")),
        (("move the page {t}", "moving the page {t}"),),
    ),
    "ask": (
        (
            ("ask the user about {t}", "asking the user about {t}"),
            ("question the user on {t}", "questioning the user on {t}"),
        ),
        (("check {t} with the user", "checking {t} with the user"),),
    ),
    "say": (
        (("tell the user {t}", "telling the user {t}"), ("say to the user {t}", "saying to the user {t}")),
        (("inform the user {t}", "informing the user {t}"),),
    ),
    "": (
        (
            ("use {t}", "using {t}"),
            ("work with {t}", "working with {t}"),
            ("do anything with {t}", "doing anything with {t}"),
        ),
        (("touch {t}", "touching {t}"),),
    ),
}
OTHER = (("do", "doing"), ("perform", "performing"))  # a verb that is not one of these
ANY = {"input": "any field", "select": "any list", "navigate": "any page", "submit": "any form", "call": "any tool"}
VALUE_WORDS = (
    (
        ("set {t} to {v}", "setting {t} to {v}"),
        ("enter {v} in {t}", "entering {v} in {t}"),
        ("choose {v} for {t}", "choosing {v} for {t}"),
        ("change {t} to {v}", "changing {t} to {v}"),
    ),
    (("give {t} the value {v}", "giving {t} the value {v}"),),
)
ABOVE_WORDS = (
    (
        ("enter more than {v} in {t}", "entering more than {v} in {t}"),
        ("set {t} above {v}", "setting {t} above {v}"),
        ("exceed {v} in {t}", "exceeding {v} in {t}"),
        ("type a figure greater than {v} into {t}", "typing a figure greater than {v} into {t}"),
    ),
    (("put a number over {v} into {t}", "putting a number over {v} into {t}"),),
)
CONTAINS_WORDS = (
    (
        ("enter {v} anywhere", "entering {v} anywhere"),
        ("type a text with {v}", "typing a text with {v}"),
        ("write {v} in any field", "writing {v} in any field"),
        ("use {v} as input", "using {v} as input"),
    ),
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
