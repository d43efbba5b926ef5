"""The generated bench: labels are the checker's, no side of a pair tells them alone, nothing leaks between splits."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

import pytest

from datamodules import PolicyGuardBench
from datamodules.bank import rng_for
from datamodules.corpus.agent_rules import TEMPLATES, wordings
from datamodules.corpus.agent_sites import PLACES
from datamodules.loading import load_corpus
from datamodules.policyguardbench import BLOCK, VIOLATIONS, load_policyguard, neighbours, write_rules
from datamodules.rules import FORMS, TYPES, Rule, check
from datamodules.schema import DataError, Sample
from datamodules.trajectory import TO_PERSON, Step, prefixes_of
from zoo.policyguard.baselines import BASELINES, judge
from zoo.policyguard.pairs import pairs_of
from zoo.policyguard.tables import baseline_table, bench_tables


@pytest.fixture(scope="module")
def bench():
    return load_policyguard(scale=0.06)


def steps_of(sample: Sample) -> list[Step]:
    """The steps, read back from the messages."""
    steps: list[Step] = []
    for message in sample.messages[1:]:
        text = message.content[0].text
        if message.role == "assistant":
            verb, _, rest = text.partition(" ")
            target, value = "", None
            if rest.startswith('"'):
                target, end = json.JSONDecoder().raw_decode(rest)
                rest = rest[end:].strip()
            if rest.startswith("= "):
                value = json.loads(rest[2:])
            steps.append(Step(verb, target, value))
        else:
            assert (message.role == "user") == (steps[-1].verb in TO_PERSON)
            steps[-1] = Step(steps[-1].verb, steps[-1].target, steps[-1].value, text)
    return steps


def test_every_label_is_the_checkers(bench):
    forms = Counter()
    for sample in bench.samples:
        steps, known = steps_of(sample), prefixes_of(sample)
        assert set(sample.meta["rules"]) == set(sample.policy.ids) and len(sample.policy) == BLOCK
        for id, facts in sample.meta["rules"].items():
            rule = Rule.from_dict(facts["rule"])
            outcome = check(rule, steps)
            assert (outcome.violated, outcome.first) == (sample.categories[id] == "yes", known.first[id])
            assert outcome.states == known.states[id] and facts["type"] == rule.type
            assert sample.policy.entry(id).name in {*wordings(rule, False), *wordings(rule, True)}
            forms[rule.form, outcome.violated] += 1
            if outcome.violated and outcome.first <= len(steps):  # the step is the evidence: not broken without it
                assert "violated" not in check(rule, steps[: outcome.first - 1]).states
    assert {form for form, _ in forms} == set(FORMS)


def test_shares(bench):
    pairs = pairs_of(bench.samples)
    assert len(pairs) == BLOCK * 450 == BLOCK * len(bench.samples)
    assert abs(sum(pairs.gold) / len(pairs) - VIOLATIONS) < 0.01
    assert abs(pairs.slices["cross"].count("across") / len(pairs) - 0.416) < 0.08
    assert {sum(v == "yes" for v in s.categories.values()) for s in bench.samples} == {3, 4}
    across = Counter(zip(pairs.slices["cross"], pairs.gold))
    assert abs(across["across", True] / (across["across", True] + across["across", False]) - VIOLATIONS) < 0.08
    assert set(pairs.slices["type"]) == set(TYPES)
    assert 7 < sum(s.meta["steps"] for s in bench.samples) / len(bench.samples) < 11
    states = Counter(state for s in pairs.states for state in s)
    assert min(states[name] for name in ("open", "safe", "violated")) > 0.05 * states.total()


def test_the_same_rule_is_kept_and_broken(bench):
    labels = defaultdict(set)
    for sample in bench.split("train"):
        for id, label in sample.categories.items():
            labels[id].add(label)
    often = Counter(id for s in bench.split("train") for id in s.categories)
    assert sum(len(labels[id]) == 2 for id, n in often.items() if n >= 5) > 0.9 * sum(n >= 5 for n in often.values())


def test_one_side_alone_tells_nothing(bench):
    parts = [pairs_of(bench.split(name)) for name in ("train", "val", "test")]
    scores = {name: judge(name, *parts)["overall"]["all"] for name in BASELINES}
    assert scores["always"]["balanced_accuracy"] == 0.5 and abs(scores["always"]["f1"] - 0.5955) < 0.03
    assert scores["policy_only"]["balanced_accuracy"] <= 0.6
    assert scores["trajectory_only"]["balanced_accuracy"] <= 0.6
    assert "| trajectory_only |" in baseline_table({"trajectory_only": judge("trajectory_only", *parts)})


def test_splits_share_no_trajectory(bench):
    seen: dict[tuple, str] = {}
    for sample in bench.samples:
        key = tuple(m.content[0].text for m in sample.messages[1:] if m.role == "assistant")
        assert key not in seen
        seen[key] = sample.split
    counts = Counter(seen.values())
    # A split that has few pairs yet refuses fewer trajectories: small benches have more of test and validation.
    assert 0.60 < counts["train"] / 450 < 0.78 and 0.15 < counts["test"] / 450 < 0.28 and counts["val"] > 20


def test_same_arguments_same_bench(bench):
    one, same, other = (load_policyguard(scale=0.004, seed=seed) for seed in (0, 0, 1))
    assert [s.to_dict() for s in one.samples] == [s.to_dict() for s in same.samples] and len(one.samples) == 30
    assert [s.to_dict() for s in one.samples] != [s.to_dict() for s in other.samples]
    assert [s.messages for s in one.samples[:5]] == [s.messages for s in bench.samples[:5]]  # a small one is a part


def test_held_out_domain_is_not_in_training():
    corpus = load_policyguard(scale=0.02, held_out=["gitlab"])
    for sample in corpus.samples:
        inside = sample.meta["domain"] == "gitlab"
        assert all(id.startswith("gitlab-") == inside for id in sample.policy.ids)
        if inside:
            assert sample.split == "test" and sample.meta["out-of-domain"] is True
    assert {s.meta["domain"] for s in corpus.split("test")} == {p.domain for p in PLACES}
    for bad, message in (
        (["gitlb"], "did you mean 'gitlab'"),
        ("gitlab", "give a list"),
        ([p.domain for p in PLACES], "every"),
    ):
        with pytest.raises(DataError, match=message):
            load_policyguard(held_out=bad)


def test_cross_rules_come_from_two_places_each():
    tested = neighbours(PLACES)
    counts = Counter(source for sources in tested.values() for source in sources)
    assert set(tested) == {p.name for p in PLACES} and all(tested.values())
    assert all(name not in sources for name, sources in tested.items()) and min(counts.values()) >= 2


def test_wordings():
    rules = [w for of in write_rules(PLACES, 0).values() for w in of]
    assert set(TEMPLATES) == set(FORMS) and {w.rule.form for w in rules} == set(FORMS)
    assert len({w.id for w in rules}) == len(rules) > 1000
    for written in rules:
        train, test = set(wordings(written.rule, False)), set(wordings(written.rule, True))
        assert train and test and not train & test
        for text in train | test:
            assert "{" not in text and text.endswith(".")
            for pattern in written.rule.patterns:
                for word in (*pattern.targets, *pattern.words, *pattern.values, *pattern.contains):
                    assert word.casefold() in text.casefold()
            if written.rule.n > 2:
                assert f"{written.rule.n} times" in text


def test_training_policies_are_reworded(bench):
    sample = bench.split("train")[0]
    drawn = [bench.bank.draw(sample, rng_for(0, epoch, sample.id), max_entries=BLOCK) for epoch in range(4)]
    assert all(set(p.ids) == set(sample.policy.ids) for p in drawn)
    assert len({p.ids for p in drawn}) > 1 and len({e.name for p in drawn for e in p.entries}) > BLOCK
    assert len(bench.bank.draw(sample, rng_for(1), max_entries=3)) == 3
    held = [s for s in bench.split("test") if s.meta.get("held-out-wording")]
    trained = {e.name for of in bench.bank.train.values() for e in of}
    assert held and not any(e.name in trained for s in held for e in s.policy.entries)


def test_datamodule_and_report():
    data = PolicyGuardBench(scale=0.01, batch_size=4, licences="permissive")
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert len(batch) == 4 and all(len(policy) == BLOCK and s.gold(policy) is not None for s, policy in batch)
    report = data.corpus.report
    cells = [c for of in report["domains"].values() for c in of.values()]
    assert sum(c["pairs"] for c in cells) == sum(s["pairs"] for s in report["splits"].values()) == 600
    assert sum(c["violations"] for c in cells) == sum(s["violations"] for s in report["splits"].values())
    table = bench_tables(report)
    assert "| all |" in table and "shopping_admin" in table and "consent" in table
    with pytest.raises(DataError, match="held_out is for source"):
        load_corpus("sample", held_out=["gitlab"])
    with pytest.raises(DataError, match="above 0"):
        load_corpus("policyguard", scale=0)
