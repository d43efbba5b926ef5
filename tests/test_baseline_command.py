"""zoo/baseline.py: a run of a baseline is judged and written as a run of a guard."""

import json

import pytest
import torch
from helpers import random_bert, word_piece_tokenizer

from datamodules.baselines import text_of, tfidf_logreg
from datamodules.schema import DataError
from zoo import baseline
from zoo.core.scores import read_scores
from zoo.fit import build_data

WORDS = ("open fire", "a quiet lake", "fire alarm", "green grass")


@pytest.fixture
def arguments(tmp_path):
    rows = [
        {"id": f"{s}{n}", "split": s, "unsafe": n % 2 == 0, "messages": [{"role": "user", "content": [
            {"type": "text", "text": f"{WORDS[n % 4]} number {n}"}]}]}
        for s, many in (("train", 12), ("val", 8), ("test", 8)) for n in range(many)
    ]  # fmt: skip
    rows[-1]["unsafe"] = None
    path = tmp_path / "m.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return ["recipe=thinkguard_label_only", "data=manifest", f"data.path={path}", f"runs={tmp_path / 'runs'}"]


def test_a_baselines_run(arguments, tmp_path, capsys):
    assert baseline.main([*arguments, "model=tfidf"]) == 0
    (run,) = (tmp_path / "runs" / "baseline" / "thinkguard_label_only").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["model"] == "tfidf" and metrics["train_rows"] == 12 and metrics["overall"]["f1"] == 1.0
    data = build_data(baseline.plain(baseline.compose(arguments)))
    data.prepare_data()
    train, val, test = ([s for s in data.samples(p) if s.unsafe is not None] for p in ("train", "val", "test"))
    expected = tfidf_logreg(
        *([text_of(s) for s in train], [s.unsafe for s in train], [text_of(s) for s in test]),
        val_texts=[text_of(s) for s in val],
        val_labels=[s.unsafe for s in val],
    )
    got = {j.record.id: j for j in read_scores(run / "scores.jsonl")}
    assert len(got) == 8 and got["test7"].record.gold is None
    assert [got[s.id].record.score for s in test] == pytest.approx(list(expected), abs=1e-12)
    assert [got[s.id].flagged for s in test] == [s.unsafe for s in test]


def test_minilms_features_are_mean_states_to_unit_length(monkeypatch):
    bert, tokenizer = random_bert(len(word_piece_tokenizer())).eval(), word_piece_tokenizer()
    monkeypatch.setattr(baseline, "load_minilm", lambda folder: (bert, tokenizer))
    monkeypatch.setattr(baseline, "resolve", lambda name: None)
    texts = ["open fire", "a quiet lake and an open fire"]
    for text, got in zip(texts, baseline.minilm(texts)):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            mean = (
                bert(torch.tensor([[tokenizer.cls_token_id, *ids, tokenizer.sep_token_id]]))
                .last_hidden_state[0]
                .mean(0)
            )
        torch.testing.assert_close(torch.from_numpy(got), mean / mean.norm(), rtol=1e-5, atol=1e-5)


def test_an_unknown_baseline_is_named(arguments):
    with pytest.raises(DataError, match=r"unknown baseline 'tfdif'.*tfidf"):
        baseline.main([*arguments, "model=tfdif"])
