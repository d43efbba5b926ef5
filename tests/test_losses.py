"""The guard's loss against numbers worked out by hand."""

import math

import pytest
import torch
from helpers import random_backbone

from datamodules.schema import Policy, PolicyEntry, Sample
from zoo.core.backbones.base import Scores
from zoo.core.losses import (
    CATEGORY,
    CRITIQUE,
    VERDICT,
    LossWeights,
    Targets,
    collate_targets,
    guard_loss,
    training_queries,
)
from zoo.core.query import category_query, critique_query, verdict_query

POLICY = Policy("p", (PolicyEntry("a", "open fire"), PolicyEntry("b", "alarm"), PolicyEntry("c", "flood")))
INF = math.inf


def hand_case():
    """Row 0: verdict (unsafe), one category (no), a critique of 4 tokens. Row 1: verdict (safe). Row 2: nothing."""
    logp = torch.tensor(
        [
            [[math.log(0.2), math.log(0.6)], [math.log(0.09), math.log(0.01)], [-8.0, -INF]],
            [[math.log(0.5), math.log(0.25)], [0.0, 0.0], [0.0, 0.0]],
            [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        ],
        requires_grad=True,
    )
    tokens = torch.tensor([[[2, 2], [2, 2], [4, 0]], [[2, 2], [0, 0], [0, 0]], [[0, 0], [0, 0], [0, 0]]])
    return Scores(logp, tokens), collate_targets(
        [([1, 0, 0], [VERDICT, CATEGORY, CRITIQUE]), ([0], [VERDICT]), ([], [])]
    )


def test_hand_computed():
    scores, targets = hand_case()
    total, parts = guard_loss(scores, targets, LossWeights(1.0, 0.5, 0.25))
    verdict = -(math.log(0.6 / 0.8) + math.log(0.5 / 0.75)) / 2
    category, critique = -math.log(0.9), 8.0 / 4
    assert parts["verdict"].item() == pytest.approx(verdict, rel=1e-5)
    assert parts["categories"].item() == pytest.approx(category, rel=1e-5)
    assert parts["critique"].item() == pytest.approx(critique, rel=1e-5)
    assert total.item() == pytest.approx(verdict + 0.5 * category + 0.25 * critique, rel=1e-5)
    (grad,) = torch.autograd.grad(total, scores.logp)
    assert torch.isfinite(grad).all() and (grad[2] == 0).all() and (grad[1, 1:] == 0).all()
    torch.testing.assert_close(grad[0, 0], torch.tensor([0.25, 0.75 - 1]) / 2)  # softmax − one-hot, mean of two rows
    assert grad[0, 2].tolist() == pytest.approx([-0.25 / 4, 0])


def test_critique_is_the_mean_over_tokens_not_over_rows():
    scores = Scores(torch.tensor([[[-3.0]], [[-30.0]]]), torch.tensor([[[1]], [[9]]]))
    total, parts = guard_loss(scores, collate_targets([([0], [CRITIQUE]), ([0], [CRITIQUE])]), LossWeights())
    assert total.item() == parts["critique"].item() == pytest.approx(33 / 10)


def test_a_part_that_was_not_asked_is_absent():
    scores, _ = hand_case()
    targets = collate_targets([([1], [VERDICT]), ([0], [VERDICT]), ([], [])])
    _, parts = guard_loss(Scores(scores.logp[:, :1], scores.tokens[:, :1]), targets, LossWeights())
    assert set(parts) == {"verdict"}


def test_collated_targets():
    targets = collate_targets([([1, 0], [0, 1]), ([], []), ([0], [2])])
    assert targets.option.tolist() == [[1, 0], [-1, -1], [0, -1]]
    assert targets.kind.tolist() == [[0, 1], [-1, -1], [2, -1]]
    assert collate_targets([([], [])]).option.shape == (1, 0)
    assert isinstance(targets.to("cpu"), Targets)


def test_training_queries():
    sample = Sample.of("x", unsafe=True, categories={"a": "no", "b": "yes", "c": "unknown"}, critique="It rings.")
    queries, options, kinds = training_queries(sample, POLICY)
    assert queries == [
        verdict_query(POLICY),
        category_query(POLICY.entries[1]),  # what is broken comes first
        category_query(POLICY.entries[0]),
        critique_query(True, ["alarm"], "It rings."),
    ]
    assert options == [1, 1, 0, 0] and kinds == [VERDICT, CATEGORY, CATEGORY, CRITIQUE]
    assert queries[0].options[1] == "unsafe" and queries[1].options[1] == "yes"
    assert len(training_queries(sample, POLICY, critique=False)[0]) == 3
    assert training_queries(sample, POLICY, critique=False, most=1)[0] == queries[:2]
    # The verdict recalls the policy in its order, and so does the prompt.
    assert verdict_query(POLICY.subset(["b", "a"])).text.startswith("- Policy: alarm, open fire")


def test_unknown_labels_are_not_asked_for():
    unknown = Sample.of("x", categories={"a": "no"}, critique="Nothing.")
    assert training_queries(unknown, POLICY) == ([category_query(POLICY.entries[0])], [0], [CATEGORY])
    assert training_queries(Sample.of("x", critique="Nothing."), POLICY) == ([], [], [])
    partly = Sample.of("x", unsafe=True, categories={"b": "yes"})  # of the other entries nothing is known
    assert training_queries(partly, POLICY)[0] == [verdict_query(POLICY), category_query(POLICY.entries[1])]
    # Of another policy's labels nothing follows for this one.
    foreign = Sample.of("x", unsafe=True, categories={"z": "yes"}, policy=Policy("z", (PolicyEntry("z", "z"),)))
    assert training_queries(foreign, POLICY)[0] == []


def test_a_safe_row_breaks_no_entry():
    """A source that only says safe teaches every category, or a guard calls each of them broken on harmless rows."""
    safe = Sample.of("x", unsafe=False, policy=POLICY)
    asked = [verdict_query(POLICY), *map(category_query, POLICY.entries)]
    assert training_queries(safe, POLICY) == (asked, [0] * 4, [VERDICT] + [CATEGORY] * 3)
    assert len(training_queries(safe, POLICY, most=2)[0]) == 3
    wider = Policy("w", (*POLICY.entries, PolicyEntry("d", "smoke")))  # of the fourth entry nothing is known
    assert training_queries(safe, wider) == (asked[1:], [0] * 3, [CATEGORY] * 3)


@pytest.mark.parametrize("kind", ["encoded", "tokens"])
def test_a_masked_row_teaches_nothing(kind):
    """Beside labelled rows, a row without labels changes neither the loss nor the gradient."""
    backbone = random_backbone(kind)
    known, masked = Sample.of("a fire", unsafe=True), Sample.of("the picture", id="m")

    def run(samples):
        asked = [training_queries(s, POLICY) for s in samples]
        batch = backbone.collate([backbone.prepare(s, POLICY, q) for s, (q, _, _) in zip(samples, asked)])
        loss, _ = guard_loss(
            backbone.score(backbone.encode(batch)), collate_targets([(o, k) for _, o, k in asked]), LossWeights()
        )
        return loss, torch.autograd.grad(loss, backbone.types.weight)[0]

    alone, grad = run([known])
    both, grad_both = run([known, masked])
    torch.testing.assert_close(both, alone)
    torch.testing.assert_close(grad_both, grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["encoded", "tokens"])
def test_a_batch_of_masked_rows_gives_zero_and_finite_gradients(kind):
    backbone = random_backbone(kind)
    samples = [Sample.of("a fire"), Sample.of("the picture shows a fire")]
    batch = backbone.collate([backbone.prepare(s, POLICY, []) for s in samples])
    loss, parts = guard_loss(backbone.score(backbone.encode(batch)), collate_targets([([], [])] * 2), LossWeights())
    assert loss.item() == 0 and parts == {}
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in backbone.parameters())
    assert all(p.grad is None or (p.grad == 0).all() for p in backbone.parameters())
