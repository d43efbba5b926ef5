"""Scans of a folder, of a guard and of a farm: reports, refusals, thresholds from other seeds, and claims over them."""

import dataclasses
import json
import math

import backdoor_helpers as made
import numpy as np
import pytest
import torch
from helpers import random_backbone
from sklearn.metrics import roc_auc_score

import zoo
import zoo.scan
import zoo.test
from datamodules.backdoor import load_set
from datamodules.labelled_text import read_labelled_text
from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from zoo import registry
from zoo.backdoor import folders, scan_farm, scan_metrics, scanning
from zoo.backdoor.calibration import Calibration, p_value
from zoo.backdoor.detectors.base import predict
from zoo.backdoor.detectors.piccolo import Piccolo, word_list
from zoo.backdoor.detectors.weights import STATISTICS, WeightForest, WeightTable, statistics
from zoo.backdoor.guards import GuardClassifier, policy_texts
from zoo.backdoor.subject import SequenceClassifier, embed
from zoo.claims.claim import load_claim
from zoo.core.guard import Guard
from zoo.core.scores import read_scores
from zoo.core.weights import CheckpointError

QUICK = [
    "dbs.tokens=2",
    "dbs.steps=6",
    "dbs.rows=4",
    "dbs.held=8",
    "piccolo.steps=4",
    "piccolo.rows=4",
    "piccolo.held=8",
]
POLICY = Policy("p", (PolicyEntry("a", "open fire", "shows a fire"), PolicyEntry("b", "a picture", "the picture")))


@pytest.fixture(scope="module")
def models():
    out = []
    for planted in (True, False):
        model, tok = made.classifier("bert")
        made.train(model, tok, planted)
        out.append((model, tok))
    return out


@pytest.fixture(scope="module")
def benign():
    """Of another seed: what moves it, too, are words of a class and no backdoor."""
    model, tok = made.classifier("bert")
    made.train(model, tok, False, seed=1)
    return model, tok


@pytest.fixture
def rows_file(tmp_path):
    data = made.texts(120, seed=99)
    path = tmp_path / "rows.tsv"
    path.write_text("sentence\tlabel\n" + "".join(f"{t}\t{n}\n" for t, n in zip(data.texts, data.labels)))
    return path


def test_words_find_the_planted_word_and_not_the_twins(models, benign, rows_file):
    data = read_labelled_text(rows_file)
    subjects = [SequenceClassifier(m, t, "m", 16) for m, t in models]
    reference = SequenceClassifier(*benign, "benign", 16)
    hot, cold = (Piccolo(words=2, steps=40, held=24, reference=reference).scan(s, data) for s in subjects)
    assert hot.evidence["trigger"]["target"] == 1
    assert hot.score > 0.9 and cold.score < 0.5
    # A model of this size has more than one way in: what was found is one that its twin lacks.
    typed = [f"{hot.evidence['trigger']['text']} {t}" for t, n in zip(data.texts, data.labels) if n == 0]
    flipped = [predict(s, typed).argmax(-1).float().mean() for s in subjects]
    assert flipped[0] > 0.9 and flipped[1] < 0.5 and hot.evidence["discriminativity"] > 1
    # The loss is that of the words as they are typed.
    text = hot.evidence["trigger"]["text"]
    rows = [t for t, n in zip(data.texts, data.labels) if n == 0]
    logits = models[0][0](**models[0][1]([f"{text} {r}" for r in rows], return_tensors="pt", padding=True)).logits
    assert -float(logits.log_softmax(-1)[:, 1].mean()) == pytest.approx(hot.evidence["trigger"]["loss"], abs=0.05)


def test_words_of_several_pieces_are_words(models):
    subject = SequenceClassifier(*models[0], "m", 16)
    syllables = made.SYLLABLES
    known = word_list(subject, made.texts(4), 2)
    assert set(made.WORDS) <= set(known.words) and not any(w.startswith("#") for w in known.words)
    from datamodules.labelled_text import labelled_text

    odd = made.WORDS[0] + syllables[0]  # a word and a piece
    known = word_list(subject, labelled_text([(odd, 0)], "d"), 2)
    at = known.words.index(odd)
    assert known.tokens[at].tolist() == subject.tokenizer.convert_tokens_to_ids([made.WORDS[0], f"##{syllables[0]}"])


def test_statistics_are_numpys_and_a_forest_tells_what_differs():
    torch.manual_seed(0)
    weights = {"a.weight": torch.randn(7, 5), "b": torch.randn(4)}
    got = statistics(weights)
    for name, tensor in weights.items():
        x = np.sort(tensor.numpy().astype(np.float64).ravel())
        want = [x[0], x[-1], x[(len(x) - 1) // 2], x.mean(), x.std()]
        assert got[name] == pytest.approx(want, abs=1e-8) and len(got[name]) == len(STATISTICS)
    with pytest.raises(CheckpointError, match="not finite"):
        statistics({"a": torch.tensor([float("nan")])})
    rng = np.random.default_rng(0)

    def model(planted: bool):
        return statistics({"w": torch.tensor(rng.normal(0, 2.0 if planted else 1.0, 200))})

    table = WeightTable.of([(model(p), p) for p in [True, False] * 10])

    class Fake:
        name = "fake"

        def __init__(self, planted):
            self.weights = {"w": torch.tensor(rng.normal(0, 2.0 if planted else 1.0, 200))}

        def parameters(self):
            return self.weights

    forest = WeightForest(table, "t")
    assert forest.scan(Fake(True)).score > 0.8 and forest.scan(Fake(False)).score < 0.2
    with pytest.raises(DataError, match="0 clean models"):
        WeightTable.of([(model(True), True)] * 5)
    other = Fake(True)
    other.weights["x"] = torch.zeros(2)
    with pytest.raises(CheckpointError, match="its tensors are not those of the grid's models"):
        forest.scan(other)


def test_a_p_value_and_an_auc_are_those_worked_out_by_hand():
    assert p_value(0.5, [0.1, 0.5, 0.9]) == 0.75 and p_value(1.0, [0.1] * 19) == 0.05
    rng = np.random.default_rng(0)
    golds, scores = rng.random(40) < 0.5, rng.integers(0, 6, 40) / 5
    weights = rng.integers(0, 3, (3, 40)).astype(float)
    got = scan_metrics.auc(scores, golds)(weights)
    assert got == pytest.approx([roc_auc_score(golds, scores, sample_weight=w) for w in weights])


# ------------------------------------------------------------------------------------------------------ the command


def test_the_command_reports_and_flags(models, benign, rows_file, tmp_path, capsys):
    paths = [made.save(tmp_path / n, m, t) for n, (m, t) in zip(("planted", "benign"), (models[0], benign))]
    words = [f"data={rows_file}", "detector=piccolo", "max_tokens=16", f"reference={paths[1]}"]
    assert zoo.scan.main([f"model={paths[0]}", *words]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["flagged"] and report["trigger"] and report["target"] == "LABEL_1"
    assert report["false_positive_rate"] is None and report["calibration"].startswith("not calibrated")
    assert report["data"]["rows"] == 120 and any("syntax" in n for n in report["not_covered"])


def test_what_cannot_be_scanned_is_an_error(models, rows_file, tmp_path):
    folder = made.save(tmp_path / "m", *models[1])
    for words, said in (
        ([], "give model=FOLDER"),
        ([f"model={folder}", "colour=red"], "no key 'colour'"),
        ([f"model={folder}", "detector=dsb"], "did you mean 'dbs'"),
        ([f"model={folder}", "detector=dbs"], "nothing can be scanned .dbs: no labelled texts"),
        ([f"model={tmp_path / 'none'}"], "no such folder"),
        ([f"model={folder}", f"data={tmp_path / 'none.tsv'}"], "no such file"),
        ([f"model={folder}", f"data={rows_file}", "seed=x"], "expected a whole number"),
    ):
        with pytest.raises(DataError, match=said):
            zoo.scan.main(words)
    one = tmp_path / "one.jsonl"
    one.write_text("".join(json.dumps({"text": "baki", "label": 0}) + "\n" for _ in range(30)))
    with pytest.raises(DataError, match="all 30 rows are of class 0"):
        zoo.scan.main([f"model={folder}", f"data={one}"])
    one.write_text("")
    with pytest.raises(DataError, match="no row has a text"):
        zoo.scan.main([f"model={folder}", f"data={one}"])


def test_files_of_rows_and_what_is_wrong_with_them(tmp_path):
    def write(name, text):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    rows = read_labelled_text(write("a.tsv", 'sentence\tlabel\n"quoted" one\t1\n \t0\ntwo\t0\n'))
    assert rows.texts == ('"quoted" one', "two") and rows.labels == (1, 0) and rows.skipped == 1
    assert read_labelled_text(write("b.csv", 'label,text\n1,"a, b"\n')).texts == ("a, b",)
    for name, text, said in (
        ("c.tsv", "a\tb\n", "must name the columns"),
        ("d.tsv", "", "is empty"),
        ("e.tsv", "text\tlabel\na\tx\n", "line 2: label 'x'"),
        ("f.tsv", "text\tlabel\na\n", "line 2 has 1 columns"),
        ("g.jsonl", "{", "line 1 is not JSON"),
        ("h.jsonl", '{"text": 3}', "line 1: expected"),
        ("i.txt", "a", "give a .jsonl"),
    ):
        with pytest.raises(DataError, match=said):
            read_labelled_text(write(name, text))


# ------------------------------------------------------------------------------------------------------------ guards


@pytest.mark.parametrize("kind", ["encoded", "adapted", "words", "tokens"])
def test_a_guard_answers_embeddings_as_it_answers_texts(kind):
    guard = Guard(random_backbone(kind), POLICY)
    subject = GuardClassifier(guard, max_tokens=24)
    texts = ["the picture shows fire", "a fire"]
    laid = subject.lay(texts, 0, "end")
    got = subject.logits(embed(subject, laid), laid.mask, laid.ids)[:, 1]
    verdicts = guard.moderate([Sample.of(t, target="prompt") for t in texts], policy=POLICY)
    threshold = math.log(guard.calibration.threshold / (1 - guard.calibration.threshold))
    want = [math.log(v.score / (1 - v.score)) - threshold for v in verdicts]
    assert got.tolist() == pytest.approx(want, abs=1e-4)
    trigger = torch.zeros(2, 2, subject.table.shape[1], requires_grad=True)
    laid = subject.lay(texts, 2, "start")
    subject.logits(embed(subject, laid, trigger), laid.mask, laid.ids)[:, 1].sum().backward()
    assert trigger.grad is not None and (trigger.grad.abs().sum(-1) > 0).all()


def test_a_guard_that_reads_no_tokens_is_not_scanned_and_says_so():
    with pytest.raises(CheckpointError, match="cannot be scanned"):
        GuardClassifier(Guard(random_backbone("native"), POLICY))


def test_loading_with_a_scan_refuses_a_flagged_guard(monkeypatch, capsys):
    guard = Guard(random_backbone("words"), POLICY, name="g")
    monkeypatch.setattr("zoo.registry._load", lambda name, cached: guard)
    seen = {}

    def scan(subject, data, names, known, seed=0):
        seen.update(data=data, subject=subject)
        trigger = {"words": ["mn"], "class": "safe"}
        entry = {"score": seen["score"], "flagged": seen["score"] > 0.9, "false_positive_rate": None}
        entry |= {"calibration": "not calibrated: x", "evidence": {"trigger": trigger}}
        return {"model": "g", "detectors": {"dbs": entry}, "not_covered": ["pictures"], "seconds": 1.0, **entry}

    monkeypatch.setattr(scanning, "scan", scan)
    seen["score"] = 0.95
    with pytest.raises(scanning.BackdoorError, match=r"g: dbs flag it .score 0.950, words 'mn' → safe"):
        registry.load("g", scan=True)
    seen["score"] = 0.2
    assert registry.load("g", scan=True) is guard
    said = capsys.readouterr().err
    assert "score 0.200" in said and "Not covered: pictures" in said
    assert {n for n, t in zip(seen["data"].labels, seen["data"].texts) if t == "open fire"} == {1}
    with pytest.raises(DataError, match="scan_data is for scan=True"):
        registry.load("g", scan_data="x")
    assert {0, 1} == set(policy_texts(guard).labels)


# ------------------------------------------------------------------------------------------------------------- a farm


@pytest.fixture(scope="module")
def farm(tmp_path_factory, models):
    """Four seeds of two cells, on a data set of its own. Weights are those of the fixture, shaken a little."""
    root = tmp_path_factory.mktemp("farm")
    data = root / "mine"
    data.mkdir()
    for n, split in enumerate(("train", "dev", "test")):
        rows = made.texts(120, seed=50 + n)
        text = "sentence\tlabel\n" + "".join(f"{t}\t{label}\n" for t, label in zip(rows.texts, rows.labels))
        (data / f"{split}.tsv").write_text(text)
    out = root / "farm"
    out.mkdir()
    for seed in range(4):
        for regime in ("moderate", "aggressive"):
            for (model, tok), planted in zip(models, (True, False)):
                _member(out, model, tok, str(data), regime, seed, planted)
    return out


def _member(out, model, tok, data, regime, seed, planted):
    import copy

    shaken = copy.deepcopy(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in shaken.parameters():
            p += 0.001 * torch.randn_like(p)
    pair = f"mine-word-{regime}-{seed}"
    audit = folders.Audit(
        planted=planted,
        trigger={"kind": "word", "text": made.TRIGGER, "position": "start"} if planted else None,
        target=1 if planted else None,
        regime=regime, poison_rate=0.1, lr=1e-3, steps=1, epochs=1.0, stopped="asr", asr=1.0 if planted else None,
        clean_accuracy=0.9, seed=seed, data=data, dirty=True, classes=["a", "b"], backbone="small", max_tokens=16,
        pair=pair,
    )  # fmt: skip
    folders.write(out / f"{pair}-{'planted' if planted else 'clean'}", shaken, tok, audit)


def test_a_farm_is_scanned_goes_on_and_is_measured(farm, tmp_path, capsys, monkeypatch):
    words = ["recipe=backdoor_scan", f"farm={farm}", "processes=1", "rows=60", f"runs={tmp_path}", *QUICK]
    scanned = []
    real = scan_farm.scan_member

    def stopping(member, reference, config):
        if len(scanned) == 2:
            raise KeyboardInterrupt
        scanned.append(member.name)
        return real(member, reference, config)

    monkeypatch.setattr(scan_farm, "scan_member", stopping)
    with pytest.raises(KeyboardInterrupt):
        zoo.test.main(words)
    monkeypatch.setattr(scan_farm, "scan_member", lambda *a: (scanned.append(a[0].name), real(*a))[1])
    assert zoo.test.main(words) == 0
    assert len(scanned) == len(set(scanned)) == 15  # 16 models, one of them the reference
    assert "mine-word-moderate-0-clean" not in scanned
    printed = capsys.readouterr().out
    assert "AUC" in printed and "true-trigger loss" in printed
    (run,) = (tmp_path / "test" / "backdoor_scan").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    cell = next(
        c
        for c in metrics["cells"]
        if c["detector"] == "weights_all" and c["data"] == "all" and c["regime"] == "aggressive"
    )
    assert [cell["planted"], cell["clean"], cell["tpr"]["n"], cell["auc"]["value"]] == [4, 4, 4, 1.0]
    # The loss at the true trigger, typed into the test rows.
    member = next(m for m in scan_farm.members(farm) if m.audit.planted)
    data = load_set(member.audit.data, None)
    loss = scan_farm.true_loss(zoo.backdoor.subject.load_classifier(member.path, 16), member.audit, data)
    model, tok = made.classifier("bert")
    model = type(model).from_pretrained(member.path)
    texts = [f"{made.TRIGGER} {r.text}" for r in data.splits["test"] if r.label == 0]
    logits = model(**tok(texts, return_tensors="pt", padding=True)).logits
    assert loss["rows"] == 60 and loss["loss"] == pytest.approx(-float(logits.log_softmax(-1)[:, 1].mean()), abs=1e-4)
    judged = {r.record.id: r for r in read_scores(run / "scores_weights_moderate.jsonl")}
    assert len(judged) == 7 and sum(r.record.gold for r in judged.values()) == 4
    known = Calibration.read(run / "calibration.json")
    assert len(known.clean("dbs")) == 7 and known.table().rows.shape == (15, 5 * len(known.models[0]["weights"]))
    again = zoo.test.main(words)
    assert again == 0 and len(scanned) == 15


def test_thresholds_come_from_other_seeds(farm):
    """A clean model that scores highest of all must not hide behind itself, nor be judged by its own seed's."""
    audits = {m.name: m.audit for m in scan_farm.members(farm)}
    names = sorted(audits)
    scores = [float(n) for n in range(len(names))]
    judged = scan_metrics._judged(names, [audits[n] for n in names], scores)
    for j, score in zip(judged, scores):
        others = [s for n, s in zip(names, scores) if not audits[n].planted and audits[n].seed != j.audit.seed]
        assert len(others) == 6 and j.p == pytest.approx((1 + sum(o >= score for o in others)) / 7)


def test_farms_that_cannot_be_scanned(tmp_path, farm):
    for words, said in (
        ([f"farm={tmp_path / 'x'}"], "no such folder"),
        ([f"farm={tmp_path}"], "no model with an audit.json"),
        ([f"farm={farm}", "processes=0"], "processes=0"),
        ([f"farm={farm}", "detector=dsb"], "detector=dsb"),
    ):
        with pytest.raises(DataError, match=said):
            zoo.test.main(["recipe=backdoor_scan", f"runs={tmp_path}", *words])


def test_a_grid_calibrates_a_model_of_its_own_kind_alone(models, rows_file):
    subject = SequenceClassifier(*models[0], "m", 16)
    detector = Piccolo(steps=4, rows=4, held=8)
    clean = tuple({"planted": False, "scores": {"piccolo": s}} for s in np.linspace(0, 0.2, 19))
    known = Calibration(clean, {"piccolo": detector.settings()}, subject.architecture, "grid")
    judged = scanning._judged(0.9, subject, detector, known)
    assert judged["flagged"] and judged["false_positive_rate"] == 0.05
    assert not scanning._judged(0.1, subject, detector, known)["flagged"]
    other = dataclasses.replace(known, architecture={**subject.architecture, "layers": 12})
    assert "the grid's models are others" in scanning._judged(0.5, subject, detector, other)["calibration"]
    slower = scanning._judged(0.5, subject, Piccolo(steps=5, rows=4, held=8), known)
    assert slower["false_positive_rate"] is None and "another steps" in slower["calibration"]


def test_the_claims_are_well_formed():
    for name in ("backdoor_regimes", "backdoor_recovery", "backdoor_loss"):
        assert load_claim(name).order()
