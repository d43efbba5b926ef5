"""ST-WebAgentBench: 3,057 policies on 375 web tasks, each with a program that checks it.

Upstream: segev-shlomov/ST-WebAgentBench (Apache-2.0). Citation: Levy, Wiesel, Marreed, Oved, Yaeli and Shlomov (2024),
"ST-WebAgentBench: A Benchmark for Evaluating Safety and Trustworthiness in Web Agents".

Tasks and policies alone: no trajectories, no labels. Many descriptions are their template's ("Do not navigate or visit
a URL pattern"): what is meant stands in the check. Checks of what an agent does become typed rules; those of a page's
state (locators, selectors, pop-ups) and of values that a task names do not, and are counted with the reason.

A rule here is as strict as its words: the checks look for a text anywhere in an address or element, the rules for it as
whole words.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.rules import Pattern, Rule
from datamodules.sources.files import read_json
from datamodules.sources.record import Repo, SourceFile, verified

LICENCE = "Apache-2.0"
PERMISSIVE = True
TARGET = "trajectory"
REPO = Repo("segev-shlomov/ST-WebAgentBench", "67f56dd7df9eca1646c9e49407b087e950aa1e77")
FILES = (
    SourceFile(
        "agent/st_webagentbench/test.raw.json", REPO, "stwebagentbench/test.raw.json",
        "31817831f963425bdc4d582936f2b9c0b9714fc986be7b4df67e50f2921e9a34", rows=375,
    ),
)  # fmt: skip
ACTIONS = {"click": "click", "fill": "input", "delete": "delete"}


@dataclass(frozen=True)
class Published:
    """One attached policy: its task and site, who set it, its words, and what it means as a rule."""

    id: str
    site: str
    category: str
    text: str
    rule: Rule


def load_rules(data_dir: Path, dropped: Counter | None = None) -> list[Published]:
    """The policies that are about steps; the others are counted in `dropped`, by reason.

    Raises `DataError` when the file is missing or another one.
    """
    dropped = Counter() if dropped is None else dropped
    out = []
    for row in read_json(verified(data_dir, FILES)):
        for n, policy in enumerate(row["policies"]):
            rule = rule_of(policy["eval"])
            if isinstance(rule, str):
                dropped[rule] += 1
                continue
            id = f"st-{row['task_id']}-{n}"
            out.append(Published(id, row["sites"][0], policy["policy_category"], policy["description"], rule))
    return out


def rule_of(check: dict[str, Any]) -> Rule | str:
    """What a check means as a rule, or why it is none."""
    kind = check["eval_types"][0]
    if kind == "is_url_match":
        texts = _any_of(check.get("reference_url"))
        if check.get("check_absence") or not texts or check.get("url_note") != "contains_any":
            return "a check of addresses that is no plain ban"
        return Rule("never", (Pattern(("navigate",), words=texts),))
    if kind == "element_action_match":
        texts, verb = _any_of(check.get("must_include")), ACTIONS.get(check.get("must_include_action") or "")
        if not texts or verb is None:
            return "a check of an element that only a page knows"
        return Rule("never", (Pattern((verb,), words=texts),))
    if kind == "is_ask_the_user":
        texts = _any_of(check.get("must_include"))
        if len(texts) != 1:
            return "a question about what a task leaves open"
        asked = (Pattern(("ask",), words=texts, reply=answer) for answer in (True, False))
        return Rule("consent", (Pattern(("click",), words=texts), *asked))
    if kind == "is_sensitive_data":
        texts = _any_of(check.get("sensitive_data"))
        return Rule("never", (Pattern(contains=texts),)) if texts else "secrets that are not named"
    if kind == "is_action_count":
        most, verb = check.get("global_count_less_than"), ACTIONS.get(check.get("action_type") or "")
        if check.get("element_selectors") or verb is None or not isinstance(most, int) or most < 1:
            return "a count of what only a page knows"
        return Rule("at_most", (Pattern((verb,)),), most - 1)
    return f"a check of {kind.removeprefix('is_').replace('_', ' ')}"


def _any_of(given: Any) -> tuple[str, ...]:
    """ "delete |OR| remove" as its alternatives; a list as it is."""
    texts = given if isinstance(given, list) else re.split(r"\|or\|", given or "", flags=re.IGNORECASE)
    return tuple(t.strip() for t in texts if isinstance(t, str) and t.strip())
