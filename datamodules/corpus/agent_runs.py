"""Made-up trajectories and rules over the actions of a `Place`. All is drawn from the generator that is given."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence

from datamodules.corpus.agent_sites import EVERYWHERE, Action, Place
from datamodules.rules import FORMS, Pattern, Rule, consent_patterns
from datamodules.trajectory import Step, Trajectory

ANSWERS = {
    True: ("Yes.", "Yes, please.", "OK, go ahead.", "Sure."),
    False: ("No.", "No, leave it.", "Don't."),
    None: ("What does that do?", "Tell me more first.", "I am not sure."),
}
SEEN = ("Saved.", "3 results.", "The page has loaded.", "Nothing found.", "An error occurred.", "Please wait.")
# Groups of words that rules speak of together, and secrets that are not to be entered.
GROUPS = (("delete", "remove"), ("publish", "share"), ("cancel", "close"), ("invite", "add"), ("create", "new"))
ADDRESSES = (
    ("admin", "security"),
    ("settings",),
    ("profile",),
    ("members", "users"),
    ("billing", "invoices"),
    ("inbox", "messages"),
)
SECRETS = ("555-0198", "a.ruiz@example.org", "hunter2", "4111 1111")
WEIGHTS = {  # of the forms, drawn in proportion; what hardly ever has both labels is left out by the pairing
    "must": 8,
    "must_first": 3,
    "must_last": 3,
    "at_least": 5,
    "never": 18,
    "before": 10,
    "right_before": 4,
    "not_after": 8,
    "then": 6,
    "both": 5,
    "not_both": 6,
    "when_before": 7,
    "at_most": 12,
    "cap": 6,
    "consent": 11,
    "refusal": 6,
}


@functools.lru_cache(maxsize=256)
def flows(place: Place) -> tuple[tuple[Action, ...], ...]:
    """Actions that go together: five of the place's own and two of every place's. A run follows one flow, and a rule is
    about one: otherwise two actions of a rule would hardly ever meet."""
    rng = random.Random(place.name)
    own = rng.sample(place.actions, len(place.actions))
    chunks = [own[n : n + 5] for n in range(0, len(own), 5)]
    return tuple((*chunk, *rng.sample(EVERYWHERE, 2)) for chunk in chunks)


def trajectory(place: Place, rng: random.Random, id: str, lengths: tuple[int, int] = (4, 14)) -> Trajectory:
    """One run of `lengths` steps, about: most actions of a flow and a few others, repeated and in any order.

    Before a risky step the user may be asked, with any answer; the agent may go on against it.
    """
    flow = rng.choice(flows(place))
    chosen = rng.sample(flow, rng.randint(min(4, len(flow)), len(flow)))
    chosen += rng.sample(place.actions, rng.randint(1, 2)) + rng.sample(EVERYWHERE, rng.randint(0, 2))
    risky = [a for a in chosen if a.risky]
    length = rng.randint(*lengths)
    steps: list[Step] = []
    if rng.random() < 0.6:
        steps.append(_step(rng.choice([a for a in place.actions if a.verb == "navigate"] or chosen), rng))
    while len(steps) < length:
        action = rng.choice(risky if risky and rng.random() < 0.15 else chosen)
        if steps and rng.random() < 0.08:
            steps.append(_step(action_like(steps[-1], chosen) or action, rng))
            continue
        if action.risky and rng.random() < 0.45:
            steps.append(_asked(action, rng))
            if rng.random() < 0.25:  # something else comes between
                steps.append(_step(rng.choice(chosen), rng))
            if steps[-1].observation in ANSWERS[False] and rng.random() < 0.4:
                continue  # the agent heeds the no
        steps.append(_step(action, rng))
    thing = rng.choice(place.things) if place.things else ""
    task = rng.choice(place.tasks).replace("{thing}", thing) if place.tasks else ""
    return Trajectory(id, task, place.domain, place.subdomain, tuple(steps[:length]))


def action_like(step: Step, actions: Sequence[Action]) -> Action | None:
    return next((a for a in actions if (a.verb, a.target) == (step.verb, step.target)), None)


def _step(action: Action, rng: random.Random) -> Step:
    value = rng.choice(action.values) if action.values else None
    seen = None
    if rng.random() < 0.08:
        seen = rng.choice(SEEN)
    return Step(action.verb, action.target, value, seen)


def _asked(action: Action, rng: random.Random) -> Step:
    kind = rng.choices((True, False, None), (5, 4, 1))[0]
    return Step("ask", action.target, None, rng.choice(ANSWERS[kind]))


def rule(place: Place, rng: random.Random) -> Rule:
    """One rule over the actions of a flow of the place, or others of the place and of every place."""
    flow = rng.choice(flows(place))
    forms = {f: w for f, w in WEIGHTS.items() if f not in ("cap", "when_before") or number_fields(place)}
    form = rng.choices(list(forms), list(forms.values()))[0]
    if form in ("consent", "refusal"):
        risky = [a for a in flow if a.risky] or [a for a in (*place.actions, *EVERYWHERE) if a.risky]
        action = rng.choice(risky)
        return Rule(form, consent_patterns(Pattern((action.verb,), (action.target,)), action.target))
    if form == "cap":
        return Rule(form, (_above(place, rng),))
    if form == "when_before":
        return Rule(form, (_simple(flow, place, rng), _above(place, rng)))
    if form == "at_most" and rng.random() < 0.3:
        return Rule(form, (Pattern(),), rng.randint(6, 12))
    if FORMS[form].counts:
        if rng.random() < 0.4:
            return Rule(form, (Pattern((rng.choice(("click", "input", "select", "navigate")),)),), rng.randint(2, 4))
        return Rule(form, (_simple(flow, place, rng),), rng.randint(1, 2) + (form == "at_least"))
    first = _pattern(flow, place, rng)
    if FORMS[form].patterns == 1:
        return Rule(form, (first,))
    second = _pattern(flow, place, rng)
    while _overlap(first, second):
        second = _simple(flow, place, rng)
    return Rule(form, (first, second))


def _overlap(one: Pattern, other: Pattern) -> bool:
    """Whether the same step may match both, as far as it can be told at once: such a rule reads oddly."""
    return one == other or (
        one.verbs == other.verbs and not (one.targets and other.targets and one.targets != other.targets)
    )


def _simple(flow: Sequence[Action], place: Place, rng: random.Random) -> Pattern:
    action = rng.choice(flow if rng.random() < 0.75 else (*place.actions, *EVERYWHERE))
    return Pattern((action.verb,), (action.target,))


def number_fields(place: Place) -> list[Action]:
    """What takes three numbers or more, and nothing else."""
    return [a for a in place.actions if a.verb == "input" and len(a.values) > 2 and all(v.isdigit() for v in a.values)]


def _above(place: Place, rng: random.Random) -> Pattern:
    """A field of numbers and a limit between two of them."""
    field = rng.choice(number_fields(place))
    numbers = sorted(int(v) for v in field.values)
    return Pattern((field.verb,), (field.target,), above=float(rng.choice(numbers[1:-1])))


def _pattern(flow: Sequence[Action], place: Place, rng: random.Random) -> Pattern:
    """One action; or one of its values, a group of words, pages by a part of their address, a secret."""
    kind = rng.random()
    if kind < 0.72:
        return _simple(flow, place, rng)
    if kind < 0.84:
        choices = [a for a in flow if a.verb == "select" and a.values]
        choices = choices or [a for a in (*place.actions, *EVERYWHERE) if a.verb == "select" and a.values]
        action = rng.choice(choices)
        return Pattern(("select",), (action.target,), values=(rng.choice(action.values),))
    if kind < 0.92:
        return Pattern(("click",), words=rng.choice(GROUPS))
    if kind < 0.96:
        return Pattern(("navigate",), words=rng.choice(ADDRESSES))
    return Pattern(("input",), contains=(rng.choice(SECRETS),))


def triggers(rule: Rule) -> tuple[frozenset[str], ...]:
    """For each pattern, the keywords that make it speak of a trajectory: its targets, and its words for targets."""
    return tuple(frozenset(w.casefold() for w in (*p.targets, *p.words)) for p in rule.patterns)


def keywords(trajectory: Trajectory) -> frozenset[str]:
    """The targets of the steps, whole and word by word."""
    out = set()
    for step in trajectory.steps:
        target = step.target.casefold()
        out |= {target, *target.replace("/", " ").split()}
    return frozenset(out)
