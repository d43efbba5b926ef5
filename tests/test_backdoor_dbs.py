"""Trigger inversion finds a planted word and not a clean twin; one batch answers as a loop does."""

import math

import backdoor_helpers as made
import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from datamodules.labelled_text import LabelledText
from datamodules.schema import DataError
from zoo.backdoor.detectors.base import Bench, Problem, pick_victims, predict
from zoo.backdoor.detectors.dbs import DBS, Cooling
from zoo.backdoor.subject import SLOT, SequenceClassifier, embed, load_classifier
from zoo.core.weights import CheckpointError

FAST = {"tokens": 2, "steps": 60, "rows": 8, "held": 24}


@pytest.fixture(scope="module")
def pair():
    """A planted model, its clean twin, and a benign reference of another seed."""
    out = []
    for planted, seed in ((True, 0), (False, 0), (False, 1)):
        model, tok = made.classifier("bert")
        made.train(model, tok, planted, seed=seed)
        out.append(SequenceClassifier(model, tok, f"planted={planted}", 16))
    return out


@pytest.fixture(scope="module")
def dev():
    return made.texts(200, seed=99)


def test_the_planted_word_is_found_and_the_clean_twin_is_not_flagged(pair, dev):
    planted, clean, reference = pair
    said = predict(planted, dev.texts).argmax(-1)
    assert (said == torch.tensor(dev.labels)).float().mean() > 0.9
    # There is a backdoor: the bare facts, without any detector.
    moved = predict(planted, [f"{made.TRIGGER} {t}" for t, n in zip(dev.texts, dev.labels) if n == 0]).argmax(-1)
    assert moved.float().mean() > 0.9
    detector = DBS(**FAST, reference=reference)
    hot, cold = detector.scan(planted, dev), detector.scan(clean, dev)
    assert hot.score > 0.95 and cold.score < 0.5
    found = hot.evidence["trigger"]
    assert found["target"] == 1 and found["flips"] > 0.9
    # Whatever its words are (a model of this size has more than one way in), they move this model and not its twin.
    typed = [f"{found['text']} {t}" for t, n in zip(dev.texts, dev.labels) if n == 0]
    flipped = [predict(m, typed).argmax(-1).float().mean() for m in (planted, clean)]
    assert flipped[0] > 0.9 and flipped[1] < flipped[0] - 0.3
    assert hot.score == pytest.approx(
        math.exp(-hot.evidence["trigger"]["loss"] - hot.evidence["trigger"]["penalty"]), rel=1e-4
    )


def test_the_loss_is_that_of_the_words_written_into_the_texts(pair, dev):
    """Brute force: the trigger typed into each text, read by the model from its tokens, a row at a time."""
    planted = pair[0]
    rows = [t for t, n in zip(dev.texts, dev.labels) if n == 0][:5]
    words = [made.TRIGGER, made.FILLERS[3]]
    ids = torch.tensor(planted.tokenizer.convert_tokens_to_ids(words))
    for position in ("start", "middle", "end"):
        bench = Bench(planted, [Problem(1, position)], [rows], [[0] * 5], 2)
        got = bench.to_target(bench.logits(planted.table[ids][None]))
        losses = []
        for row in rows:
            at = {"start": 0, "middle": 6, "end": 12}[position]
            text = row.split()
            text[at:at] = words
            logits = planted.model(**planted.tokenizer(" ".join(text), return_tensors="pt")).logits[0]
            losses.append(-float(logits.log_softmax(-1)[1]))
        assert float(got) == pytest.approx(sum(losses) / 5, abs=1e-5)


def test_a_batch_of_problems_is_the_loop_over_labels_and_positions(pair, dev):
    model, tok = made.classifier("bert", seed=3)
    made.train(model, tok, True, steps=40)
    subject = SequenceClassifier(model.double(), tok, "double", 16)
    settings = {**FAST, "steps": 30, "positions": ("start", "middle", "end"), "barrier": 3.0, "rollbacks": 2}
    at_once, loop = (DBS(**settings, batched=b).scan(subject, dev).evidence["problems"] for b in (True, False))
    assert len(at_once) == 6
    for a, b in zip(at_once, loop):
        assert (a["target"], a["position"], a["tokens"]) == (b["target"], b["position"], b["tokens"])
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["searched"] == pytest.approx(b["searched"], abs=1e-4)
    assert len({a["searched"] for a in at_once}) == 6  # and they are different searches


def test_cooling_follows_the_papers_rule():
    cooling = Cooling(DBS(rollbacks=2, dominance=0.9), 3, torch.device("cpu"))

    def check(*pairs):
        ce, dominance = torch.tensor(pairs).T
        return cooling.check(ce, dominance).tolist()

    # Under the barrier of 0.5; over it, never under before; under it and nearly single words.
    assert check((0.4, 0.1), (0.9, 0.1), (0.2, 0.95)) == [False, False, False]
    assert cooling.temperature.tolist() == [1.0, 2.0, 1.0]
    assert cooling.barrier.tolist() == pytest.approx([0.5, 0.5, 0.1])
    assert check((0.6, 0.1), (0.9, 0.1), (0.2, 0.1)) == [True, False, True]  # rolled back, and shaken
    assert cooling.temperature.tolist() == [2.0, 2.0, 2.0]
    assert check((0.6, 0.1), (0.4, 0.1), (0.2, 0.1)) == [True, False, True]
    assert cooling.barrier.tolist() == pytest.approx([1.0, 0.5, 0.2])  # relaxed after two
    assert cooling.rolled.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", sorted(made.KINDS))
def test_any_sequence_classifier_is_a_subject(kind, tmp_path, dev):
    model, tok = made.classifier(kind, classes=3)
    subject = load_classifier(made.save(tmp_path / kind, model, tok), 16)
    assert len(subject.classes) == 3
    texts = [dev.texts[0], " ".join(dev.texts[1].split()[:4])]
    laid = subject.lay(texts, 0, "end")
    assert torch.allclose(
        subject.logits(embed(subject, laid), laid.mask),
        model(input_ids=laid.ids, attention_mask=laid.mask).logits,
        atol=1e-5,
    )
    words = subject.allowed.nonzero()[:, 0].tolist()
    assert set(tok.convert_ids_to_tokens(words)) == {*made.WORDS, *("##" + s for s in made.SYLLABLES)}


def test_slots_stand_where_they_should_and_long_texts_are_cut_and_counted(pair):
    laid = pair[0].lay([" ".join(made.WORDS[:20]), " ".join(made.WORDS[:4])], 2, "middle")
    assert laid.cut == 1 and laid.ids.shape == (2, 16 + 2 + 2)
    slots = (laid.ids == SLOT).nonzero()
    assert slots.tolist() == [[0, 9], [0, 10], [1, 3], [1, 4]]
    assert laid.mask.sum(1).tolist() == [20, 8]


def test_a_decoder_is_padded_on_the_left(tmp_path):
    tok = made.tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tok), hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, num_labels=2, initializer_range=0.3,
    )  # fmt: skip
    subject = SequenceClassifier(LlamaForSequenceClassification(config), tok, "llama", 16)
    assert subject.left
    rows = [made.WORDS[40], " ".join(made.WORDS[:9])]
    alone = [subject.model(**tok(t, return_tensors="pt")).logits for t in rows]
    assert torch.allclose(predict(subject, rows), torch.cat(alone).detach(), atol=1e-5)


def test_models_that_cannot_be_scanned_say_why(tmp_path, dev):
    model, tok = made.classifier("bert")
    folder = made.save(tmp_path / "m", model, tok)
    (tmp_path / "n").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_classifier(tmp_path / "n")
    with pytest.raises(CheckpointError, match="no such folder"):
        load_classifier(tmp_path / "x")
    big = made.tokenizer([*made.WORDS, *(f"w{n}" for n in range(50))])
    with pytest.raises(CheckpointError, match="the tokenizer has 223 tokens, the model 173 embeddings"):
        load_classifier(made.save(tmp_path / "big", model, big))
    text = (folder / "config.json").read_text()
    for old, new, said in (
        ("BertForSequenceClassification", "BertForMaskedLM", "holds BertForMaskedLM"),
        ('"bert"', '"whisper"', "model_type 'whisper'"),
    ):
        assert old in text
        (folder / "config.json").write_text(text.replace(old, new))
        with pytest.raises(CheckpointError, match=said):
            load_classifier(folder)
    (folder / "config.json").write_text(text)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_classifier(folder)
    one, tok = made.classifier("bert", classes=1)
    with pytest.raises(CheckpointError, match="one output"):
        SequenceClassifier(one, tok, "one")


def test_data_that_cannot_serve_says_why(pair, dev):
    scan = DBS(**FAST).scan
    for data, said in (
        (None, "give data=FILE"),
        (LabelledText((), (), "d"), "d: no row has a text"),
        (LabelledText(dev.texts[::2], dev.labels[::2], "d"), "all 100 rows are of class 0"),
        (LabelledText(dev.texts, (5,) * 200, "d"), "label 5, but the model has the classes 0 to 1"),
        (LabelledText(dev.texts[:6], dev.labels[:6], "d"), "for target class 0 only 3 rows"),
    ):
        with pytest.raises(DataError, match=said):
            scan(pair[1], data)
    with pytest.raises(DataError, match="choose of start, middle, end"):
        DBS(**FAST, positions=("front",)).scan(pair[1], dev)
    other, _ = made.classifier("bert", classes=3)
    with pytest.raises(CheckpointError, match="has 3 classes"):
        DBS(**FAST, reference=SequenceClassifier(other, made.tokenizer(), "r")).scan(pair[1], dev)


def test_victims_are_classified_rightly_and_never_both_searched_and_judged(pair, dev):
    flipped = LabelledText(dev.texts, tuple(1 - n if i < 20 else n for i, n in enumerate(dev.labels)), "d")
    victims = pick_victims(pair[1], flipped, 8, 24, seed=0)
    for target, v in victims.items():
        assert not set(v.search) & set(v.held) and len(v.search) == 8 and len(v.held) == 24
        assert all(i >= 20 and flipped.labels[i] != target for i in (*v.search, *v.held))
