"""Pairs of pictures that break a policy only together: a part of its own beside the sample corpus.

Each relation is between the two pictures of a message. Rows come in quads: two first pictures and two second ones, all
four in company with each other; a relation holds in two of the four. So neither picture tells the label, and two twins
differ in one picture alone. It is a source by itself (`data.source=sample+relations`), so that the sample corpus, and
what was measured on it, stays what it is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from datamodules.bank import PolicyBank, rng_for
from datamodules.corpus import concepts, scenes
from datamodules.corpus.concepts import OBJECTS, Content, say
from datamodules.corpus.jobs import Deck, Job, Plan, make_sample
from datamodules.corpus.policies import under
from datamodules.schema import Policy, PolicyEntry, Sample

VERSION = 1  # raise it whenever the same seed gives other samples or other pictures
SOURCE = "relations"
QUADS = {"train": 120, "val": 16, "test": 24}  # at scale 1, four rows each


@dataclass(frozen=True)
class Relation:
    """`pair`: one object in one of the pictures and the other in the other; None: the same object in both."""

    id: str
    pair: tuple[str, str] | None

    def holds(self, first: tuple[str, ...], second: tuple[str, ...]) -> bool:
        """Whether it holds between pictures that show these objects, whichever comes first."""
        if self.pair is None:
            return bool(set(first) & set(second))
        a, b = self.pair
        return (a in first and b in second) or (b in first and a in second)


RELATIONS = (
    Relation("rel.repeat", None),
    Relation("rel.arson", ("fire", "house")),
    Relation("rel.threat", ("knife", "dog")),
    Relation("rel.spiked", ("pills", "cup")),
)
# (name, description): the first three train, the others only test.
WORDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "rel.repeat": (
        ("same thing twice", "Both pictures show the same object."),
        ("repeated object", "The second picture shows again what the first one shows."),
        ("duplicate listing", "Two pictures of one kind of thing are not allowed."),
        ("double entry", "An object of the first picture is in the second one, too."),
        ("shown again", "No object may be seen in both pictures."),
    ),
    "rel.arson": (
        ("arson hint", "One picture shows a fire and the other one a house."),
        ("fire and house", "A house is shown in one picture and flames in another."),
        ("threat to a house", "A picture of fire beside a picture of a house is not allowed."),
        ("house at risk", "Of two pictures one has a house, and one a fire."),
        ("burning threat", "No fire may be sent along with a picture of a house."),
    ),
    "rel.threat": (
        ("threat to an animal", "One picture shows a knife and the other one a dog."),
        ("knife and dog", "A dog is shown in one picture and a knife in another."),
        ("dog in danger", "A picture of a knife beside a picture of a dog is not allowed."),
        ("animal at risk", "Of two pictures one has a dog, and one a knife."),
        ("blade and pet", "No knife may be sent along with a picture of a dog."),
    ),
    "rel.spiked": (
        ("spiked drink", "One picture shows a pill bottle and the other one a cup."),
        ("pills and cup", "A cup is shown in one picture and pills in another."),
        ("drugged cup", "A picture of pills beside a picture of a cup is not allowed."),
        ("tampered drink", "Of two pictures one has a cup, and one a pill bottle."),
        ("medicine in a cup", "No pills may be sent along with a picture of a cup."),
    ),
}
TRAIN_WORDINGS = 3


def bank() -> PolicyBank:
    """The relations' wordings, beside the entries of the scenes."""
    sides: tuple[dict[str, list[PolicyEntry]], ...] = ({}, {})
    for relation in RELATIONS:
        rows = WORDINGS[relation.id]
        for side, part in zip(sides, (rows[:TRAIN_WORDINGS], rows[TRAIN_WORDINGS:])):
            side[relation.id] = [PolicyEntry(relation.id, name, text) for name, text in part]
    return concepts.bank().merge(PolicyBank(*sides))


def plan(seed: int = 0, scale: float = 1.0) -> Plan:
    """All rows, and a job for each picture. Raises ValueError for a bad scale."""
    if not 0 < scale <= 20:
        raise ValueError(f"scale must be in 0..20, got {scale}")
    out = Plan()
    for split, count in QUADS.items():
        rng = rng_for(seed, SOURCE, split)
        kinds, objects = Deck([r.id for r in RELATIONS], rng), Deck(list(OBJECTS), rng)
        for n in range(max(len(RELATIONS), round(count * scale))):
            _quad(out, seed, split, n, kinds.draw(), objects)
    return out


def _quad(out: Plan, seed: int, split: str, n: int, id: str, objects: Deck) -> None:
    """Four rows {A1, A2} x {B1, B2}: the relation, or its like, holds between A1 and B1 and between A2 and B2 alone."""
    name = f"{split}-relation-{n:04d}"
    rng = rng_for(seed, SOURCE, name)
    relation = next(r for r in RELATIONS if r.id == id)
    others = [r for r in RELATIONS if r.pair is not None and r is not relation]
    stake = [relation]
    if relation.pair is None:
        one, two = objects.draw(), objects.draw()
        while two == one:
            two = objects.draw()
        firsts, seconds = (one, two), (one, two)
    else:
        stake.append(rng.choice(others))
        sides = [rng.sample(r.pair, 2) for r in stake]
        firsts, seconds = zip(*sides)
    beside = _bystanders(rng, {*firsts, *seconds})
    shown = {
        "a": [(thing, *beside[0]) for thing in firsts],
        "b": [(thing, *beside[1]) for thing in seconds],
    }
    files = {
        (side, k): Job(f"image/{name}-{side}{k}.png", "image", things, shown_key=f"{seed}/{SOURCE}/{name}/{side}{k}")
        for side, both in shown.items()
        for k, things in enumerate(both)
    }
    out.jobs += files.values()
    text = say(None, rng) if rng.random() < 0.5 else None
    rows = [_row(name, split, a, b, shown, files, text, stake) for a in range(2) for b in range(2)]
    out.samples += rows if split == "train" else _judged(rows, stake, seed, split, n)


def _bystanders(rng: random.Random, taken: set[str]) -> list[tuple[str, ...]]:
    """What else the first pictures and the second ones show, in half of the quads: it brings no relation about."""
    if rng.random() < 0.5:
        return [(), ()]
    parties = {name for r in RELATIONS for name in r.pair or ()}
    return [(name,) for name in rng.sample([o for o in OBJECTS if o not in taken | parties], 2)]


def _row(name: str, split: str, a: int, b: int, shown: dict, files: dict, text: str | None, stake: list) -> Sample:
    first, second = shown["a"][a], shown["b"][b]
    sample = make_sample(
        f"{name}-{a}{b}", split, "image", name, Content(shown=(first, second)), text, [files["a", a], files["b", b]],
        twin=name, needs=["image"], contrast=[r.id for r in stake],
    )  # fmt: skip
    labels = {r.id: "yes" if r.holds(first, second) else "no" for r in RELATIONS}
    return sample.replace(categories={**sample.categories, **labels}, source=SOURCE)


def _judged(rows: list[Sample], stake: list[Relation], seed: int, split: str, n: int) -> list[Sample]:
    """One policy for all four: what is at stake, and entries that none of them breaks."""
    rng = rng_for(seed, rows[0].group, "policy")
    known, unseen = bank(), n % 2 == 1
    ids = [r.id for r in stake]
    free = [i for i in known.train if i not in ids and i not in known.held_out]
    free = [i for i in free if all(s.categories[i] == "no" for s in rows)]
    ids += rng.sample(free, min(len(free), rng.choice((1, 2, 3))))
    entries = []
    for id in rng.sample(ids, len(ids)):
        # Of the two wordings that training lacks, one is for validation and one for test.
        entries.append(known.test[id][split == "test"] if unseen else rng.choice(known.train[id]))
    policy = Policy(SOURCE, tuple(entries))
    return [under(s, policy, unseen) for s in rows]


def build(root: str | Path, seed: int = 0, scale: float = 1.0, progress: bool = True) -> list[Sample]:
    """The rows under `root`: rendered on the first call, then read, as the sample corpus is (`scenes.build`)."""
    return scenes.build(root, seed, scale, progress, make=plan, version=f"{SOURCE}-{VERSION}")
