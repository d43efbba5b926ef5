"""zoo/core/backbones/prefix.py: a policy that all rows have is read once, and nothing else changes."""

import pytest
import torch
from helpers import random_backbone, save_language_model, write_image

from benchmarks import prefix as benchmark
from datamodules.schema import Policy, PolicyEntry, Sample
from zoo.core.backbones import build, describe
from zoo.core.backbones.prefix import LEAST, SAVED, STEP, common_prefix, leading_ids, read_prefix
from zoo.core.backbones.tokens import IDS, Row, Source
from zoo.core.guard import Guard
from zoo.core.losses import LossWeights, collate_targets, guard_loss, training_queries
from zoo.core.query import critique_query, policy_queries

POLICY = Policy("p", (PolicyEntry("S1", "open fire", "Pictures of fire."), PolicyEntry("S10", "alarm", "A siren.")))
LABELS = {"S1": "yes", "S10": "no"}


@pytest.fixture(scope="module", params=["tokens", "llama", "gpt_neox", "qwen2"])
def backbone(request, tmp_path_factory):
    if request.param == "tokens":
        backbone = random_backbone("tokens")
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for p in backbone.lm.parameters():
                if p.dim() >= 2:
                    p.normal_(0, 0.3, generator=generator)
        return backbone
    folder = save_language_model(tmp_path_factory.mktemp("lm"), request.param)
    return build(describe("causal_lm", path=str(folder), tuning="full")).eval()


@pytest.fixture
def samples(backbone, tmp_path):
    media = {"image": write_image(tmp_path / "a.png")} if "image" in backbone.modalities else {}
    rows = [Sample.of("see the fire " * n, id=f"r{n}", categories=LABELS) for n in (1, 9, 0, 3)]
    return [*rows, Sample.of("look", id="media", response="no fire", critique="fire.", categories=LABELS, **media)]


def collate(backbone, samples, queries=None, policy=POLICY, packed=False):
    backbone.packed = packed
    try:
        queries = queries or [policy_queries(policy)] * len(samples)
        return backbone.collate([backbone.prepare(s, policy, q) for s, q in zip(samples, queries)])
    finally:
        backbone.packed = False


class Reads:
    """The shapes of what the language model reads within the block."""

    def __init__(self, backbone):
        self.decoder, self.shapes = backbone.lm.get_decoder(), []

    def __enter__(self):
        note = lambda m, args, kw: self.shapes.append(tuple(kw["inputs_embeds"].shape[:2]))  # noqa: E731
        self.handle = self.decoder.register_forward_pre_hook(note, with_kwargs=True)
        return self.shapes

    def __exit__(self, *exc):
        self.handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True])
def test_shared_scores_equal_unshared(backbone, samples, packed):
    queries = [policy_queries(POLICY)[: 1 + n % 3] for n in range(5)]
    batch = collate(backbone, samples, queries, packed=packed)
    system = leading_ids(backbone.prepare(samples[0], POLICY).prompt)
    assert batch.shared % STEP == 0 and LEAST <= batch.shared < len(system)
    with Reads(backbone) as shapes:
        got = backbone.score_batch(batch)
    (one, s), (n, rest) = shapes
    assert (one, s) == (1, batch.shared) and (n < 5 if packed else n == 5)
    assert packed or s + rest == batch.prompt.kind.shape[1] + batch.suffix.kind.shape[1]
    expected = backbone.score_batch(benchmark.unshared(batch))
    torch.testing.assert_close(got.logp, expected.logp, rtol=1e-5, atol=1e-5)
    assert expected.log_odds(0).std() > 0.05
    for i, sample in enumerate(samples):
        alone = backbone.score_batch(collate(backbone, [sample], queries[i : i + 1])).logp[0]
        torch.testing.assert_close(got.logp[i, : len(alone)], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_state_is_the_one_of_rows_that_share_nothing(backbone, samples):
    batch = collate(backbone, samples)
    state, plain = backbone.encode(batch), backbone.encode(benchmark.unshared(batch))
    assert state.width == plain.width and torch.equal(state.lengths, plain.lengths)
    for mine, theirs in zip(state.cache.layers, plain.cache.layers):
        for i, n in enumerate(state.lengths.tolist()):
            torch.testing.assert_close(mine.keys[i, :, :n], theirs.keys[i, :, :n], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(mine.values[i, :, :n], theirs.values[i, :, :n], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(backbone.score(state).logp, backbone.score(plain).logp, rtol=1e-5, atol=1e-5)
    suffixes = [critique_query(n % 2 == 0, ["alarm"]) for n in range(5)]
    assert backbone.generate(state, suffixes, 5) == backbone.generate(plain, suffixes, 5)


def test_loss_and_gradients_equal_unshared(backbone, samples):
    asked = [training_queries(s, POLICY) for s in samples]
    targets = collate_targets([(options, kinds) for _, options, kinds in asked])
    backbone.train()
    found = []
    for packed in (None, False, True):
        batch = collate(backbone, samples, [q for q, _, _ in asked], packed=bool(packed))
        assert batch.shared
        backbone.zero_grad()
        loss, parts = guard_loss(
            backbone.score_batch(benchmark.unshared(batch) if packed is None else batch), targets, LossWeights()
        )
        loss.backward()
        assert len(parts) == 3
        grads = {n: p.grad.clone() for n, p in backbone.named_parameters() if p.grad is not None}
        found.append((loss.detach(), grads))
    backbone.eval()
    for loss, grads in found[1:]:
        torch.testing.assert_close(loss, found[0][0], rtol=1e-5, atol=1e-5)
        assert set(grads) == set(found[0][1])
        for name, grad in found[0][1].items():
            torch.testing.assert_close(grads[name], grad, rtol=1e-4, atol=1e-5, msg=name)
    assert max(g.abs().max() for g in found[0][1].values()) > 1e-2


def test_verdicts_do_not_depend_on_company(backbone, samples):
    guard = Guard(backbone, POLICY)
    with Reads(backbone) as shapes:
        together = guard.moderate(samples)
    assert shapes[0][0] == 1 and shapes[0][1] >= LEAST
    other = Policy("q", (PolicyEntry("b", "barking", "Dogs that bark."), PolicyEntry("S10", "alarm")))
    with Reads(backbone) as shapes:
        mixed = guard.moderate([*samples, samples[0].replace(policy=other, id="other")])
    assert shapes[0][0] == 6  # another policy: nothing is shared
    for sample, a, b in zip(samples, together, mixed):
        alone = guard.moderate(sample)
        for v in (a, b):
            assert v.score == pytest.approx(alone.score, abs=1e-5)
            assert v.categories == pytest.approx(alone.categories, abs=1e-5)


def test_prompts_that_are_the_same_keep_a_token_each(backbone):
    samples = [Sample.of("fire", id=str(n)) for n in range(3)]
    batch = collate(backbone, samples)
    assert batch.shared < int(batch.prompt.lengths.min())
    with torch.no_grad():
        got, alone = backbone.score_batch(batch), backbone.score_batch(collate(backbone, samples[:1]))
    for i in range(3):
        torch.testing.assert_close(got.logp[i], alone.logp[0], rtol=1e-4, atol=1e-4)


def test_given_embeddings_are_each_rows_own(backbone, samples):
    batch = collate(backbone, samples)
    x = backbone.input_embeddings(batch).detach()
    x[1] += 0.1  # in the policy, too
    with torch.no_grad():
        got = backbone.score(backbone.encode(batch, x))
        plain = backbone.score(backbone.encode(benchmark.unshared(batch), x))
    torch.testing.assert_close(got.logp, plain.logp)


def test_sharing_under_autocast(backbone, samples):
    batch = collate(backbone, samples)
    with torch.no_grad():
        expected = backbone.score_batch(batch).log_odds(slice(None))
        with torch.autocast("cpu", torch.bfloat16):
            for scores in (backbone.score_batch(batch), backbone.score(backbone.encode(batch))):
                assert (scores.log_odds(slice(None)) - expected).abs().max() < 0.15 * expected.abs().max()


def test_dropout_and_checkpointing_do_not_share_in_training(tmp_path):
    folder = save_language_model(tmp_path / "lm")
    samples = [Sample.of("fire " * n, id=str(n)) for n in (1, 90, 3)]
    for settings, shares in (({}, True), ({"lora_dropout": 0.1}, False), ({"gradient_checkpointing": True}, False)):
        for packed in (False, True):
            backbone = build(describe("causal_lm", path=str(folder), packed=packed, **settings)).train()
            batch = backbone.collate([backbone.prepare(s, POLICY, policy_queries(POLICY)) for s in samples])
            assert (batch.packing is not None) == packed
            with Reads(backbone) as shapes:
                backbone.score_batch(batch).log_odds(0).sum().backward()
            assert (len(shapes) == 2) == shares, (settings, packed)
            if "gradient_checkpointing" in settings:  # the layers drop what encode would keep
                with pytest.raises(RuntimeError, match="keeps no cache"):
                    backbone.score(backbone.encode(batch))
            backbone.eval()
            with Reads(backbone) as shapes, torch.no_grad():
                backbone.encode(batch)
            assert len(shapes) == 2  # what only training draws or computes again does not matter here


# ---------------------------------------------------------------------------------------------------- the prefix


def row(*ids, soft=0):
    out = Row()
    for part in ids:
        out.add(Source(IDS, torch.tensor(part), len(part)), 0)
    if soft:
        out.add(Source("image", torch.zeros(soft, 3), soft), 4)
        out.add(Source(IDS, torch.tensor([1, 2]), 2), 0)
    return out


LONG = list(range(200))


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([row(LONG, [1])] * 2, 200),
        ([row(LONG)] * 2, 192),  # one token stays
        ([row(LONG, [1]), row(LONG[:50], LONG[50:], [2])], 200),  # however it is cut into sources
        ([row(LONG[:140], [7] * 60), row(LONG)], 136),  # rounded down
        ([row(LONG[:120], [7] * 60), row(LONG)], 0),  # two rows, and too few tokens
        ([row(LONG[:120], [7] * 60), row(LONG), row(LONG)], 120),
        ([row(LONG[:24], [7] * 60), *[row(LONG)] * 40], 0),  # many rows, and too few tokens
        ([row(LONG), row([9], LONG)], 0),
        ([row(LONG[:150], soft=4), row(LONG)], 144),  # a picture is nobody else's
        ([row(soft=4), row(LONG)], 0),
        ([row(LONG)], 0),
        ([], 0),
        ([row(), row()], 0),
    ],
)
def test_how_much_is_shared(rows, expected):
    assert (LEAST, SAVED, STEP) == (32, 128, 8)
    assert common_prefix(rows) == expected


def test_soft_phrases_are_not_shared():
    """In training each row's phrases get noise of their own."""
    backbone = random_backbone("encoded")
    assert collate(backbone, [Sample.of("fire", id=str(n)) for n in range(40)]).shared == 0


def test_keys_and_values_are_spread_without_a_copy(backbone):
    with torch.no_grad():
        x = backbone.lm.get_input_embeddings()(torch.arange(40)[None])
        cache = read_prefix(backbone.lm, x, 7)
    for layer in cache.layers:
        assert layer.keys.shape[0] == 7 and layer.keys.stride(0) == layer.values.stride(0) == 0


def test_the_benchmark_measures_what_it_says(tmp_path):
    folder = benchmark.small_language_model(tmp_path / "lm", layers=1, width=24)
    backbone = build(describe("causal_lm", path=str(folder)))
    result = benchmark.measure(backbone, count=3, rounds=1)
    for what in ("training", "scoring"):
        m = result[what]
        assert 0 < m["shared_tokens"] < m["prompt_tokens"] and m["largest_difference"] < 1e-5
        assert m["ratio"] == pytest.approx(m["rows_per_second_shared"] / m["rows_per_second_unshared"])
    assert result["scoring"]["query_tokens"] > result["training"]["query_tokens"]
