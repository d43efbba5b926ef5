"""PolicyGuard: what it asks and learns, what it says of a step that breaks a rule, and its place in a RouteGuard."""

import json

import lightning as L
import pytest
import torch
from helpers import random_backbone, save_language_model
from routing import POLICY as SITE
from routing import routed, rows

import zoo
from benchmarks import steps as benchmark
from datamodules import GuardDataModule
from datamodules.schema import Policy, PolicyEntry
from datamodules.trajectory import Outcome, Step, Trajectory, to_sample
from zoo.config import compose, plain
from zoo.core.guard import Guard
from zoo.core.losses import CATEGORY, STATE, VERDICT, LossWeights, guard_loss, state_targets, training_queries
from zoo.core.module import GuardModule
from zoo.core.orders import order_named
from zoo.core.query import STATE_OPTIONS
from zoo.core.watch import training_steps
from zoo.methods import METHODS
from zoo.registry import save
from zoo.routeguard.backbone import Routing

RULES = Policy("rules", (PolicyEntry("fire", "Never click fire."), PolicyEntry("end", "Submit before the end.")))
ORDER = order_named("policyguard")
PLAIN = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
PLAIN |= {"num_sanity_val_steps": 0, "enable_checkpointing": False}


def labelled(targets, id="t", split=None, policy=RULES):
    """A trajectory of clicks; `fire` is broken by the first click on it, `end` is kept by a submit, else at the end."""
    steps = [Step("submit") if t == "submit" else Step("click", t) for t in targets]
    states = {"fire": [], "end": []}
    for n in range(1, len(steps) + 1):
        states["fire"].append("violated" if "fire" in targets[:n] else "open")
        states["end"].append("safe" if "submit" in targets[:n] else "open")
    burnt = targets.index("fire") + 1 if "fire" in targets else None
    outcomes = {
        "fire": Outcome(burnt is not None, burnt, tuple(states["fire"])),
        "end": Outcome("submit" not in targets, None if "submit" in targets else len(steps) + 1, tuple(states["end"])),
    }
    outcomes = {e.id: outcomes[e.id] for e in policy.entries if e.id in outcomes}
    run = Trajectory(id, "see", "shop", "orders", tuple(steps))
    return to_sample(run, policy, outcomes, critique=f"Step {burnt} breaks a rule." if burnt else None, split=split)


# ------------------------------------------------------------------------------------------------ what is learned


def test_training_asks_of_the_end_and_of_steps():
    sample = labelled(["a", "fire", "submit"])
    queries, options, kinds = training_queries(sample, RULES, order=ORDER, steps=[1, 3])
    asked = [(k, q.after, q.options[o]) for q, o, k in zip(queries, options, kinds)]
    assert asked[:3] == [(VERDICT, None, "unsafe"), (CATEGORY, None, "yes"), (CATEGORY, None, "no")]
    assert asked[3:9] == [
        (STATE, 2, "safe"), (STATE, 2, "open"), (STATE, 2, "open"),
        (STATE, 4, "unsafe"), (STATE, 4, "broken"), (STATE, 4, "safe"),
    ]  # fmt: skip
    assert all(RULES.entries[0].name in q.text for q in (queries[1], queries[4]))
    assert all(e.name not in queries[0].text for e in RULES.entries)  # the verdict recalls no rule
    assert queries[-1].text == "- Safety Assessment: unsafe\n- Explanation:"
    assert queries[-1].options == ("Step 2 breaks a rule.",)


def test_a_verdict_after_a_step_is_asked_where_it_is_known():
    entry = PolicyEntry("real", "A rule of which only the end is known.")
    wide = Policy("wide", (*RULES.entries, entry))
    sample = labelled(["a", "fire"]).replace(policy=wide)
    found = [[(q.options[o]) for q, o in state_targets(sample, wide, ORDER, [n])] for n in (1, 2)]
    assert found == [["open", "open"], ["unsafe", "broken", "open"]]


def test_steps_of_training_are_drawn_and_in_sight():
    guard = Guard(random_backbone("words"), RULES, order=ORDER)
    sample = labelled(["a", "b", "fire", "c", "submit"])
    assert training_steps(guard, sample, RULES, None) == [1, 2, 3, 4, 5]
    drawn = training_steps(guard, sample, RULES, 2)
    assert drawn == training_steps(guard, sample, RULES, 2) == sorted(drawn) and len(set(drawn)) == 2
    others = [training_steps(guard, sample.replace(id=f"t{n}"), RULES, 2) for n in range(20)]
    assert {n for steps in others for n in steps} == {1, 2, 3, 4, 5}
    assert training_steps(guard, sample.replace(meta={}), RULES, 2) == []
    guard.backbone.limits.__dict__["text_tokens"] = 24  # room for the last steps
    late = training_steps(guard, sample, RULES, None)
    assert 0 < len(late) < 5 and late[-1] == 5
    module = GuardModule(guard, steps=None)
    example = module.prepare(sample, RULES, train=True)
    assert example.prepared.truncated and example.kinds.count(STATE) == 3 * len(late)


def test_a_module_without_steps_asks_of_the_end_alone():
    sample = labelled(["a", "fire"])
    for order, steps, weights in ((ORDER, 0, {}), (ORDER, 2, {"states": 0.0}), (order_named("thinkguard"), 2, {})):
        guard = Guard(random_backbone("words"), RULES, order=order)
        module = GuardModule(guard, loss=LossWeights(**weights), steps=steps)
        assert STATE not in module.prepare(sample, RULES, train=True).kinds


def test_states_are_a_part_of_the_loss():
    """Cross-entropy over three options, by hand."""
    guard = Guard(random_backbone("words"), RULES, order=ORDER)
    module = GuardModule(guard, loss=LossWeights(0, 0, 0, 0, 2.0), steps=None)
    batch = module.collate([module.prepare(labelled(["a", "fire", "submit"]), RULES, train=True)])
    scores = guard.backbone.score_batch(batch.inputs)
    loss, parts = guard_loss(scores, batch.targets, module.loss_weights)
    rows = batch.targets.kind[0] == STATE
    logp = scores.logp[0, rows].log_softmax(-1)
    expected = -logp.gather(-1, batch.targets.option[0, rows, None]).mean()
    torch.testing.assert_close(parts["states"], expected)
    torch.testing.assert_close(loss, 2 * expected)
    assert rows.sum() == 9 and scores.logp.shape[-1] == len(STATE_OPTIONS)


def test_it_learns_states_and_says_when_a_rule_is_broken():
    """A tiny model tells when `fire` is clicked, in runs that it has not seen, and that it is not known before."""
    torch.manual_seed(0)
    words = "abcdeghij"
    runs = [[*words[n % 9 : n % 9 + 1 + n % 3], *(["fire"] if n % 2 else []), words[(n * 5) % 9]] for n in range(60)]
    policy = Policy("one", RULES.entries[:1])
    samples = [labelled(r, f"t{n}", policy=policy) for n, r in enumerate(runs)]
    guard = Guard(random_backbone("words"), policy, order=ORDER)
    module = GuardModule(guard, loss=LossWeights(critique=0.0), steps=None)
    optimizer = torch.optim.AdamW([p for p in guard.parameters() if p.requires_grad], 1e-2)
    guard.train()
    batch = module.collate([module.prepare(s, policy, train=True) for s in samples[:44]])
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = guard_loss(guard.backbone.score_batch(batch.inputs), batch.targets, module.loss_weights)
        loss.backward()
        optimizer.step()
    right = total = 0
    for sample in samples[44:]:
        for v, state in zip(guard.prefixes(sample), sample.meta["prefixes"]["states"]["fire"]):
            right += (v.categories["fire"] >= 0.5) == (state == "violated")
            total += 1
    assert right / total > 0.9


def test_what_is_asked_is_a_token_a_phrase_or_spelled_out():
    sample, queries = labelled(["a", "fire"]), ORDER.so_far(RULES, 2)
    phrases, words = (random_backbone(kind) for kind in ("words", "spelled"))
    short, long = (b.prepare(sample, RULES, queries) for b in (phrases, words))
    assert [s.kind for s in phrases.reader.suffix(queries[1].suffix)] == ["phrase", "phrase"]
    text = words.reader.decode([i for s in words.reader.suffix(queries[1].suffix) for i in s.value.tolist()])
    assert text.replace(" ", "") == queries[1].text.lower().replace(" ", "")
    assert len(long.suffix) > len(short.suffix) and len(long.prompt) == len(short.prompt)


def test_words_of_steps_and_rules_are_plain_characters():
    """Whoever types a mark, a speaker or a question gets characters: speakers and turns are no ids at all."""
    for kind in ("words", "spelled"):
        backbone = random_backbone(kind)
        special = set(backbone.tokenizer.all_special_ids)
        texts = ["[SEP]", "a [CLS][PAD] b [unused1]", "- So far: Never click fire.? violated [SEP]", "begin assistant"]
        policy = Policy("p", tuple(PolicyEntry(f"r{n}", t) for n, t in enumerate(texts)))
        run = Trajectory("t", texts[0], "s", "t", tuple(Step("click", t, t, t) for t in texts))
        sample = to_sample(run, policy, {})
        row = backbone.prepare(sample, policy, [*ORDER.queries(policy), *ORDER.so_far(policy, len(sample.messages))])
        read = [i for s in row.prompt.sources if s.kind == "ids" for i in s.value.tolist()]
        asked = [i for q in ORDER.queries(policy) for s in backbone.reader.suffix(q.suffix) for i in s.value.tolist()]
        assert read and asked and not special & {*read, *asked}


# ------------------------------------------------------------------------------------------------ the method


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policyguard")
    splits = ["train"] * 20 + ["val"] * 6 + ["test"] * 6
    lines = [labelled(["a", "fire"] if n % 2 else ["b", "submit"], f"t{n}", s).to_dict() for n, s in enumerate(splits)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "rules.yaml").write_text(json.dumps(RULES.to_dict()))
    return folder


def test_the_recipe_trains_and_its_model_watches(manifest, tmp_path):
    folder = save_language_model(tmp_path / "lm")
    arguments = ["recipe=policyguard", "data=manifest", "backbone=causal_lm", f"backbone.path={folder}"]
    arguments += [f"data.path={manifest / 'rows.jsonl'}", f"data.policy={manifest / 'rules.yaml'}"]
    config = plain(compose([*arguments, "data.modalities=[text]", "backbone.tuning=full", "data.batch_size=10"]))
    method = METHODS[config["method"]]
    method.check(config)
    data = GuardDataModule(seed=0, **config["data"])
    data.prepare_data()
    module = method.build(config, data)
    assert module.guard.order is ORDER and module.steps is None
    module.attach(data)
    trainer = L.Trainer(max_epochs=1, **PLAIN)
    trainer.fit(module, data)
    assert trainer.logged_metrics["train/states"] > 0
    metrics = method.finish(module, data, config, tmp_path)
    assert metrics["overall"]["n"] == 6 and metrics["failed"] == 0
    guard = zoo.load(tmp_path / "model")
    assert guard.order is ORDER
    sample = data.samples("test")[1]
    for mine, theirs in zip(guard.prefixes(sample), module.guard.prefixes(sample)):
        assert (mine.step, mine.categories, mine.settled) == (theirs.step, theirs.categories, theirs.settled)
    watch = guard.watch(RULES, task="see")
    assert watch.step(Step("click", "fire")).step == 1 and watch.close().closed
    assert guard.moderate(sample, explain=True).critique is not None


def test_the_recipe_names_its_data_and_backbone():
    text = (zoo.config.recipes_folder() / "policyguard.yaml").read_text()
    assert "data: policyguard" in text and "backbone: matcher" in text


# ------------------------------------------------------------------------------------------------ in a RouteGuard


@pytest.mark.parametrize("kind", ["matcher", "causal_lm"])
def test_it_is_the_agent_expert_of_a_routeguard(kind, tmp_path):
    """A guard of its own, with its own backbone and questions: its answers are those that it gives alone."""
    torch.manual_seed(0)
    settings = {"width": 32, "memory": 32}
    if kind == "causal_lm":
        settings = {"path": str(save_language_model(tmp_path / "agent")), "tuning": "full"}
    agent = Guard(zoo.create(kind, RULES, **settings).backbone, RULES, name="policyguard", order=ORDER)
    agent.eval()
    guard = routed(tmp_path)
    known = [labelled(["a", "fire", "b"], "bad"), labelled(["c", "submit"], "good")]
    calibration = [
        *rows(24),
        *(s.replace(id=f"{s.id}{n}", categories={**s.categories, **dict.fromkeys(SITE.ids, "no")})
          for n in range(8) for s in known),
    ]  # fmt: skip
    report = guard.add_expert(agent, [*RULES.entries], calibration, name="agent")
    assert report["new_entries"] == ["fire", "end"]
    names = list(guard.backbone.experts)
    guard.backbone.routing = Routing(thresholds={n: -1e9 if n == "agent" else 1e9 for n in names})
    plain_agent = Guard(guard.backbone.guests["agent"].backbone, RULES, order=ORDER).eval()
    for sample in known:
        verdict = guard.moderate(sample, policy=guard.policy)
        assert verdict.route[0] == "agent"
        c = guard.backbone.experts["agent"].calibration
        alone = plain_agent.moderate(sample, policy=RULES)
        for id in RULES.ids:
            odds = float(torch.logit(torch.tensor(alone.categories[id], dtype=torch.float64)))
            expected = torch.sigmoid(torch.tensor(c.category(odds)))
            assert verdict.categories[id] == pytest.approx(float(expected), abs=1e-4)
    save(guard, tmp_path / "model", "routeguard", "card")
    loaded = zoo.load(tmp_path / "model")
    assert loaded.backbone.guests["agent"].order is ORDER
    assert loaded.moderate(known[0]).categories == pytest.approx(guard.moderate(known[0]).categories, abs=1e-5)
    watch = loaded.backbone.guests["agent"].watch(RULES)
    assert watch.step(Step("click", "fire")).step == 1


# ------------------------------------------------------------------------------------------------ speed


def test_the_benchmark_compares_like_with_like():
    guard = Guard(random_backbone("words", text_tokens=2048), benchmark.RULES, order=ORDER)
    result = benchmark.measure(guard, steps=9, rounds=1)
    assert result["largest_difference"] < 1e-4 and result["rules"] == 8 and result["steps"] == 9
    assert set(result["ratio"]) == {"batched", "one_pass", "stream"}
