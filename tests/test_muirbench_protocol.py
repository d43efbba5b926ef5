"""zoo/muirbench: parsers on a table of answers, metrics against brute force, and models whose numbers are known."""

import itertools
import random

import numpy as np
import pytest

from datamodules.muirbench import NONE, TASKS, Record
from datamodules.schema import DataError
from zoo.muirbench.baselines import always_none, chance, random_letters
from zoo.muirbench.metrics import SLICES, Outcome, arms_table, slices_table, summarise
from zoo.muirbench.parsers import OfficialParser, parser_named, strict

OPTIONS = ("One dog", "Two dogs", "A red ball", NONE)

# answer, what a reader would say (None: cannot be read), what the official parser says (random: drawn)
ANSWERS = [
    ("A", "A", "A"),
    ("(B)", "B", "B"),
    ("B.", "B", "B"),
    ("**C**", "C", "random"),
    ("**C.**", "C", "random"),
    ("A) One dog", "A", "random"),
    ("(A) One dog", "A", "A"),
    ("A. One dog", "A", "random"),
    ("A One dog", "A", "A"),
    ("b", "B", "random"),
    ("Answer: D", "D", "D"),
    ("Answer:\nD", "D", "random"),
    ("The answer is B.", "B", "B"),
    ("The correct answer is **(B)**, since both show one.", "B", "B"),
    ("The answer is: C, because of the colour", "C", "random"),
    ("\\boxed{B}", "B", "random"),
    ("\\boxed{\\text{B}}", "B", "random"),
    ("Ｄ", "D", "random"),
    (NONE, "D", "random"),
    (f"{NONE}.", "D", "random"),
    (f"The answer is {NONE}.", "D", "D"),
    ("two dogs", "B", "random"),
    ("A red ball", "C", "A"),
    ("B\n\nThe pictures differ.", "B", "random"),
    ("I see (A) in one picture, so it must be (B)", None, "B"),
    ("(A) or (B)", None, "B"),
    ("A dog is shown in both pictures", None, "A"),
    ("It is not (A)", None, "A"),
    ("A) Two dogs", None, "random"),
    ("E", None, "random"),
    ("(E)", None, "random"),
    ("", None, "random"),
    ("I cannot tell", None, "random"),
    ("two", None, "random"),
    ("There are surely two dogs and a cat there", None, "B"),
    ("The answer is a red thing", None, "random"),
]


@pytest.mark.parametrize("answer, wanted, official", ANSWERS, ids=[repr(a) for a, _, _ in ANSWERS])
def test_parsers(answer, wanted, official):
    read = strict(answer, OPTIONS)
    assert read.letter == wanted and (read.how == "unparsed") == (wanted is None)
    old = OfficialParser()(answer, OPTIONS)
    if official == "random":
        assert old.how == "random" and old.letter in "ABCD"
    else:
        assert old.how != "random" and old.letter == official


def test_the_official_parsers_picks_are_the_releases():
    parser, expected = OfficialParser(), random.Random(42)
    picks = [parser(a, OPTIONS).letter for a in ("?", "A", "hm", "**C**")]
    assert picks == [expected.choice(["A", "B", "C", "D"]), "A", *(expected.choice(["A", "B", "C", "D"]) for _ in "12")]


def test_options_that_are_pictures_are_never_written_out():
    assert strict("<image>", ("<image>", "<image>", NONE)).how == "unparsed"
    assert strict("none of the choices provided", ("<image>", "<image>", NONE)).letter == "C"


def test_an_unknown_parser():
    assert parser_named("strict") is strict
    with pytest.raises(DataError, match="did you mean 'strict'"):
        parser_named("strct")


def benchmark(pairs=30, seed=0):
    """Records with 3 to 5 options, and answers that are right, wrong or unread."""
    draw = random.Random(seed)
    records = []
    for n in range(pairs):
        options = [f"thing {i}" for i in range(draw.randint(2, 4))]
        options.insert(draw.randint(0, len(options)), NONE)
        none = "ABCDE"[options.index(NONE)]
        letter = draw.choice([c for c in "ABCDE"[: len(options)] if c != none])
        shared = {
            "task": draw.choice(TASKS[:4]),
            "image_relation": draw.choice(("Temporal", "Narrative")),
            "image_type": draw.choice(("Map", "Meme")),
            "question": "q",
            "options": tuple(options),
            "image_list": ("x",) * draw.randint(2, 4),
        }
        for idx, twin, answer in ((f"{n}y", f"{n}n", letter), (f"{n}n", f"{n}y", none)):
            records.append(Record(idx=idx, counterpart_idx=twin, answer=answer, **shared))
    return records


def answered(records, seed=1):
    draw = random.Random(seed)
    strategies = {r.pair: draw.choice(("image", "question", "option")) for r in records}
    out = []
    for r in records:
        letter = draw.choice([*r.letters, r.answer, None])
        out.append(Outcome(r, letter, "letter" if letter else "unparsed", strategy=strategies[r.pair]))
    draw.shuffle(out)
    return out


def test_metrics_against_counting():
    outcomes = answered(benchmark())
    m = summarise(outcomes, draws=50)
    share = lambda rows: sum(o.letter == o.record.answer for o in rows) / len(rows)  # noqa: E731
    yes = [o for o in outcomes if o.record.answer != o.record.none_letter]
    no = [o for o in outcomes if o.record.answer == o.record.none_letter]
    assert m["n"] == 60 and m["pairs"] == 30
    assert m["micro"]["value"] == pytest.approx(share(outcomes), abs=1e-6)
    tasks = {t: share([o for o in outcomes if o.record.task == t]) for t in {o.record.task for o in outcomes}}
    assert m["macro"]["value"] == pytest.approx(np.mean(list(tasks.values())), abs=1e-6)
    assert {t: e["value"] for t, e in m["by_task"].items()} == pytest.approx(tasks, abs=1e-6)
    assert m["answerable"]["value"] == pytest.approx(share(yes), abs=1e-6) and m["answerable"]["n"] == 30
    assert m["gap"]["value"] == pytest.approx(share(yes) - share(no), abs=1e-6)
    right = {o.record.idx: o.letter == o.record.answer for o in outcomes}
    both = sum(right[f"{n}y"] and right[f"{n}n"] for n in range(30)) / 30
    assert m["both_right"]["value"] == pytest.approx(both, abs=1e-6) and m["both_right"]["n"] == 30 and both > 0
    abstained = [o for o in outcomes if o.letter == o.record.none_letter]
    hits = [o for o in abstained if o in no]
    assert m["abstention_precision"]["value"] == pytest.approx(len(hits) / len(abstained), abs=1e-6)
    assert m["abstention_recall"]["value"] == pytest.approx(len(hits) / len(no), abs=1e-6)
    assert m["unparsed"]["value"] == pytest.approx(sum(o.letter is None for o in outcomes) / 60, abs=1e-6)
    keys = {
        "task": lambda o: o.record.task,
        "image_relation": lambda o: o.record.image_relation,
        "image_type": lambda o: o.record.image_type,
        "images": lambda o: str(len(o.record.image_list)),
        "answer_position": lambda o: o.record.answer,
        "strategy": lambda o: o.strategy,
    }
    for name in SLICES:
        by = {v: [o for o in outcomes if keys[name](o) == v] for v in {keys[name](o) for o in outcomes}}
        assert {k: (e["n"], e["value"]) for k, e in m[f"by_{name}"].items()} == {
            k: (len(rows), pytest.approx(share(rows), abs=1e-6)) for k, rows in by.items()
        }
    low, high = m["micro"]["ci95"]
    assert low < m["micro"]["value"] < high
    assert arms_table({"a": m})[1][0] == "a" and len(slices_table(m)) == 1 + sum(len(m[f"by_{s}"]) for s in SLICES)


def test_intervals_resample_pairs():
    """A model that is right on exactly one twin of each pair has no variance between pairs, whatever rows do."""
    outcomes = [Outcome(r, r.answer if r.answerable else "A" if r.none_letter != "A" else "B") for r in benchmark()]
    assert summarise(outcomes, draws=50)["micro"]["ci95"] == [0.5, 0.5]


def test_constant_models_have_known_numbers():
    records = benchmark()
    m = summarise(always_none(records, {}), draws=20)
    values = {k: m[k]["value"] for k in ("micro", "answerable", "unanswerable", "both_right", "gap", "unparsed")}
    assert values == {"micro": 0.5, "answerable": 0, "unanswerable": 1, "both_right": 0, "gap": -1, "unparsed": 0}
    assert m["abstention_precision"]["value"] == 0.5 and m["abstention_recall"]["value"] == 1.0
    m = summarise([Outcome(r, r.answer) for r in records], draws=20)
    assert m["both_right"]["value"] == m["micro"]["value"] == m["macro"]["value"] == 1.0 and m["gap"]["value"] == 0
    m = summarise([Outcome(r, None, "unparsed") for r in records], draws=20)
    assert m["micro"]["value"] == 0 and m["unparsed"]["value"] == 1 and m["answered"] == {"unparsed": 60}
    assert m["abstention_precision"]["value"] is None and m["abstention_precision"]["reasons"]
    m = summarise([Outcome(r, "A") for r in records], draws=20)
    assert m["by_answer_position"]["A"]["value"] == 1.0 and m["by_answer_position"]["B"]["value"] == 0.0


def test_random_letters_are_seeded_and_reach_chance():
    records = benchmark(400)
    a, b, c = (random_letters(records, {}, seed) for seed in (0, 0, 1))
    assert [o.letter for o in a] == [o.letter for o in b] != [o.letter for o in c]
    expected = np.mean([1 / len(r.options) for r in records])
    assert chance(records) == pytest.approx(expected)
    seeds = [np.mean([o.right for o in random_letters(records, {}, s)]) for s in range(20)]
    assert np.mean(seeds) == pytest.approx(expected, abs=0.012)  # 16,000 draws: standard error 0.0035


def test_half_a_pair_is_not_measured():
    outcomes = [Outcome(r, "A") for r in benchmark(2)]
    for bad in (outcomes[:3], [*outcomes, outcomes[0]]):
        with pytest.raises(ValueError, match="both twins"):
            summarise(bad)


def test_strict_reads_each_letter_in_each_form():
    forms = ("{}", "({})", "{}.", "**{}**", "{}) x", "[{}]", "The answer is ({}).", "Option {}", "answer: {}")
    for form, letter in itertools.product(forms, "ABCD"):
        assert strict(form.format(letter), OPTIONS).letter == letter, form.format(letter)
