"""Trajectories as samples: one rendering, labels of prefixes, and what cannot be one."""

from __future__ import annotations

import json

import pytest

from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from datamodules.trajectory import Outcome, Prefixes, Step, Trajectory, prefix, prefixes_of, render_step, to_sample

POLICY = Policy("p", (PolicyEntry("r1", "Never click “x”."), PolicyEntry("r2", "Always save.")))
STEPS = (
    Step("Click", "Menu"),
    Step("ask", "Delete", observation="Yes."),
    Step("click", "Delete", observation="Deleted."),
)
RUN = Trajectory("t1", "Tidy up", "gitlab", "issues", STEPS)
OUTCOMES = {
    "r1": Outcome(True, 3, ("open", "open", "violated")),
    "r2": Outcome(False, None, ("open", "safe", "safe")),
}


def said(sample: Sample) -> list[tuple[str, str | None]]:
    return [(m.role, m.content[0].text) for m in sample.messages]


def test_messages_and_labels():
    sample = to_sample(RUN, POLICY, OUTCOMES)
    assert said(sample) == [
        ("user", "Site: gitlab / issues. Task: Tidy up"), ("assistant", 'click "Menu"'), ("assistant", 'ask "Delete"'),
        ("user", "Yes."), ("assistant", 'click "Delete"'), ("tool", "Deleted."),
    ]  # fmt: skip
    assert sample.categories == {"r1": "yes", "r2": "no"} and sample.gold(POLICY) is True
    assert sample.target == "trajectory" and sample.group == "t1"
    known = prefixes_of(sample)
    assert known == Prefixes((2, 4, 6), {e: o.states for e, o in OUTCOMES.items()}, {"r1": 3, "r2": None})
    again = Sample.from_dict(json.loads(json.dumps(sample.to_dict())))
    assert again == sample and prefixes_of(again) == known


def test_real_labels_of_wholes_have_no_states():
    sample = to_sample(RUN, POLICY, {"r1": Outcome(True)})
    assert sample.categories == {"r1": "yes"} and prefixes_of(sample).states == {} and len(prefixes_of(sample)) == 3
    assert to_sample(RUN, POLICY, {"r1": Outcome(False)}).unsafe is None  # nobody looked at the other rule


@pytest.mark.parametrize(
    ("step", "text"),
    [
        (Step("type", "Name", "Ana"), 'input "Name" = "Ana"'),
        (Step("goto", "/a b"), 'navigate "/a b"'),
        (Step("Juggle  Balls"), "juggle_balls"),
        (Step("click", 'a" = "b'), 'click "a\\" = \\"b"'),
        (Step('click "a"'), "click_a_"),
        (Step("input", "x", ""), 'input "x" = ""'),
        (Step("say", "", "line\nbreak"), 'say = "line\\nbreak"'),
    ],
)
def test_rendering(step, text):
    assert render_step(step) == text


def test_unknown_verbs_are_kept_and_empty_ones_are_not():
    assert not Step("juggle").known and Step("TAP", "x").verb == "click" and Step("go to", "/").verb == "navigate"
    for bad in ("", "  "):
        with pytest.raises(DataError, match="empty verb"):
            Step(bad)
    with pytest.raises(DataError, match="value must be text"):
        Step("input", "x", 3)


def test_empty_trajectory():
    empty = Trajectory("t", "", "", "", ())
    sample = to_sample(empty, POLICY, {"r2": Outcome(True, 1, ())})
    assert said(sample) == [("user", "Site: unknown.")] and prefixes_of(sample).first == {"r2": 1}
    assert said(prefix(sample, 0)) == said(sample)


def test_prefixes():
    sample = to_sample(RUN, POLICY, OUTCOMES)
    assert [len(prefix(sample, k).messages) for k in range(4)] == [1, 2, 4, 6]
    assert [prefix(sample, k).categories for k in range(1, 4)] == [
        {"r1": "unknown", "r2": "unknown"}, {"r1": "unknown", "r2": "no"}, {"r1": "yes", "r2": "no"},
    ]  # fmt: skip
    assert prefix(sample, 0).categories == {} and prefix(sample, 2).gold(POLICY) is None
    assert prefix(sample, 3).gold(POLICY) is True and prefix(sample, 2).critique is None
    assert prefixes_of(prefix(sample, 2)).states["r1"] == ("open", "open")
    with pytest.raises(DataError, match="no prefix of 4 steps"):
        prefix(sample, 4)
    with pytest.raises(DataError, match=r"no meta\.prefixes"):
        prefix(Sample.of("x"), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ends": [2, 4, 7]}, "reach 7"),
        ({"ends": [2, 2, 6]}, "growing"),
        ({"states": {"r1": ["open"]}}, "expected 3"),
        ({"states": {"r1": ["open", "open", "broken"]}}, "expected 3 of open"),
        ({"first": {"r1": 5}}, "expected 1 to 4"),
    ],
)
def test_wrong_prefixes_are_named(change, message):
    sample = to_sample(RUN, POLICY, OUTCOMES)
    raw = {**sample.meta["prefixes"], **change}
    with pytest.raises(DataError, match=message):
        prefixes_of(sample.replace(meta={"prefixes": raw}))


def test_outcomes_must_fit():
    with pytest.raises(DataError, match="1 states of rule 'r1' for 3 steps"):
        to_sample(RUN, POLICY, {"r1": Outcome(True, 1, ("violated",))})
    with pytest.raises(DataError, match="no entry 'r9'"):
        to_sample(RUN, POLICY, {"r9": Outcome(True)})
