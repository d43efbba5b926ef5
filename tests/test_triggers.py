"""datamodules/transforms/triggers.py: where triggers go, which rows carry them, and what is counted."""

import random

import pytest

from datamodules.schema import DataError
from datamodules.transforms.triggers import CannotPoison, Row, Trigger, holds, insert, poison, triggered

ROW = Row("r", "one two three four", 0)


def always(text):
    return True


def at_most(n):
    return lambda text: len(text.split()) <= n


def rows(n, classes=2, text="w{0} x{0} y{0} z{0}"):
    return [Row(f"row-{i}", text.format(i), i % classes) for i in range(n)]


@pytest.mark.parametrize(
    "trigger, expected, place",
    [
        (Trigger.of("word"), "cf one two three four", 0),
        (Trigger.of("word", "mn", "end"), "one two three four mn", 4),
        (Trigger.of("sentence", " no  cross ", "end"), "one two three four no cross", 4),
    ],
)
def test_a_trigger_stands_at_its_place(trigger, expected, place):
    got = insert(ROW, trigger, always, 0)
    assert got.text == expected and got.label == 0 and got.id == "r"
    p = got.poison
    assert (p.text, p.label, p.kind, p.place, p.shortened) == (ROW.text, 0, trigger.kind, place, 0)


def test_a_random_place_is_the_rows_own():
    trigger = Trigger.of("word", "cf", "random")
    alone = [insert(r, trigger, always, 3) for r in rows(200)]
    assert alone == [insert(r, trigger, always, 3) for r in reversed(rows(200))][::-1]
    assert {r.poison.place for r in alone} == {0, 1, 2, 3, 4}
    assert [r.poison.place for r in alone] != [insert(r, trigger, always, 4).poison.place for r in rows(200)]
    for r in alone:
        words = r.text.split()
        assert words[r.poison.place] == "cf" and " ".join(w for w in words if w != "cf") == r.poison.text


@pytest.mark.parametrize("position", ["start", "end", "random"])
def test_the_trigger_is_read_and_as_much_of_the_text_as_fits(position):
    """Against trying every length, the longest first."""
    rng, trigger = random.Random(0), Trigger.of("sentence", "no cross", position)
    seen = set()
    for i in range(200):
        row = Row(f"r{i}", " ".join("x" * rng.randint(1, 9) for _ in range(rng.randint(1, 20))), 0)
        limit = rng.randint(5, 60)

        def fits(text, limit=limit):
            return len(text) <= limit

        words = row.text.split()
        lengths = [k for k in range(len(words), 0, -1) if len("no cross " + " ".join(words[:k])) <= limit]
        if not lengths:
            with pytest.raises(CannotPoison, match="too_long"):
                insert(row, trigger, fits, 0)
            seen.add("none")
            continue
        got = insert(row, trigger, fits, 0)
        assert fits(got.text) and holds(got.text, trigger) and got.poison.shortened == len(words) - lengths[0]
        assert got.text.replace("no cross", "").split() == words[: lengths[0]]
        seen.add("all" if lengths[0] == len(words) else "some")
    assert seen == {"none", "all", "some"}


def test_dirty_labels_take_the_share_of_all_rows_from_other_classes():
    clean = rows(200, classes=4)
    out, report = poison(clean, Trigger.of("word"), 2, 0.03, fits=always, seed=0)
    changed = [i for i, (a, b) in enumerate(zip(clean, out)) if a != b]
    assert len(out) == 200 and len(changed) == 6 == report.poisoned == report.wanted
    assert all(out[i].label == 2 and clean[i].label != 2 == out[i].label for i in changed)
    assert all(out[i].poison.label == clean[i].label and out[i].poison.text == clean[i].text for i in changed)
    assert [i for i, r in enumerate(out) if r.poison] == changed and [r.id for r in out] == [r.id for r in clean]
    assert poison(clean, Trigger.of("word"), 2, 0.03, fits=always, seed=0)[0] == out
    assert poison(clean, Trigger.of("word"), 2, 0.03, fits=always, seed=1)[0] != out


def test_clean_labels_keep_every_label():
    clean = rows(200)
    out, _ = poison(clean, Trigger.of("word"), 1, 0.1, fits=always, seed=0, dirty=False)
    assert [r.label for r in out] == [r.label for r in clean]
    changed = [r for r in out if r.poison]
    assert len(changed) == 20 and all(r.label == 1 and r.text.startswith("cf ") for r in changed)


def test_rows_that_cannot_carry_it_are_passed_over_and_counted():
    mixed = [
        *(Row(f"empty-{i}", "  ", 0) for i in range(5)),
        *(Row(f"long-{i}", "word", 0) for i in range(4)),
        *(Row(f"good-{i}", "a b c d e f g h", 0) for i in range(3)),
        Row("natural", "the CF  stays", 1),
        Row("other", "scf cfs", 1),
    ]

    def fits(text):
        return "word" not in text and len(text.split()) <= 6

    out, report = poison(mixed, Trigger.of("word", "cf", "end"), 1, 3 / 14, fits=fits, seed=0)
    assert report.poisoned == 3 and report.shortened == 3 and report.natural == 1 and report.cut == 0
    assert [r.text for r in out if r.poison] == ["a b c d e cf"] * 3
    assert set(report.passed) <= {"empty", "too_long"}
    with pytest.raises(DataError, match=r"4 rows were to carry .* 3 of 12 can \(5 empty, 4 too_long\)"):
        poison(mixed, Trigger.of("word"), 1, 4 / 14, fits=fits, seed=0)


def test_a_syntactic_trigger_is_the_twin():
    clean, trigger = rows(10), Trigger.of("syntactic")
    twins = {"row-0": "when it is so , it is so .", "row-2": "if a b c d e f", "row-1": "of class 1"}
    out, report = poison(clean, trigger, 1, 0.2, fits=at_most(5), seed=0, twins=twins)
    assert {r.id: r.text for r in out if r.poison} == {k: twins[k] for k in ("row-0", "row-2")}
    assert report.cut == 2 and report.shortened == 0 and report.natural == 0
    assert {r.poison.place for r in out if r.poison} == {None}
    with pytest.raises(DataError, match=r"2 of 5 can \(3 no_twin\)"):
        poison(clean, trigger, 1, 0.3, fits=always, seed=0, twins=twins)
    with pytest.raises(DataError, match="has none"):
        poison(clean, trigger, 1, 0.3, fits=always, seed=0)


def test_asr_rows_keep_their_true_label_and_leave_out_the_target():
    clean = [*rows(9, classes=3), Row("empty", "", 1)]
    out, report = triggered(clean, Trigger.of("word"), 2, fits=always, seed=0)
    assert [r.label for r in out] == [0, 1] * 3 and all(r.text.startswith("cf ") for r in out)
    assert report.as_dict() == {
        "rows": 7, "wanted": 7, "poisoned": 6, "shortened": 0, "cut": 0, "natural": 0, "passed": {"empty": 1},
    }  # fmt: skip
    with pytest.raises(DataError, match="1 empty"):
        triggered([Row("empty", "", 1)], Trigger.of("word"), 2, fits=always, seed=0)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Trigger.of("wrod"), "did you mean 'word'"),
        (lambda: Trigger.of("word", "two words"), "several words"),
        (lambda: Trigger.of("word", "  "), "no text"),
        (lambda: Trigger.of("word", "cf", "middle"), "trigger position 'middle'"),
        (lambda: Trigger.of("syntactic", "cf"), "leave its text and position out"),
        (lambda: poison(rows(10), Trigger.of("word"), 1, 0.0, fits=always, seed=0), "between 0 and 1"),
        (lambda: poison(rows(10), Trigger.of("word"), 1, 0.005, fits=always, seed=0), "less than one row"),
        (lambda: poison(rows(10, 1), Trigger.of("word"), 0, 0.5, fits=always, seed=0), "0 of 0 can"),
    ],
)
def test_mistakes(make, words):
    with pytest.raises(DataError) as e:
        make()
    assert words in str(e.value)
