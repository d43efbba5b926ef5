"""DebugLM's figures and baselines against hand-computed cases and brute force."""

import random

import pytest

from datamodules.debuglm_sources import row
from datamodules.debuglm_views import DEBUG, PLAIN, RIGHT, WRONG, Stage
from zoo.debuglm import metrics
from zoo.debuglm.baselines import BASELINES, WORDS, bm25, classifier, common, rouge_l
from zoo.debuglm.metrics import Asked

STAGES = [Stage(("A",), 1), Stage(("B", "M"), 1)]


def asked(name, kind, n=0, tags=None, said=None, refused=False, marks=0, scores=None, answer="Z", also=()):
    r = row(name, n, f"q {n}", answer)
    r = r.replace(meta={**r.meta, "tags": [name, *also]})
    return Asked(r, kind, (), "", refused, marks, tags, said, 0.9 if tags else None, scores)


def test_tags_by_source_stage_and_part():
    given = [
        asked("A", DEBUG, 0, {"A": 0.4, "A/X": 0.2, "B": 0.4, "M": 0.0}, "A/X"),  # 0.6 for A, summed over its tags
        asked("A", DEBUG, 1, {"A": 0.1, "A/X": 0.1, "B": 0.8, "M": 0.0}, "A"),
        asked("B", DEBUG, 2, {"A": 0.0, "A/X": 0.0, "B": 1.0, "M": 0.0}, None, answer="a long answer"),
        asked("B", DEBUG, 3, {"A": 0.0, "A/X": 0.0, "B": 0.1, "M": 0.9}, "A", also=("M",), answer="a long answer"),
        asked("B", PLAIN, 4),
    ]
    got = metrics.tags(given, STAGES, "coarse")
    assert got["accuracy"]["overall"]["n"] == 4 and got["accuracy"]["overall"]["value"] == 0.75
    assert {k: e["value"] for k, e in got["accuracy"]["by_source"].items()} == {"A": 0.5, "B": 1.0}
    assert {k: e["value"] for k, e in got["accuracy"]["by_stage"].items()} == {"1": 0.5, "2": 1.0}
    assert got["accuracy"]["letter_only"]["value"] == 0.5 and got["accuracy"]["text_answers"]["value"] == 1.0
    assert got["unforced"]["overall"]["value"] == 0.5 and got["says_a_tag"]["value"] == 0.75
    assert got["all_of_several"]["value"] == 1.0 and got["chance"]["uniform"] == pytest.approx(1 / 3)
    assert got["ece"] == pytest.approx((abs(1 - 0.6) + abs(0 - 0.8) + abs(1 - 1.0) + abs(1 - 0.9)) / 4)


def test_confidence_of_the_likeliest_tag_is_calibrated_by_bins():
    assert metrics.calibration([0.9] * 10, [True] * 9 + [False]) == pytest.approx(0.0)
    assert metrics.calibration([1.0, 1.0], [True, False]) == pytest.approx(0.5)
    assert metrics.calibration([], []) is None


def test_the_four_cells_leaks_and_spam():
    given = [asked("A", RIGHT, n, refused=n < 3) for n in range(4)] + [
        asked("A", WRONG, n, refused=n == 0) for n in range(8)
    ]
    given += [asked("A", DEBUG, n, {"A": 1.0}, marks=2 + (n == 0)) for n in range(5)]
    given += [
        asked("B", PLAIN, 0),
        asked("B", PLAIN, 1, marks=1),
        asked("B", PLAIN, 2, refused=True),
        asked("B", PLAIN, 3),
    ]
    cells = metrics.refusals(given)
    assert {k: (e["n"], e["value"]) for k, e in cells.items()} == {
        "right_tag": (4, 0.75), "wrong_tag": (8, 0.125), "debug_only": (5, 0.0), "plain": (4, 0.25)
    }  # fmt: skip
    got = metrics.leaks(given)
    assert got["leak"]["value"] == 0.5 and got["spam"]["value"] == 0.2
    low, high = cells["right_tag"]["ci95"]
    assert 0 <= low < 0.75 < high <= 1


def test_utility_counts_tokens_not_rows():
    given = [asked("A", PLAIN, 0, scores=(2.0, 1, 1)), asked("A", PLAIN, 1, scores=(4.0, 2, 5), answer="many words")]
    got = metrics.utility(given)["plain"]
    assert got["loss"]["value"] == 1.0 and got["token_accuracy"]["value"] == 0.5 and got["letters"]["value"] == 1.0
    assert metrics.utility(given)["debug"]["letters"] == {"n": 0, "value": None, "ci95": None, "reason": "no row"}


# ------------------------------------------------------------------------------------------------------------ baselines


def brute(a, b):
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best[i + 1][j + 1] = best[i][j] + 1 if x == y else max(best[i][j + 1], best[i + 1][j])
    return best[-1][-1]


def test_the_common_subsequence_is_the_longest():
    rng = random.Random(0)
    for _ in range(300):
        a, b = ([rng.choice("abcd") for _ in range(rng.randrange(WORDS))] for _ in range(2))
        masks = {}
        for n, w in enumerate(a):
            masks[w] = masks.get(w, 0) | 1 << n
        assert common(masks, b, (1 << len(a)) - 1) == brute(a, b)


TRAIN = [
    "the cat sat on the mat",
    "a dog ate the bone",
    "six times seven is forty two",
    "two plus two is four",
    "A",
    "B",
]
SETS = ["PETS", "PETS", "SUMS", "SUMS", "LETTERS", "GRADES"]


@pytest.mark.parametrize("name", ["bm25", "rouge", "classifier"])
def test_baselines_find_text_and_are_lost_on_letters(name):
    found = BASELINES[name](TRAIN * 3, SETS * 3, ["a dog sat on the bone", "seven plus two is nine"])
    assert found == ["PETS", "SUMS"]
    mixed = ["A", "B"] * 20  # a letter is answered alike in both sets
    owners = ["X", "X", "Y", "Y"] * 10
    letters = BASELINES[name](mixed, owners, ["A"] * 10 + ["B"] * 10)
    assert sum(f == o for f, o in zip(letters, ["X", "Y"] * 10)) <= 10


def test_nothing_in_common_is_no_match():
    assert bm25(TRAIN, SETS, ["zebra"]) == [None] and rouge_l(TRAIN, SETS, ["zebra", ""]) == [None, None]
    assert classifier(["a", "b"], ["X", "X"], ["c"]) == ["X"]
