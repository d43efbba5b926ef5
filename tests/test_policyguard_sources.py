"""Public trajectories, tasks and policies as steps and rules: made-up rows, and the counts of the real files."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from datamodules.bank import rng_for
from datamodules.corpus.agent_sites import PLACES
from datamodules.loading import load_corpus
from datamodules.policyguard_records import load_records, record, steps_of
from datamodules.policyguard_sites import real_rules, with_real
from datamodules.policyguardbench import load_policyguard
from datamodules.rules import check
from datamodules.schema import DataError, Message, Part, Sample
from datamodules.sources import agent_steps, mind2web_steps, st_webagentbench, tau_bench, webarena
from datamodules.trajectory import Step, prefixes_of, render_step

DATA = Path(os.environ.get("ZOO_DATA_DIR") or Path(__file__).resolve().parents[1].parent / "shared" / "data")
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no public data: set ZOO_DATA_DIR to its folder")


def said(sample: Sample) -> list[tuple[str, str | None]]:
    return [(m.role, m.content[0].text) for m in sample.messages]


# ------------------------------------------------------------------------------------------------- published records


def published(
    policy="Never delete a project.", actions='1. Click on "Menu"\n2. Type "x" into Title', output="violation"
):
    text = f"Policy: {policy}\nTrajectory Actions:\n{actions}\nDomain: gitlab\nSubdomain: issues"
    return {"instruction": "Judge.", "input": text, "output": output}


def test_a_published_record():
    sample = record(published(), "rows-0")
    assert [e.name for e in sample.policy.entries] == ["Never delete a project."] and sample.unsafe is True
    assert said(sample)[0] == ("user", "Site: gitlab / issues.")
    assert [text for _, text in said(sample)[1:]] == [
        render_step(Step("click", 'on "Menu"')), render_step(Step("input", '"x" into Title')),
    ]  # fmt: skip
    assert prefixes_of(sample).states == {} and sample.meta["domain"] == "gitlab"
    safe = record(published(output="no_violation"), "rows-1")
    assert safe.unsafe is False and safe.group == sample.group and safe.split == sample.split
    assert render_step(next(steps_of("Juggle the balls"))) == 'do "Juggle the balls"'


def test_records_of_a_folder(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([published(), published(output="maybe"), {"input": "Policy: x"}, 3]))
    rows = [published(policy=f"Rule {n}.", actions=f"Click {n}", output="no violation") for n in range(40)]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    corpus = load_corpus("policyguard", path=tmp_path)
    assert len(corpus.samples) == 41 and len(corpus.report["errors"]) == 3
    assert corpus.report["errors"][0]["error"].startswith("a-1: output 'maybe'")
    assert {s.split for s in corpus.samples} == {"train", "val", "test"}
    assert corpus.bank.draw(corpus.samples[0], rng_for(0)).entries == corpus.samples[0].policy.entries
    assert len(load_records(tmp_path / "b.jsonl", max_rows=5).samples) == 5
    with pytest.raises(DataError, match="leave path out"):
        load_corpus("policyguard", path=tmp_path, held_out=["gitlab"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is it PolicyGuardBench's folder"):
        load_records(tmp_path / "empty")


# ------------------------------------------------------------------------------------------------------ made-up rows


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("[button]  Search -> CLICK", Step("click", "Search")),
        ("[textbox]  From? City -> TYPE: New York: NY", Step("input", "From? City", "New York: NY")),
        ("[combobox]  Sort By -> SELECT: Price: Low to High", Step("select", "Sort By", "Price: Low to High")),
        ("[span]  \ue900 -> CLICK", Step("click", "[span]")),
        ("[svg]   -> HOVER", Step("hover", "[svg]")),
    ],
)
def test_steps_of_mind2web(text, step):
    assert mind2web_steps.parse_step(text) == step
    with pytest.raises(DataError, match="not a step"):
        mind2web_steps.parse_step("Search")


def made(source, *turns):
    messages = tuple(Message(role, (Part("text", text=text),)) for role, text in turns)
    return Sample(id=f"{source}-1", messages=messages, target="trajectory", unsafe=True, source=source, group="g")


def test_calls_in_five_spellings():
    for action in (
        "MailSend{'to': 'a'}", 'MailSend: {"to": "a"}', 'MailSend\nAction Input: {"to": "a"}', 'MailSend({"to": "a"})',
    ):  # fmt: skip
        sample = agent_steps.as_steps(
            made(
                "rjudge",
                ("system", "Be good."),
                ("user", "Send it."),
                ("assistant", f"Thought: Hm.\nAction: {action}"),
                ("tool", "Sent."),
                ("tool", "Twice."),
                ("assistant", "Action: Final Answer: Done."),
            )
        )
        value = "{'to': 'a'}" if "'" in action else "to: a"
        assert said(sample) == [
            ("user", "Site: rjudge. Task: Send it."), ("assistant", f'call "MailSend" = "{value}"'),
            ("tool", "Sent.\nTwice."), ("assistant", 'say = "Done."'),
        ]  # fmt: skip
        assert sample.meta["profile"] == "Be good." and sample.categories == {"rjudge-safe": "yes"}
    turns = (("user", "x"), ("assistant", "Thought: only this"), ("tool", "Whose?"))
    assert said(agent_steps.as_steps(made("assebench", *turns)))[1:] == [("assistant", "call"), ("tool", "Whose?")]
    no_arguments = agent_steps.as_steps(made("assebench", ("user", "x"), ("assistant", "Action: Scan()")))
    assert said(no_arguments)[1] == ("assistant", 'call "Scan"')


def test_words_and_calls_of_agentdojo():
    sample = agent_steps.as_steps(
        made(
            "agentdojo",
            ("user", "Pay."),
            ("assistant", 'I look.\nread_file({"path": "a.txt", "n": 2})'),
            ("tool", "98"),
        )
    )
    assert said(sample)[1:] == [
        ("assistant", 'say = "I look."'), ("assistant", 'call "read_file" = "path: a.txt, n: 2"'), ("tool", "98"),
    ]  # fmt: skip


def check_of(**given):
    return st_webagentbench.rule_of({"must_include": None, "reference_url": "", **given})


def test_checks_of_st_webagentbench_as_rules():
    ban = check_of(eval_types=["is_url_match"], reference_url="facebook |OR| /profile", url_note="contains_any")
    assert check(ban, [Step("navigate", "/a"), Step("navigate", "/profile/me")]).first == 2
    press = check_of(
        eval_types=["element_action_match"], must_include="delete |OR| remove", must_include_action="click"
    )
    assert check(press, [Step("input", "delete"), Step("click", "Remove member")]).first == 2
    ask = check_of(eval_types=["is_ask_the_user"], must_include="Create project")
    save, yes = Step("click", "Create project"), Step("ask", "create project", observation="Yes.")
    assert check(ask, [save]).violated and not check(ask, [yes, save]).violated
    secret = check_of(eval_types=["is_sensitive_data"], sensitive_data="555-0198")
    assert check(secret, [Step("say", "", "Call 555-0198")]).violated
    eight = check_of(eval_types=["is_action_count"], action_type="click", global_count_less_than=8)
    assert check(eight, [save] * 8).first == 8 and not check(eight, [save] * 7).violated
    assert isinstance(check_of(eval_types=["popup_error"]), str)
    assert isinstance(check_of(eval_types=["element_action_match"], element_selector="#a"), str)


# -------------------------------------------------------------------------------------------------------- real files


@needs_data
def test_real_policies_and_runs():
    policies = tau_bench.load_policies(DATA)
    assert {name: len(p) > 15 for name, p in policies.items()} == {"airline": True, "retail": True}
    assert any("explicit user confirmation" in e.name for e in policies["retail"].entries)
    runs = tau_bench.load(DATA)
    assert Counter(s.meta["kind"] for s in runs) == {"run": 200, "example": 88}
    assert Counter(s.meta.get("reward") for s in runs)[1.0] == 84 and all(s.unsafe is None for s in runs)
    calls = sum(m.content[0].text.startswith("call") for s in runs for m in s.messages if s.meta["kind"] == "run")
    assert calls == 1164
    tasks = webarena.load_tasks(DATA)
    assert len(tasks) == 812 and sum(len(t.sites) == 2 for t in tasks) == 48


@needs_data
def test_real_rules():
    dropped: Counter = Counter()
    rules = st_webagentbench.load_rules(DATA, dropped)
    assert len(rules) + dropped.total() == 3057 and len(rules) > 1500
    assert {"never", "consent", "at_most"} == {r.rule.form for r in rules}
    assert set(real_rules(DATA)) == {"gitlab", "suitecrm", "shopping_admin"}


@needs_data
def test_real_trajectories():
    mind = mind2web_steps.load(DATA)
    assert Counter(s.unsafe for s in mind) == {True: 100, False: 100} and all(s.meta["steps"] for s in mind)
    assert all(sum(v == "yes" for v in s.categories.values()) == bool(s.unsafe) for s in mind)
    loaded = {name: agent_steps.load(DATA, name) for name in agent_steps.MODULES}
    assert {name: Counter(s.unsafe for s in rows)[True] for name, rows in loaded.items()} == {
        "rjudge": 298, "assebench": 382, "agentdojo": 95,
    }  # fmt: skip
    texts = [text for rows in loaded.values() for s in rows for role, text in said(s) if role == "assistant"]
    assert sum(t.startswith("call") for t in texts) > 2000 and not any("attacker goal" in t for t in texts)


@needs_data
def test_bench_with_real_sites():
    places = with_real(PLACES, DATA, "permissive")
    assert [p.name for p in places] == [p.name for p in PLACES]
    assert any("Abishek" in t for p in places for t in p.tasks)
    more = with_real(PLACES, DATA)
    assert {p.domain for p in more} - {p.domain for p in PLACES} == {"web_entertainment", "web_shopping", "web_travel"}
    corpus = load_policyguard(DATA, scale=0.01)
    assert any(s.meta["domain"] == "web_travel" for s in corpus.samples)
    with pytest.raises(DataError, match="no such file"):
        load_policyguard(DATA / "nowhere")
