"""Thud's probe (arXiv 2605.16403) as data: clips whose sound was edited, beside their originals, and what is true.

A folder of edited clips is one that `python -m zoo.data thud` wrote; a folder of plain clips is edited on first use and
kept under ZOO_HOME. Three dimensions: is the sound in sync (Shift), is there any (Mute), does it belong to what is seen
(Swap)? Sync is asked only of clips whose event is seen and heard, and not lost to the edit: see `transforms.events`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from datamodules.assets import zoo_home
from datamodules.manifest import read_rows, read_samples
from datamodules.media import content_hash
from datamodules.schema import DataError, Sample, canonical_json
from datamodules.transforms.edit_files import EDITS, ERRORS, MANIFEST, SUFFIXES, Settings, edit_folder
from datamodules.transforms.events import EVENTS, Event, Unfit, event_of

VERSION = 1  # raise it whenever the same clips and settings give other files
DIMENSIONS = {"sync": "shift", "existence": "mute", "consistency": "swap"}
LABELS = {"sync": ("synced", "delay", "early"), "existence": ("sound", "silent"), "consistency": ("match", "mismatch")}
"""The first is what holds of an original."""


@dataclass(frozen=True)
class Item:
    """One clip in one dimension. `sample` holds the clip alone. `delta` is in seconds, later > 0; 0 where not shifted.

    `clip` is the source clip's hash: what resampling must not part. `event` is known where sync is asked.
    """

    sample: Sample
    dimension: str
    label: str
    edited: bool
    delta: float
    clip: str
    event: Event | None = None

    @property
    def id(self) -> str:
        return f"{self.sample.id}/{self.dimension}"


@dataclass(frozen=True)
class Loaded:
    """`rejected` counts, by reason, clips and edits of which sync is not asked; `errors` has a line for each of them
    and for each row that cannot be used. `sha256` is over the manifest and every file of it.
    """

    items: list[Item]
    errors: list[dict[str, str]]
    rejected: dict[str, int] = field(default_factory=dict)
    sha256: str = ""


def load_thud(folder: str | Path, split: str | None = None) -> Loaded:
    """The items of a folder of edited clips, of one split or of all. Raises `DataError` for a folder that is none."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise DataError(f"{folder}: no {MANIFEST}: expected a folder that `python -m zoo.data thud` wrote")
    errors: list[dict[str, str]] = []
    rows: list[Sample] = []
    for _, id, sample in read_samples(folder / MANIFEST):
        wrong = sample if isinstance(sample, DataError) else _wrong(sample)
        if wrong is not None:
            errors.append({"id": id, "error": str(wrong)})
        elif split is None or sample.split == split:
            rows.append(sample)
    by_id = {s.id: s for s in rows}
    lost = Counter()
    events = _events(rows, errors, lost)
    items: dict[str, Item] = {}
    for dimension, edit in DIMENSIONS.items():
        for sample in rows:
            if sample.meta["edit"] != edit:
                continue
            original = by_id.get(sample.meta.get("original"))
            if original is None or original.meta["edit"] != "none":
                errors.append({"id": sample.id, "error": f"its original {sample.meta.get('original')!r} is missing"})
                continue
            event = None
            if dimension == "sync":
                event = events.get(sample.meta["clip"])
                if event is None:
                    continue  # told and counted for the clip as a whole
                if (silenced := _silenced(sample, event)) is not None:
                    lost[silenced.reason] += 1
                    errors.append({"id": sample.id, "error": str(silenced)})
                    continue
            for one in (original, sample):
                made = _item(one, dimension, event)
                items[made.id] = made
    ordered = sorted(items.values(), key=lambda i: (list(DIMENSIONS).index(i.dimension), i.sample.id))
    return Loaded(ordered, errors, dict(sorted(lost.items())), edited_hash(folder))


def _wrong(sample: Sample) -> DataError | None:
    """What keeps a row from being one of an edited folder."""
    meta, media = sample.meta, sample.media
    if len(sample.parts) != 1 or not media or media[0].type != "video":
        return DataError(f"row {sample.id!r}: expected one clip and nothing else")
    if meta.get("edit") not in (*EDITS, "none") or not isinstance(meta.get("clip"), str):
        return DataError(f"row {sample.id!r}: its meta lacks `edit` or `clip`: edit the clips with zoo.data thud")
    numbers = (meta.get("delta"), meta.get("seconds"), *(meta.get("silence") or [None]))
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in numbers) or len(numbers) != 4:
        return DataError(f"row {sample.id!r}: its meta lacks `delta`, `silence` or `seconds`: edit the clips again")
    if (meta["edit"] == "shift") != bool(meta["delta"]):
        return DataError(f"row {sample.id!r}: edit {meta['edit']} with a delta of {meta['delta']:g} s")
    return None


def _item(sample: Sample, dimension: str, event: Event | None) -> Item:
    edited = sample.meta["edit"] != "none"
    delta = float(sample.meta["delta"])
    label = LABELS[dimension][(1 if delta >= 0 else 2) if edited else 0]
    return Item(sample, dimension, label, edited, delta, sample.meta["clip"], event)


def _events(rows: Sequence[Sample], errors: list[dict[str, str]], lost: Counter[str]) -> dict[str, Event]:
    """The event of each source clip that has a shifted version, by the clip's hash; the others are told and counted."""
    whole: dict[str, Sample] = {}  # the original with the least silence
    for s in rows:
        if s.meta["edit"] == "none":
            best = whole.get(s.meta["clip"])
            if best is None or sum(s.meta["silence"]) < sum(best.meta["silence"]):
                whole[s.meta["clip"]] = s
    out: dict[str, Event] = {}
    for clip in sorted({s.meta["clip"] for s in rows if s.meta["edit"] == "shift"}):
        if clip not in whole:
            continue  # told of each of its rows
        sample = whole[clip]
        try:
            given = sample.meta.get("event")
            known = None if given is None else Event.from_dict(given, f"row {sample.id!r}: event")
            out[clip] = event_of(sample.media[0].path, known)
        except DataError as e:
            lost[e.reason if isinstance(e, Unfit) else "unreadable"] += 1
            errors.append({"id": sample.meta.get("file") or sample.id, "error": f"sync is not asked: {e}"})
    return out


def _silenced(sample: Sample, event: Event) -> Unfit | None:
    """Why a shifted clip and its original no longer hold the event's sound, if so: both are silent at their ends."""
    lead, tail = sample.meta["silence"]
    for what, time in (("original", event.t_a), ("edit", event.t_a + sample.meta["delta"])):
        if not lead <= time < sample.meta["seconds"] - tail:
            detail = f"sync is not asked: its event is at {time:.2f} s of the {what}, where both are silent"
            return Unfit(sample.meta.get("file") or sample.id, "silenced by the edit", detail)
    return None


def edited_hash(folder: str | Path) -> str:
    """sha256 over the manifest and the bytes of every clip. Raises `DataError` for a missing file."""
    folder = Path(folder)
    digest = hashlib.sha256()
    try:
        digest.update((folder / MANIFEST).read_bytes())
    except OSError as e:
        raise DataError(f"{folder / MANIFEST}: cannot be read: {e.strerror}") from e
    for _, _, sample in read_samples(folder / MANIFEST):
        if isinstance(sample, Sample):
            for part in sample.media:
                digest.update(content_hash(part.path).encode())
    return digest.hexdigest()


# ----------------------------------------------------------------------------------------------------------- preparing


def edited_clips(source: str | Path, settings: Settings, root: Path | None = None) -> tuple[Path, list[dict[str, str]]]:
    """`source` itself where it holds edited clips; else its clips, edited under `root` (default: in ZOO_HOME) once.

    Also returns the lines of clips that could not be edited. The folder's name follows from the clips and settings.
    Raises `DataError` where nothing can be done, and where the edited files were changed on disk.
    """
    source = Path(source)
    if (source / MANIFEST).is_file():
        return source, _lines(source / ERRORS)
    if not source.is_dir():
        raise DataError(f"{source}: no such folder: give one of clips, or one that `python -m zoo.data thud` wrote")
    files = sorted(p for p in source.rglob("*") if p.is_file() and (p.suffix.lower() in SUFFIXES or p.name == EVENTS))
    digest = hashlib.sha256(canonical_json([VERSION, asdict(settings)]).encode())
    for path in files:
        whole = path.stat().st_size  # an empty file has no hash of its own to be told by
        digest.update(f"{path.relative_to(source)} {whole} {content_hash(path)}\n".encode())
    target = (root or zoo_home() / "thud") / f"edited-{digest.hexdigest()[:24]}"
    note = target / "edited.json"
    if not target.exists():
        edit_folder(source, target, settings)
        note.write_text(json.dumps({"sha256": edited_hash(target)}), encoding="utf-8")
    noted = _lines(note)
    if not noted:  # killed between the two
        note.write_text(json.dumps({"sha256": edited_hash(target)}), encoding="utf-8")
    elif noted[0].get("sha256") != edited_hash(target):
        raise DataError(f"{target}: the edited clips were changed on disk: remove the folder to make them again")
    return target, _lines(target / ERRORS)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    rows = [row for _, row in read_rows(path)]
    if bad := next((r for r in rows if not isinstance(r, dict)), None):
        raise DataError(f"{path}: {bad}")
    return rows


def without(item: Item, what: str) -> Item:
    """The item with its clip's sound or its frames not looked at; the file stays as it is."""
    (part,) = item.sample.media
    part = replace(part, **{what: False})
    (message,) = item.sample.messages
    return replace(item, sample=item.sample.replace(messages=(replace(message, content=(part,)),)))
