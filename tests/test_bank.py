"""datamodules/bank.py: the policies that training draws."""

import random
from collections import Counter

import pytest

from datamodules.bank import PolicyBank, rng_for, unique_ids
from datamodules.schema import DataError, Policy, PolicyEntry, Sample

IDS = [f"c{n}" for n in range(12)]
OWN = Policy("own", tuple(PolicyEntry(i, f"{i} as named by its owner") for i in IDS))
HELD = frozenset({"c10", "c11"})
BANK = PolicyBank(
    {i: [PolicyEntry(i, f"{i} wording {w}") for w in range(4)] for i in IDS},
    {i: [PolicyEntry(i, f"{i} test wording")] for i in IDS[:6]},
    HELD,
)


def sample(seed, yes=2, **changes):
    rng = random.Random(seed)
    labels = dict.fromkeys(IDS, "no") | dict.fromkeys(rng.sample(IDS[:10], yes), "yes")
    return Sample.of("x", id=f"s{seed}", categories=labels, **changes)


def draws(s, n=300, **kw):
    return [BANK.draw(s, rng_for(0, e, s.id), **kw) for e in range(n)]


@pytest.mark.parametrize("yes", [0, 1, 3, 10])
def test_labelled_samples_always_have_a_verdict(yes):
    golds = Counter()
    for seed in range(8):
        s = sample(seed, yes)
        for policy in draws(s, 100):
            gold = s.gold(policy)
            assert gold is not None and not HELD & set(policy.ids)
            assert len(set(policy.ids)) == len(policy) == len({e.name for e in policy.entries})
            golds[gold] += 1
    if yes == 10:
        assert golds[True] == 800  # nothing that training may show is unbroken
    else:
        assert golds[True] / 800 == pytest.approx(0.75 if yes else 0.0, abs=0.05)


def test_all_broken_but_held_out_is_still_unsafe():
    s = Sample.of("x", id="s", categories=dict.fromkeys(IDS, "yes"))
    assert all(s.gold(p) is True for p in draws(s, 50))


def test_held_out_entries_come_in_test_policies_only():
    s = Sample.of("x", id="s", categories=dict.fromkeys(IDS, "no"))
    assert {i for p in draws(s) for i in p.ids} == set(IDS) - HELD
    tested = draws(s, test=True)
    assert {i for p in tested for i in p.ids} == set(IDS)
    names = {e.name for p in tested for e in p.entries}
    assert "c1 test wording" in names and not any(n.startswith("c1 wording") for n in names)
    assert any(n.startswith("c11 wording") for n in names)  # no test wording: its training ones


def test_a_sample_that_breaks_held_out_entries_alone_is_safe_in_training():
    s = Sample.of("x", id="s", unsafe=True, categories={"c10": "yes", "c0": "no", "c1": "no"})
    assert {s.gold(p) for p in draws(s, 50)} == {False}


def test_draws_vary_in_size_order_and_wording():
    policies = draws(sample(0))
    assert {len(p) for p in policies} >= set(range(1, 9)) and max(len(p) for p in policies) <= 10
    assert len({p.ids for p in policies}) > 200
    assert {e.name for p in policies for e in p.entries} == {f"{i} wording {w}" for i in IDS[:10] for w in range(4)}
    firsts = Counter(p.ids[0] for p in policies)
    assert max(firsts.values()) < 120  # the broken entry has no place of its own
    assert max(len(p) for p in draws(sample(0), max_entries=2)) <= 4


def test_draws_are_decided_by_seed_epoch_and_id():
    s = sample(1)

    def of(*key):
        return BANK.draw(s, rng_for(*key))

    assert of(0, 3, s.id) == of(0, 3, s.id)
    for other in ((1, 3, s.id), (0, 4, s.id), (0, 3, "t")):
        assert [of(0, e, s.id) for e in range(4)] != [of(*other[:1], e + other[1], other[2]) for e in range(4)]
    assert rng_for(1, 23).random() != rng_for(12, 3).random()  # keys do not run together


def test_names_are_unique_when_ids_share_wordings():
    same = PolicyBank({i: [PolicyEntry(i, "shared"), PolicyEntry(i, i)] for i in IDS})
    s = sample(2)
    for e in range(100):
        policy = same.draw(s, rng_for(e))
        assert len({x.name for x in policy.entries}) == len(policy)


def test_binary_labels_keep_to_their_own_policy():
    own = OWN.subset(IDS[:5])
    bad = Sample.of("x", id="s", unsafe=True, policy=own)
    good = Sample.of("x", id="s", unsafe=False, policy=own)
    for policy in draws(bad, 100):
        assert set(policy.ids) == set(own.ids) and bad.gold(policy) is True
    assert len({p.ids for p in draws(bad, 100)}) > 30  # in any order
    policies = draws(good, 100)
    assert all(set(p.ids) <= set(own.ids) and good.gold(p) is False for p in policies)
    assert {len(p) for p in policies} >= {1, 2, 3}
    partly = bad.replace(categories={"c0": "no"})
    assert all(set(p.ids) == set(own.ids) and partly.gold(p) is True for p in draws(partly, 50))


def test_unknown_entries_join_only_decided_policies():
    s = Sample.of("x", id="s", unsafe=True, policy=OWN, categories={"c0": "yes", "c1": "no"})
    policies = draws(s)
    assert all(s.gold(p) is not None for p in policies)
    unknown = [p for p in policies if set(p.ids) - {"c0", "c1"}]
    assert unknown and all("c0" in p.ids for p in unknown)


def test_unknown_ids_keep_their_own_wording():
    own = Policy("own", (PolicyEntry("mine", "my rule"),))
    s = Sample.of("x", id="s", unsafe=True, policy=own)
    assert BANK.draw(s, random.Random(0)).entries == own.entries
    with pytest.raises(DataError, match=r"'s': none of its categories is in the policy bank and it has no policy"):
        BANK.draw(s.replace(policy=None), random.Random(0))


def test_contrast_comes_often():
    def share(meta):
        s = Sample.of("x", id="s", categories=dict.fromkeys(IDS[:10], "no") | {"c3": "yes"}, meta=meta)
        policies = draws(s, 400, max_entries=3)
        return sum("c7" in p.ids for p in policies) / len(policies)

    assert share({"contrast": ["c7"]}) > 0.6 > 0.5 > share({})


def test_merge_keeps_both_wordings_and_leaves_its_parts():
    one = PolicyBank({"a": [PolicyEntry("a", "x")]}, {}, frozenset({"a"}))
    two = PolicyBank({"a": [PolicyEntry("a", "x"), PolicyEntry("a", "y")], "b": [PolicyEntry("b", "z")]})
    both = one.merge(two)
    assert [e.name for e in both.train["a"]] == ["x", "y"] and both.ids == ["a", "b"] and both.held_out == {"a"}
    assert [e.name for e in one.train["a"]] == ["x"]
    assert len(both.wordings()) == 3
    with pytest.raises(DataError, match=r"held-out entry 'q' has no wording"):
        PolicyBank({}, {}, frozenset({"q"}))


def test_unique_ids():
    unique_ids([sample(0), sample(1)])
    with pytest.raises(DataError, match=r"duplicate sample id 's0': make ids unique"):
        unique_ids([sample(0), sample(0)])
