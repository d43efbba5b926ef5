"""zoo/core/backbones/packing.py: rows that share a sequence are judged as if they were alone."""

import lightning as L
import pytest
import torch
from helpers import random_backbone, save_language_model, write_image

from benchmarks import lengths as benchmark
from datamodules.schema import Policy, PolicyEntry, Sample
from zoo.core.backbones import branches as br
from zoo.core.backbones import build, describe
from zoo.core.backbones.packing import STEP, fill_bins, pack, packed_mask
from zoo.core.losses import LossWeights, collate_targets, guard_loss, training_queries
from zoo.core.query import Query, policy_queries

POLICY = Policy("p", (PolicyEntry("S1", "open fire", "Pictures of fire."), PolicyEntry("S10", "alarm")))
QUERIES = [*policy_queries(POLICY), Query(("tag ", "is"), ("s1", "s10", "s100"))]


def sharp(backbone):
    """Answers that depend on what is read: default weights give nearly uniform logits."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in backbone.lm.parameters():
            if p.dim() >= 2:
                p.normal_(0, 0.3, generator=generator)
    return backbone


@pytest.fixture(scope="module", params=["encoded", "tokens", "llama", "gpt_neox", "qwen2"])
def backbone(request, tmp_path_factory):
    if request.param in ("encoded", "tokens"):
        return sharp(random_backbone(request.param))
    folder = save_language_model(tmp_path_factory.mktemp("lm"), request.param)
    return build(describe("causal_lm", path=str(folder), tuning="full")).eval()


@pytest.fixture
def samples(backbone, tmp_path):
    media = {"image": write_image(tmp_path / "a.png")} if "image" in backbone.modalities else {}
    rows = [Sample.of("see the fire " * n, id=f"r{n}") for n in (0, 30, 1, 12, 2, 3)]
    return [*rows, Sample.of("look", id="last", response="no fire", **media)]


def labelled(samples):
    labels = [{"S1": "yes", "S10": "no"}, {"S1": "no"}, {}, {"S10": "yes"}, {"S1": "no", "S10": "no"}]
    return [s.replace(categories=labels[n % 5], critique="fire, no." if n % 2 else None) for n, s in enumerate(samples)]


def batch_of(backbone, samples, queries, packed):
    backbone.packed = packed
    try:
        return backbone.collate([backbone.prepare(s, POLICY, q) for s, q in zip(samples, queries)])
    finally:
        backbone.packed = False


class Sequences:
    """How many sequences the language model was given, and how long."""

    def __init__(self, backbone):
        self.seen = []
        self.handle = backbone.lm.get_decoder().register_forward_pre_hook(
            lambda m, args, kw: self.seen.append(tuple(kw["inputs_embeds"].shape[:2])), with_kwargs=True
        )


@torch.no_grad()
def test_packed_scores_are_those_of_the_rows_alone(backbone, samples):
    queries = [QUERIES[: 1 + n % 4] for n in range(len(samples))]
    batch = batch_of(backbone, samples, queries, True)
    counter = Sequences(backbone)
    together = backbone.score_batch(batch)
    counter.handle.remove()
    n, length = counter.seen[-1]  # after the policy, where all rows share it
    assert n < len(samples) and length % STEP == 0
    plain = backbone.score_batch(batch_of(backbone, samples, queries, False))
    torch.testing.assert_close(together.logp, plain.logp, rtol=1e-5, atol=1e-5)
    assert torch.equal(together.tokens, plain.tokens)
    for i, (sample, asked) in enumerate(zip(samples, queries)):
        alone = backbone.score_batch(batch_of(backbone, [sample], [asked], False)).logp[0]
        mine = together.logp[i, : len(asked), : alone.shape[1]]
        torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-4)
    assert together.log_odds(0).std() > 0.1


def test_packed_loss_and_gradients_equal_unpacked(backbone, samples):
    rows = [training_queries(s, POLICY) for s in labelled(samples)]
    targets = collate_targets([(options, kinds) for _, options, kinds in rows])
    found = []
    for packed in (False, True):
        backbone.zero_grad()
        batch = batch_of(backbone, samples, [q for q, _, _ in rows], packed)
        assert (batch.packing is not None) == packed
        loss, parts = guard_loss(backbone.score_batch(batch), targets, LossWeights(1.0, 0.5, 2.0))
        loss.backward()
        grads = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}
        found.append((loss.detach(), parts, grads))
    (loss, parts, grads), (packed_loss, packed_parts, packed_grads) = found
    assert set(parts) == {"verdict", "categories", "critique"}
    torch.testing.assert_close(packed_loss, loss, rtol=1e-5, atol=1e-5)
    for name, value in parts.items():
        torch.testing.assert_close(packed_parts[name], value, rtol=1e-5, atol=1e-5)
    assert set(grads) == set(packed_grads) and max(g.abs().max() for g in grads.values()) > 1e-2
    for name, grad in grads.items():
        torch.testing.assert_close(packed_grads[name], grad, rtol=1e-4, atol=1e-5, msg=name)


def test_the_mask_by_its_definition():
    """Token by token, as the docstring says it, for three rows in sequences."""
    rows = [br.lay_out([2, 1], [[[3, 4], [3, 5, 4]], [[4]]])[0], br.lay_out([1], [[[1, 2, 3], [4]]])[0]]
    rows.append(br.lay_out([], [])[0])
    branches = br.collate(rows)
    prompts = [3, 2, 40]
    width = 48
    p = pack(prompts, branches, width)
    mask = packed_mask(p, torch.float32)
    t = branches.query.shape[1]
    described = []  # (row, "prompt" | query, option, position) of every real token of the padded rows
    for i, n in enumerate(prompts):
        described += [(i, "prompt", -1, k) for k in range(n)] + [None] * (width - n)
        for k in range(t):
            q = int(branches.query[i, k])
            described.append((i, q, int(branches.option[i, k]), n + int(branches.depth[i, k])) if q >= 0 else None)
    tokens = [[described[w] if r >= 0 else None for w, r in zip(*x)] for x in zip(p.where.tolist(), p.row.tolist())]
    placed = sorted(w for ws, rs in zip(p.where.tolist(), p.row.tolist()) for w, r in zip(ws, rs) if r >= 0)
    assert placed == [w for w, d in enumerate(described) if d is not None]  # each token once
    for n, sequence in enumerate(tokens):
        for i, mine in enumerate(sequence):
            if mine is None:
                continue
            assert p.position[n, i] == mine[3]
            for j, other in enumerate(sequence):
                sees = other is not None and other[0] == mine[0] and other[3] <= mine[3]
                if sees and other[1] != "prompt":
                    sees = other[1] == mine[1] and other[2] in (-1, mine[2])
                assert (mask[n, 0, i, j] == 0) == sees, (n, i, j)
    assert torch.isfinite(mask).all()
    for i in range(3):  # every branch token is found again
        for k in range(t):
            if branches.query[i, k] >= 0:
                assert p.where.flatten()[p.back[i, k]] == i * (width + t) + width + k


@pytest.mark.parametrize(
    "sizes, capacity, expected",
    [
        ([5, 5, 5], 5, [[0], [1], [2]]),
        ([1, 7, 3, 3, 6], 10, [[1, 2], [4, 3, 0]]),
        ([2, 2, 2, 2], 8, [[0, 1, 2, 3]]),
        ([], 8, []),
        ([0, 4], 4, [[1, 0]]),
    ],
)
def test_bins_by_hand(sizes, capacity, expected):
    assert fill_bins(sizes, capacity) == expected


def test_a_batch_without_queries(backbone, samples):
    batch = batch_of(backbone, samples, [[]] * len(samples), True)
    assert backbone.score_batch(batch).logp.shape == (len(samples), 0, 0)


def test_a_packed_batch_moves_as_a_whole(backbone, samples):
    moved = batch_of(backbone, samples, [QUERIES] * len(samples), True).to("meta")
    assert all(getattr(moved.packing, f).device.type == "meta" for f in ("where", "row", "position", "query", "back"))


def test_the_setting_reaches_the_batches(tmp_path):
    folder = save_language_model(tmp_path / "lm")
    scores = []
    for packed in (False, True):
        L.seed_everything(0, verbose=False)
        backbone = build(describe("causal_lm", path=str(folder), packed=packed)).eval()
        rows = [backbone.prepare(Sample.of("fire " * n), POLICY, QUERIES) for n in (1, 90, 2)]
        batch = backbone.collate(rows)
        assert (batch.packing is not None) == packed
        assert backbone.collate(rows[:1] * 3).packing is None  # nothing would be saved
        scores.append(backbone.score_batch(batch).log_odds(0))
    torch.testing.assert_close(*scores, rtol=1e-5, atol=1e-5)


def test_the_benchmark_measures_the_same_rows_each_way(tmp_path):
    folder = benchmark.small_language_model(tmp_path / "lm", layers=1, width=24)
    path = benchmark.manifest(tmp_path, 24, longest=60)
    found = benchmark.measure(build(describe("causal_lm", path=str(folder))), path)
    assert len({m["real_tokens"] for m in found.values()}) == 1
    shares = {name: m["real_share"] for name, m in found.items()}
    assert shares["padded"] < min(shares["buckets"], shares["packed"]) and max(shares.values()) <= 1
    assert found["padded"]["ratio"] == 1.0 and all(m["rows_per_second"] > 0 for m in found.values())
