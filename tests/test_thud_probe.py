"""zoo/thud: which clips are asked about, how, what is read of answers, and what is measured."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from helpers import random_backbone
from native_helpers import write_thinker

from datamodules.corpus.clips import write_clip
from datamodules.schema import DataError, Sample
from datamodules.thud import LABELS, Item, edited_clips, load_thud, without
from datamodules.transforms.edit_files import Settings
from zoo import answering
from zoo import test as command
from zoo.answering import GuardModel, HubModel, model_named
from zoo.core.guard import Guard
from zoo.core.query import Query
from zoo.core.weights import CheckpointError
from zoo.thud.evaluate import arms_of, constant, outcomes
from zoo.thud.metrics import FAILURES, UNPARSED, Outcome, arms_table, band_of, details_table, summarise
from zoo.thud.questions import OFFSET, SIZES, TEXTS, WORDINGS, questions

RATE = 16_000


def clip(path, seen, heard, seed=0, seconds=6.0):
    """A flash at `seen` seconds and a burst of noise at `heard`; colours and noise by the seed."""
    rng = np.random.default_rng(seed)
    pixels = np.full((int(seconds * 8), 16, 32, 3), 40 + 10 * seed, np.uint8)
    pixels[round(seen * 8) :] += 120
    wave = rng.normal(0, 0.004, int(seconds * RATE))
    at = round(heard * RATE)
    wave[at : at + 4000] += np.convolve(rng.normal(0, 0.3, 4000), np.ones(1 + seed % 3) / (1 + seed % 3), "same")
    write_clip(path, pixels, 8, wave.astype(np.float32), RATE)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three clips in sync, one of which is too early to be moved by 2 s, and one whose sound is elsewhere; edited."""
    source = tmp_path_factory.mktemp("clips")
    for n, (seen, heard) in enumerate(((2.5, 2.5), (3.0, 3.0), (1.0, 1.0), (1.5, 4.0))):
        clip(source / f"{n}.mp4", seen, heard, n)
    settings = Settings(deltas=(-2.0, -0.4, 0.4, 2.0), band=(0.0, 1.0), split="test")
    target, errors = edited_clips(source, settings, tmp_path_factory.mktemp("home"))
    assert not errors
    return target


@pytest.fixture(scope="module")
def loaded(folder):
    return load_thud(folder)


def items(n=10):
    """Made up: of each of `n` clips its original and its edits, |Δ| in turn."""
    out = []
    for k in range(n):
        size = float(SIZES[k % len(SIZES)])
        for dimension, labels in LABELS.items():
            for label in labels:
                delta = {"delay": size, "early": -size}.get(label, 0.0)
                edited = label != labels[0]
                sample = Sample.of(video=f"{k}.mp4", id=f"{k}-{label}")
                out.append(Item(sample, dimension, label, edited, delta, f"clip{k}"))
    return out


# --------------------------------------------------------------------------------------------------- which are asked


def test_what_is_asked_and_what_is_true(loaded):
    by = Counter((i.dimension, i.label) for i in loaded.items)
    assert by["existence", "silent"] == by["consistency", "mismatch"] == 4
    assert by["existence", "sound"] == by["consistency", "match"] == 4
    # Of the two clips that can be moved all four ways, and of the one at 1 s: not by 2 s, as its original would be
    # silent at 1 s, or its sound come before the start.
    assert by["sync", "delay"] == by["sync", "early"] == 2 * 2 + 1
    assert all((i.label == "delay") == (i.delta > 0) for i in loaded.items if i.dimension == "sync" and i.edited)
    assert loaded.rejected == {"seen and heard apart": 1, "silenced by the edit": 2}
    assert sum("sync is not asked" in e["error"] for e in loaded.errors) == len(loaded.errors) == 3
    assert {e["id"] for e in loaded.errors if "apart" in e["error"]} == {"3.mp4"}
    assert len({i.id for i in loaded.items}) == len(loaded.items)
    assert {i.event.by for i in loaded.items if i.dimension == "sync"} == {"estimate"}


def test_each_edit_has_its_own_original(loaded, folder):
    shifted = [i for i in loaded.items if i.dimension == "sync" and i.edited]
    originals = {i.sample.id for i in loaded.items if not i.edited}
    assert {i.sample.meta["original"] for i in shifted} <= originals
    assert load_thud(folder, "test").items == loaded.items and not load_thud(folder, "train").items


def test_a_folder_is_edited_once_and_verified(folder, tmp_path):
    assert edited_clips(folder, Settings()) == (folder, [])  # it holds edited clips already
    source = tmp_path / "source"
    source.mkdir()
    clip(source / "a.mp4", 2.5, 2.5)
    settings = Settings(edits=("mute",), split="test")
    made, _ = edited_clips(source, settings, tmp_path / "home")
    file = next((made / "clips").iterdir())
    before = file.stat().st_mtime_ns
    assert edited_clips(source, settings, tmp_path / "home")[0] == made and file.stat().st_mtime_ns == before
    assert edited_clips(source, replace(settings, seed=1), tmp_path / "home")[0] != made
    with file.open("ab") as f:
        f.write(b"x")
    with pytest.raises(DataError, match="changed on disk"):
        edited_clips(source, settings, tmp_path / "home")
    with pytest.raises(DataError, match="no such folder"):
        edited_clips(tmp_path / "none", settings)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"edit": "shft"}, "lacks `edit` or `clip`"),
        ({"seconds": None}, "lacks `delta`, `silence` or `seconds`"),
        ({"delta": 0.0}, "edit shift with a delta of 0 s"),
        ({"original": "gone"}, "its original 'gone' is missing"),
    ],
)
def test_rows_that_cannot_be_used_are_told(folder, tmp_path, change, words):
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    row = next(r for r in rows if r["meta"]["edit"] == "shift" and r["meta"]["file"] == "0.mp4")
    row["meta"] |= change
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    shutil.copytree(folder / "clips", tmp_path / "clips")
    errors = load_thud(tmp_path).errors
    assert [words in e["error"] for e in errors if e["id"] == row["id"]] == [True]


# ------------------------------------------------------------------------------------------------------ what is asked


@pytest.mark.parametrize("wording", WORDINGS)
def test_letters_are_balanced_and_words_are_not_shuffled(wording):
    asked = questions(items(30), wording, "letters", True)
    for dimension, labels in LABELS.items():
        for label in labels:
            rows = [q for q in asked if q.about == dimension and q.item.label == label]
            places = Counter(q.labels.index(label) for q in rows)
            assert len(rows) == 30 and set(places.values()) == {30 // len(labels)} and len(places) == len(labels)
    q = next(q for q in asked if q.about == "sync")
    (shown, words) = q.sample.parts
    assert shown.path and words.text.startswith(WORDINGS[wording]["sync"])
    for letter, label in zip("ABC", q.labels):
        assert f"\n({letter}) {TEXTS[label]}" in words.text
    assert q.query == Query(("Answer:",), ("A", "B", "C"))
    offsets = [q for q in asked if q.about == OFFSET]
    assert len(offsets) == 90 and all(set(q.labels) == set(SIZES) for q in offsets)
    assert len({q.id for q in asked}) == len(asked)
    plain = questions(items(3), wording, "words", False)
    assert {q.query.options for q in plain if q.about == "sync"} == {("synced", "delayed", "early")}
    assert OFFSET not in {q.about for q in plain}
    same = [q.labels for q in questions(items(30), wording, "letters", True)]
    assert same == [q.labels for q in asked] != [q.labels for q in questions(items(30), wording, "letters", True, 1)]


def said_by(q, text):
    return outcomes([q], {q.id: {"text": text, "truncated": False}}, "strict")[0].said


def test_written_answers_are_read_or_unparsed():
    letters = next(q for q in questions(items(1), "direct", "letters", False) if q.about == "sync")
    assert said_by(letters, "(B)") == letters.labels[1] and said_by(letters, TEXTS["early"]) == "early"
    for text in ("", "I cannot tell.", "A or B", "(D)", "it is synced"):
        assert said_by(letters, text) == UNPARSED
    words = next(q for q in questions(items(1), "direct", "words", False) if q.about == "sync")
    assert said_by(words, "Delayed.") == "delay" and said_by(words, "early") == "early"
    for text in ("A", "(B)", "it is late"):  # no letter was offered
        assert said_by(words, text) == UNPARSED


def test_offsets_get_their_sign_from_what_was_said():
    one = [i for i in items(1) if i.label == "delay"]
    sync, size = questions(one, "direct", "words", True)

    def offset(text, seconds):
        answers = {sync.id: {"text": text, "truncated": False}, size.id: {"text": seconds, "truncated": False}}
        (outcome,) = outcomes([sync, size], answers, "strict")
        return outcome.offset

    assert offset("delayed", "1.6") == 1.6 and offset("early", "about 1.5 seconds") == -1.5
    assert offset("synced", "2.0") == 0.0
    assert offset("delayed", "1 or 2") is None and offset("what?", "2.0") is None


# -------------------------------------------------------------------------------------------------- what is measured


def test_the_constant_model_has_a_third_and_two_halves():
    m = summarise(constant(items()))
    assert m["sync"]["combined"]["value"] == pytest.approx(1 / 3, abs=1e-6)
    assert m["existence"]["combined"]["value"] == m["consistency"]["combined"]["value"] == 0.5
    assert [m[d][p]["value"] for d in LABELS for p in ("original", "edited", "gap")] == [1.0, 0.0, 1.0] * 3
    assert m["gap"]["value"] == 1.0
    high = {"mute_hallucination", "swap_false_match", "offset_blindness"}
    for name in FAILURES:
        value = m["failures"][name]["value"]
        assert value == (1.0 if name in high else None if name == "offset_error" else 0.0), name
    assert m["sync"]["direction"]["value"] is None and m["sync"]["direction"]["reasons"]
    assert m["sync"]["offset_mae"]["value"] == pytest.approx(1.2)  # the mean of the bands
    assert m["sync"]["offset_within_0.5"]["value"] == pytest.approx(0.2)


def test_uneven_numbers_leave_the_constant_model_where_it_is():
    """Twice as many delays, and swaps without most of their originals."""
    rows = [i for i in items() if i.label != "match" or i.clip == "clip0"]
    rows += [replace(i, sample=i.sample.replace(id=f"{i.sample.id}+")) for i in rows if i.label == "delay"]
    m = summarise(constant(rows))
    assert [round(100 * m[d]["combined"]["value"], 1) for d in LABELS] == [33.3, 50.0, 50.0]


def test_a_case_by_hand():
    """Four clips. Sync: originals synced, synced, delay, unparsed; delays said delay (1.2), early, synced, delay (2.0);
    earlies early (0.4), delay, unparsed, synced."""
    of = {(i.clip, i.label): i for i in items(4)}
    sync = {
        "synced": [("synced", None), ("synced", None), ("delay", 0.4), (UNPARSED, None)],
        "delay": [("delay", 1.2), ("early", 0.4), ("synced", None), ("delay", 2.0)],  # Δ .4 .8 1.2 1.6
        "early": [("early", 0.4), ("delay", 0.8), (UNPARSED, None), ("synced", None)],
    }
    rows = [
        Outcome(of[f"clip{k}", label], said, size)
        for label, many in sync.items()
        for k, (said, size) in enumerate(many)
    ]
    for label, many in (
        ("sound", ["sound", "sound", "silent", "sound"]),
        ("silent", ["silent", "sound", "sound", UNPARSED]),
        ("match", ["match"] * 4),
        ("mismatch", ["match", "match", "match", "mismatch"]),
    ):
        rows += [Outcome(of[f"clip{k}", label], said) for k, said in enumerate(many)]
    m = summarise(rows, draws=200)
    s, e, c = (m[d] for d in LABELS)
    assert (s["original"]["value"], s["edited"]["value"], s["gap"]["value"]) == (0.5, 0.375, 0.125)
    assert s["combined"]["value"] == pytest.approx((2 / 4 + 2 / 4 + 1 / 4) / 3, abs=1e-6)
    assert (e["original"]["value"], e["edited"]["value"], e["combined"]["value"]) == (0.75, 0.25, 0.5)
    assert (c["original"]["value"], c["edited"]["value"], c["combined"]["value"]) == (1.0, 0.25, 0.625)
    assert m["gap"]["value"] == pytest.approx((0.125 + 0.5 + 0.75) / 3, abs=1e-6)
    assert m["combined"]["value"] == pytest.approx((5 / 12 + 0.5 + 0.625) / 3, abs=1e-6)
    assert s["direction"] | {"ci95": 0} == {"n": 5, "value": 0.6, "ci95": 0}  # delay, early, delay; early, delay
    # said Δ: +1.2 for +.4, −.4 for +.8, 0 for +1.2, +2 for +1.6; −.4 for −.4, +.8 for −.8, (none), 0 for −1.6
    assert s["offset_mae"]["n"] == 7
    assert s["offset_mae"]["value"] == pytest.approx((0.8 + 1.2 + 1.2 + 0.4 + 0 + 1.6 + 1.6) / 7, abs=1e-6)
    assert s["offset_within_0.5"]["value"] == pytest.approx(2 / 7, abs=1e-6)
    assert s["offset_within_1"]["value"] == pytest.approx(3 / 7, abs=1e-6)
    bands = {b: (v["n"], v["value"]) for b, v in s["bands"].items()}
    assert bands == {"0.4": (2, 1.0), "0.8": (2, 0.0), "1.2": (2, 0.0), "1.6": (2, 0.5), "2.0": (0, None)}
    failures = {name: m["failures"][name]["value"] for name in FAILURES}
    assert failures == {
        "mute_hallucination": 0.5,
        "swap_false_match": 0.75,
        "offset_blindness": 0.25,
        "direction_confusion": 0.25,
        "false_sync_alarm": 0.25,
        "false_mute_alarm": 0.25,
        "false_swap_alarm": 0.0,
        "offset_error": pytest.approx(1 / 3, abs=1e-6),
    }
    assert m["unparsed"]["value"] == pytest.approx(3 / 28, abs=1e-6) and m["clips"] == 4 and m["n"] == 28
    low, high = s["original"]["ci95"]
    assert 0 <= low < 0.5 < high <= 1
    lines = arms_table({"model": m, "constant": summarise(constant(items(4)), draws=200)})
    assert [len(line) for line in lines] == [13] * 3 and lines[2][4] == "0.333"
    assert len({len(line) for line in details_table(m)}) == 1


def test_bands():
    assert [band_of(d) for d in (0.4, -0.8, 1.3, 2.2, -2.5, 0.1, 0.0)] == [
        "0.4",
        "0.8",
        "1.2",
        "2.0",
        "other",
        "other",
        None,
    ]


# --------------------------------------------------------------------------------------------------------- who answers


class Says:
    """Always the same label; it cannot take some clips, and remembers what it was shown."""

    def __init__(self, labels, refuses=()):
        self.labels, self.refuses, self.parts = labels, refuses, Counter()

    def prepare(self, sample, query):
        part, words = sample.parts
        if part.path in self.refuses:
            raise DataError("too long")
        self.parts[part.sound, part.frames] += 1
        return [float(any(f"({letter}) {TEXTS[x]}\n" in words.text for x in self.labels)) for letter in query.options]

    def scored(self, rows):
        return rows

    def truncated(self, row):
        return False


CONFIG = {
    "wordings": ["neutral", "direct"], "answers": "letters", "parser": "scored", "offset": True, "batch_size": 64,
    "max_new_tokens": 4, "seed": 0,
}  # fmt: skip


def test_a_model_that_always_says_synced_has_exactly_the_constant_scores(loaded):
    model = Says(("synced", "sound", "match"))
    arms, errors = arms_of(model, loaded, CONFIG)
    kinds = ("model", "vision_only", "audio_only")
    assert list(arms) == [*(f"{k}, {w}" for w in ("neutral", "direct") for k in kinds), "constant"] and not errors
    asked = 2 * (len(loaded.items) + sum(i.dimension == "sync" for i in loaded.items))
    assert model.parts == {(True, True): asked, (False, True): asked, (True, False): asked}
    for rows in arms.values():
        m = summarise(rows, draws=50)
        assert [round(100 * m[d]["combined"]["value"], 1) for d in LABELS] == [33.3, 50.0, 50.0]
    arms, _ = arms_of(Says(("delay", "silent", "mismatch", "2.0")), loaded, CONFIG)
    m = summarise(arms["model, direct"], draws=50)
    assert [m[d]["edited"]["value"] for d in LABELS] == [0.5, 1.0, 1.0] and m["sync"]["original"]["value"] == 0.0
    wanted = [abs(2.0 - i.delta) for i in loaded.items if i.dimension == "sync" and i.edited]
    assert m["sync"]["offset_mae"]["value"] == pytest.approx(np.mean(wanted), abs=1e-6)


def test_what_cannot_be_asked_is_left_out_of_all_arms(loaded):
    bad = next(i for i in loaded.items if i.dimension == "existence")
    arms, errors = arms_of(Says(("synced",), {bad.sample.media[0].path}), loaded, CONFIG)
    left = {i.id for i in loaded.items if i.clip != bad.clip}
    assert all({o.item.id for o in rows} == left for rows in arms.values())
    assert {e["id"].split("/")[0] for e in errors} == {i.sample.id for i in loaded.items if i.clip == bad.clip}
    with pytest.raises(DataError, match="can take none of the"):
        arms_of(Says((), {i.sample.media[0].path for i in loaded.items}), loaded, CONFIG)


@pytest.mark.parametrize("kind", ["encoded", "native"])
def test_a_guards_backbone_sees_and_hears(loaded, kind):
    model = GuardModel(Guard(random_backbone(kind, text_tokens=400)))
    item = next(i for i in loaded.items if i.dimension == "sync" and i.edited)
    got = []
    for one in (item, without(item, "sound"), without(item, "frames")):
        (q,) = (q for q in questions([one], "direct", "letters", False))
        got.append(model.scored([model.prepare(q.sample, q.query)])[0])
    assert all(len(g) == 3 for g in got) and len({tuple(np.round(g, 5)) for g in got}) == 3


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    return write_thinker(tmp_path_factory.mktemp("hub") / "thinker")


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'video' %}"
    "<|vision_bos|><|VIDEO|><|vision_eos|>{% elif c['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_hugging_face_omni_folders_answer(loaded, thinker):
    """Qwen2.5-Omni by the zoo's backbone; others by their own processors, which the same weights stand in for."""
    own = model_named(str(thinker), omni=True)
    assert isinstance(own, GuardModel)
    with pytest.raises(CheckpointError, match="neither a chat template"):
        HubModel(thinker, omni=True)
    (thinker / "chat_template.jinja").write_text(TEMPLATE)
    other = HubModel(thinker, omni=True)
    item = next(i for i in loaded.items if i.dimension == "sync" and i.edited)
    seen = []
    for one in (item, without(item, "sound"), without(item, "frames")):
        for answers in ("letters", "words"):
            (q,) = questions([one], "direct", answers, False)
            (logp,) = other.scored([other.prepare(q.sample, q.query)])
            assert len(logp) == 3 and all(x < 0 for x in logp)
            seen.append(tuple(np.round(logp, 4)))
        assert isinstance(other.written([other.prepare(q.sample, q.query)], 3)[0], str)
    assert len(set(seen)) == 6
    (q,) = questions([item], "direct", "words", False)
    row = other.prepare(q.sample, q.query)
    assert {"pixel_values_videos", "input_features"} <= set(row["inputs"])
    (logp,) = other.scored([row])
    by_hand = []
    for text in ("early", " early"):  # a token is a byte there: the option's tokens after the prompt, one by one
        inputs = other._inputs(row, text)
        n, ids = row["inputs"]["input_ids"].shape[1], inputs["input_ids"][0]
        logits = other.model(**inputs).logits[0].detach().log_softmax(-1)
        by_hand.append(sum(float(logits[t - 1, ids[t]]) for t in range(n, len(ids))))
    assert logp[2] == pytest.approx(by_hand[0], abs=1e-3)  # with a space it would be one token more


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        answering, "load", lambda name, device, cached: Guard(random_backbone("encoded", text_tokens=400))
    )
    where = [f"data_dir={folder}", f"runs={tmp_path / 'runs'}", "wordings=[direct]", "batch_size=16"]
    assert command.main(["recipe=thud", "model=some-guard", *where]) == 1  # some clips cannot be asked about sync
    (run,) = (tmp_path / "runs" / "test" / "thud").iterdir()
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["arms"]) == {"model, direct", "vision_only, direct", "audio_only, direct", "constant"}
    assert metrics["rejected"] == {"seen and heard apart": 1, "silenced by the edit": 2} and metrics["errors"] == 3
    assert metrics["items"]["existence"] == 8
    constant_ = metrics["arms"]["constant"]
    assert [round(100 * constant_[d]["combined"]["value"], 1) for d in LABELS] == [33.3, 50.0, 50.0]
    answers = [json.loads(line) for line in (run / "answers.jsonl").read_text().splitlines()]
    rows = [a["said"] == a["label"] for a in answers if a["arm"] == "model, direct" and a["id"].endswith("/existence")]
    m = metrics["arms"]["model, direct"]["existence"]
    assert np.mean(rows) == pytest.approx((m["original"]["value"] + m["edited"]["value"]) / 2)
    assert len((run / "errors.jsonl").read_text().splitlines()) == 3
    out = capsys.readouterr()
    assert "mute hallucination" in out.out and "constant" in out.out and "seen and heard apart: 1" in out.err


@pytest.mark.parametrize(
    "argument, words",
    [
        ("parser=strct", "did you mean 'strict'"),
        ("answers=numbers", "answers=numbers: expected one of letters"),
        ("wordings=[neutrl]", "did you mean 'neutral'"),
        ("wordings=[]", "name each wording once"),
        ("data.deltas=[0.4,0]", "expected sizes of shifts"),
        ("data.scale=0", "data.scale=0"),
        ("data.split=tset", "data.split=tset: expected one of train"),
        ("batch_size=0", "expected a whole number"),
        ("calibrate=true", "nothing to calibrate"),
        ("data_dir=/nowhere", "no such folder"),
    ],
)
def test_settings_that_are_wrong(argument, words, monkeypatch):
    monkeypatch.setattr(answering, "load", lambda name, device, cached: Guard(random_backbone("encoded")))
    with pytest.raises(DataError) as e:
        command.main(["recipe=thud", "model=some-guard", argument])
    assert words in str(e.value)
