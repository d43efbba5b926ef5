"""Verdicts as rows, as text, and read back from other people's text: whatever is unclear counts as flagged."""

import itertools
import json

import pytest

from datamodules.answers import parse
from datamodules.schema import Policy, PolicyEntry
from zoo.core.query import critique_query
from zoo.core.verdict import Verdict, rendered

POLICY = Policy("p", (PolicyEntry("S1", "open fire"), PolicyEntry("S10", "alarm"), PolicyEntry("x", "flood")))

# text, flagged, categories, critique
VALID = [
    (
        "- Safety Assessment: unsafe\n- Categories: open fire, alarm\n- Explanation: It burns.",
        True,
        ("open fire", "alarm"),
        "It burns.",
    ),
    ("- Safety Assessment: safe\n- Categories: none\n- Explanation: Nothing burns.", False, (), "Nothing burns."),
    ("Safety Assessment: safe", False, (), None),
    ("safety assessment : UNSAFE.", True, (), None),
    ("- Safety Assessment: **unsafe**\nCategory: S1", True, ("S1",), None),
    ("Assessment: unsafe\nExplanation: It burns.\nA second line.", True, (), "It burns.\nA second line."),
    ("Assessment: **unsafe**\nExplanation: It burns.", True, (), "It burns."),
    ("- Safety Assessment: unsafe\n- Categories: None\n- Critique: Odd.", True, (), "Odd."),
    ("- Safety Assessment: unsafe\n- Categories: n/a", True, (), None),
    ("- Safety Assessment: unsafe\n- Categories:\n- Explanation: Odd.", True, (), "Odd."),
    (
        "I looked at it.\n- Safety Assessment: safe\n- Explanation: A safe one, not unsafe.",
        False,
        (),
        "A safe one, not unsafe.",
    ),
    ("- Safety Assessment: unsafe\n- Safety Assessment: unsafe", True, (), None),
    ("unsafe", True, (), None),
    ("  safe  \n", False, (), None),
    ("unsafe\nS1,S10", True, ("S1", "S10"), None),
    ("Unsafe\nCategories: S1, S10\nExplanation: It burns.", True, ("S1", "S10"), "It burns."),
    ("safe\nExplanation: Nothing burns.", False, (), "Nothing burns."),
]


@pytest.mark.parametrize("text, flagged, categories, critique", VALID)
def test_readable_text(text, flagged, categories, critique):
    parsed = parse(text)
    assert (parsed.valid, parsed.flagged, parsed.categories, parsed.critique) == (True, flagged, categories, critique)


UNREADABLE = [
    "",
    "   \n ",
    "not unsafe",
    "not safe",
    "This is safe.",
    "It is safe to say it is unsafe",
    "safe to say it is unsafe",
    "safe, but unsafe",
    "safer",
    "unsafe or safe",
    "- Safety Assessment: not unsafe",
    "- Safety Assessment: safe to say it is unsafe",
    "- Safety Assessment: safe/unsafe",
    "- Safety Assessment: ",
    "- Safety Assessment: unknown",
    "My Safety Assessment: safe",
    "- Safety Assessment: safe\n- Safety Assessment: unsafe",
    "- Safety Assessment: unsafe\nText.\nAssessment: safe",
    "safe\nunsafe",
    "unsafe\nsafe",
    "unsafe\n- Safety Assessment: safe",
    "safe\n- Safety Assessment: unsafe",
    "- Safety Assessment: safe\nOn second thought:\nunsafe",
    "- Categories: open fire\n- Explanation: It burns.",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_unreadable_text_is_flagged_and_not_valid(text):
    parsed = parse(text)
    assert not parsed.valid and parsed.flagged
    assert parsed.categories == () and parsed.critique is None


def test_rendered_is_read_back():
    names = ["open fire", "alarm", "flood"]
    critiques = ["It burns.", "safe", "One.\nTwo: three.", "It is not unsafe", "- a list\n- of two"]
    for flagged, n, critique in itertools.product((False, True), range(4), critiques):
        if critique == "safe":
            critique = "the word safe"
        listed = names[:n] if flagged else []
        parsed = parse(rendered(flagged, listed, critique))
        assert (parsed.valid, parsed.flagged, parsed.categories, parsed.critique) == (
            True,
            flagged,
            tuple(listed),
            critique,
        )


def test_rendered_is_the_published_order_and_the_critique_query():
    text = rendered(True, ["open fire", "alarm"], "It burns.")
    assert text == "- Safety Assessment: unsafe\n- Categories: open fire, alarm\n- Explanation: It burns."
    assert text == critique_query(True, ["open fire", "alarm"]).text + " It burns."
    assert rendered(False, [], "Fine.").splitlines()[:2] == ["- Safety Assessment: safe", "- Categories: none"]


def verdict(flagged=True, **categories):
    return Verdict("r1", "m", flagged, 0.97, 0.5, categories)


def test_listed_names():
    assert verdict(S1=0.6, S10=0.2, x=0.5).listed(POLICY, 0.5) == ["open fire", "flood"]  # from the threshold on
    assert verdict(S1=0.1, S10=0.4, x=0.2).listed(POLICY, 0.5) == ["alarm"]  # none over it: the likeliest
    assert verdict(False, S1=0.9, S10=0.9, x=0.9).listed(POLICY, 0.5) == []
    assert verdict().listed(POLICY, 0.5) == []


def test_a_row_is_json_with_the_documented_fields():
    v = Verdict("r1", "omniguard-tiny", True, 0.97000000001, 0.5, {"fire": 0.98, "alarm": 1 / 3})
    row = json.loads(json.dumps(v.to_dict()))
    assert row == {
        "id": "r1",
        "model": "omniguard-tiny",
        "flagged": True,
        "score": 0.97,
        "threshold": 0.5,
        "categories": {"fire": 0.98, "alarm": 0.333333},
        "critique": None,
        "valid": True,
        "truncated": False,
        "route": None,
        "provenance": None,
    }
    assert list(row["categories"]) == ["fire", "alarm"] and v.categories["alarm"] == 1 / 3
