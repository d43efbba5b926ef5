"""The rendered multi-image corpus: MuirBench's 12 tasks and 10 relations, in the release's nine-field records.

`records.jsonl` is read as the release is. `twins.jsonl` beside it says what the release does not: how each pair's
unanswerable twin was made, which picture or option is another one, and what every picture shows. Answers follow from
that alone.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.assets import zoo_home
from datamodules.corpus.draw import rng_of
from datamodules.corpus.muir_pictures import Picture
from datamodules.corpus.muir_tasks import MUIR_TASKS, STRATEGIES, Face, Option
from datamodules.corpus.rendered import rendered
from datamodules.muirbench import IMAGE, LETTERS, NONE
from datamodules.muirbench_files import RECORDS, TWINS
from datamodules.schema import SPLITS, DataError, canonical_json, near

__all__ = ["VERSION", "build_muir", "corpus_folder", "muir_hash", "muir_plan"]

VERSION = 2  # raise it whenever the same seed gives other records or other pictures


@dataclass(frozen=True)
class Twins:
    """Two records (the answerable one first) in the nine-field layout, what their pictures show, and how they differ.

    `place` is where they differ: a picture of the question (strategy image) or an option (option), counted from 0.
    """

    rows: tuple[dict[str, Any], dict[str, Any]]
    pictures: tuple[tuple[Picture, ...], tuple[Picture, ...]]
    strategy: str
    place: int | None

    def note(self) -> dict[str, Any]:
        """The pair's line of `twins.jsonl`."""
        names = [row["idx"] for row in self.rows]
        shown = {name: [p.to_dict() for p in pictures] for name, pictures in zip(names, self.pictures)}
        return {"pair": "+".join(sorted(names)), "strategy": self.strategy, "place": self.place, "shown": shown}


def muir_plan(seed: int = 0, pairs: int = 36, split: str = "test") -> list[Twins]:
    """`pairs` of each task. The strategies take turns, and so do the letters of answers as far as options allow.

    Scenes of one split are drawn apart from those of another: with any seeds, no picture of test is one of training.
    """
    out = []
    name = _name(seed, split)
    for number, (task, how) in enumerate(MUIR_TASKS.items()):
        for n in range(pairs):
            key = f"{name}/{task}/{n}"
            rng = rng_of(key)
            item = how.make(rng, key)
            strategy = STRATEGIES[n % len(STRATEGIES)]
            spare = item.wrong[-1]  # what an option twin offers in place of the right one
            wrong = item.wrong[: min(int(rng.integers(1, 4)), len(item.wrong) - 1)]
            options: list[Option | None] = [item.right, *wrong, None]
            options = [options[int(i)] for i in rng.permutation(len(options))]
            answer, none = options.index(item.right), options.index(None)
            other, place = list(options), None
            face = {"image": item.by_image, "question": item.by_question, "option": item.base}[strategy]
            if strategy == "option":
                place, other[answer] = answer, spare
            elif strategy == "image":
                place = [a == b for a, b in zip(item.base.pictures, face.pictures)].index(False)
            first = 2 * (number * pairs + n)
            kinds = {"task": task, "image_relation": how.relation, "image_type": how.image_type}
            yes, no = (f"{name}-{first + i:05d}" for i in range(2))
            sides = ((yes, no, item.base, options, answer), (no, yes, face, other, none))
            made = [_row(idx, twin, kinds, f, o, LETTERS[a]) for idx, twin, f, o, a in sides]
            out.append(Twins((made[0][0], made[1][0]), (made[0][1], made[1][1]), strategy, place))
    return out


def _name(seed: int, split: str) -> str:
    """What the keys of a split's scenes begin with."""
    return str(seed) if split == "test" else f"{split}-{seed}"


def _row(
    idx: str, twin: str, kinds: dict[str, str], face: Face, options: Sequence[Option | None], answer: str
) -> tuple[dict[str, Any], tuple[Picture, ...]]:
    shown = [NONE if o is None else o.shown for o in options]
    pictures = (*face.pictures, *(s for s in shown if isinstance(s, Picture)))
    row = {
        "idx": idx,
        **kinds,
        "question": face.question,
        "options": [IMAGE if isinstance(s, Picture) else s for s in shown],
        "answer": answer,
        "image_list": [p.file for p in pictures],
        "counterpart_idx": twin,
    }
    return row, pictures


# ----------------------------------------------------------------------------------------------------------- on disk


def corpus_folder(seed: int, pairs: int, split: str = "test") -> Path:
    """Where a split of a corpus lies in ZOO_HOME."""
    return zoo_home() / "muirbench" / f"corpus-{VERSION}-{_name(seed, split)}-{pairs}"


def build_muir(
    root: str | Path | None = None, seed: int = 0, pairs: int = 36, progress: bool = True, split: str = "test"
) -> Path:
    """The folder of a split of the corpus (default: in ZOO_HOME): rendered on the first call, then verified.

    A killed build leaves nothing that is trusted. Raises `DataError` for a folder that holds something else, or a
    corpus that was changed.
    """
    if pairs < 1:
        raise DataError(f"pairs={pairs}: give at least one pair a task")
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}{near(str(split), SPLITS)}")
    root = corpus_folder(seed, pairs, split) if root is None else Path(root)
    want = {"seed": seed, "pairs": pairs, "version": VERSION}
    if split != "test":  # a corpus from before there were splits is one of test
        want["split"] = split
    return rendered(
        root,
        want,
        "the multi-image corpus",
        muir_hash,
        lambda folder: _write(muir_plan(seed, pairs, split), folder, progress),
    )


def _write(plan: list[Twins], root: Path, progress: bool) -> None:
    pictures = {p.file: p for twins in plan for side in twins.pictures for p in side}
    (root / "images").mkdir()
    for name, picture in tqdm(pictures.items(), desc="rendering pictures", file=sys.stderr, disable=not progress):
        picture.render().save(root / name, compress_level=1)
    for name, rows in ((RECORDS, [r for t in plan for r in t.rows]), (TWINS, [t.note() for t in plan])):
        (root / name).write_text("".join(f"{canonical_json(r)}\n" for r in rows), encoding="utf-8")


def muir_hash(root: str | Path) -> str:
    """sha256 over records, notes and the bytes of every picture. Raises `DataError` for a missing file.

    Equal across runs with the same versions of Pillow and NumPy.
    """
    root = Path(root)
    digest = hashlib.sha256()
    try:
        for path in (root / RECORDS, root / TWINS, *sorted((root / "images").iterdir())):
            digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    except OSError as e:
        raise DataError(f"{root}: not a whole rendered corpus: {e}") from e
    return digest.hexdigest()
