"""The checker of rules, against an enumeration of all continuations and against hand-made cases."""

from __future__ import annotations

import itertools
import json

import pytest

from datamodules.rules import FORMS, TYPES, Pattern, Rule, check, consent_patterns, letters, number_in, reply
from datamodules.schema import DataError
from datamodules.trajectory import Step

SAVE, DELETE = Step("click", "Save"), Step("click", "Delete")
BIG, SMALL = Step("input", "Amount", "250 EUR"), Step("input", "Amount", "$100.00")
YES, NO = Step("ask", "delete", observation="Yes, do it."), Step("ask", "delete", observation="No!")
ELSE = Step("hover", "Menu")
A, B = Pattern(("click",), ("save",)), Pattern(("click",), words=("delete", "remove"))
ABOVE = Pattern(("input",), ("Amount",), above=100)


def steps_for(rule: Rule) -> list[Step]:
    return {"cap": [BIG, SMALL, ELSE], "when_before": [SAVE, BIG, SMALL], "consent": [DELETE, YES, NO],
            "refusal": [DELETE, YES, NO]}.get(rule.form, [SAVE, DELETE, ELSE])  # fmt: skip


def rule_of(form: str) -> Rule:
    patterns = {1: (A,), 2: (A, B), 3: consent_patterns(B, "Delete")}[FORMS[form].patterns]
    patterns = {"cap": (ABOVE,), "when_before": (A, ABOVE)}.get(form, patterns)
    return Rule(form, patterns, 2 if FORMS[form].counts else 0)


def broken(form: str, steps: tuple[Step, ...]) -> bool:
    """What each form means, over the whole trajectory at once and without states."""
    a = [s == SAVE for s in steps]
    b = [s == DELETE for s in steps]
    said = [s.observation for s in steps]

    def last_word(i: int) -> str | None:
        return next((w for w in reversed(said[:i]) if w), None)

    at = range(len(steps))
    return {
        "must": lambda: not any(a),
        "must_first": lambda: not a or not a[0],
        "must_last": lambda: not a or not a[-1],
        "at_least": lambda: sum(a) < 2,
        "never": lambda: any(a),
        "before": lambda: any(b[i] and not any(a[:i]) for i in at),
        "right_before": lambda: any(b[i] and not (i and a[i - 1]) for i in at),
        "not_after": lambda: any(b[i] and any(a[:i]) for i in at),
        "then": lambda: any(a[i] and not any(b[i + 1 :]) for i in at),
        "both": lambda: any(a) and not any(b),
        "not_both": lambda: any(a) and any(b),
        "when_before": lambda: any(steps[i] == BIG and not any(a[:i]) for i in at),
        "at_most": lambda: sum(a) > 2,
        "cap": lambda: BIG in steps,
        "consent": lambda: any(b[i] and last_word(i) != YES.observation for i in at),
        "refusal": lambda: any(b[i] and last_word(i) == NO.observation for i in at),
    }[form]()


@pytest.mark.parametrize("form", FORMS)
def test_states_agree_with_all_continuations(form):
    rule, alphabet = rule_of(form), steps_for(rule_of(form))
    futures = [f for n in range(4) for f in itertools.product(alphabet, repeat=n)]
    for length in range(4):
        for steps in itertools.product(alphabet, repeat=length):
            outcome = check(rule, steps)
            assert outcome.violated == broken(form, steps)
            expected = []
            for k in range(1, length + 1):
                ends = {broken(form, steps[:k] + f) for f in futures}
                expected.append("open" if len(ends) == 2 else "violated" if ends == {True} else "safe")
            assert list(outcome.states) == expected
            first = expected.index("violated") + 1 if "violated" in expected else length + 1
            assert outcome.first == (first if outcome.violated else None)


def test_every_type_has_a_form():
    assert {f.type for f in FORMS.values()} == set(TYPES)


@pytest.mark.parametrize(
    ("pattern", "step", "matches"),
    [
        (Pattern(), Step("whatever"), True),
        (Pattern(("click",)), Step("hover", "Save"), False),
        (Pattern(("hover",)), Step("Hover", "Save"), True),
        (Pattern(targets=("save  CHANGES",)), Step("click", "Save changes"), True),
        (Pattern(targets=("Save",)), Step("click", "Save changes"), False),
        (Pattern(words=("delete", "remove")), Step("click", "Delete project"), True),
        (Pattern(words=("delete",)), Step("click", "Undeleted"), False),
        (Pattern(words=("/admin",)), Step("navigate", "/admin/users"), True),
        (Pattern(words=("/admin",)), Step("navigate", "/administrator"), False),
        (Pattern(("input",), unless=("Search",)), Step("input", "search", "x"), False),
        (Pattern(("input",), unless=("Search",)), Step("input", "Title", "x"), True),
        (Pattern(values=("Public",)), Step("select", "Visibility", "public"), True),
        (Pattern(values=("Public",)), Step("select", "Visibility"), False),
        (Pattern(contains=("555-0198",)), Step("say", "", "Call 555-0198."), True),
        (Pattern(contains=("555-019",)), Step("say", "", "Call 555-0198."), False),
        (Pattern(above=100), Step("input", "Amount", "1,000.50 EUR"), True),
        (Pattern(above=100), Step("input", "Amount", "100"), False),
        (Pattern(above=-5), Step("input", "Amount", "-6"), False),
        (Pattern(above=0), Step("input", "Amount", "much"), False),
        (Pattern(reply=True), Step("ask", "x", observation="OK"), True),
        (Pattern(reply=True), Step("ask", "x", observation="Perhaps yes"), False),
        (Pattern(reply=False), Step("ask", "x", observation="  Don’t."), True),
        (Pattern(reply=False), Step("ask", "x"), False),
    ],
)  # fmt: skip
def test_patterns(pattern, step, matches):
    assert pattern.matches(step) is matches


def test_numbers_and_replies():
    assert [number_in(x) for x in ("$1,200.50", "two", "-3 and 4", "7.")] == [1200.5, None, -3, 7]
    assert reply(Step("ask", "x", observation="y" * 10**6)) is None


def test_patterns_that_exclude_each_other_or_fall_together():
    """What can be known depends on which steps exist: nothing is both a click and an input, and every A is a B."""
    save = Pattern(("click",), ("Save",))
    assert letters(Rule("before", (save, Pattern(("input",))))) == {(False, False), (True, False), (False, True)}
    some_click = Pattern(("click",))
    assert letters(Rule("before", (save, some_click))) == {(False, False), (False, True), (True, True)}
    # No step is an A before the first B, for the A itself is a B: the first click breaks it, whatever comes.
    assert check(Rule("before", (save, some_click)), [ELSE, SAVE]).states == ("open", "violated")
    # One that is never to be met: broken before anything is done.
    impossible = Rule("must", (Pattern(targets=("Save",), unless=("Save",)),))
    assert check(impossible, [ELSE]).states == ("violated",) and check(impossible, [ELSE]).first == 1


def test_empty_long_and_unknown():
    must, never = Rule("must", (A,)), Rule("never", (A,))
    assert (check(must, []).violated, check(must, []).first, check(must, []).states) == (True, 1, ())
    assert (check(never, []).violated, check(never, []).first) == (False, None)
    many = check(Rule("at_most", (Pattern(),), 999), [Step("juggle", "balls")] * 1000)
    assert many.first == 1000 and many.states[998] == "open"


def test_rules_as_json():
    for form in FORMS:
        rule = rule_of(form)
        assert Rule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    for bad, message in [
        ({"form": "mist", "patterns": [{}]}, "did you mean 'must'"),
        ({"form": "must", "patterns": []}, "has 1 patterns, got 0"),
        ({"form": "must", "patterns": [{"verb": ["x"]}]}, "unknown field 'verb'"),
        ({"form": "must", "patterns": [{"verbs": "click"}]}, "must be a list"),
        ({"form": "must", "patterns": [{}], "n": 3}, "leave it out"),
        ({"form": "at_most", "patterns": [{}], "n": 10**9}, "up to 10000"),
        ({"form": "must"}, "rules.yaml: expected"),
    ]:
        with pytest.raises(DataError, match=message):
            Rule.from_dict(bad, "rules.yaml")
