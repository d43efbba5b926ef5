"""zoo/routeguard/expand.py: what an added expert changes, what it must not, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import save_language_model
from routing import EXPERTS, NAMES, POLICY, base, routed, rows, sharp, write_manifest

from datamodules.schema import DataError, Policy, PolicyEntry
from zoo import add_expert as command
from zoo import list as listing
from zoo import registry
from zoo.core.weights import CheckpointError
from zoo.routeguard.backbone import Routing
from zoo.routeguard.expand import add_expert, some_of_every_domain
from zoo.routeguard.model import answers_of, expert_alone
from zoo.routeguard.offered import load_offered, offered

NEW = PolicyEntry("S5", "picture", "It is about a picture.")
LARGER = Policy("site", (*POLICY.entries, NEW))
SETTINGS = {"rank": 2, "upper_layers": 2, "router_width": 8}


def labelled(n, seed=0):
    """Rows with a label of the new category, too."""
    out = []
    for s in rows(n, seed):
        there = "picture" in s.parts[0].text
        out.append(s.replace(categories={**s.categories, "S5": "yes" if there else "no"}))
    return out


def expert(folder, categories=("S5",), name="pictures", policy=LARGER, shown=POLICY, seed=0, **settings):
    guard = expert_alone(base(folder, seed), policy, name, categories, shown=shown, **{**SETTINGS, **settings})
    return sharp(guard).eval()


def test_earlier_experts_are_the_same_to_the_last_bit(tmp_path):
    guard, samples = routed(tmp_path), labelled(40)
    readers = list(guard.backbone.bank.names)
    before = answers_of(guard, samples[:8], readers)
    tensors = {k: v.clone() for k, v in guard.backbone.saved_state().items() if not k.startswith("router.")}
    report = add_expert(guard, expert(tmp_path), calibration=samples, share=0.5)
    after = answers_of(guard, samples[:8], readers)
    assert [(a.verdict, a.categories) for a in before] == [(a.verdict, a.categories) for a in after]
    now = guard.backbone.saved_state()
    assert all(torch.equal(now[k], v) for k, v in tensors.items())
    assert set(now) - set(tensors) - {k for k in now if k.startswith("router.")} == {
        k for k in now if k.startswith("bank.adapters.pictures.")
    }
    drift = report["drift"]
    assert drift["earlier_experts_identical"] and drift["largest_change_of_an_earlier_expert"] == 0.0
    assert 0 <= drift["verdicts_changed"] <= 1 and drift["rows"] == 40
    assert report["new_entries"] == ["S5"] and report["router"]["rows"] < 40


def test_a_new_category_is_answered_and_kept(tmp_path):
    guard, samples = routed(tmp_path), labelled(40)
    alone = expert(tmp_path)
    add_expert(guard, alone, calibration=samples)
    assert guard.policy == LARGER and guard.backbone.shown == POLICY
    guard.backbone.routing = Routing(thresholds={n: -1e9 if n == "pictures" else 1e9 for n in guard.backbone.experts})
    verdicts = guard.moderate(samples[:6])
    assert all(v.route == ["pictures"] and list(v.categories) == list(LARGER.ids) for v in verdicts)
    said = answers_of(alone, samples[:6], ["pictures"])
    c = guard.backbone.experts["pictures"].calibration
    for v, a in zip(verdicts, said):  # the same adapter over the same base says the same
        assert v.categories["S5"] == pytest.approx(1 / (1 + 2.718281828 ** -c.category(a.categories[0])), abs=1e-4)
    registry.save(guard, tmp_path / "model", "routeguard", "card")
    loaded = registry.load(tmp_path / "model")
    assert [v.categories for v in loaded.moderate(samples[:6])] == [v.categories for v in verdicts]
    guard.backbone.routing = Routing(thresholds=dict.fromkeys(guard.backbone.experts, 1e9))
    assert guard.moderate(samples[0]).categories["S5"] < 1e-6  # the monolith was never taught it


def test_a_shared_category_is_asked_of_both(tmp_path):
    guard, samples = routed(tmp_path), rows(40)
    add_expert(guard, expert(tmp_path, ("S1", "S4"), "second", POLICY), calibration=samples)
    guard.backbone.routing = Routing(
        thresholds={n: -1e9 if n in ("heat", "second") else 1e9 for n in EXPERTS | {"second": ()}}
    )
    heat, second = (guard.backbone.experts[n].calibration for n in ("heat", "second"))
    for s, v in zip(samples[:6], guard.moderate(samples[:6])):
        a, b = answers_of(guard, [s], ["heat", "second"])
        z = max(heat.category(a.categories[0]), second.category(b.categories[0]))
        assert v.categories["S1"] == pytest.approx(1 / (1 + 2.718281828**-z), abs=1e-4)


def test_any_guard_can_be_an_expert(tmp_path):
    guard, samples = routed(tmp_path), rows(40)
    other = base(tmp_path, seed=4, policy=POLICY.subset(["S3"])).eval()
    report = guard.add_expert(other, calibration=samples, name="listener")
    assert report["categories"] == ["S3"] and "listener" in guard.backbone.guests


def test_what_does_not_fit_is_refused_and_nothing_changes(tmp_path):
    guard, samples = routed(tmp_path), labelled(20)
    state = {k: v.clone() for k, v in guard.backbone.saved_state().items()}
    cases = [
        (expert(tmp_path, name="heat"), {}, "there is an expert 'heat' already"),
        (expert(tmp_path), {"calibration": []}, "the calibration set is empty"),
        (expert(tmp_path), {"calibration": rows(8)}, "no calibration row has a label of S5"),
        (expert(tmp_path), {"categories": ["S8"]}, "has no entry 'S8'"),
        (expert(tmp_path, seed=1), {}, "other weights of the base"),
        (expert(tmp_path, shown=LARGER), {}, "other weights of the base"),
        (expert(tmp_path, rank=3), {}, "train it alike"),
        (routed(tmp_path), {}, "is a whole RouteGuard"),
        (expert(tmp_path), {"categories": [PolicyEntry("S1", "water")]}, "S1 is 'water' there and 'fire' here"),
    ]
    for other, given, message in cases:
        with pytest.raises(DataError, match=message):
            add_expert(guard, other, **{"calibration": samples, **given})
    assert list(guard.backbone.experts) == list(EXPERTS) and guard.policy == POLICY
    assert all(torch.equal(guard.backbone.saved_state()[k], v) for k, v in state.items())


def test_another_language_model_or_tokenizer_is_named(tmp_path):
    guard, other = routed(tmp_path), expert(tmp_path)
    (tmp_path / "other").mkdir()
    save_language_model(tmp_path / "other" / "lm", seed=1, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match="other weights of the base"):
        add_expert(guard, expert(tmp_path / "other"), calibration=labelled(8))
    other.backbone.base.tokenizer.add_tokens(["<more>"])
    with pytest.raises(CheckpointError, match="another tokenizer"):
        add_expert(guard, other, calibration=labelled(8))


def test_the_router_learns_from_a_share_of_every_domain(tmp_path):
    guard, samples = routed(tmp_path), rows(200)
    chosen = some_of_every_domain(guard, samples, 0.2, seed=0)
    for expert_ in guard.backbone.experts.values():
        part = expert_.policy(POLICY)
        whole, some = (sum(bool(s.gold(part)) for s in of) for of in (samples, chosen))
        assert some >= round(0.2 * whole) > 0
    assert len(chosen) < 100
    with pytest.raises(DataError, match="share=0"):
        some_of_every_domain(guard, samples, 0, seed=0)


def test_a_package_offers_an_expert(tmp_path, monkeypatch):
    site = tmp_path / "site"
    info = site / "my_expert-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-expert\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[zoo.experts]\nmine = my_expert:expert\nbad = my_expert:other\n")
    (site / "my_expert.py").write_text(
        "from zoo import load\n\ndef expert():\n    return load(FOLDER)\n\ndef other():\n    return 3\n".replace(
            "FOLDER", repr(str(tmp_path / "expert"))
        )
    )
    registry.save(expert(tmp_path), tmp_path / "expert", "expert", "card")
    monkeypatch.syspath_prepend(str(site))
    assert set(offered()) >= {"mine", "bad"}
    assert load_offered("mine").only == "pictures"
    with pytest.raises(DataError, match="gives a int, not a guard"):
        load_offered("bad")
    with pytest.raises(DataError, match="'mina'; did you mean 'mine'"):
        load_offered("mina")
    assert "| mine" in listing.experts()


def test_the_command_leaves_a_model_with_the_expert(tmp_path, capsys):
    manifest, policy = write_manifest(tmp_path, {"train": 24, "val": 24, "test": 16})
    registry.save(routed(tmp_path), tmp_path / "model", "routeguard", "card")
    registry.save(expert(tmp_path, ("S2", "S3"), "second", POLICY), tmp_path / "expert", "expert", "card")
    arguments = [f"model={tmp_path / 'model'}", f"expert={tmp_path / 'expert'}", f"runs={tmp_path / 'runs'}"]
    arguments += ["data=manifest", f"data.path={manifest}", f"data.policy={policy}", "data.modalities=[text]"]
    assert command.main(arguments) == 0
    (run,) = (tmp_path / "runs" / "add_expert" / "second").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["added"]["drift"]["rows"] == 24 and metrics["before"]["n"] == 16
    assert list(registry.load(run).backbone.experts) == [*EXPERTS, "second"]
    assert list(registry.load(tmp_path / "model").backbone.experts) == list(EXPERTS)
    with pytest.raises(DataError, match="give expert="):
        command.main(arguments[:1])
    with pytest.raises(DataError, match="is no RouteGuard"):
        command.main([f"model={tmp_path / 'expert'}", *arguments[1:]])
    assert "verdicts_changed" in capsys.readouterr().out and len(NAMES) == 4
