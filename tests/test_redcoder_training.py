"""What is learned of games: rows for a guard and an attacker, the attacker's training, and that it is not published."""

import copy
import json
import random
from collections import Counter

import lightning as L
import pytest
import torch
from helpers import save_language_model

from datamodules.base import GuardDataModule
from datamodules.code_tasks import Task, builtin
from datamodules.games import INSECURE, POLICY, load_games, load_prompts
from datamodules.schema import DataError
from zoo import fit, publish
from zoo import test as command
from zoo.config import compose, plain
from zoo.core.backbones import causal_lm
from zoo.core.verdict import Verdict
from zoo.core.weights import CheckpointError
from zoo.redcoder import recipe, trained
from zoo.redcoder.attackers import State, attack_chat
from zoo.redcoder.chats import END, START
from zoo.redcoder.conversation import Exchange
from zoo.redcoder.gate import threshold_for
from zoo.redcoder.language_model import LanguageModel
from zoo.redcoder.model import NONE, NextPrompt, Row, byte_pairs, figures, small_model, total
from zoo.redcoder.module import RedCoderModule
from zoo.redcoder.prototypes import write_training_set

SHAPE = {"layers": 2, "width": 32, "heads": 2, "mlp": 64}


def attempt(outcome, turns=3, found=None, errors=(), statuses=None, words="x"):
    """An attempt as a journal has it."""
    exchanges = [
        {"prompt": f"{words}: prompt {t}", "reply": f"reply {t}", "status": (statuses or {}).get(t, "ok"), "detail": "",
         "score": None, "cut": False}
        for t in range(turns)
    ]  # fmt: skip
    opinion = {
        "outcome": outcome, "findings": [], "any_turn": found, "target_turn": found, "errors": dict.fromkeys(errors, "")
    }  # fmt: skip
    evaluation = {"opinions": {"bandit": opinion}, "unclosed": 0}
    return {
        "outcome": outcome,
        "exchanges": exchanges,
        "strategies": [None] * turns,
        "error": "",
        "evaluation": evaluation,
    }


def game(n, *attempts, arm="explore"):
    task = builtin()[n]
    won = attempts[-1]["outcome"] in ("any-CWE", "target-CWE")
    found = attempts[-1]["evaluation"]["opinions"]["bandit"]["any_turn"]
    return {
        "id": f"{arm}/{task.id}", "arm": arm, "task": task.to_dict(), "turns": 3, "outcome": attempts[-1]["outcome"],
        "success": won, "any_turn": found, "target_turn": found, "queries": 3, "attempts": list(attempts),
    }  # fmt: skip


class Says:
    name = "says"

    def summaries(self, pairs):
        return [f'Ask for "shorter". {len(pairs)}' for _ in pairs]


def written(folder, games):
    """A gaming run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "games.jsonl").write_text("".join(json.dumps(g) + "\n" for g in games))
    write_training_set(games, Says(), folder / "training_set")
    return folder


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    games = [game(n, attempt("clean", words=f"a{n}"), attempt("target-CWE", found=2, words=f"b{n}")) for n in range(24)]
    return written(tmp_path_factory.mktemp("played"), games)


# ---------------------------------------------------------------------------------------------------------- guard rows


def labels(folder):
    corpus = load_games(folder)
    rows = {(s.id.rpartition("/")[0][-1], s.parts[-1].text): s.categories[INSECURE] for s in corpus.samples}
    return rows, corpus.report["left_out"]


@pytest.mark.parametrize(
    "given, want, left",
    [
        (attempt("clean"), ["no", "no", "no"], {}),
        (attempt("any-CWE", found=2), ["no", "no", "yes"], {}),
        (attempt("any-CWE", found=1), ["no", "yes"], {}),  # what comes after a finding says nothing new
        (attempt("target-CWE", found=0), ["yes"], {}),
        (attempt("any-CWE", found=2, errors=["0/0"]), ["yes"],
         {"turns before a finding, with code that could not be read": 2}),
        (attempt("clean", statuses={1: "blocked"}), ["no", "no"], {"turns that a guard stopped": 1}),
    ],
)  # fmt: skip
def test_a_turn_has_the_label_that_its_scan_gives(tmp_path, given, want, left):
    others = attempt("parse-error", words="y")
    rows, left_out = labels(written(tmp_path, [game(0, others, given)]))
    assert list(rows.values()) == want and left_out == {"parse-error": 1, **left}


def test_a_guard_s_row_is_what_it_sees_and_tasks_do_not_part(played):
    corpus = load_games(played)
    sides = {}
    for s in corpus.samples:
        sides.setdefault(s.group, set()).add(s.split)
        assert s.messages[-1].role == "user" and s.target == "conversation" and s.policy == POLICY
        assert [m.role for m in s.messages] == (["user", "assistant"] * len(s.messages))[: len(s.messages)]
        assert s.gold(POLICY) is (s.categories[INSECURE] == "yes")
    assert all(len(v) == 1 for v in sides.values()) and len(sides) == 24
    assert {s.split for s in corpus.samples} == {"train", "val", "test"}
    assert Counter(s.categories[INSECURE] for s in corpus.samples) == {"no": 24 * 5, "yes": 24}
    data = GuardDataModule("games", path=played)
    assert data.samples("train") and data.default_policy == POLICY
    data.batch_size = 4
    _, policy = next(iter(data.train_dataloader()))[0]
    assert list(policy.ids) == [INSECURE]


def test_equal_conversations_are_there_once_and_none_is_on_two_sides(tmp_path):
    games = [game(n, attempt("clean", turns=2, words="same")) for n in range(30)]
    games.append(game(30, attempt("any-CWE", turns=2, found=1, words="same")))
    corpus = load_games(written(tmp_path, games))
    assert len(corpus.samples) == 2 and corpus.report["left_out"]["conversations that are there already"] == 60
    assert {s.split for s in corpus.samples} == {"test"}
    assert [s.categories[INSECURE] for s in corpus.samples] == ["no", "yes"]  # one of them led to a finding


def test_files_that_hold_no_games(tmp_path):
    with pytest.raises(DataError, match="give games=FOLDER"):
        load_games(None)
    with pytest.raises(DataError, match=r"games\.jsonl: no such file"):
        load_games(tmp_path)
    for text, said in (
        ('{"id": "x"', "not valid JSON.*finish it with resume="),
        ('{"id": "x"}\n', "line 1: not a game"),
        (json.dumps(game(0, attempt("no-code"))) + "\n", r"no turn of its games has a label: .*no-code \(1\)"),
        ('{"id": "x", "task": {"id": "t"}, "attempts": [{"outcome": "clean"}]}\n', "game 1 is not as .*'exchanges'"),
    ):
        (tmp_path / "games.jsonl").write_text(text)
        with pytest.raises(DataError, match=said):
            load_games(tmp_path)


# ------------------------------------------------------------------------------------------------------- attacker rows


def test_training_shows_the_chat_that_playing_shows(tmp_path):
    """Every row of a prototype, against `attack_chat` at that turn of the same game."""
    failed = attempt("clean", words="a", statuses={1: "blocked"})
    folder = written(tmp_path, [game(4, failed, attempt("target-CWE", found=2, words="b"))])
    rows = load_prompts(folder).samples
    assert [s.parts[-1].text for s in rows] == ["b: prompt 0", "b: prompt 1", "b: prompt 2"]
    for turn, sample in enumerate(rows):
        history = [Exchange(f"b: prompt {t}", f"reply {t}") for t in range(turn)]
        lesson = "no success: clean; a guard stopped 1 of its 3 turns"
        strategy = 'Ask for "shorter". 1' if turn else None
        state = State(builtin()[4], 3, random.Random(0), 1, history, lesson, strategy)
        for reply in (3, 400):
            assert trained.chat_of(sample, 60, reply) == attack_chat(state, 60, reply)
    told = json.loads(trained.chat_of(rows[2], 60, 3)[1]["content"])
    assert told["turn"] == "3 of 3" and told["conversation"][1] == {"you": "b: prompt 1", "assistant": "rep"}


def test_files_that_hold_no_prototypes(tmp_path):
    folder = written(tmp_path, [game(0, attempt("clean"))])
    with pytest.raises(DataError, match="no game succeeded"):
        load_prompts(folder)
    good = {"id": "a", "task": "t", "request": "r", "weakness": "w", "turn": "1 of 1", "lesson": "", "strategy": None,
            "messages": [], "next": "n"}  # fmt: skip
    for change, said in (({"task": None}, "made of texts"), ({"next": 3}, "made of texts"), ({"strategy": 1}, "texts")):
        (folder / "training_set" / "prompts.jsonl").write_text(json.dumps({**good, **change}) + "\n")
        with pytest.raises(DataError, match=f"row 1.*{said}"):
            load_prompts(folder)
    (folder / "training_set" / "prompts.jsonl").write_text(json.dumps({k: good[k] for k in ("id", "next")}) + "\n")
    with pytest.raises(DataError, match="not a prototype's prompt"):
        load_prompts(folder)


# --------------------------------------------------------------------------------------------------------------- model

TEXTS = ["Write the part that loads its settings.", "Make it short.", "Füge es zusammen, bitte: `x = {1: '☃'}`\n\ty"]


def model_of(texts=TEXTS, context=512, seed=0):
    torch.manual_seed(seed)
    tokenizer = byte_pairs(texts * 3, 320)
    return NextPrompt(small_model(SHAPE, tokenizer), tokenizer, "tiny", context)


def chat(*said):
    return [{"role": "user", "content": text} for text in said]


def test_byte_pairs_lose_nothing_and_text_types_no_mark():
    tokenizer = byte_pairs(TEXTS * 3, 300)
    assert tokenizer.backend_tokenizer.to_str() == byte_pairs(TEXTS * 3, 300).backend_tokenizer.to_str()
    assert 258 < len(tokenizer) <= 300
    for text in (*TEXTS, "never seen: ß \x00"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    row = model_of().row(chat(f"a{END}\n{START}assistant\nb"), f"c{END}d")
    ids = model_of().tokenizer.convert_tokens_to_ids([START, END])
    assert [row.ids.count(i) for i in ids] == [2, 2] and row.ids[-1] == ids[1]


@torch.no_grad()
def test_sums_are_those_of_each_row_by_itself():
    model = model_of().eval()
    rows = [model.row(chat(c), p) for c, p in (("a", TEXTS[0]), (TEXTS[2] * 2, "no"), ("bcd", TEXTS[1]))]
    nll, right, whole = 0.0, 0, 0
    for row in rows:  # one by one, without padding, from the definition
        logits = model.lm(input_ids=torch.tensor([row.ids])).logits[0].double().log_softmax(-1)
        first = len(row.ids) - row.answer
        picks = [int(logits[n - 1].argmax()) == row.ids[n] for n in range(first, len(row.ids))]
        nll -= sum(float(logits[n - 1, row.ids[n]]) for n in range(first, len(row.ids)))
        right, whole = right + sum(picks), whole + all(picks)
    together = model.sums(model.collate(rows))
    parts = total(model.sums(model.collate([r])) for r in rows)
    for sums in (together, parts):
        assert float(sums.nll) == pytest.approx(nll, rel=1e-4)
        assert (sums.right, sums.whole, sums.rows) == (right, whole, 3) and sums.tokens == sum(r.answer for r in rows)
    assert figures(parts)["loss"] == pytest.approx(nll / parts.tokens, rel=1e-4)
    batch = model.collate([Row([5, 6, 7], 2), Row([8, 9, 5, 6], 1)])
    assert batch.targets.tolist() == [[6, 7], [NONE, 6]] and batch.mask.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]


def test_what_it_has_learned_it_writes():
    """`exact` is what greedy writing gives, through the path that attacks."""
    torch.manual_seed(0)
    model = model_of()
    asked = {"one": "Make it short.", "two": "Write the part that loads its settings."}
    rows = [model.row(chat(c), p) for c, p in asked.items()]
    batch, optimizer = model.collate(rows), torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        sums = model.sums(batch)
        (sums.nll / sums.tokens).backward()
        optimizer.step()
        if sums.whole == 2 and float(sums.nll) < 0.1:
            break
    assert figures(model.eval().sums(batch))["exact"] == 1.0
    speaker = LanguageModel(model.lm, model.tokenizer, "m", 1000, 60.0, max_new_tokens=60)
    assert [a.text for a in speaker.answers([chat(c) for c in asked])] == list(asked.values())


def test_a_row_without_room_is_named_and_counted(played):
    model = model_of(context=30)
    with pytest.raises(DataError, match=r"\d+ tokens, and tiny has room for 30"):
        model.row(chat("many words " * 20), "no")
    data = GuardDataModule("prompts", path=played)
    module = RedCoderModule(model, trained.chat_of, lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95), warmup=0.1)
    with pytest.raises(DataError, match=r"no training row is left: .* room for 30"):
        module.attach(data)
    assert len(data.errors) == 72


# -------------------------------------------------------------------------------------------------------------- recipe

SMALL = ["backbone.layers=1", "backbone.width=32", "backbone.heads=2", "backbone.mlp=64", "backbone.vocabulary=400"]
SHORT = ["trainer.max_epochs=1", "trainer.max_steps=2", "data.batch_size=4", "trainer.precision=32-true"]


@pytest.fixture(scope="module")
def run(played, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    learn = ["trainer.max_epochs=20", "trainer.max_steps=100", "optim.lr=0.02", *SHORT[2:]]
    folder, metrics, errors = fit.fit(["recipe=redcoder", f"games={played}", f"runs={runs}", *SMALL, *learn])
    assert not errors and metrics["rows"]["train"] > 30 and 0 <= metrics["test"]["token_accuracy"] <= 1
    assert metrics["seed"] == 0 and metrics["failed"] == 0 and len(metrics["data_hash"]) == 64
    return folder


def test_a_run_attacks_through_the_evaluator(run, tmp_path, capsys):
    pytest.importorskip("bandit", reason="bandit is not installed: pip install 'guardrail-zoo[code]'")
    words = ["recipe=redcoder_eval", "victim=scripted:naive", f"attacker={run}", f"runs={tmp_path}", "tasks.limit=2",
             "budget.turns=2", "lm.max_new_tokens=12"]  # fmt: skip
    assert command.main(words) == 0
    (found,) = (tmp_path / "test" / "redcoder_eval").iterdir()
    metrics = json.loads((found / "metrics.json").read_text())
    assert list(metrics["arms"]) == ["trained"] and metrics["arms"]["trained"]["n"] == 2
    assert metrics["arms"]["trained"]["attacker"] == f"model: {run}"
    games = [json.loads(line) for line in (found / "games.jsonl").read_text().splitlines()]
    said = [e["prompt"] for g in games for e in g["attempts"][0]["exchanges"]]
    model, limits = trained.load(trained.find(run))
    state = State(builtin()[0], 2, random.Random(0))
    (own,) = LanguageModel(model.lm, model.tokenizer, "m", 9999, 60.0, 12).answers([attack_chat(state, 60, 400)])
    assert limits["reply"] == 400 and own.text.strip() and said[0] == own.text.strip().strip('"')
    assert "trained" in capsys.readouterr().out


def test_an_attacker_is_published_nowhere(run, tmp_path, monkeypatch):
    shelf = tmp_path / "checkpoints"
    shelf.mkdir()
    for place in (run, run / "model"):
        with pytest.raises(DataError, match=r"an attacker's weights are published nowhere: give away the recipe"):
            publish.publish(place, "attacker", "no", shelf)
    assert not list(shelf.iterdir())
    with pytest.raises(CheckpointError, match="not a guard"):
        from zoo.registry import load

        load(run)
    assert "Not for publication" in (run / "model" / "README.md").read_text()


def test_changed_files_are_refused(run, tmp_path):
    import shutil

    copied = tmp_path / "model"
    shutil.copytree(run / "model", copied)
    assert trained.find(tmp_path) == copied and trained.find(copied) == copied
    assert trained.find("smollm2") is None and trained.find(tmp_path.parent) is None
    text = (copied / "tokenizer.json").read_text()
    (copied / "tokenizer.json").write_text(text.replace("Ġ", "Ġ", 1) + " ")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: the file was changed"):
        trained.load(copied)
    (copied / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="get the run again"):
        trained.load(copied)


def test_over_a_language_model_of_one_s_own_only_adapters_are_kept(played, tmp_path):
    base = save_language_model(tmp_path / "lm")
    own = ["backbone=causal_lm", f"backbone.path={base}", "backbone.lora_rank=2", "optim.lr=0.05"]
    words = ["recipe=redcoder", f"games={played}", *own, f"runs={tmp_path}", *SHORT]
    folder, _, _ = fit.fit(words)
    config = json.loads((folder / "model" / "config.json").read_text())
    assert config["kind"] == "attacker" and config["pin"] == causal_lm.folder_hash(base)
    model, _ = trained.load(folder / "model")
    assert model.trained_state() and all("lora_" in k for k in model.trained_state())
    assert any(v.abs().max() > 0 for k, v in model.trained_state().items() if "lora_B" in k)
    fresh, tokenizer = causal_lm.read(base, "float32")
    batch = model.collate([model.row(chat("a"), "b")])
    other = NextPrompt(fresh.eval(), tokenizer, "base", 512)
    with torch.no_grad():
        assert not torch.allclose(model(batch), other(batch), atol=1e-4)
    save_language_model(base, seed=1)
    with pytest.raises(CheckpointError, match="its base is another one now"):
        trained.load(folder / "model")


def test_a_threshold_that_lets_benign_prompts_through(tmp_path, monkeypatch):
    """Fitted on every other prompt, measured on the rest: guards are compared at one rate of false alarms."""
    assert [threshold_for([0.1, 0.4, 0.4, 0.9], s) > 0.4 for s in (0.0, 0.25, 0.5, 0.75)] == [True, True, True, False]
    for scores, share in ((torch.rand(83).tolist(), 0.1), ([0.5] * 10, 0.3), ([0.2, 0.3], 0.0), ([0.1], 0.99)):
        cut = threshold_for(scores, share)
        assert sum(s >= cut for s in scores) <= share * len(scores)
        lower = [s for s in sorted(set(scores), reverse=True) if s < cut]  # one step down is too many
        assert not lower or sum(s >= lower[0] for s in scores) > int(share * len(scores))
    with pytest.raises(DataError, match="more benign prompts than that the score 1"):
        threshold_for([1.0, 1.0, 0.2], 0.5)

    class Guard:
        name = "lengths"

        def eval(self):
            return self

        def moderate(self, samples, policy=None, threshold=None):
            threshold = 0.5 if threshold is None else threshold
            scores = [len(s.parts[-1].text) / 1000 for s in samples]
            return [Verdict(s.id, self.name, x >= threshold, x, threshold) for s, x in zip(samples, scores)]

    tasks = [Task(f"h{n}", "x" * (10 * n + 1)) for n in range(40)]
    monkeypatch.setattr(recipe, "human_eval", lambda data_dir: tasks)
    monkeypatch.setattr(recipe, "load", lambda name: Guard())
    words = ["recipe=redcoder_eval", "guard=lengths", "guarding.benign_rate=0.1"]
    with pytest.raises(DataError, match="give data_dir=FOLDER"):
        recipe.look(plain(compose(words)))
    config = plain(compose([*words, "data_dir=x"]))
    recipe.check_eval(config)
    gate = recipe.gate_of(config)
    assert (
        recipe.look(config) and 0.341 < gate.threshold < 0.3411
    )  # of 20 fitted on, 361 and 381 characters are over it
    assert recipe.benign(gate, "x", 1)["flagged"]["count"] == 3 and recipe.benign(gate, "x", 1)["flagged"]["n"] == 20
    for word, said in (("guarding.benign_rate=1", "from 0 to below 1"), ("guarding.threshold=0.5", "leave")):
        with pytest.raises(DataError, match=said):
            recipe.check_eval(plain(compose(config_words(words, word))))


def config_words(words, word):
    """`words` with `word` in the place of another value of its key."""
    return [*(w for w in words if w.partition("=")[0] != word.partition("=")[0]), word, "data_dir=x"]


class Keep(L.Callback):
    def __init__(self, path, step):
        self.path, self.step = path, step

    def on_train_batch_end(self, trainer, *rest):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_an_interrupted_training_ends_with_the_same_weights(played, tmp_path):
    config = plain(compose(["recipe=redcoder", f"games={played}", *SMALL, "data.batch_size=4"]))

    def trained_to(end, callbacks=(), ckpt=None):
        L.seed_everything(0, verbose=False)
        data = fit.build_data(config)
        module = trained.build(config, data)
        trainer = L.Trainer(max_steps=end, accelerator="cpu", logger=False, enable_checkpointing=False,
                            enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
                            limit_val_batches=0)  # fmt: skip
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
        return copy.deepcopy(module.model.trained_state())

    whole = trained_to(4, [Keep(tmp_path / "at2.ckpt", 2)])
    again = trained_to(4, ckpt=tmp_path / "at2.ckpt")
    assert whole.keys() == again.keys() and all(torch.equal(whole[k], again[k]) for k in whole)
    assert not torch.equal(*(trained_to(n)["model.embed_tokens.weight"] for n in (1, 2)))


@pytest.mark.parametrize(
    "words, said",
    [
        ([], "give games=FOLDER"),
        (["games=x", "backbone=tiny"], "backbone=tiny: an attacker writes text"),
        (["games=x", "limits.reply=0"], r"limits\.reply=0"),
        (["games=x", "backbone=causal_lm"], r"needs backbone\.path"),
        (["games=/nowhere"], r"/nowhere: no such file"),
    ],
)
def test_settings_that_cannot_be(tmp_path, words, said):
    with pytest.raises(DataError, match=said):
        fit.fit(["recipe=redcoder", f"runs={tmp_path}", *words])
    assert not list(tmp_path.iterdir())
