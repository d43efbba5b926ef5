"""datamodules/corpus/muir*.py: all tasks and relations, twins that differ as their strategy says, true answers."""

import hashlib
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from datamodules.corpus.concepts import OBJECTS
from datamodules.corpus.muir import build_muir, muir_hash, muir_plan
from datamodules.corpus.muir_pictures import Picture, Thing
from datamodules.corpus.muir_tasks import MUIR_TASKS
from datamodules.muirbench import FIELDS, NONE, RELATIONS, TASKS
from datamodules.muirbench_files import load_muirbench
from datamodules.schema import DataError, canonical_json

CELLS = ["At the top left", "At the top", "At the top right", "On the left", "In the middle", "On the right"]
CELLS += ["At the bottom left", "At the bottom", "At the bottom right"]


@pytest.fixture(scope="module")
def plan():
    return muir_plan(seed=0, pairs=6)


# ----------------------------------------------------- what is true, from the words and from what is shown alone


def names(picture):
    return [t["name"] for t in picture["things"]]


def cell(thing):
    return CELLS[3 * int(thing["y"] * 3) + int(thing["x"] * 3)]


def layout(picture, turned=False):
    cells = {CELLS.index(cell(t)): t["name"] for t in picture["things"]}
    return {8 - c if turned else c: n for c, n in cells.items()}


def by_x(picture):
    return [t["name"] for t in sorted(picture["things"], key=lambda t: t["x"])]


def asked(question):
    return next(n for n, phrase in OBJECTS.items() if phrase in question)


def seen_in(whole, corner):
    """The object of a picture in the quarter that the question names."""
    left, top = "left" in corner, "top" in corner
    (name,) = (t["name"] for t in whole["things"] if (t["x"] < 0.5) == left and (t["y"] < 0.5) == top)
    return name


def path_of(frames, name):
    return [next((t["x"], t["y"]) for t in f["things"] if t["name"] == name) for f in frames]


def move(path):
    (x0, y0), _, (x1, y1) = path
    if len(set(path)) == 1:
        return "still"
    if path[0] == path[2]:
        return "back"
    if y0 == y1:
        return "It moves to the right" if x1 > x0 else "It moves to the left"
    return "It moves down" if y1 > y0 else "It moves up"


def true_answer(task, question, pictures):
    if task == "Counting":
        return str(sum(names(p).count(asked(question)) for p in pictures))
    if task == "Image-Text Matching":
        shows = [asked(question) in names(p) for p in pictures]
        assert sum(shows) <= 1
        return f"The {('first', 'second', 'third', 'fourth')[shows.index(True)]} one" if any(shows) else "nothing"
    if task == "Difference Spotting":
        a, b = (pictures[1], pictures[0]) if "second picture show" in question else pictures
        (only,) = set(names(a)) - set(names(b))
        return OBJECTS[only]
    if task == "Visual Retrieval":
        return by_x(pictures[0])[0 if "left" in question else -1]
    if task == "Scene Understanding":
        things = sorted((t["x"], t["name"]) for p in pictures for t in p["things"])
        return OBJECTS[things[-1 if "right" in question else 0][1]]
    if task == "Action Understanding":
        (name,) = (n for n, phrase in OBJECTS.items() if f"What does the {phrase.split(' ', 1)[1]} do?" in question)
        return move(path_of(pictures, name))
    if task == "Geographic Understanding":
        return layout(pictures[0], "upside down" in question)
    if task == "Diagram Understanding":
        return seen_in(pictures[0], question.split("what is ")[1])
    if task == "Cartoon Understanding":
        at = pictures[-1 if "last" in question else 0]
        (met,) = set(names(at)) - {"cat" if "story of a cat" in question else "dog"}
        return OBJECTS[met]
    if task == "Ordering":
        counts = [len(p["things"]) for p in pictures]
        order = sorted(range(3), key=counts.__getitem__, reverse="once less" in question)
        return ", ".join(str(i + 1) for i in order)
    if task == "Visual Grounding":
        (shown,) = names(pictures[1])
        others = [t for t in pictures[0]["things"] if (t["name"] == shown) != ("does not show" in question)]
        return cell(others[0]) if len(others) == 1 else "nowhere"
    assert task == "Attribute Similarity"
    return len(pictures[0]["things"]) + ("one object more" in question)


def offered(task, option, picture):
    """What an option says, in the same terms as `true_answer`."""
    if picture is None:
        return option
    if task == "Geographic Understanding":
        return layout(picture)
    if task == "Attribute Similarity":
        return len(picture["things"])
    (name,) = names(picture)
    return name


def split_pictures(row, shown):
    asked_about = row["question"].count("<image>")
    rest = iter(shown[asked_about:])
    return shown[:asked_about], [next(rest) if o == "<image>" else None for o in row["options"]]


def test_answers_are_true_and_no_other_option_is(plan):
    for twins in plan:
        note = twins.note()
        for row in twins.rows:
            pictures, options = split_pictures(row, note["shown"][row["idx"]])
            answer = true_answer(row["task"], row["question"], pictures)
            true = [
                "ABCDE"[n]
                for n, (option, picture) in enumerate(zip(row["options"], options))
                if option != NONE and offered(row["task"], option, picture) == answer
            ]
            none = "ABCDE"[row["options"].index(NONE)]
            assert (true or [none]) == [row["answer"]], (row, answer)
        assert twins.rows[0]["options"][ord(twins.rows[0]["answer"]) - 65] != NONE
        assert twins.rows[1]["options"][ord(twins.rows[1]["answer"]) - 65] == NONE


def test_twins_differ_in_what_the_strategy_says_and_nothing_else(plan):
    same = ("task", "image_relation", "image_type", "question", "options", "image_list")
    for twins in plan:
        yes, no = twins.rows
        assert yes["counterpart_idx"] == no["idx"] and no["counterpart_idx"] == yes["idx"]
        changed = {key for key in same if yes[key] != no[key]}
        files = [n for n, (a, b) in enumerate(zip(yes["image_list"], no["image_list"])) if a != b]
        worded = yes["question"].count("<image>")
        assert len(yes["image_list"]) == len(no["image_list"])
        if twins.strategy == "image":
            assert changed == {"image_list"} and files == [twins.place] and twins.place < worded
        elif twins.strategy == "question":
            assert changed == {"question"} and twins.place is None
            assert no["question"].count("<image>") == worded
        elif "<image>" in yes["options"]:  # another picture stands for the option that was right
            before = yes["options"][: twins.place].count("<image>")
            assert changed == {"image_list"} and files == [worded + before]
            assert twins.place == "ABCDE".index(yes["answer"])
        else:
            assert changed == {"options"} and not files
            assert [n for n in range(len(yes["options"])) if yes["options"][n] != no["options"][n]] == [twins.place]


def test_every_task_relation_and_strategy_is_there(plan):
    assert {t.rows[0]["task"] for t in plan} == set(TASKS) == set(MUIR_TASKS)
    assert {t.rows[0]["image_relation"] for t in plan} == set(RELATIONS)
    counts = Counter((t.rows[0]["task"], t.strategy) for t in plan)
    assert counts == {(task, s): 2 for task in TASKS for s in ("image", "question", "option")}
    for twins in plan:
        assert all(tuple(row) == FIELDS for row in twins.rows)
        assert 2 <= len(twins.rows[0]["image_list"]) <= 9 and 3 <= len(twins.rows[0]["options"]) <= 5


def test_the_letter_says_nothing(plan):
    """Where "None …" stands, and what its letter is, does not depend on whether it is the answer."""
    for twins in plan:
        yes, no = (row["options"].index(NONE) for row in twins.rows)
        assert yes == no


def test_the_words_say_nothing():
    """A question without its objects is asked as often where it can be answered as where it cannot."""
    pairs = [t for t in muir_plan(seed=5, pairs=36) if t.strategy == "question"]
    for task in MUIR_TASKS:
        plan = [t for t in pairs if t.rows[0]["task"] == task]
        sides = [Counter(template(t.rows[side]["question"]) for t in plan) for side in range(2)]
        assert set(sides[0]) == set(sides[1]), (task, sides)
        assert sum((sides[0] & sides[1]).values()) >= 0.5 * len(plan), (task, sides)


def template(question):
    for phrase in OBJECTS.values():
        for words in (phrase, f"the {phrase.split(' ', 1)[1]}"):
            question = question.replace(words, "X")
    return question


def test_splits_share_no_picture_and_no_name():
    """Whatever the seeds: a training run of seed 1 and a test of seed 1 are not about the same scenes."""
    seen = {}
    for split in ("train", "val", "test"):
        for seed in (0, 1):
            for t in muir_plan(seed, 3, split):
                for row in t.rows:
                    for name in (row["idx"], *row["image_list"]):
                        assert seen.setdefault(name, (split, seed)) == (split, seed)
    assert {s for s, _ in seen.values()} == {"train", "val", "test"}


def test_equal_pictures_are_equal_files_and_others_are_not(plan):
    files = {}
    for twins in plan:
        for row, pictures in zip(twins.rows, twins.pictures):
            assert [p.file for p in pictures] == row["image_list"]
            for p in pictures:
                assert files.setdefault(p.file, p) == p
    a = Picture((Thing("dog", "k", 0.5, 0.5, 0.5),), "ground")
    b = Picture((Thing("dog", "k", 0.6, 0.5, 0.5),), "ground")
    assert np.array_equal(a.render(), a.render()) and not np.array_equal(a.render(), b.render())


def test_a_seed_is_a_plan():
    rows = [r for t in muir_plan(seed=3, pairs=2) for r in (*t.rows, t.note())]
    digest = hashlib.sha256("".join(map(canonical_json, rows)).encode()).hexdigest()
    assert digest == "4c42009654eb0a57c5646bdeb3ab998cf297d54b826d3d60bbf4c00f2f1d2143"
    assert rows != [r for t in muir_plan(seed=4, pairs=2) for r in (*t.rows, t.note())]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build_muir(tmp_path_factory.mktemp("corpus") / "a", seed=1, pairs=1, progress=False)


def test_the_corpus_is_read_as_the_release_is(built):
    loaded = load_muirbench(built)
    assert not loaded.errors and len(loaded.records) == 24 and len(loaded.strategies) == 12
    assert {r.pair for r in loaded.records} == set(loaded.strategies)
    for record in loaded.records:
        for path in record.image_list:
            with Image.open(path) as picture:
                assert picture.size == (224, 224) and picture.mode == "RGB"


def test_the_same_seed_gives_the_same_bytes(built, tmp_path):
    again = build_muir(tmp_path / "b", seed=1, pairs=1, progress=False)
    assert muir_hash(again) == muir_hash(built) == json.loads((built / "corpus.json").read_text())["sha256"]
    assert build_muir(again, seed=1, pairs=1) == again  # read, not rendered
    with pytest.raises(DataError, match="is not the multi-image corpus"):
        build_muir(again, seed=2, pairs=1)
    picture = next((again / "images").iterdir())
    picture.write_bytes(picture.read_bytes()[:-1])
    with pytest.raises(DataError, match="was changed on disk"):
        build_muir(again, seed=1, pairs=1)
