"""The rendered audio-visual corpus of Thud: natural clips, one visible event and its sound in each, as MP4 files.

Under the folder, for each split: `clips/<split>/` with the clips and their `events.jsonl` (what happens and when: known
because it was painted so), and `quiet/<split>/` with clips in which nothing happens and nothing is heard. What is seen
decides what is heard. A file's name says nothing about it. Counterfactuals are made by the code that edits real clips.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datamodules.assets import zoo_home
from datamodules.bank import rng_for
from datamodules.corpus import sounds
from datamodules.corpus.clips import write_clip
from datamodules.corpus.draw import rng_of
from datamodules.corpus.rendered import rendered
from datamodules.corpus.thud_scenes import FPS, KINDS, PLACES, frames, sound
from datamodules.schema import SPLITS, DataError, canonical_json
from datamodules.transforms.events import EVENTS

__all__ = ["BANDS", "VERSION", "Scene", "build_thud", "corpus_folder", "thud_hash", "thud_plan"]

VERSION = 1  # raise it whenever the same seed gives other scenes or other media
COUNTS = {"train": 160, "val": 40, "test": 80}  # clips with an event at scale 1: whole rounds of kinds and bands
QUIET = {"train": 40, "val": 8, "test": 0}
BANDS = (0.4, 0.8, 1.2, 1.6, 2.0)  # seconds a sound is moved by
# Seconds. A sound moved by 2 s either way is still heard beside 2 s of silence at both ends. The range is as wide as
# that allows: in a narrow one it would be plain from the sound alone that it comes late.
FIRST, LAST = 4.25, 7.5


@dataclass(frozen=True)
class Scene:
    """One clip. `at` is the time of the event in seconds, at the start of a frame; None: nothing happens."""

    split: str
    kind: str
    place: str
    at: float | None
    key: str

    @property
    def file(self) -> str:
        name = hashlib.sha256(self.key.encode()).hexdigest()[:20]
        return f"{'clips' if self.at is not None else 'quiet'}/{self.split}/{name}.mp4"


def thud_plan(seed: int = 0, scale: float = 1.0) -> list[Scene]:
    """Every kind equally often, in every place and at random times. Raises ValueError for a bad scale."""
    if not 0 < scale <= 20:
        raise ValueError(f"scale must be in 0..20, got {scale}")
    out = []
    for split in SPLITS:
        for part, counts in (("clips", COUNTS), ("quiet", QUIET)):
            rng = rng_for(seed, "thud", split, part)
            for n in range(max(1, round(counts[split] * scale)) if counts[split] else 0):
                at = FIRST + rng.randrange(round((LAST - FIRST) * FPS) + 1) / FPS
                kind, place = list(KINDS)[n % len(KINDS)], rng.choice(list(PLACES))
                out.append(
                    Scene(split, kind, place, at if part == "clips" else None, f"{seed}/thud/{split}/{part}/{n}")
                )
    return out


# ----------------------------------------------------------------------------------------------------------- on disk


def corpus_folder(seed: int, scale: float) -> Path:
    """Where a corpus lies in ZOO_HOME."""
    return zoo_home() / "thud" / f"corpus-{VERSION}-{seed}-{scale:g}"


def build_thud(root: str | Path | None = None, seed: int = 0, scale: float = 1.0, progress: bool = True) -> Path:
    """The folder of the corpus (default: in ZOO_HOME): rendered on the first call, then verified.

    A killed build leaves nothing that is trusted. Raises `DataError` for a folder that holds something else, or a
    corpus that was changed.
    """
    root = corpus_folder(seed, scale) if root is None else Path(root)
    want = {"seed": seed, "scale": scale, "version": VERSION}
    return rendered(
        root, want, "the corpus", thud_hash, lambda folder: _write(thud_plan(seed, scale), folder, progress)
    )


def render(scene: Scene, path: Path) -> str:
    """Writes a scene's clip; returns the sha256 of the frames and 16-bit samples that went in: no codec is in it."""
    pixels = frames(scene.kind, scene.place, scene.at, rng_of(f"{scene.key}/shown"))
    samples = sound(scene.kind, scene.at, rng_of(f"{scene.key}/heard"))
    write_clip(path, pixels, FPS, samples, sounds.RATE)
    digest = hashlib.sha256(f"{FPS} {list(pixels.shape)}".encode())
    digest.update(pixels.tobytes())
    digest.update(np.rint(samples * 32767).astype("<i2").tobytes())
    return digest.hexdigest()


def _write(scenes: list[Scene], root: Path, progress: bool) -> None:
    media: dict[str, str] = {}
    rows: dict[Path, list[str]] = {}
    for scene in tqdm(scenes, desc="rendering clips", file=sys.stderr, disable=not progress):
        path = root / scene.file
        path.parent.mkdir(parents=True, exist_ok=True)
        media[scene.file] = render(scene, path)
        row = {"file": path.name, "seen": scene.kind, "place": scene.place}
        if scene.at is not None:
            row |= {"heard": scene.kind, "t_v": scene.at, "t_a": scene.at}
        rows.setdefault(path.parent, []).append(canonical_json(row))
    for folder, lines in rows.items():
        (folder / EVENTS).write_text("".join(f"{line}\n" for line in sorted(lines)), encoding="utf-8")
    (root / "media.json").write_text(json.dumps(media, indent=0, sort_keys=True), encoding="utf-8")


def thud_hash(root: str | Path) -> str:
    """sha256 over the annotations and every clip as it was put in. Raises `DataError` for a missing file.

    Equal across runs with the same versions of Pillow and NumPy.
    """
    root = Path(root)
    digest = hashlib.sha256()
    try:
        media = json.loads((root / "media.json").read_text(encoding="utf-8"))
        for path in sorted(root.glob(f"*/*/{EVENTS}")):
            digest.update(path.read_bytes())
        for path in sorted(media):
            (root / path).stat()  # must be there; its bytes depend on the codec
            digest.update(f"{path} {media[path]}\n".encode())
    except (OSError, ValueError) as e:
        raise DataError(f"{root}: not a whole rendered corpus: {e}") from e
    return digest.hexdigest()
