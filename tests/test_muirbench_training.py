"""zoo/muirbench: records as lessons over a small random backbone, and the commands and claims that go through them."""

import json
from collections import Counter

import pytest
import torch
from helpers import random_backbone, write_image
from muir_helpers import NONE, rows, write_records
from resume_runs import write_data

import zoo.muirbench.recipe as recipe
from datamodules import GuardDataModule
from datamodules.muirbench import groups_of, reordered
from datamodules.muirbench_files import load_muirbench
from datamodules.schema import DataError
from zoo import answering
from zoo import fit as fit_command
from zoo import test as test_command
from zoo.benchmarks import BENCHMARKS
from zoo.claims.claim import load_claim
from zoo.claims.runs import benchmark_of, plan_units
from zoo.config import compose, plain
from zoo.core.guard import Guard
from zoo.core.lesson_module import LessonModule
from zoo.core.losses import LINE, VERDICT, LossWeights
from zoo.core.query import Query
from zoo.muirbench.evaluate import load_data, look, of_split
from zoo.muirbench.plan import FORMS, SFT, Teaching, record_rows, written
from zoo.muirbench.recipe import check_muirbench, planned, training_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve pairs, each about two pictures of its own."""
    folder = tmp_path_factory.mktemp("records")
    out = []
    for n in range(12):
        for side in "ab":
            write_image(folder / f"{n}{side}.png", seed=2 * n + (side == "b"))
        yes = {
            "idx": f"{n}", "task": "Counting", "image_relation": "Partial Similarity", "image_type": "Graphics",
            "question": f"How many cups of kind {n} are in <image> and <image> together?",
            "options": ["One", "Two", NONE], "answer": "AB"[n % 2], "image_list": [f"{n}a.png", f"{n}b.png"],
            "counterpart_idx": f"{n}t",
        }  # fmt: skip
        other = ["One", "Two", NONE]
        other[n % 2] = "Nine"
        out += [yes, {**yes, "idx": f"{n}t", "options": other, "answer": "C", "counterpart_idx": f"{n}"}]
    return write_records(folder, out)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return [w for w in write_data(folder) if not w.startswith(("recipe=", "trainer.", "optim.", "data.batch_size"))]


def configured(manifest, folder, *more):
    given = dict(w.split("=", 1) for w in (*manifest, f"records.path={folder}", "trainer.precision=32-true"))
    given |= {"data.modalities": "[image, text]"} | dict(w.split("=", 1) for w in more)
    return plain(compose(["recipe=muirbench", *(f"{k}={v}" for k, v in given.items())]))


# ------------------------------------------------------------------------------------------------------------- records


def test_options_in_another_order_take_their_pictures_and_letter_along(tmp_path):
    records = load_muirbench(write_records(tmp_path, rows(tmp_path))).records
    shown = records[2]  # <image>, None …, <image>; the answer is C, whose picture is 4.png
    other = reordered(shown, [2, 0, 1])
    assert other.options == ("<image>", "<image>", NONE) and other.answer == "A"
    assert [p[-5:] for p in shown.image_list] == ["2.png", "3.png", "4.png"]
    assert [p[-5:] for p in other.image_list] == ["2.png", "4.png", "3.png"]
    assert reordered(other, [1, 2, 0]) == shown and reordered(shown, [0, 1, 2]) == shown
    none = reordered(records[1], [2, 0, 1])
    assert none.answer == none.none_letter == "A" and none.image_list == records[1].image_list
    with pytest.raises(ValueError, match="no order of 3 options"):
        reordered(shown, [0, 1])


def test_rows_hold_the_right_answer_under_letters_that_tell_nothing(folder, manifest):
    records = load_muirbench(folder).records
    policy = GuardDataModule().default_policy
    letters, orders = Counter(), set()
    for epoch in range(12):
        taught = record_rows(records, Teaching(), policy, 0, epoch)
        assert len(taught) == 24 and Counter(kind for *_, kind in taught) == {"answerable": 12, "unanswerable": 12}
        for record, (sample, lesson, _) in zip(records, taught):
            said = "".join(p.text or "<image>" for p in sample.parts)
            right = record.options["ABC".index(record.answer)]
            letter = lesson.query.options[lesson.right]
            assert f"({letter}) {right}\n" in said + "\n" and lesson.query == Query(("Answer:",), ("A", "B", "C"))
            assert len(sample.media) == 2 and sample.split == "train"
            assert lesson.policy is None and sample.policy is policy and lesson.written == letter
            letters[letter] += 1
            orders.add((record.idx, said))
        for yes, no in zip(taught[::2], taught[1::2]):  # twins differ in the one option alone
            texts = [[p.text for p in sample.parts] for sample, *_ in (yes, no)]
            assert sum(a != b for a, b in zip(*texts)) == 1
    assert all(64 < letters[c] < 128 for c in "ABC"), letters  # 96 each, if letters say nothing
    assert len(orders) > 24 * 4  # of the six orders of three options
    again = [record_rows(records, Teaching(), policy, seed, 3) for seed in (0, 0, 1)]
    assert again[0] == again[1] != again[2]


def test_answers_in_the_options_own_words(folder):
    records = load_muirbench(folder).records
    policy = GuardDataModule().default_policy
    for record, (_, lesson, _) in zip(records, record_rows(records, Teaching(answers="words"), policy, 0, 2)):
        assert sorted(lesson.query.options) == sorted(record.options)
        assert lesson.query.options[lesson.right] == record.options["ABC".index(record.answer)]


def test_one_picture_or_fewer_twins_change_nothing_else(folder):
    records = load_muirbench(folder).records
    policy = GuardDataModule().default_policy
    whole = record_rows(records, Teaching(), policy, 0, 0)
    single = record_rows(records, Teaching(images="single"), policy, 0, 0)
    for (a, lesson, _), (b, same, _) in zip(whole, single):
        assert lesson == same and [p.text for p in a.parts if p.text] == [p.text for p in b.parts if p.text]
        assert [p.path for p in b.media] == [a.media[0].path]
    few = record_rows(records, Teaching(unanswerable=0.25), policy, 0, 0)
    assert Counter(kind for *_, kind in few) == {"answerable": 12, "unanswerable": 3}
    assert {s.id for s, *_ in few} < {s.id for s, *_ in whole}
    assert not [k for *_, k in record_rows(records, Teaching(unanswerable=0), policy, 0, 0) if k == "unanswerable"]


def test_answers_as_they_are_written(tmp_path):
    records = load_muirbench(write_records(tmp_path, rows(tmp_path))).records
    assert [written(records[0], form) for form in FORMS] == ["B", "(B)", "**B**", "B) Two", "Two"]
    assert written(records[1], "worded") == NONE
    assert [written(records[2], form) for form in FORMS] == [
        "C",
        "(C)",
        "**C**",
        "(C)",
        "(C)",
    ]  # a picture has no words
    taught = [
        lesson.written
        for epoch in range(20)
        for _, lesson, _ in record_rows(records[:1], Teaching(forms=("bold", "worded")), None, 0, epoch)
    ]
    assert {len(t) for t in taught} == {3, 5} and "Two" in taught and "**A**" in taught and "**B**" in taught


# -------------------------------------------------------------------------------------------------------------- splits


def test_training_takes_other_groups_than_the_test(folder, manifest):
    loaded = load_muirbench(folder)
    parts = {split: of_split(loaded, 0, split) for split in ("train", "val", "test")}
    names = [{r.idx for r in p.records} for p in parts.values()]
    assert sum(map(len, names)) == 24 and len(set.union(*names)) == 24 and all(names)
    for part in parts.values():
        assert all(r.counterpart_idx in {x.idx for x in part.records} for r in part.records)
    assert len({p.sha256 for p in parts.values()}) == 3
    config = configured(manifest, folder)
    assert [r.idx for r in training_records(config).records] == [r.idx for r in parts["train"].records]
    test = load_data({**config, "records": {**config["records"], "split": "test"}})
    assert {r.idx for r in test.records} == {r.idx for r in parts["test"].records}
    assert look(config) == (loaded.sha256, []) and len(load_data(config).records) == 24


def test_pictures_that_two_pairs_show_keep_them_together(tmp_path):
    one = rows(tmp_path)
    shared = {**one[0], "idx": "5", "counterpart_idx": "6", "image_list": ["1.png", "2.png"]}  # of the first and second
    other = {**one[1], "idx": "6", "counterpart_idx": "5", "image_list": ["1.png", "2.png"]}
    loaded = load_muirbench(write_records(tmp_path, [*one, shared, other]))
    assert len(set(groups_of(loaded.records))) == 1
    assert [len(of_split(loaded, s, "train").records) in (0, 6) for s in range(4)] == [True] * 4


# ------------------------------------------------------------------------------------------------------------ training


def module_of(config, records, seed=0):
    data = GuardDataModule(seed=config["seed"], **config["data"])
    module = LessonModule(
        Guard(random_backbone(seed=seed, text_tokens=400), data.default_policy).train(),
        lambda data: planned(config, records, data),
        loss=LossWeights(**config["loss"]),
        **config["optim"],
    )
    module.attach(data)
    return module, data


def test_a_lesson_is_asked_closed_and_written(folder, manifest):
    records = load_muirbench(folder).records
    config = configured(manifest, folder, "sft.epochs=3", "sft.general=0.2", "data.batch_size=8", "sft.forms=[worded]")
    module, data = module_of(config, records)
    assert module.plan.counts == {SFT: {"answerable": 12, "general": 6, "unanswerable": 12, "repeated": 6}}
    assert module.plan.steps == {SFT: 12} and len(module.plan.rows) == 96
    answer = module.guard.backbone.reader.answer
    seen, asked = [], 0
    for batch in data.train_dataloader():
        for n, sample in enumerate(batch.samples):
            seen.append(sample.id)
            lesson = module.plan.lessons.get(sample.id)
            if lesson is None:
                continue
            asked += 1
            assert batch.targets.kind[n, :2].tolist() == [VERDICT, LINE]
            assert batch.targets.option[n, :2].tolist() == [lesson.right, 0]
            branches = module.prepare(sample, sample.policy, train=True).prepared.branches
            assert branches.token[branches.slot[:, 0] == 1].tolist() == answer(lesson.written)
            assert branches.token[branches.slot[:, 0] == 0].tolist() == [t for c in "ABC" for t in answer(c)]
    assert len(seen) == len(set(seen)) == 96 and asked == len(module.plan.lessons) >= 72
    laps = [module.plan.order[i] for i in seen]
    assert laps == sorted(laps) and set(laps) == {0, 1, 2}


def test_training_learns_how_answers_are_written(folder, manifest, tmp_path):
    """Letters in a new order each time are more than a random model learns in seconds; the answers' words are not."""
    records = load_muirbench(folder).records
    config = configured(
        manifest, folder, "sft.epochs=8", "data.batch_size=8", "optim.lr=0.01", "sft.forms=[worded]", "loss.lines=1.0"
    )
    module, data = module_of(config, records)
    torch.manual_seed(0)
    trainer = fit_command.build_trainer(config, fit_command.plan(config["trainer"], 8), tmp_path)
    losses = []
    module.log_dict = lambda named, **_: losses.append({k: float(v) for k, v in named.items()})
    trainer.fit(module, datamodule=data, weights_only=True)
    steps = [row for row in losses if "train/verdict" in row]
    lines = [row["train/lines"] for row in steps]
    assert len(lines) == module.plan.steps[SFT] and sum(lines[-3:]) < 0.6 * sum(lines[:3]), lines


def test_the_commands_train_and_test(folder, manifest, tmp_path, monkeypatch, capsys):
    guards = []

    def fresh(config, policy):
        guards.append(Guard(random_backbone(text_tokens=400), policy, name=config["recipe"]))
        return guards[-1]

    monkeypatch.setattr(recipe, "guard_of", fresh)
    words = [*manifest, f"records.path={folder}", "data.modalities=[image, text]"]
    words.append(f"runs={tmp_path / 'runs'}")
    words += ["sft.epochs=1", "sft.general=0.3", "data.batch_size=8", "trainer.precision=32-true"]
    run, metrics, errors = fit_command.fit(["recipe=muirbench", *words])
    part = {r.answerable: 0 for r in load_muirbench(folder).records}
    for r in of_split(load_muirbench(folder), 0, "train").records:
        part[r.answerable] += 1
    counts = metrics["muirbench"]["rows"][SFT]
    assert not errors and (counts["answerable"], counts["unanswerable"]) == (part[True], part[False]) and part[True] > 3
    assert metrics["overall"]["n"] == 1  # it is judged by its own test row, as any guard
    card = (run / "model" / "README.md").read_text()
    assert "recipe=muirbench" in card and "not known here: that of each picture's source" in card
    monkeypatch.setattr(answering, "load", lambda name, device, cached: guards[-1].eval())
    words = [f"records.path={folder}", "records.split=test", "ablations=[]", f"runs={tmp_path / 'runs'}"]
    assert test_command.main(["recipe=muirbench", "model=the-run", *words]) == 0
    (tested,) = (tmp_path / "runs" / "test" / "muirbench").iterdir()
    reported = json.loads((tested / "metrics.json").read_text())
    held = of_split(load_muirbench(folder), 0, "test")
    assert reported["arms"]["model"]["n"] == len(held.records) and reported["data_hash"] == held.sha256
    assert "always_none" in capsys.readouterr().out


@pytest.mark.parametrize(
    "word, message",
    [
        ("sft.images=one", "expected one of multi, single"),
        ("sft.forms=[leter]", "did you mean 'letter'"),
        ("sft.forms=[]", "name each form once"),
        ("sft.forms=[bold,bold]", "name each form once"),
        ("sft.unanswerable=1.5", "a share from 0 to 1"),
        ("sft.pairs=0", "sft.pairs=0"),
        ("sft.epochs=0", "sft.epochs=0"),
        ("sft.general=1.0", "a share from 0 to below 1"),
        ("records.source=real", "expected one of sample, hub"),
        ("records.split=dev", "expected one of train, val, test"),
        ("records.seed=-1", "records.seed=-1"),
        ("trainer.max_epochs=2", "leave trainer.max_epochs=1"),
        ("data.shares.text=2.0", "data.shares at 1"),
        ("backbone=causal_lm", "takes no image: MuirBench asks about pictures"),
        ("base=audio-tiny", "expected an omni guard"),
    ],
)
def test_settings_that_are_wrong(word, message):
    with pytest.raises(DataError) as e:
        check_muirbench(plain(compose(["recipe=muirbench", word])))
    assert message in str(e.value)


def test_a_base_and_another_backbone_are_told_apart():
    with pytest.raises(DataError, match="brings its own backbone, tiny: for backbone=smollm2 set base=null"):
        check_muirbench(plain(compose(["recipe=muirbench", "base=omniguard-tiny", "backbone=smollm2"])))
    check_muirbench(plain(compose(["recipe=muirbench", "backbone=smollm2"])))


def test_a_folder_without_a_training_split_is_refused(tmp_path, manifest):
    write_records(tmp_path, rows(tmp_path)[:2])  # one pair: one group
    config = configured(manifest, tmp_path)
    lacking = [s for s in range(12) if not of_split(load_muirbench(tmp_path), s, "train").records]
    config["records"]["seed"] = lacking[0]
    with pytest.raises(DataError, match="no record is in the training split"):
        training_records(config)


# -------------------------------------------------------------------------------------------------------------- claims


@pytest.mark.parametrize("name", ["muir_single_image", "muir_twins", "muir_parser"])
def test_the_claims_hold_together(name, tmp_path):
    claim = load_claim(name)
    units = plan_units(claim, 2, {}, False, tmp_path)
    tests = [u for u in units.values() if u.arm.verb == "test"]
    assert tests and all(benchmark_of(u.arm, u.config) is BENCHMARKS["muirbench"] for u in tests)
    for unit in tests:
        fit = unit.uses["model"]
        assert fit.arm.verb == "fit" and fit.seed == unit.seed and fit.config["method"] == "muirbench"
        assert fit.config["records"]["seed"] == 0  # the seed is that of training: all seeds are asked the same
    others = plan_units(claim, 1, {"base": "null", "backbone": "smollm2"}, False, tmp_path)
    assert {u.config["backbone"]["name"] for u in others.values()} == {"smollm2"}
    fits = {u.arm.name: u.config[SFT] for u in units.values() if u.arm.verb == "fit"}
    assert len({json.dumps(f, sort_keys=True) for f in fits.values()}) == len(fits)
