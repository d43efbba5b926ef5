"""zoo/core/matching and the backbone `matcher`: what is read, compared, asked and learned."""

import json
import random

import numpy as np
import pytest
import torch
from helpers import random_backbone

from datamodules.schema import DataError, MediaError, Message, Part, Policy, PolicyEntry, Sample
from datamodules.trajectory import Outcome, Step, Trajectory, read_step, render_step, to_sample
from zoo.core.backbones import build, describe
from zoo.core.guard import Calibration, Guard
from zoo.core.losses import LossWeights, guard_loss
from zoo.core.matching.likeness import FEATURES, OF_VERB
from zoo.core.matching.reading import ACTION, ANSWER, NAME, NUMBER, SEEN, TASK, read_messages, read_rule
from zoo.core.module import GuardModule
from zoo.core.orders import VERDICT_FIRST, order_named
from zoo.core.query import STATE_OPTIONS, Query, critique_query
from zoo.policyguard.evaluation import measure

POLICY = Policy(
    "rules",
    (
        PolicyEntry("r1", 'Never click "fire".'),
        PolicyEntry("r2", 'Ask the user about "submit" before you submit it.'),
        PolicyEntry("r3", "At most two scrolls.", "Pages count."),
    ),
)
WATCHES = order_named("policyguard")
STEPS = (
    Step("click", "fire"),
    Step("input", "name", "a b"),
    Step("ask", "submit", observation="Yes, the picture shows a fire"),
    Step("scroll", "down", observation="a page"),
    Step("submit"),
)


@pytest.fixture(scope="module")
def backbone():
    """Its answers depend on what it reads: default weights give nearly uniform ones."""
    backbone = random_backbone("matcher", text_tokens=1024)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in backbone.net.parameters():
            if p.dim() >= 2:
                p.normal_(0, 0.3, generator=generator)
    return backbone


def guard_over(backbone, order=WATCHES):
    return Guard(backbone, POLICY, Calibration(2.0, 0.4, 3.0, 0.45, 0.0), "g", order)


def sample_of(steps=STEPS, id="t", **fields):
    return to_sample(Trajectory(id, "see the fire", "shop", "orders", tuple(steps)), POLICY, {}, **fields)


def close(a, b, atol=1e-5):
    assert (a.step, a.closed, a.truncated, a.flagged, a.broken) == (b.step, b.closed, b.truncated, b.flagged, b.broken)
    assert a.score == pytest.approx(b.score, abs=atol)
    for mine, theirs in ((a.categories, b.categories), (a.settled, b.settled)):
        assert mine == pytest.approx(theirs, abs=atol)


# ------------------------------------------------------------------------------------------------ reading


@pytest.mark.parametrize(
    "step",
    [
        Step("click", 'Say "yes"'),
        Step("input", "a = b", 'c" = "d'),
        Step("scroll"),
        Step("input", "", "x"),
        Step("go_there", "ünï\\code\n2", ""),
        Step("a.b-c", "x"),
    ],
)
def test_a_rendered_step_is_read_back(step):
    assert read_step(render_step(step)) == step


@pytest.mark.parametrize(
    "text", ["", "Click the button", 'click "a" now', 'click "a', 'click  "a"', 'CLICK "a"', "a b"]
)
def test_other_texts_are_no_rendered_steps(text):
    assert read_step(text) is None


def test_a_rule_is_words_names_and_numbers():
    rule = read_rule('Never set "Size" to "L" more than twice, “Size” says 1,200.5; don\'t.')
    assert rule.texts[:5] == ("Never", "set", "Size", "to", "L")
    assert [t for t, k in zip(rule.texts, rule.kinds) if k == NAME] == ["Size", "L", "Size"]
    assert [s for s, k in zip(rule.said, rule.kinds) if k == NAME] == ['"x"', '"y"', '"x"']
    numbers = dict(zip(rule.texts, rule.numbers))
    assert numbers["twice"] == 2 and numbers["1,200.5"] == 1200.5 and numbers["more"] is None
    assert rule.kinds[rule.texts.index("1,200.5")] == NUMBER and "don't" in rule.texts
    assert read_rule('click "a \\"b\\" c"').texts[1] == 'a "b" c'
    assert len(read_rule("  ")) == 1
    long = read_rule("word " * 500)
    assert long.cut and len(long) < 500 and not rule.cut


def test_messages_are_events_with_the_fields_of_their_action():
    sample = sample_of(
        [
            Step("ask", "delete", observation="No, leave it"),
            Step("call", "tool", "7", observation="done"),
            Step("say", "bye", observation="maybe"),
        ]
    )
    free = Message("assistant", (Part("text", text='I type into the field "Email" now'),))
    events, cuts = read_messages([*sample.messages, free], 32)
    assert [e.kind for e in events] == [TASK, ACTION, ANSWER, ACTION, SEEN, ACTION, ANSWER, ACTION] and not any(cuts)
    assert (events[2].verb, events[2].target, events[2].said) == ("ask", "delete", "No, leave it")
    assert [e.answer for e in events] == [None, None, False, None, None, None, None, None]
    assert (events[4].target, events[4].value) == ("tool", "7")
    assert (events[-1].target, events[-1].said) == ("Email", free.content[0].text)
    assert read_messages([Message("assistant", (Part("text", text="typed hello"),))], 8)[0][0].verb == ""
    assert read_messages([Message("assistant", (Part("text", text="Press the key"),))], 8)[0][0].verb == "click"


# ------------------------------------------------------------------------------------------------ comparing


def test_likeness_by_hand(backbone):
    def field(text, of):
        return backbone.likeness.table([text, "x y"], ["other one", of])[0, 1].tolist()

    assert field("Delete project", "delete  PROJECT") == pytest.approx([1] * 6, abs=1e-5)
    assert field("delete", "Delete project")[:5] == [0, 1, 0, 1, 0.5]
    assert field("Delete project", "project")[:5] == [0, 0, 1, 0.5, 1]
    assert field("project delete", "delete project")[:5] == [0, 0, 0, 1, 1]
    assert field("delete the project", "do delete the project now")[:3] == [0, 1, 0]
    assert field("delete", "undeleted")[:5] == [0, 0, 0, 0, 0]
    assert field("/", "/")[0] == 1 and field("/", "/a") == field("a", "/") == field("", "/") == [0] * 6
    assert field("", "a") == [0] * 6 and not backbone.likeness.table(["a"], [])[0, 0].any()
    a, b, c = (backbone.likeness.vectors(w) for w in ("fire", "page", "end"))
    assert field("fire", "page end")[5] == pytest.approx(max(a @ b, a @ c), abs=1e-5)
    assert field("fire page", "end")[5] == pytest.approx((a @ c + b @ c) / 2, abs=1e-5)


def test_a_pair_is_compared_the_same_whatever_is_beside_it(backbone):
    texts = ["Never", "fire", "Save changes", "/", "12", "the Save", "?"]
    fields = ["save CHANGES", "/", "fire", "changes save", "the fire, 12", "click"]
    whole = backbone.likeness.table(texts, fields)
    for i, text in enumerate(texts):
        for j, field in enumerate(fields):
            alone = backbone.likeness.table([text], [field])[0, 0]
            np.testing.assert_allclose(whole[i, j], alone, atol=1e-6)


def test_numbers_and_whole_names_are_compared(backbone):
    rule = read_rule("Never enter more than 150 in Maximum price.")
    events, _ = read_messages(
        sample_of([Step("input", "Maximum price", v) for v in ("$200", "150", "9", "x")]).messages, 9
    )
    (found,) = backbone.likeness.compare([rule], events)
    assert found.shape == (len(rule), 5, FEATURES)
    at = rule.texts.index("150")
    first = OF_VERB + 18
    assert found[at, 1:, first : first + 3].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    covered = [t for t, x in zip(rule.texts, found[:, 1, -2]) if x]
    assert covered == ["Maximum", "price"] and not found[at, 0, first : first + 3].any()


# ------------------------------------------------------------------------------------------------ asking


@torch.no_grad()
def test_the_verdict_is_made_of_the_rules(backbone):
    sample = sample_of()
    asked = [
        *WATCHES.queries(POLICY),
        *WATCHES.so_far(POLICY, 4),
        *WATCHES.so_far(POLICY, 0),
        *VERDICT_FIRST.so_far(POLICY, 4),
    ]
    rows = [backbone.prepare(sample, POLICY, asked), backbone.prepare(sample_of(STEPS[:1]), POLICY, asked[:2])]
    batch = backbone.collate(rows)
    scores = backbone.score_batch(batch)
    assert torch.equal(scores.tokens, backbone.option_tokens(batch)) and scores.logp.shape == (2, 16, 3)
    p = scores.logp.double().exp()
    for start, broken in ((0, p[0, 1:4, 1]), (4, p[0, 5:8, 1]), (8, p[0, 9:12, 1]), (12, p[0, 13:16, 1])):
        assert p[0, start, 1].item() == pytest.approx(1 - (1 - broken).prod().item(), abs=1e-5)
    states = p[0, 5:8].sum(-1)
    assert states.tolist() == pytest.approx([1, 1, 1], abs=1e-5) and (p[0, 1:4, 2] == 0).all()
    assert (scores.logp[1, 2:] == 0).all() and (scores.tokens[1, 2:] == 0).all()
    other = backbone.score(backbone.encode(batch), [asked[:2], asked[1:3]])
    torch.testing.assert_close(other.logp[0], scores.logp[0, :2, :2])


def test_what_it_cannot_answer_is_an_error(backbone):
    sample = sample_of()
    for query in (
        critique_query(True, [], "why"),
        Query(("Which?",), ("A", "B")),
        Query(("- So far: ", "x"), STATE_OPTIONS),
    ):
        with pytest.raises(DataError, match="writes nothing"):
            backbone.prepare(sample, POLICY, [query])
    with pytest.raises(MediaError, match="give a policy"):
        backbone.prepare(sample, None)
    with pytest.raises(MediaError, match="takes text only"):
        backbone.prepare(Sample("i", (Message("tool", (Part("image", path="a.png"),)),), target="trajectory"), POLICY)
    with pytest.raises(DataError, match="input embeddings"):
        backbone.input_embeddings(None)
    with pytest.raises(DataError, match="wdith"):
        describe("matcher", wdith=3)


# ------------------------------------------------------------------------------------------------ prefixes and streams


@pytest.mark.parametrize("order", [WATCHES, VERDICT_FIRST], ids=lambda o: o.name)
def test_one_pass_separate_passes_and_the_stream_agree(backbone, order):
    guard = guard_over(backbone, order)
    samples = {"t": STEPS, "short": STEPS[1:4], "empty": ()}
    found = guard.prefixes([sample_of(steps, id) for id, steps in samples.items()])
    assert [len(v) for v in found] == [6, 4, 1]
    for (id, steps), verdicts in zip(samples.items(), found):
        sample = sample_of(steps, id)
        for verdict, end in zip(verdicts, sample.meta["prefixes"]["ends"]):
            cut = sample.replace(messages=sample.messages[:end])
            row = backbone.prepare(cut, POLICY, order.so_far(POLICY, end))
            judged = guard.judge(backbone.score_batch(backbone.collate([row])), [3])
            assert verdict.score == pytest.approx(judged.score.item(), abs=1e-5)
            assert list(verdict.categories.values()) == pytest.approx(judged.categories[0].tolist(), abs=1e-5)
        whole = guard.moderate(sample)
        assert verdicts[-1].score == pytest.approx(whole.score, abs=1e-5)
        watch = guard.watch(id=id)
        watch._read(sample.messages[:1])  # the task
        for mine, theirs in zip([*(watch.step(s) for s in steps), watch.close()], verdicts):
            close(mine, theirs)
    scores = [v.categories["r1"] for v in found[0]]
    assert max(scores) - min(scores) > 1e-3, "nothing depends on the steps"


def test_answers_do_not_depend_on_what_comes_later(backbone):
    guard = guard_over(backbone)
    a = guard.prefixes(sample_of())
    b = guard.prefixes(sample_of((*STEPS[:3], Step("click", "no end at all " * 9), *STEPS)))
    for mine, theirs in zip(a[:3], b[:3]):
        close(mine, theirs)
    assert abs(a[3].score - b[3].score) > 1e-6


def test_a_thousand_steps_and_a_megabyte(backbone):
    """Nothing goes out of sight; what is cut is said, from then on; and the net goes over parts as over the whole."""
    guard = guard_over(backbone)
    flood = Step("navigate", "a page", observation="the picture shows a fire " * 42_000)
    steps = [STEPS[0], flood, *(Step(("click", "scroll")[n % 2], f"item {n}") for n in range(998))]
    verdicts = guard.prefixes(sample_of(steps))
    assert len(verdicts) == 1001
    assert [v.truncated for v in verdicts[:3]] == [False, True, True] and verdicts[-1].truncated
    watch = guard.watch()
    watch._read(sample_of(()).messages)
    for step, expected in zip(steps[:40], verdicts):
        close(watch.step(step), expected)
    endless = guard.prefixes(sample_of([Step("input", "x", "y" * 1_000_000), Step("click", "z" * 1_000_000)]))
    assert all(v.truncated and np.isfinite(v.score) for v in endless)
    assert guard.moderate(sample_of(), policy=Policy("long", (PolicyEntry("a", "never do it " * 90),))).truncated


def test_edges(backbone):
    guard = guard_over(backbone)
    empty = guard.watch().close()  # neither task nor step
    assert (empty.step, empty.closed, empty.truncated) == (0, True, False) and set(empty.categories) == set(POLICY.ids)
    watch = guard.watch(threshold=0.0)
    odd = watch.step(Step("teleport", "home"))
    assert odd.step == 1 and odd.flagged
    end = watch.close()
    with pytest.raises(DataError, match="is closed"):
        watch.step("click")
    assert json.loads(json.dumps(end.to_dict()))["closed"] is True
    image = Message("tool", (Part("image", path="a.png"),))
    with pytest.raises(MediaError, match="takes text only"):
        guard.watch().step([image])
    both = Policy("both", (PolicyEntry("a", "Always ask first."), PolicyEntry("b", "Never ask.")))
    assert set(guard.prefixes(sample_of(), policy=both)[-1].categories) == {"a", "b"}


# ------------------------------------------------------------------------------------------------ learning


NAMES = ["Save", "Delete", "Order now", "Profile", "Log out", "Cart", "Next page", "Title", "Help", "Upload"]


def made(number, names):
    """Half of the runs click what is forbidden; the other half end without what is required."""
    rng = random.Random(number)
    a, b, *rest = rng.sample(names, 5)
    policy = Policy("p", (PolicyEntry("never", f'Never click "{a}".'), PolicyEntry("must", f'Always click "{b}".')))
    done = [rng.choice(rest) for _ in range(4)]
    for name in (a, b):
        if rng.random() < 0.5:
            done.insert(rng.randint(0, len(done)), name)
    seen = [done[: n + 1] for n in range(len(done))]
    outcomes = {
        "never": Outcome(a in done, done.index(a) + 1 if a in done else None,
                         tuple("violated" if a in s else "open" for s in seen)),
        "must": Outcome(b not in done, None if b in done else len(done) + 1,
                        tuple("safe" if b in s else "open" for s in seen)),
    }  # fmt: skip
    run = Trajectory(f"t{number}", "", "s", "t", tuple(Step("click", x) for x in done))
    return to_sample(run, policy, outcomes)


@pytest.fixture(scope="module")
def trained():
    backbone = random_backbone("matcher")
    guard = Guard(backbone, POLICY, order=WATCHES)
    module = GuardModule(guard, loss=LossWeights(0.25, 1.0, 0.0), steps=None)
    samples = [made(n, NAMES[:6]) for n in range(48)]
    guard.train()
    batch = module.collate([module.prepare(s, s.policy, train=True) for s in samples])
    optimizer = torch.optim.AdamW([p for p in guard.parameters() if p.requires_grad], 1e-2)
    for _ in range(70):
        optimizer.zero_grad()
        loss, _ = guard_loss(backbone.score_batch(batch.inputs), batch.targets, module.loss_weights)
        loss.backward()
        optimizer.step()
    guard.eval()
    return guard


def test_it_learns_rules_and_applies_them_to_names_that_it_has_never_seen(trained):
    right = total = 0
    for n in range(100, 130):
        sample = made(n, NAMES[5:])
        for v, *states in zip(trained.prefixes(sample), *sample.meta["prefixes"]["states"].values()):
            for id, state in zip(sample.policy.ids, states):
                right += (v.categories[id] >= 0.5) == (state == "violated")
                total += 1
        end = trained.moderate(sample)
        for id in sample.policy.ids:
            right += (end.categories[id] >= 0.5) == (sample.categories[id] == "yes")
            total += 1
    assert right / total > 0.95


def test_the_critique_names_the_step_and_the_rule(trained):
    sample = next(s for s in (made(n, NAMES[5:]) for n in range(200, 300)) if s.meta["prefixes"]["first"]["never"] == 3)
    verdict = trained.moderate(sample, explain=True)
    name = sample.messages[3].content[0].text
    assert f"Step 3 breaks the rule (Never {name}): {name}." in verdict.critique
    plain = trained.moderate(sample)
    assert (plain.score, plain.categories, plain.critique) == (verdict.score, verdict.categories, None)
    kept = trained.moderate(sample, explain=True, threshold=1.0)
    assert not kept.flagged and kept.critique == ""


def test_figures_are_measured_as_of_any_guard(trained):
    found = measure(trained, [made(n, NAMES[5:]) for n in range(300, 316)])
    assert found["pairs"]["overall"]["all"]["f1"] > 0.9 and found["prefixes"]["2"]["already"]["accuracy"] > 0.9
    assert found["detection"][4]["at_once"] > 0.9


# ------------------------------------------------------------------------------------------------ weights


def test_what_is_frozen_is_not_saved(backbone):
    state = backbone.saved_state()
    assert state and not [n for n in state if n.startswith("language.")]
    other = random_backbone("matcher", seed=5)
    sample = sample_of()
    with torch.no_grad():
        other.language.bert.load_state_dict(backbone.language.bert.state_dict())
        other.likeness = backbone.likeness
        other.load_saved_state(state)
        row = backbone.prepare(sample, POLICY, WATCHES.queries(POLICY))
        mine, theirs = (b.score_batch(b.collate([row])).logp for b in (backbone, other))
    torch.testing.assert_close(mine, theirs)
    backbone.train()
    assert not backbone.language.training and backbone.net.training
    backbone.eval()


def test_it_is_built_by_name_and_refuses_another_encoder():
    found = build(describe("matcher", width=32, memory=32))
    assert found.describe()["pins"].keys() == {"minilm"} and found.language.dim == 768
    assert len(found.saved_state()) == len(list(found.net.parameters()))
    with pytest.raises(DataError, match="was trained on minilm"):
        build({**found.describe(), "pins": {"minilm": "0" * 64}})
