"""An agent's trajectory as steps, its one rendering as messages, and what can be known of it after each step.

A trajectory becomes one `Sample` with target "trajectory":

- The first message (user) names the site and the task. It is there for an empty trajectory, too.
- Each step is an assistant message, `render_step`: `click "Delete project"`, `input "Email" = "a@b.org"`. What came
  back follows it as a message of its own: a person's answer (to `ask` and `say`) as user, all else as tool.
- Rules are the `PolicyEntry`s of one `Policy`: `name` is the rule's whole wording, `description` is empty. The
  `categories` hold the label of the closed trajectory: yes, the rule is broken.
- `meta["prefixes"]` says what can be known while the agent still acts (`Prefixes`; read it with `prefixes_of`):

      {"ends": [2, 3, 5],                                   messages up to step 1, 2, 3, with what came back
       "states": {"r1": ["open", "open", "violated"],       after each step, for each rule
                  "r2": ["open", "safe", "safe"],
                  "r3": ["open", "open", "open"]},
       "first": {"r1": 3, "r2": null, "r3": 4}}             the first step that breaks the rule, from 1

  `violated`: broken already. `safe`: no continuation can break it any more. `open`: neither; so before the end a rule
  that is `open` may still be kept or broken. `first` is the number of steps plus 1 where only the end decides that a
  rule is broken (an obligation that was never met), and null where the rule is kept. A rule whose prefixes nobody
  labelled (real sources label whole trajectories) is in neither mapping.
- `meta` has `domain`, `subdomain`, `steps` (how many) and, for rules of known type, `rules`:
  `{"r1": {"type": "ordering", "cross": true}}`; cross: the rule was written for another subdomain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datamodules.schema import DataError, Message, Part, Policy, Sample

VERBS = ("click", "input", "scroll", "select", "navigate", "submit", "call", "ask", "say")
ALIASES = {
    "type": "input", "fill": "input", "enter": "input", "press": "click", "tap": "click", "goto": "navigate",
    "go to": "navigate", "open": "navigate", "visit": "navigate", "choose": "select", "select_option": "select",
    "tool": "call", "send_msg_to_user": "say", "respond": "say", "ask_user": "ask",
}  # fmt: skip
TO_PERSON = ("ask", "say")  # what comes back from these is a person's answer
STATES = ("open", "violated", "safe")
SITE, TASK = "Site: ", "Task: "


@dataclass(frozen=True)
class Step:
    """One action: what is done (`verb`), to what, with which value, and what came back.

    `verb` is made lower-case and an alias becomes its verb (`VERBS`: those of arXiv 2510.03485, calls of tools, and
    questions and messages to a person). Any other verb is kept, as one word: it is rendered like the others, counts as
    a step, and matches a rule only where the rule names that verb or none. Raises `DataError` for an empty verb.
    """

    verb: str
    target: str = ""
    value: str | None = None
    observation: str | None = None

    def __post_init__(self) -> None:
        for name in ("verb", "target", "value", "observation"):
            given = getattr(self, name)
            if not isinstance(given, str) and not (given is None and name in ("value", "observation")):
                raise DataError(f"step: {name} must be text, got {given!r}")
        verb = " ".join(self.verb.lower().split())
        verb = ALIASES.get(verb) or re.sub(r"[^\w.-]+", "_", verb)  # one word: a verb cannot pass for a target
        if not verb:
            raise DataError("a step has an empty verb: name what was done, such as click or call")
        object.__setattr__(self, "verb", verb)

    @property
    def known(self) -> bool:
        """Whether the verb is one of `VERBS`."""
        return self.verb in VERBS


@dataclass(frozen=True)
class Trajectory:
    """What an agent did on a site for one task. `subdomain` is the part of the site: issues, orders, …"""

    id: str
    task: str
    domain: str
    subdomain: str
    steps: tuple[Step, ...]

    def __len__(self) -> int:
        return len(self.steps)

    def until(self, steps: int) -> Trajectory:
        """The first `steps` steps; the id stays."""
        return Trajectory(self.id, self.task, self.domain, self.subdomain, self.steps[:steps])


@dataclass(frozen=True)
class Outcome:
    """What is true of one rule on one closed trajectory of K steps.

    `first`: the first violating step from 1, K + 1 where only the end decides, None where it is kept or not known.
    `states`: K of `STATES`, after each step; None where nobody labelled prefixes.
    """

    violated: bool
    first: int | None = None
    states: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Prefixes:
    """`meta["prefixes"]`: see the head of this file. `ends` has K numbers of messages, `states[id]` K states."""

    ends: tuple[int, ...]
    states: dict[str, tuple[str, ...]] = field(default_factory=dict)
    first: dict[str, int | None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ends)

    def to_dict(self) -> dict[str, Any]:
        return {
            "ends": list(self.ends), "states": {id: list(s) for id, s in self.states.items()}, "first": dict(self.first)
        }  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- rendering


def quoted(text: str) -> str:
    """`text` in double quotes on one line; quotes and line breaks in it are escaped as in JSON."""
    return json.dumps(text, ensure_ascii=False)


def render_step(step: Step) -> str:
    """The one text of a step, without what came back: `verb "target" = "value"`. Different steps read differently."""
    words = [step.verb]
    if step.target:
        words.append(quoted(step.target))
    if step.value is not None:
        words += ["=", quoted(step.value)]
    return " ".join(words)


_RENDERED = re.compile(r'([\w.-]+)(?: ("(?:[^"\\]|\\.)*"))?(?: = ("(?:[^"\\]|\\.)*"))?')


def read_step(text: str) -> Step | None:
    """The step whose `render_step` is `text`, without what came back; None for any other text."""
    found = _RENDERED.fullmatch(text)
    if found is None:
        return None
    try:
        target, value = (None if x is None else json.loads(x) for x in found.groups()[1:])
        step = Step(found[1], target or "", value)
    except (ValueError, DataError):
        return None
    return step if render_step(step) == text else None


def step_messages(step: Step) -> tuple[Message, ...]:
    """The step's message and, where something came back, one with that."""
    out = [Message("assistant", (Part("text", text=render_step(step)),))]
    if step.observation is not None:
        role = "user" if step.verb in TO_PERSON else "tool"
        out.append(Message(role, (Part("text", text=step.observation),)))
    return tuple(out)


def task_message(trajectory: Trajectory) -> Message:
    """`Site: gitlab / issues. Task: …`; what is empty is left out, but the message is always there."""
    place = " / ".join(x for x in (trajectory.domain, trajectory.subdomain) if x) or "unknown"
    task = f" {TASK}{trajectory.task}" if trajectory.task else ""
    return Message("user", (Part("text", text=f"{SITE}{place}.{task}"),))


def to_sample(
    trajectory: Trajectory,
    policy: Policy,
    outcomes: Mapping[str, Outcome],
    *,
    rules: Mapping[str, Mapping[str, Any]] | None = None,
    source: str = "user",
    group: str | None = None,
    split: str | None = None,
    critique: str | None = None,
    id: str | None = None,
    **meta: Any,
) -> Sample:
    """The trajectory under `policy`, labelled by `outcomes` (entry id → outcome; an id that is missing is unknown).

    Raises `DataError` for an outcome whose entry the policy lacks, or that has another number of states than steps.
    """
    messages, ends = [task_message(trajectory)], []
    for step in trajectory.steps:
        messages += step_messages(step)
        ends.append(len(messages))
    for entry, outcome in outcomes.items():
        policy.entry(entry)
        if outcome.states is not None and len(outcome.states) != len(trajectory):
            raise DataError(
                f"trajectory {trajectory.id!r}: {len(outcome.states)} states of rule {entry!r} for {len(trajectory)} "
                "steps: give one a step"
            )
    labelled = {entry: o for entry, o in outcomes.items() if o.states is not None}
    prefixes = Prefixes(
        tuple(ends), {e: o.states for e, o in labelled.items()}, {e: o.first for e, o in labelled.items()}
    )
    categories = {entry: "yes" if o.violated else "no" for entry, o in outcomes.items()}
    known = set(policy.ids) <= set(categories)
    unsafe = True if "yes" in categories.values() else False if known else None
    return Sample(
        id=id or trajectory.id,
        messages=tuple(messages),
        policy=policy,
        target="trajectory",
        unsafe=unsafe,
        categories=categories,
        critique=critique,
        source=source,
        group=group or trajectory.id,
        split=split,
        meta={
            "domain": trajectory.domain,
            "subdomain": trajectory.subdomain,
            "steps": len(trajectory),
            "prefixes": prefixes.to_dict(),
            **({"rules": {e: dict(facts) for e, facts in rules.items()}} if rules else {}),
            **meta,
        },
    )


# ---------------------------------------------------------------------------------------------------- reading it back


def prefixes_of(sample: Sample) -> Prefixes | None:
    """`meta["prefixes"]` of a sample, checked; None where it has none. Raises `DataError` that names the sample."""
    raw = sample.meta.get("prefixes")
    if raw is None:
        return None
    where = f"sample {sample.id!r}: meta.prefixes"
    if not isinstance(raw, Mapping) or not {"ends", "states", "first"} <= set(raw):
        raise DataError(f"{where}: expected a mapping with ends, states and first")
    ends = tuple(raw["ends"])
    if any(type(n) is not int for n in ends) or list(ends) != sorted(set(ends)):
        raise DataError(f"{where}: ends must be growing numbers of messages, got {list(ends)}")
    if ends and not 0 < ends[0] <= ends[-1] <= len(sample.messages):
        raise DataError(f"{where}: ends reach {ends[-1]}, but there are {len(sample.messages)} messages")
    states = {id: tuple(s) for id, s in raw["states"].items()}
    for id, named in states.items():
        if len(named) != len(ends) or not set(named) <= set(STATES):
            raise DataError(f"{where}: states of {id!r}: expected {len(ends)} of {', '.join(STATES)}")
        first = raw["first"].get(id)
        if first is not None and (type(first) is not int or not 1 <= first <= len(ends) + 1):
            raise DataError(f"{where}: first of {id!r} is {first!r}: expected 1 to {len(ends) + 1}, or null")
    return Prefixes(ends, states, {id: raw["first"].get(id) for id in states})


def prefix(sample: Sample, steps: int) -> Sample:
    """The sample up to its step `steps`, with what came back; labels of the whole are taken off.

    Categories are those that are known by then: yes where a rule is broken already, no where it cannot be broken any
    more, and unknown where it is open. Raises `DataError` where the sample has no prefixes or fewer steps.
    """
    known = prefixes_of(sample)
    if known is None or not 0 <= steps <= len(known):
        has = "no meta.prefixes" if known is None else f"{len(known)} steps"
        raise DataError(f"sample {sample.id!r} has {has}: it has no prefix of {steps} steps")
    end = known.ends[steps - 1] if steps else (known.ends[0] - len(_first_step(sample, known)) if known.ends else None)
    named = {"violated": "yes", "safe": "no", "open": "unknown"}
    states = {id: s[steps - 1] for id, s in known.states.items()} if steps else {}
    categories = {id: named[s] for id, s in states.items()}
    cut = Prefixes(
        known.ends[:steps],
        {id: s[:steps] for id, s in known.states.items()},
        {id: first if first is not None and first <= steps else None for id, first in known.first.items()},
    )
    return sample.replace(
        id=f"{sample.id}@{steps}",
        messages=sample.messages[:end],
        unsafe=True if "yes" in categories.values() else None,
        categories=categories,
        critique=None,
        meta={**sample.meta, "steps": steps, "prefixes": cut.to_dict()},
    )


def _first_step(sample: Sample, known: Prefixes) -> Sequence[Message]:
    """The messages of the first step: its own and, if there is one, what came back."""
    first = sample.messages[: known.ends[0]]
    start = max(i for i, m in enumerate(first) if m.role == "assistant")
    return first[start:]
