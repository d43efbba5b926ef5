"""Preference pairs of edited clips, and the loss over them beside TRL's."""

import math
from collections import Counter, defaultdict
from types import SimpleNamespace

import pytest
import torch

from datamodules.schema import DataError, Sample
from datamodules.thud import LABELS, Item
from datamodules.transforms.preferences import preferences
from zoo.thud.model import Reference, rewards, sigmoid_dpo
from zoo.thud.questions import TEXTS, WORDS, pair_questions


def items(clips=2):
    out = []
    for k in range(clips):
        for dimension, labels in LABELS.items():
            for label in labels:
                delta = {"delay": 1.2, "early": -1.2}.get(label, 0.0)
                meta = {} if label == labels[0] else {"original": f"{k}-{labels[0]}"}
                sample = Sample.of(video=f"{k}.mp4", id=f"{k}-{label}", meta=meta)
                out.append(Item(sample, dimension, label, label != labels[0], delta, f"clip{k}"))
    return out


# -------------------------------------------------------------------------------------------------------------- pairs


def test_counterfactual_pairs_reverse_their_roles():
    pairs = preferences(items(3))
    assert Counter(p.kind for p in pairs) == {"ctp": 12, "direction": 6, "mute": 6, "swap": 6}
    couples = {}
    for p in pairs:
        assert p.chosen == p.item.label != p.rejected and p.rejected in LABELS[p.item.dimension]
        if p.kind != "direction":
            couples.setdefault(p.couple, []).append(p)
    for a, b in couples.values():
        assert (a.chosen, a.rejected) == (b.rejected, b.chosen) and a.item.edited and not b.item.edited
        assert a.item.clip == b.item.clip and a.kind == b.kind
    assert {(p.chosen, p.rejected) for p in pairs if p.kind == "direction"} == {("delay", "early"), ("early", "delay")}
    for dimension, labels in LABELS.items():  # no answer is preferred more often than it is rejected
        twos = [p for p in pairs if p.item.dimension == dimension and p.kind != "direction"]
        assert all(sum(p.chosen == x for p in twos) == sum(p.rejected == x for p in twos) for x in labels)
    assert len({p.id for p in pairs}) == len(pairs)
    assert {p.kind for p in preferences(items(), ["ctp"])} == {"ctp"}


def test_pairs_that_cannot_be_made():
    with pytest.raises(DataError, match="did you mean 'swap'"):
        preferences(items(), ["swp"])
    with pytest.raises(DataError, match="its original is not among the items"):
        preferences([i for i in items(1) if i.edited], ["mute"])


@pytest.mark.parametrize("answers", ["letters", "words"])
def test_pairs_as_queries(answers):
    """The two options are the chosen and the rejected answer, and no letter is chosen more often than another."""
    pairs = preferences(items(6))
    asked = pair_questions(pairs, "direct", answers)
    assert [q.labels for q in asked] == [(p.chosen, p.rejected) for p in pairs]
    assert len({q.id for q in asked}) == len(pairs)
    for p, q in zip(pairs, asked):
        words = q.sample.parts[1].text
        if answers == "words":
            assert q.query.options == (WORDS.get(p.chosen, p.chosen), WORDS.get(p.rejected, p.rejected))
            continue
        assert f"({q.query.options[0]}) {TEXTS[p.chosen]}\n" in words
        assert f"({q.query.options[1]}) {TEXTS[p.rejected]}\n" in words
    if answers == "letters":
        for dimension, labels in LABELS.items():
            for label in labels:
                rows = [q for q in asked if q.item.dimension == dimension and q.labels[0] == label]
                counts = Counter(q.query.options[0] for q in rows)
                assert len(counts) == len(labels) and max(counts.values()) - min(counts.values()) <= 1


# --------------------------------------------------------------------------------------------------------------- loss


def test_the_loss_by_hand():
    one = [torch.tensor([x]) for x in (-1.0, -3.0, -2.0, -2.5)]  # margin (−1 + 2) − (−3 + 2.5) = 1.5
    assert float(sigmoid_dpo(*one)) == pytest.approx(-math.log(1 / (1 + math.exp(-0.15))), abs=1e-6)
    assert float(sigmoid_dpo(*one, beta=2.0)) == pytest.approx(-math.log(1 / (1 + math.exp(-3.0))), abs=1e-6)
    same = torch.tensor([-4.0, -9.0])
    assert sigmoid_dpo(same, same - 1, same, same - 1).tolist() == pytest.approx([math.log(2)] * 2)
    assert float(rewards(one[0], one[2])) == pytest.approx(0.1)


def test_gradients_reach_the_trained_model_alone():
    given = [torch.tensor([x], requires_grad=True) for x in (-1.0, -3.0, -2.0, -2.5)]
    sigmoid_dpo(*given).sum().backward()
    slope = 0.1 * (1 - 1 / (1 + math.exp(-0.15)))
    assert float(given[0].grad) == pytest.approx(-slope) and float(given[1].grad) == pytest.approx(slope)
    assert given[2].grad is None and given[3].grad is None
    far = [torch.tensor([x], requires_grad=True) for x in (-1e5, 0.0, 0.0, -1e5)]
    loss = sigmoid_dpo(*far)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0.1 * 2e5) and float(far[0].grad) == pytest.approx(-0.1)  # no overflow


def test_parity_with_trl():
    """The same log-probabilities through the loss of TRL's DPOTrainer."""
    trl = pytest.importorskip("trl", reason="trl is not installed (pip install 'guardrail-zoo[benchmark]')")
    generator = torch.Generator().manual_seed(0)
    b, length = 16, 7
    tokens = -4 * torch.rand(2 * b, length, generator=generator, dtype=torch.float64)  # chosen, then rejected
    mask = (torch.rand(2 * b, length + 1, generator=generator) < 0.7).long()
    mask[:, 1] = 1
    tokens = tokens * mask[:, 1:]
    reference = -12 * torch.rand(2, b, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(2 * b, length, dtype=torch.float64)
    outputs = SimpleNamespace(
        log_probs=tokens, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), log_sum_sq_probs=zeros, loss=None
    )
    gather = {"device": torch.device("cpu"), "gather": lambda x: x, "gather_for_metrics": lambda x: x}
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(**gather),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        beta=0.1,
        use_weighting=False,
        label_smoothing=0.0,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros(2 * b, length + 1, dtype=torch.long),
        "attention_mask": torch.ones(2 * b, length + 1, dtype=torch.long),
        "completion_mask": mask,
        "ref_chosen_logps": reference[0],
        "ref_rejected_logps": reference[1],
    }
    theirs = trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)
    chosen, rejected = tokens.sum(1).chunk(2)
    ours = sigmoid_dpo(chosen, rejected, *reference).mean()
    assert float(ours) == pytest.approx(float(theirs), abs=1e-6)
    got = float(rewards(chosen, reference[0]).mean())
    assert got == pytest.approx(trainer._metrics["eval"]["rewards/chosen"][0], abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- reference


def test_the_reference_is_kept_by_its_key(tmp_path):
    values = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    reference = Reference(["a", "b"], values, "weights-1")
    path = tmp_path / "runs" / "reference.safetensors"
    assert Reference.load(path, "weights-1") is None
    reference.save(path)
    again = Reference.load(path, "weights-1")
    chosen, rejected = again.of(["b", "a", "b"])
    assert chosen.tolist() == [-3.0, -1.0, -3.0] and rejected.tolist() == [-4.0, -2.0, -4.0]
    assert Reference.load(path, "weights-2") is None  # another reference's numbers are not used
    with pytest.raises(DataError, match="has not scored the pair 'c'"):
        again.of(["c"])
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match="damaged"):
        Reference.load(path, "weights-1")
    for ids, shape in ((["a", "a"], (2, 2)), (["a"], (2, 2)), (["a", "b"], (2, 1))):
        with pytest.raises(ValueError, match="different ids"):
            Reference(ids, torch.zeros(shape), "k")
