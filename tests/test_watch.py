"""zoo/core/watch.py: a trajectory after each of its steps, in one pass and as a stream, against separate passes."""

import dataclasses
import json

import pytest
import torch
from helpers import random_backbone, save_language_model, write_image
from reading import brute, prompt_of

from datamodules.schema import DataError, MediaError, Message, Part, Policy, PolicyEntry, Sample
from datamodules.trajectory import STATES, Outcome, Step, Trajectory, to_sample
from zoo.core.backbones import build, describe
from zoo.core.backbones.readers import TokenReader
from zoo.core.guard import Calibration, Guard
from zoo.core.orders import VERDICT_FIRST, order_named
from zoo.core.query import STATE_OPTIONS, VERDICT_OPTIONS, Query
from zoo.core.watch import Known, step_ends

POLICY = Policy(
    "rules",
    (
        PolicyEntry("r1", "Never click fire."),
        PolicyEntry("r2", "Ask before you submit, always."),
        PolicyEntry("r3", "At most two scrolls.", "Pages count."),
    ),
)
WATCHES = order_named("policyguard")
ORDERS = [WATCHES, VERDICT_FIRST]
# Options are spelled letter by letter by the small tokenizers: without high temperatures the longest would be at 0.
CALIBRATION = Calibration(30.0, 0.4, 40.0, 0.45, 0.6)
STEPS = (
    Step("click", "the fire"),
    Step("input", "name", "a b"),
    Step("ask", "may I?", observation="yes, the picture shows a fire"),
    Step("scroll", "down", observation="a page"),
    Step("submit"),
)


def sharp(backbone):
    """Answers that depend on what is read: default weights give nearly uniform logits."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in backbone.lm.parameters():
            if p.dim() >= 2:
                p.normal_(0, 0.3, generator=generator)
    return backbone


@pytest.fixture(scope="module", params=["encoded", "words", "tokens", "llama", "gpt_neox", "qwen2"])
def backbone(request, tmp_path_factory):
    if request.param in ("encoded", "words", "tokens"):
        return sharp(random_backbone(request.param))
    folder = save_language_model(tmp_path_factory.mktemp("lm"), request.param)
    return build(describe("causal_lm", path=str(folder), tuning="full")).eval()


@pytest.fixture(scope="module")
def small():
    """Room for few steps: 256 tokens, which are letters here, and 48 a message."""
    backbone = sharp(random_backbone("words"))
    backbone.limits = dataclasses.replace(backbone.limits, text_tokens=256, step_tokens=48)
    return backbone


def guard_over(backbone, order=WATCHES):
    return Guard(backbone, POLICY, CALIBRATION, "g", order)


def sample_of(steps=STEPS, id="t", **fields):
    return to_sample(Trajectory(id, "see the fire", "shop", "orders", tuple(steps)), POLICY, {}, **fields)


def cut(sample, messages):
    return sample.replace(messages=sample.messages[:messages])


def close(a, b, atol=2e-6):
    assert (a.step, a.closed, a.truncated, a.flagged, a.broken) == (b.step, b.closed, b.truncated, b.flagged, b.broken)
    assert a.score == pytest.approx(b.score, abs=atol)
    for mine, theirs in ((a.categories, b.categories), (a.settled, b.settled)):
        assert mine == pytest.approx(theirs, abs=atol)


# ------------------------------------------------------------------------------------------------ branches


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True])
def test_queries_within_equal_prompts_of_those_messages(backbone, packed):
    """Raw log-probabilities, against one full pass without cache, mask or branches for each option."""
    sample = sample_of()
    asked = [WATCHES.so_far(POLICY, n)[1] for n in (1, 4, 8)] + [VERDICT_FIRST.so_far(POLICY, n)[0] for n in (2, 5, 8)]
    asked += WATCHES.queries(POLICY)[:2] + WATCHES.so_far(POLICY, 4)[2:] + WATCHES.so_far(POLICY, 7)
    others = [sample_of(STEPS[:1], f"o{n}") for n in (1, 2)]
    rows = [backbone.prepare(sample, POLICY, asked), *(backbone.prepare(o, POLICY, asked[:2][:1]) for o in others)]
    backbone.packed = packed
    try:
        batch = backbone.collate(rows)
    finally:
        backbone.packed = False
    assert (batch.packing is not None) == packed
    if isinstance(backbone.reader, TokenReader):  # what all rows begin with goes past the end of the shortest prefix
        assert batch.shared > rows[0].ends[1]
    for got in (backbone.score_batch(batch), backbone.score(backbone.encode(batch))):
        for q, query in enumerate(asked):
            prompt = prompt_of(backbone, sample if query.after is None else cut(sample, query.after), POLICY)
            if query.open:  # not closed: the prompt without what closes it
                closing = len(backbone.lay([*_closing()]))
                prompt = dataclasses.replace(prompt, x=prompt.x[:, :-closing])
            expected = brute(backbone, prompt, query)
            torch.testing.assert_close(got.logp[0, q, : len(expected)], expected, rtol=1e-4, atol=1e-4)
        assert got.logp[0, :3, 1].std() > 0.05


def _closing():
    from zoo.core.prompts import CLOSING

    return CLOSING


def test_state_options_are_those_of_trajectories():
    assert STATE_OPTIONS == STATES
    assert [q.options for q in WATCHES.so_far(POLICY, 2)] == [VERDICT_OPTIONS, *[STATES] * 3]
    assert all(q.after == 2 for o in ORDERS for q in o.so_far(POLICY, 2))


# ------------------------------------------------------------------------------------------------ prefixes and streams


@pytest.mark.parametrize("order", ORDERS, ids=lambda o: o.name)
def test_one_pass_separate_passes_and_the_stream_agree(backbone, order):
    guard = guard_over(backbone, order)
    samples = [sample_of(), sample_of(STEPS[1:4], "short"), sample_of((), "empty")]
    found = guard.prefixes(samples)
    assert [len(v) for v in found] == [6, 4, 1]
    for sample, verdicts in zip(samples, found):
        ends = sample.meta["prefixes"]["ends"]
        assert [(v.step, v.closed, v.id) for v in verdicts] == [
            *((n + 1, False, sample.id) for n in range(len(ends))),
            (len(ends), True, sample.id),
        ]
        for verdict, end in zip(verdicts, ends):  # each prefix in a pass of its own
            alone = guard.backbone.prepare(cut(sample, end), POLICY, order.so_far(POLICY, end))
            scores = guard.backbone.score_batch(guard.backbone.collate([alone]))
            judged = guard.judge(scores, [3])
            assert verdict.score == pytest.approx(judged.score.item(), abs=1e-5)
            assert list(verdict.categories.values()) == pytest.approx(judged.categories[0].tolist(), abs=1e-5)
            if order is VERDICT_FIRST:
                plain = guard.moderate(cut(sample, end))
                assert verdict.score == pytest.approx(plain.score, abs=1e-5)
                assert verdict.categories == pytest.approx(plain.categories, abs=1e-5)
        whole = guard.moderate(sample)
        assert verdicts[-1].score == pytest.approx(whole.score, abs=1e-5)
        assert verdicts[-1].categories == pytest.approx(whole.categories, abs=1e-5)
        watch = guard.watch(id=sample.id)
        watch._read(sample.messages[:1])  # the task
        steps = [watch.step(step) for step in {"t": STEPS, "short": STEPS[1:4], "empty": ()}[sample.id]]
        for mine, theirs in zip([*steps, watch.close()], verdicts):
            close(mine, theirs)
    # An order that does not watch asks the same after the last step and at the end.
    assert len({round(v.score, 5) for v in found[0]}) == 5 + order.watches, "the verdict does not depend on the step"


def test_states_are_probabilities_of_one_question(backbone):
    """Three options: what is not broken is settled or open, at the temperature of categories."""
    guard = guard_over(backbone)
    sample = sample_of(STEPS[:2])
    verdict = guard.prefixes(sample)[1]
    row = guard.backbone.prepare(sample, POLICY, WATCHES.so_far(POLICY, 3))
    t = CALIBRATION.category_temperature
    z = guard.backbone.score_batch(guard.backbone.collate([row])).logp[0, 1:].double() / t
    broken = torch.sigmoid((z[:, 1] * t - torch.logsumexp(z[:, [0, 2]] * t, -1)) / t)
    assert list(verdict.categories.values()) == pytest.approx(broken.tolist(), abs=1e-5)
    settled = (1 - broken) * z[:, 2].exp() / (z[:, 0].exp() + z[:, 2].exp())
    assert list(verdict.settled.values()) == pytest.approx(settled.tolist(), abs=1e-5)
    assert guard.prefixes(sample)[-1].settled == dict.fromkeys(POLICY.ids, 0.0)  # the end asks yes or no


def test_answers_do_not_depend_on_what_comes_later(backbone):
    guard = guard_over(backbone)
    a = guard.prefixes(sample_of())
    b = guard.prefixes(sample_of((*STEPS[:3], Step("click", "no end at all " * 9), *STEPS)))
    for mine, theirs in zip(a[:3], b[:3]):
        close(mine, theirs)
    assert abs(a[3].score - b[3].score) > 1e-4


def test_observations_may_come_after_the_verdict(backbone):
    guard = guard_over(backbone)
    watch = guard.watch(task="see the fire")
    first = watch.step("click the fire")
    watch.observe("a page")
    second = watch.step(Message("assistant", (Part("text", text="submit"),)), observation="the end")
    messages = [("user", "see the fire"), ("assistant", "click the fire"), ("tool", "a page"), ("assistant", "submit")]
    sample = Sample("s", tuple(Message(r, (Part("text", text=t),)) for r, t in messages), target="trajectory")
    close(first, guard.prefixes(cut(sample, 2))[0])
    assert step_ends(sample) == (3, 4)
    said = sample.replace(messages=(*sample.messages, Message("tool", (Part("text", text="the end"),))))
    close(second, guard.prefixes(said)[1])
    close(watch.close(), guard.prefixes(said)[2])


def test_pictures_of_steps_are_seen(tmp_path):
    backbone = sharp(random_backbone("encoded"))
    guard = guard_over(backbone)
    screens = [Part("image", path=str(write_image(tmp_path / f"{n}.png", n))) for n in range(2)]
    messages = tuple(
        m for p in screens for m in (Message("assistant", (Part("text", text="click"),)), Message("tool", (p,)))
    )
    sample = Sample("s", messages, target="trajectory")
    watch = guard.watch()
    stream = [watch.step(messages[:2]), watch.step(messages[2:]), watch.close()]
    for mine, theirs in zip(stream, guard.prefixes(sample)):
        close(mine, theirs)
    broken = Part("image", path=str(tmp_path / "none.png"))
    with pytest.raises(MediaError, match=r"none\.png"):
        guard.watch().step([Message("tool", (broken,))])


# ------------------------------------------------------------------------------------------------ what is too long


def test_a_thousand_steps(small):
    """Old steps go out of sight; both ways agree, say so, and remember what was broken."""
    guard = guard_over(small)
    steps = [Step(("click", "scroll")[n % 2], f"item {n}") for n in range(1000)]
    verdicts = guard.prefixes(sample_of(steps), batch_size=64)
    assert len(verdicts) == 1001
    truncated = [v.truncated for v in verdicts]
    assert not truncated[3] and truncated[-1] and truncated == sorted(truncated)
    watch = guard.watch()
    watch._read(sample_of(()).messages)
    for step, expected in zip(steps[:80], verdicts):  # ten times what fits
        close(watch.step(step), expected)
    close(watch.close(), guard.prefixes(sample_of(steps[:80]))[-1])
    assert watch._stream._past.width < 2 * 256
    assert sum(r is not None for r in watch._stream._rows) < 40
    # a row by itself is read from the last window; it says that it is not whole
    assert guard.moderate(sample_of(steps)).truncated


def test_old_steps_go_out_of_sight_of_any_guard():
    guard = guard_over(sharp(random_backbone("tokens")), VERDICT_FIRST)
    steps = [Step("scroll", f"down {n}") for n in range(24)]
    verdicts = guard.prefixes(sample_of(steps))
    watch = guard.watch()
    watch._read(sample_of(()).messages)
    for step, expected in zip(steps, verdicts):
        close(watch.step(step), expected)
    close(watch.close(), verdicts[-1])
    assert [v.truncated for v in (verdicts[2], verdicts[-1])] == [False, True]


def test_a_megabyte_of_observation_is_cut_and_said(small):
    guard = guard_over(small)
    flood = Step("navigate", "a page", observation="the picture shows a fire " * 42_000)
    assert len(flood.observation) > 1_000_000
    steps = (STEPS[0], flood, STEPS[1])
    verdicts = guard.prefixes(sample_of(steps))
    assert [v.truncated for v in verdicts] == [False, True, True, True]
    watch = guard.watch()
    watch._read(sample_of(()).messages)
    for step, expected in zip(steps, verdicts):
        close(watch.step(step), expected)
    assert guard.moderate(sample_of(steps)).truncated
    assert guard.moderate(sample_of(steps)).score == pytest.approx(verdicts[-1].score, abs=1e-5)


def test_what_was_broken_before_it_went_out_of_sight_stays_broken():
    earlier = Known(0.9, torch.tensor([0.9, 0.1]), torch.tensor([0.05, 0.8]))
    now = Known(0.5, torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.25])).after(earlier)
    assert now.score == pytest.approx(0.95)
    assert now.broken.tolist() == pytest.approx([0.925, 0.15])
    assert now.settled.tolist() == pytest.approx([0.05, 0.825])


def test_a_policy_that_leaves_no_room_is_an_error(small):
    long = Policy("long", tuple(PolicyEntry(f"r{n}", f"the fire a {n} " * 20) for n in range(60)))
    small.lm.config.max_position_embeddings, was = 512, small.lm.config.max_position_embeddings
    try:
        with pytest.raises(MediaError, match="shorter policy"):
            guard_over(small).watch(long)
    finally:
        small.lm.config.max_position_embeddings = was


# ------------------------------------------------------------------------------------------------ defined behaviour


def test_edges(backbone):
    guard = guard_over(backbone)
    empty = guard.watch().close()  # neither task nor step
    assert (empty.step, empty.closed, empty.truncated) == (0, True, False) and set(empty.categories) == set(POLICY.ids)
    watch = guard.watch(threshold=0.0)
    odd = watch.step(Step("teleport", "home"))  # no verb of the schema: a step like any other
    assert odd.step == 1 and odd.flagged and odd.threshold == 0.0
    end = watch.close()
    assert watch.close() is end and watch.closed
    for late in (lambda: watch.step("click"), lambda: watch.observe("a page")):
        with pytest.raises(DataError, match="is closed"):
            late()
    assert json.loads(json.dumps(end.to_dict()))["closed"] is True
    for bad in ([], [Step("click")], 7):
        with pytest.raises((DataError, TypeError)):
            guard.watch().step(bad)
    with pytest.raises(DataError, match="probability"):
        guard.watch(threshold=2)


def test_rules_that_contradict_each_other_are_judged_each_by_itself(backbone):
    """Nothing is reconciled: one of the two is broken whatever the agent does, and each has its answer."""
    a, b = PolicyEntry("a", "Always ask first."), PolicyEntry("b", "Never ask.")
    guard = guard_over(backbone)
    sample = sample_of(STEPS[:3])
    both = guard.prefixes(sample, policy=Policy("both", (a, b)))
    assert [set(v.categories) for v in both] == [{"a", "b"}] * 4
    assert all(abs(v.categories["a"] - v.categories["b"]) > 1e-6 for v in both)
    with pytest.raises(DataError, match="duplicate name"):
        Policy("twice", (a, PolicyEntry("c", a.name)))


def test_first_broken_step_is_kept():
    """`broken` names the first step after which P(broken) reached the threshold, whatever comes later."""
    guard = guard_over(sharp(random_backbone("words")))
    verdicts = guard.prefixes(sample_of())
    for id in POLICY.ids:
        over = [v.step for v in verdicts if v.categories[id] >= CALIBRATION.category_threshold]
        assert verdicts[-1].broken.get(id) == (over[0] if over else None)
    assert any(v.broken for v in verdicts)


def test_a_guard_that_cannot_says_so():
    native = Guard(random_backbone("native"), POLICY)
    for call in (native.watch, lambda: native.prefixes(sample_of())):
        with pytest.raises(DataError, match="whole conversations only"):
            call()
    with pytest.raises(DataError, match="whole conversations only"):
        native.backbone.prepare(sample_of(), POLICY, [Query(("so",), ("a", "b"), after=1)])
    first = guard_over(random_backbone("tokens"), order_named("explanation_first"))
    with pytest.raises(DataError, match="explanation"):
        first.watch()


def test_watching_leaves_the_mode_of_training():
    guard = guard_over(random_backbone("tokens")).train()
    guard.watch().step("click")
    guard.prefixes(sample_of())
    assert guard.training and guard.backbone.training


def test_labels_of_prefixes_do_not_change_what_is_read(backbone):
    plain = sample_of(STEPS[:2])
    outcome = {"r1": Outcome(True, 1, ("violated", "violated"))}
    labelled = to_sample(Trajectory("t", "see the fire", "shop", "orders", STEPS[:2]), POLICY, outcome)
    for a, b in zip(guard_over(backbone).prefixes(plain), guard_over(backbone).prefixes(labelled)):
        close(a, b, 0)
