"""Branch scores and greedy generation against brute force: full forward passes, plain causal attention, no cache."""

import pytest
import torch
from helpers import KINDS, random_backbone, write_image
from reading import brute, greedy, lengths_of, logits, prompt_of, suffix_of, words

from datamodules.schema import Message, Part, Policy, PolicyEntry, Sample
from zoo.core.backbones import branches as br
from zoo.core.guard import Guard
from zoo.core.losses import LossWeights, Targets, guard_loss
from zoo.core.query import Query, category_query, critique_query, policy_queries, verdict_query

POLICY = Policy(
    "p", (PolicyEntry("S1", "open fire", "Pictures of fire."), PolicyEntry("S10", "alarm"), PolicyEntry("x", "a"))
)
LETTERS = Query(("- Which:",), ("a", "b", "the picture shows fire", "c"))
PREFIXES = Query(("tag ", "is"), ("s1", "s10", "s100"))
SINGLE = Query(("so:",), ("the fire",))
QUERIES = [*policy_queries(POLICY), LETTERS, PREFIXES, SINGLE]


def sharp(kind, **kw):
    """A random backbone whose answers depend on what it reads: default weights give nearly uniform logits."""
    backbone = random_backbone(kind, **kw)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for module in (backbone.lm.get_decoder(), backbone.lm.get_output_embeddings()):
            for p in module.parameters():
                if p.dim() >= 2:
                    p.normal_(0, 0.3, generator=generator)
    return backbone


@pytest.fixture(scope="module", params=KINDS)
def backbone(request):
    return sharp(request.param)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    return [
        Sample.of("fire", id="short"),
        Sample.of("the picture shows a fire, see it. " * 6, image=write_image(folder / "a.png"), id="long"),
        Sample.of("the user begins", response="no, the end", id="two"),
    ]


def score(backbone, samples, queries):
    with torch.no_grad():
        batch = backbone.collate([backbone.prepare(s, POLICY, q) for s, q in zip(samples, queries)])
        return backbone.score(backbone.encode(batch))


@torch.no_grad()
def test_branches_equal_full_passes(backbone, samples):
    queries = [QUERIES, [LETTERS, verdict_query()], [PREFIXES, SINGLE, *policy_queries(POLICY)]]
    scores = score(backbone, samples, queries)
    assert scores.logp.shape == (3, len(QUERIES), 4)
    spread = []
    for i, sample in enumerate(samples):
        prompt = prompt_of(backbone, sample, POLICY)
        for q, query in enumerate(queries[i]):
            expected = brute(backbone, prompt, query)
            n = len(query.options)
            torch.testing.assert_close(scores.logp[i, q, :n], expected, rtol=1e-4, atol=1e-4)
            assert (scores.logp[i, q, n:] == -torch.inf).all()
            assert scores.tokens[i, q].tolist()[:n] == [len(backbone.reader.answer(o)) for o in query.options]
            assert (scores.tokens[i, q, n:] == 0).all()
            spread.append(expected[0])
        assert (scores.logp[i, len(queries[i]) :] == 0).all() and (scores.tokens[i, len(queries[i]) :] == 0).all()
    assert torch.stack(spread).std() > 0.1  # the scores say something: a wrong mask would show


@torch.no_grad()
def test_the_prompt_matters(backbone, samples):
    """Otherwise the comparison above would prove little."""
    scores = score(backbone, samples, [[verdict_query()]] * 3).logp[:, 0]
    assert (scores[0] - scores[1]).abs().max() > 1e-2 and (scores[0] - scores[2]).abs().max() > 1e-2


def test_an_option_that_is_a_prefix_of_another(backbone, samples):
    """The terminator is part of every option, so "s1" and "s10" are different events and share the step before it."""
    with torch.no_grad():
        prompt = prompt_of(backbone, samples[0], POLICY)
        got = score(backbone, samples[:1], [[PREFIXES]]).logp[0, 0]
        torch.testing.assert_close(got, brute(backbone, prompt, PREFIXES), rtol=1e-4, atol=1e-4)
        ids = [backbone.reader.answer(o) for o in PREFIXES.options]
        assert ids[1][: len(ids[0]) - 1] == ids[0][:-1] and len(ids[0]) < len(ids[1]) < len(ids[2])
        read = prompt.then(suffix_of(backbone, PREFIXES)).then(words(backbone, ids[0][:-1]))
        after = logits(backbone, read)[-1].log_softmax(-1)
    # P(s1, end) and P(s1, "0", …) part at one softmax: the shorter is not an upper bound of the longer.
    assert got.exp().sum() < 1
    shared = got[0] - after[ids[0][-1]]
    assert got[1] < shared + after[ids[1][len(ids[0]) - 1]] + 1e-4


def test_other_queries_and_their_order_change_nothing(backbone, samples):
    alone = torch.cat([score(backbone, samples, [[q]] * 3).log_odds(0)[:, None] for q in QUERIES[:-1]], dim=1)
    together = score(backbone, samples, [QUERIES[:-1]] * 3).log_odds(slice(None))
    backwards = score(backbone, samples, [QUERIES[:-1][::-1]] * 3).log_odds(slice(None)).flip(1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backwards, alone, rtol=1e-4, atol=1e-4)


def test_option_order_only_permutes(backbone, samples):
    turned = Query(LETTERS.suffix, LETTERS.options[::-1])
    a, b = (score(backbone, samples, [[q]] * 3).logp[:, 0] for q in (LETTERS, turned))
    torch.testing.assert_close(a, b.flip(-1), rtol=1e-4, atol=1e-4)


def test_a_long_neighbour_changes_nothing(backbone, samples):
    long = Sample.of("a fire! " * 30, id="pad")
    alone = score(backbone, samples[:1], [QUERIES]).logp[0]
    for batch in ([samples[0], long], [long, samples[0]], [samples[0], long, samples[2]]):
        queries = [QUERIES if s is samples[0] else [SINGLE] for s in batch]
        torch.testing.assert_close(
            score(backbone, batch, queries).logp[batch.index(samples[0])], alone, rtol=1e-4, atol=1e-4
        )


def test_queries_given_late_equal_prepared_ones(backbone, samples):
    with torch.no_grad():
        state = backbone.encode(backbone.collate([backbone.prepare(s, POLICY) for s in samples]))
        late = backbone.score(state, [QUERIES] * 3)
        again = backbone.score(state, [QUERIES] * 3)
    assert state.cache.get_seq_length() == state.width  # a branch leaves the prompt's keys and values as they were
    assert torch.equal(late.logp, again.logp)
    torch.testing.assert_close(late.logp, score(backbone, samples, [QUERIES] * 3).logp, rtol=1e-5, atol=1e-5)


def test_eager_attention_equals_sdpa(backbone, samples):
    config = backbone.lm.get_decoder().config
    before = config._attn_implementation
    scores = {}
    try:
        for name in ("eager", "sdpa"):
            config._attn_implementation = name
            scores[name] = score(backbone, samples, [QUERIES] * 3).logp
    finally:
        config._attn_implementation = before
    torch.testing.assert_close(scores["eager"], scores["sdpa"], rtol=1e-4, atol=1e-4)


def test_gradients_equal_full_passes(backbone, samples):
    queries = [[verdict_query(), category_query(POLICY.entries[0]), SINGLE], [LETTERS, PREFIXES], [verdict_query()]]
    targets = Targets(
        torch.tensor([[1, 0, 0], [2, 1, -1], [0, -1, -1]]), torch.tensor([[0, 1, 2], [1, 1, -1], [0, -1, -1]])
    )
    batch = backbone.collate([backbone.prepare(s, POLICY, q) for s, q in zip(samples, queries)])
    x = backbone.input_embeddings(batch).detach().requires_grad_()
    loss, _ = guard_loss(backbone.score(backbone.encode(batch, x)), targets, LossWeights(1.0, 0.5, 2.0))
    (got,) = torch.autograd.grad(loss, x)

    y = x.detach().clone().requires_grad_()
    lengths = lengths_of(batch)
    read = [prompt_of(backbone, s, POLICY).of(y[i : i + 1, : lengths[i]]) for i, s in enumerate(samples)]
    logp = [[brute(backbone, r, q) for q in qs] for r, qs in zip(read, queries)]
    nll = [[-row.log_softmax(-1)[targets.option[i, j]] for j, row in enumerate(rows)] for i, rows in enumerate(logp)]
    critique = -logp[0][2][0] / len(backbone.reader.answer("the fire"))
    expected = (nll[0][0] + nll[2][0]) / 2 + 0.5 * (nll[0][1] + nll[1][0] + nll[1][1]) / 3 + 2.0 * critique
    (wanted,) = torch.autograd.grad(expected, y)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
    assert wanted.abs().max() > 1e-2
    padding = torch.arange(x.shape[1]) >= torch.tensor(lengths)[:, None]
    assert (got[padding] == 0).all()


def test_chunks_of_the_output_layer_change_nothing(backbone, monkeypatch):
    rows = [br.lay_out([2, 1], [[[3, 4], [3, 5, 4]], [[4]]])[0], br.lay_out([3], [[[1, 2, 3], [4]]])[0]]
    branches = br.collate(rows)
    torch.manual_seed(0)
    hidden = torch.randn(2, branches.query.shape[1], backbone.lm.get_input_embeddings().embedding_dim)
    whole = br.gather_scores(branches, hidden, backbone.lm.get_output_embeddings())
    monkeypatch.setattr(br._TokenLogProbs, "CHUNK", 2)
    parts = br.gather_scores(branches, hidden, backbone.lm.get_output_embeddings())
    torch.testing.assert_close(parts.logp, whole.logp)


def test_a_query_needs_a_suffix():
    with pytest.raises(ValueError, match="suffix"):
        br.lay_out([0], [[[1]]])


# ------------------------------------------------------------------------------------------------------- generation

SUFFIXES = [
    critique_query(False, []),
    critique_query(True, ["open fire", "alarm", "a"]),
    critique_query(True, ["alarm"]),
]


def test_generate_equals_greedy_full_passes(backbone, samples, monkeypatch):
    prompts = [prompt_of(backbone, s, POLICY) for s in samples]
    free = [greedy(backbone, p, q, -1, 6) for p, q in zip(prompts, SUFFIXES)]
    assert len({tuple(f) for f in free}) == 3
    monkeypatch.setattr(backbone.reader, "decode", lambda ids: ids)
    batch = backbone.collate([backbone.prepare(s, POLICY) for s in samples])
    with torch.no_grad():
        state = backbone.encode(batch)
    # A token that one row says in the middle becomes the terminator: that row stops, the others go on.
    for terminator in (backbone.reader.terminator, free[0][2], free[1][0], free[2][5]):
        monkeypatch.setattr(backbone.reader, "terminator", terminator)
        expected = [greedy(backbone, p, q, terminator, 6) for p, q in zip(prompts, SUFFIXES)]
        assert backbone.generate(state, SUFFIXES, max_new_tokens=6) == expected
    assert state.cache.get_seq_length() == state.width


def test_generate_speaks_text(backbone, samples):
    with torch.no_grad():
        state = backbone.encode(backbone.collate([backbone.prepare(samples[0], POLICY)]))
    (text,) = backbone.generate(state, SUFFIXES[:1], max_new_tokens=5)
    assert isinstance(text, str)
    prompt = prompt_of(backbone, samples[0], POLICY)
    assert text == backbone.reader.decode(greedy(backbone, prompt, SUFFIXES[0], backbone.reader.terminator, 5))
    assert backbone.generate(state, SUFFIXES[:1], max_new_tokens=0) == [""]


def test_explaining_leaves_the_verdict_bit_identical(backbone, samples):
    guard = Guard(backbone, POLICY)
    plain = guard.moderate(samples)
    explained = guard.moderate(samples, explain=True, max_new_tokens=4)
    for a, b in zip(plain, explained):
        assert (a.score, a.categories, a.flagged) == (b.score, b.categories, b.flagged)
        assert a.critique is None and isinstance(b.critique, str)


def test_several_turns_are_read_in_order(backbone):
    """The same words in another order or from another speaker are another prompt."""

    def chat(*turns):
        return Sample("c", tuple(Message(role, (Part("text", text=text),)) for role, text in turns))

    rows = [
        chat(("user", "fire"), ("assistant", "no")),
        chat(("user", "no"), ("assistant", "fire")),
        chat(("assistant", "fire"), ("user", "no")),
    ]
    odds = score(backbone, rows, [[verdict_query()]] * 3).log_odds(0)
    assert odds.unique().numel() == 3


def test_one_pass_equals_prompt_then_branches(backbone, samples):
    queries = [QUERIES, [LETTERS, verdict_query()], [PREFIXES, SINGLE, *policy_queries(POLICY)]]
    batch = backbone.collate([backbone.prepare(s, POLICY, q) for s, q in zip(samples, queries)])
    parts, whole = backbone.score(backbone.encode(batch)), backbone.score_batch(batch)
    torch.testing.assert_close(whole.logp, parts.logp, rtol=1e-5, atol=1e-5)
    assert torch.equal(whole.tokens, parts.tokens)
