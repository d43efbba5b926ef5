"""MuirBench's 12 tasks over rendered scenes: each makes a question, and what is to be changed for its three twins.

The paper (section 3) makes an unanswerable twin by changing a picture, the question or an option, and no more than
that. A task gives the face of its question as it is, with one picture changed, and with other words, and options that
are false under all three; the answer of each face follows from what the pictures show. Where the other words are a
counterpart ("left" and "right"), which of them is asked first is drawn: words alone do not tell a twin from its twin.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from datamodules.corpus.concepts import OBJECTS
from datamodules.corpus.muir_pictures import CELLS, CORNERS, Picture, Thing, corners, placed, quarter, row

Rng = np.random.Generator
STRATEGIES = ("image", "question", "option")
NAMES = tuple(OBJECTS)
NUMBERS = ("first", "second", "third", "fourth")
SIDES = ("left", "right")


@dataclass(frozen=True)
class Face:
    """A question with its pictures. `value` is its true answer (None: nothing is)."""

    question: str
    pictures: tuple[Picture, ...]
    value: Hashable


@dataclass(frozen=True)
class Option:
    """A possible answer: in words, or as a picture."""

    value: Hashable
    shown: str | Picture


@dataclass(frozen=True)
class Item:
    """`by_image` has one other picture and `by_question` other words than `base`. `right` is true of `base` alone,
    and every one of `wrong` is false of all three; there are at least two.
    """

    base: Face
    by_image: Face
    by_question: Face
    right: Option
    wrong: tuple[Option, ...]


def _names(rng: Rng, count: int) -> list[str]:
    return [NAMES[i] for i in rng.permutation(len(NAMES))[:count]]


def _worded(names: Sequence[str]) -> tuple[Option, ...]:
    return tuple(Option(n, OBJECTS[n]) for n in names)


def _faces(question: str, other: str, pictures: Sequence[Picture], place: int, changed: Picture, *values: Hashable):
    """The three faces: as it is, with `changed` at `place`, and with the words `other`; `values` in this order."""
    pictures = tuple(pictures)
    swapped = (*pictures[:place], changed, *pictures[place + 1 :])
    return Face(question, pictures, values[0]), Face(question, swapped, values[1]), Face(other, pictures, values[2])


def _item(faces: tuple[Face, Face, Face], right: Option, wrong: Sequence[Option], rng: Rng) -> Item:
    barred = {f.value for f in faces}
    kept = [o for o in wrong if o.value not in barred]
    return Item(*faces, right, tuple(kept[i] for i in rng.permutation(len(kept))))


def _turns(rng: Rng) -> tuple[int, int]:
    """0 and 1 in a random order: which of two counterparts is asked about, and which is the other."""
    first = int(rng.integers(2))
    return first, 1 - first


def counting(rng: Rng, key: str) -> Item:
    asked, other = _names(rng, 2)
    a, b, c, d = (int(v) for v in rng.integers(1, 4, 4))
    while c + d == a + b:
        c, d = (int(v) for v in rng.integers(1, 4, 2))
    changed = int(rng.choice([v for v in (1, 2, 3) if v != b]))

    def show(n: int, m: int, side: str) -> Picture:
        names = [asked] * n + [other] * m
        return row([names[i] for i in rng.permutation(len(names))], f"{key}/{side}", rng)

    words = "How many times is {} shown in <image> and <image> together?"
    faces = _faces(
        words.format(OBJECTS[asked]),
        words.format(OBJECTS[other]),
        (show(a, c, "left"), show(b, d, "right")),
        1,
        show(changed, d, "right"),
        a + b,
        a + changed,
        c + d,
    )
    return _item(faces, Option(a + b, str(a + b)), [Option(n, str(n)) for n in range(1, 9)], rng)


def matching(rng: Rng, key: str) -> Item:
    names = _names(rng, 11)
    pictures = [row(names[2 * i : 2 * i + 2], f"{key}/{i}", rng) for i in range(4)]
    place = int(rng.integers(4))
    words = "Which of the pictures <image> <image> <image> <image> shows {}?"
    kept = pictures[place].things[1].name
    faces = _faces(
        words.format(OBJECTS[names[2 * place]]),
        words.format(OBJECTS[names[9]]),
        pictures,
        place,
        row([names[8], kept], f"{key}/{place}", rng),
        place,
        None,
        None,
    )
    options = [Option(n, f"The {word} one") for n, word in enumerate(NUMBERS)]
    return _item(faces, options[place], options, rng)


def difference(rng: Rng, key: str) -> Item:
    gone, new, changed, *stay = _names(rng, 5)
    place = int(rng.integers(3))

    at, off = _turns(rng)

    def scene(name: str, n: int) -> Picture:
        names = [*stay]
        names.insert(place, name)
        return row(names, f"{key}/{n}", rng)

    words = "What does the {} picture show that the {} does not? <image> <image>"
    faces = _faces(
        words.format(NUMBERS[at], NUMBERS[off]),
        words.format(NUMBERS[off], NUMBERS[at]),
        [scene(new if n == at else gone, n) for n in range(2)],
        at,
        scene(changed, at),
        new,
        changed,
        gone,
    )
    return _item(faces, _worded([new])[0], _worded(NAMES), rng)


def retrieval(rng: Rng, key: str) -> Item:
    asked, other, changed, *rest = _names(rng, 8)
    at, off = _turns(rng)
    query = row([asked, other][:: 1 - 2 * at], f"{key}/query", rng)
    things = list(query.things)
    things[at] = replace(things[at], name=changed, look=f"{key}/changed")

    def view(thing: Thing, n: int) -> Option:
        seen = replace(thing, x=0.5, y=0.5, size=0.75, tilt=int(rng.integers(20, 50)) * (1 if n % 2 else -1))
        return Option(thing.name, Picture((seen,), f"{key}/view{n}"))

    words = "Which picture shows the object on the {} of <image> from another side?"
    faces = _faces(
        words.format(SIDES[at]),
        words.format(SIDES[off]),
        (query,),
        0,
        Picture(tuple(things), query.ground),
        asked,
        changed,
        other,
    )
    wrong = [view(Thing(name, f"{key}/{name}", 0.5, 0.5, 0.5), n) for n, name in enumerate(rest)]
    return _item(faces, view(query.things[at], len(rest)), wrong, rng)


def scene(rng: Rng, key: str) -> Item:
    *line, changed = _names(rng, 5)
    things = [Thing(name, f"{key}/{name}", round((i + 0.5) / 4, 3), 0.5, 0.2) for i, name in enumerate(line)]
    at, off = _turns(rng)
    ends = (0, 3)  # of the line
    new = replace(things[ends[at]], name=changed, look=f"{key}/changed")

    def view(two: Sequence[Thing], i: int) -> Picture:
        return Picture(tuple(two), key, (i / 4, 0.25, i / 4 + 0.5, 0.75))

    views = [view(things[i : i + 2], i) for i in range(3)]
    order = [int(i) for i in rng.permutation(3)]
    words = "<image> <image> <image> are views of one scene that overlap. What stands furthest to the {} of it?"
    faces = _faces(
        words.format(SIDES[at]),
        words.format(SIDES[off]),
        [views[i] for i in order],
        order.index(2 * at),
        view((things[2], new), 2) if at else view((new, things[1]), 0),
        line[ends[at]],
        changed,
        line[ends[off]],
    )
    return _item(faces, _worded([line[ends[at]]])[0], _worded(NAMES), rng)


MOVES = {
    "It moves to the right": ((0.2, 0.5), (0.5, 0.5), (0.8, 0.5)),
    "It moves to the left": ((0.8, 0.5), (0.5, 0.5), (0.2, 0.5)),
    "It moves up": ((0.5, 0.8), (0.5, 0.5), (0.5, 0.2)),
    "It moves down": ((0.5, 0.2), (0.5, 0.5), (0.5, 0.8)),
}
STILL, BACK = "It stays where it is", "It moves there and back"


def action(rng: Rng, key: str) -> Item:
    mover, still = _names(rng, 2)
    moves = list(MOVES)
    move = moves[int(rng.integers(len(moves)))]
    corner = Thing(still, f"{key}/still", 0.15, 0.15, 0.26)  # no path comes here

    def frame(at: tuple[float, float]) -> Picture:
        return Picture((corner, Thing(mover, f"{key}/mover", *at, 0.3)), key)

    words = "<image> <image> <image> are frames of a clip. What does {} do?"
    faces = _faces(
        words.format(_the(mover)),
        words.format(_the(still)),
        [frame(at) for at in MOVES[move]],
        2,
        frame(MOVES[move][0]),
        move,
        BACK,
        STILL,
    )
    return _item(faces, Option(move, move), [Option(m, m) for m in moves], rng)


def _the(name: str) -> str:
    return f"the {OBJECTS[name].split(' ', 1)[1]}"


def geographic(rng: Rng, key: str) -> Item:
    def layout(names: Sequence[str]) -> dict[str, str]:
        cells = list(CELLS)
        return {cells[i]: name for i, name in zip(rng.permutation(9)[: len(names)], names)}

    def value(cells: dict[str, str]) -> tuple:
        return tuple(sorted(cells.items()))

    names = _names(rng, 3)
    known: list[dict[str, str]] = []
    while len(known) < 6:  # the same landmarks in other places: what they are does not decide
        cells = layout(names)
        if not {value(cells), value(_turned(cells))} & {value(k) for k in known}:
            known.append(cells)
    area, changed, *rest = known
    at, off = _turns(rng)
    words, ways = "Which map shows the same area as <image>{}?", ("", ", turned upside down")

    def query(cells: dict[str, str]) -> Picture:
        """What shows the same area as `cells` in the way that is asked for."""
        return placed(_turned(cells) if at else cells, f"{key}/query", rng)

    faces = _faces(
        words.format(ways[at]),
        words.format(ways[off]),
        (query(area),),
        0,
        query(changed),
        value(area),
        value(changed),
        value(_turned(area)),
    )
    options = [Option(value(c), placed(c, f"{key}/map{n}", rng)) for n, c in enumerate((area, *rest))]
    return _item(faces, options[0], options, rng)


def _turned(cells: dict[str, str]) -> dict[str, str]:
    """The cells of a map that is turned by 180 degrees."""
    back = {place: cell for cell, place in CELLS.items()}
    return {back[2 - CELLS[c][0], 2 - CELLS[c][1]]: name for c, name in cells.items()}


def diagram(rng: Rng, key: str) -> Item:
    names = _names(rng, 9)
    whole, other = corners(names[:4], f"{key}/whole", rng), corners(names[4:8], f"{key}/other", rng)
    place, asked = (int(i) for i in rng.permutation(4)[:2])
    things = list(whole.things)
    things[place] = replace(things[place], name=names[8], look=f"{key}/changed")
    words = "Which picture is a part of <image>, enlarged: what is {}?"
    faces = _faces(
        words.format(CORNERS[place]),
        words.format(CORNERS[asked]),
        (whole,),
        0,
        Picture(tuple(things), whole.ground),
        names[place],
        names[8],
        names[asked],
    )
    parts = [Option(p.things[i].name, quarter(p, i)) for p in (whole, other) for i in range(4)]
    return _item(faces, parts[place], parts, rng)


def cartoon(rng: Rng, key: str) -> Item:
    hero = ("cat", "dog")[int(rng.integers(2))]
    *met, changed = [n for n in _names(rng, len(NAMES)) if n != hero][:4]

    def panel(name: str, n: int) -> Picture:
        left = Thing(hero, f"{key}/hero", 0.28, 0.55, 0.5)
        return Picture((left, Thing(name, f"{key}/{name}", 0.75, 0.55, 0.42)), f"{key}/{n}")

    panels = [panel(name, n) for n, name in enumerate(met)]
    words, ends = f"<image> <image> <image> are a story of a {hero}. What does the {hero} find {{}}?", ("first", "last")
    at, off = _turns(rng)
    asked, other = met[2 * at], met[2 * off]
    asks = [words.format(ends[n]) for n in (at, off)]
    faces = _faces(*asks, panels, 2 * at, panel(changed, 2 * at), asked, changed, other)
    return _item(faces, _worded([asked])[0], _worded([n for n in NAMES if n != hero]), rng)


def ordering(rng: Rng, key: str) -> Item:
    (name,) = _names(rng, 1)
    counts = [int(i) + 1 for i in rng.permutation(3)]
    pages = [row([name] * n, f"{key}/{place}", rng) for place, n in enumerate(counts)]
    place = counts.index(1)

    def order(of: Sequence[int], up: bool = True) -> str:
        return ", ".join(str(i + 1) for i in sorted(range(3), key=lambda i: of[i] if up else -of[i]))

    words = (
        f"Each page shows {OBJECTS[name]} once {{}} than the page before. In which order do <image> <image> <image> go?"
    )
    changed = [4 if i == place else n for i, n in enumerate(counts)]
    at, off = _turns(rng)
    ways = ("more", "less")
    right = order(counts, up=not at)
    faces = _faces(
        words.format(ways[at]),
        words.format(ways[off]),
        pages,
        place,
        row([name] * 4, f"{key}/{place}", rng),
        right,
        order(changed, up=not at),
        order(counts, up=not off),
    )
    orders = ("1, 2, 3", "1, 3, 2", "2, 1, 3", "2, 3, 1", "3, 1, 2", "3, 2, 1")
    return _item(faces, Option(right, right), [Option(o, o) for o in orders], rng)


def grounding(rng: Rng, key: str) -> Item:
    asked, other, changed = _names(rng, 3)
    cells = list(CELLS)
    here, there = (cells[i] for i in rng.permutation(9)[:2])
    words, ways = "Where in <image> is the object that <image> {}?", ("shows", "does not show")
    at, off = _turns(rng)
    answers = (here, there)
    faces = _faces(
        words.format(ways[at]),
        words.format(ways[off]),
        (placed({here: asked, there: other}, f"{key}/whole", rng), row([asked], f"{key}/one", rng)),
        1,
        row([changed], f"{key}/one", rng),
        answers[at],
        None,
        answers[off],
    )
    options = {c: Option(c, c[0].upper() + c[1:]) for c in cells}
    return _item(faces, options[answers[at]], list(options.values()), rng)


def attribute(rng: Rng, key: str) -> Item:
    names = _names(rng, 7)
    asked = int(rng.integers(1, 6))
    changed = int(rng.choice([n for n in range(1, 6) if abs(n - asked) > 1]))
    words, ways = "Which picture shows {} as <image>?", ("as many objects", "one object more, and otherwise as many,")
    more, fewer = _turns(rng)
    faces = _faces(
        words.format(ways[more]),
        words.format(ways[fewer]),
        (row([names[0]] * asked, f"{key}/query", rng),),
        0,
        row([names[0]] * changed, f"{key}/query", rng),
        asked + more,
        changed + more,
        asked + fewer,
    )
    options = [Option(n, row([names[n]] * n, f"{key}/{n}", rng)) for n in range(1, 7)]
    return _item(faces, options[asked + more - 1], options, rng)


@dataclass(frozen=True)
class Task:
    make: Callable[[Rng, str], Item]
    relation: str
    image_type: str = "Graphics"


MUIR_TASKS = {
    "Image-Text Matching": Task(matching, "Independent"),
    "Diagram Understanding": Task(diagram, "Cropped/Zoomed"),
    "Difference Spotting": Task(difference, "Overall Similarity"),
    "Visual Retrieval": Task(retrieval, "Object-Multiview"),
    "Counting": Task(counting, "Partial Similarity"),
    "Attribute Similarity": Task(attribute, "Partial Similarity"),
    "Scene Understanding": Task(scene, "Scene-Multiview"),
    "Action Understanding": Task(action, "Temporal", "Video"),
    "Geographic Understanding": Task(geographic, "Overall Similarity", "Map"),
    "Visual Grounding": Task(grounding, "Complementary"),
    "Cartoon Understanding": Task(cartoon, "Narrative", "Animation"),
    "Ordering": Task(ordering, "Ordered Pages", "Slides"),
}
