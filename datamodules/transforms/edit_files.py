"""Shift, Mute and Swap on a folder of clips: files, a manifest, and the errors (Thud, arXiv 2605.16403).

Every edited clip has an original to be compared with. It goes through the same writer, and both are silent for the same
time at the start and at the end: neither the codec nor silence tells them apart. A file's name is a hash, and so is the
order of the manifest. Splits are by source clip, and a donor comes from the same split as the clip that it goes into.
What `events.jsonl` beside the clips says of them goes into the rows; a donor is then never of what is heard already.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from datamodules.atomic import folder_beside, put
from datamodules.media import content_hash
from datamodules.schema import SPLITS, DataError, MediaError, Sample, canonical_json, near
from datamodules.soundtrack import Target, Track, read_track, resampled, target_of, write_track
from datamodules.sources.split import FRACTIONS, draw, split_of
from datamodules.transforms.audio_edits import Mute, Shift, Swap, fitted, silenced, silent_ends
from datamodules.transforms.donors import BAND, Donor, Features, choose, features
from datamodules.transforms.events import Event, read_events

EDITS = ("shift", "mute", "swap")
DELTAS = (-2.0, 2.0)  # seconds; the paper's test set is at about ±2 s (its training data at 1.80 to 2.50)
SUFFIXES = (".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi")  # what counts as a clip; AVI is then refused by name
MANIFEST, ERRORS, CLIPS = "manifest.jsonl", "errors.jsonl", "clips"


@dataclass(frozen=True)
class Settings:
    """`deltas` in seconds, later > 0; `band` is the range of a donor's similarity; `split` puts all clips on one side.

    With `spread` a clip is not shifted by all deltas but by those of one size, and the clips take turns: as many bands
    for a fraction of the files. With `even` a clip that is moved both ways is silent at both ends for as long, and so
    is its original: which end is silent would tell the direction to who has learnt it.

    Raises `DataError` for what is not possible.
    """

    edits: tuple[str, ...] = EDITS
    deltas: tuple[float, ...] = DELTAS
    seed: int = 0
    band: tuple[float, float] = BAND
    split: str | None = None
    spread: bool = False
    even: bool = False

    def __post_init__(self) -> None:
        for edit in self.edits:
            if edit not in EDITS:
                raise DataError(f"unknown edit {edit!r}{near(edit, EDITS)}")
        if not self.edits or len(set(self.edits)) < len(self.edits):
            raise DataError(f"edits={','.join(self.edits)}: name each edit once; known: {', '.join(EDITS)}")
        if not all(np.isfinite(d) and d for d in self.deltas) or len(set(self.deltas)) < len(self.deltas):
            raise DataError("deltas: give different numbers of seconds, none of them 0, such as -2,2")
        if "shift" in self.edits and not self.deltas:
            raise DataError("deltas is empty: give seconds such as -2,2, or leave shift out of edits")
        if not 0 <= self.band[0] < self.band[1] <= 1:
            raise DataError(f"band={self.band[0]:g},{self.band[1]:g}: give two numbers from 0 to 1, the smaller first")
        if self.split is not None and self.split not in SPLITS:
            raise DataError(f"unknown split {self.split!r}{near(self.split, SPLITS)}")


@dataclass(frozen=True)
class Report:
    """The manifest's rows as samples, their paths relative to the folder, and the error lines."""

    samples: list[Sample]
    errors: list[dict[str, str]]


@dataclass(frozen=True, eq=False)
class _Clip:
    path: Path
    name: str  # relative to the folder
    hash: str
    target: Target
    features: Features
    group: str
    split: str
    event: Event | None


def edit_folder(source: str | Path, target: str | Path, settings: Settings | None = None) -> Report:
    """Edits every clip under `source`; `target` (new or empty) becomes a folder with `manifest.jsonl` and `clips/`.

    A clip without a sound track, with a silent one, with several, or too short for a shift is listed in `errors.jsonl`
    with the reason, and so is one for which no donor is found; the others are written. The folder appears when it is
    whole. Equal clips and settings give equal files. Raises `DataError` where nothing can be done.
    """
    source, target, settings = Path(source), Path(target), settings or Settings()
    if not source.is_dir():
        raise DataError(f"{source}: not a folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: exists: name a new folder, or empty it")
    if source.resolve() == target.resolve() or source.resolve() in target.resolve().parents:
        raise DataError(f"{target}: lies in the folder that is read: name one outside")
    files = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise DataError(f"{source}: no clip in it ({', '.join(SUFFIXES)})")
    errors: list[dict[str, str]] = []
    clips = _clips(source, files, settings, errors)
    samples: list[Sample] = []
    with folder_beside(target) as folder:
        (folder / CLIPS).mkdir()
        turns = {c.hash: n for s in SPLITS for n, c in enumerate(_of_split(clips, s))}
        for clip in tqdm(clips.values(), desc="clips", unit="clip", disable=len(clips) < 8, leave=False):
            samples += _edit_clip(clip, clips, settings, _deltas(settings, turns[clip.hash]), folder, errors)
        samples.sort(key=lambda s: s.id)
        _write_lines(folder / MANIFEST, [s.to_dict() for s in samples])
        if errors:
            _write_lines(folder / ERRORS, errors)
        put(folder, target)
    return Report(samples, errors)


def _clips(source: Path, files: list[Path], settings: Settings, errors: list[dict[str, str]]) -> dict[str, _Clip]:
    """The clips that can be edited, by the hash of their bytes."""
    clips: dict[str, _Clip] = {}
    events = read_events(source)
    for path in tqdm(files, desc="sounds", unit="clip", disable=len(files) < 8, leave=False):
        name = path.relative_to(source).as_posix()
        try:
            hash = content_hash(path)
            if hash in clips:
                raise MediaError(f"{path}: the same bytes as {clips[hash].name}: left out")
            track, kind = read_track(path), target_of(path)
            found = features(track.wave, track.rate)
            if found.silent:
                raise MediaError(f"{path}: its sound track is silent: an edit of it cannot be heard")
        except MediaError as e:
            errors.append({"id": name, "error": str(e)})
            continue
        group = f"clip-{hash[:16]}"
        place = split_of(np.array([draw(group, settings.seed)]), FRACTIONS)[0]
        split = settings.split or SPLITS[place]
        clips[hash] = _Clip(path, name, hash, kind, found, group, split, events.get(name))
    return clips


def _of_split(clips: dict[str, _Clip], split: str) -> list[_Clip]:
    return sorted((c for c in clips.values() if c.split == split), key=lambda c: c.hash)


def _deltas(settings: Settings, turn: int) -> tuple[float, ...]:
    """Those of the clip whose turn it is."""
    sizes = sorted({abs(d) for d in settings.deltas})
    if not settings.spread or not sizes:
        return settings.deltas
    return tuple(d for d in settings.deltas if abs(d) == sizes[turn % len(sizes)])


@dataclass(frozen=True, eq=False)
class _Edit:
    """`wave` is the edited sound; `silence` are samples at its ends, and at those of the original beside it."""

    kind: str
    wave: Tensor
    silence: tuple[int, int]
    delta: float = 0.0
    donor: Donor | None = None


def _edit_clip(
    clip: _Clip,
    clips: dict[str, _Clip],
    settings: Settings,
    deltas: tuple[float, ...],
    folder: Path,
    errors: list[dict[str, str]],
) -> list[Sample]:
    """Writes the edits of a clip, and an original for each way in which their ends are silent."""
    source = read_track(clip.path)
    track = resampled(source, clip.target.rate(source.rate))
    originals: dict[tuple[int, int], str] = {}
    out: list[Sample] = []

    def write(wave: Tensor, edit: str, silence: tuple[int, int], delta: float = 0.0, **meta: Any) -> str:
        given = canonical_json([clip.hash, settings.seed, edit, delta, silence, meta.get("donor")])
        id = hashlib.sha256(given.encode()).hexdigest()[:20]
        file = f"{CLIPS}/{id}{clip.target.suffix}"
        write_track(clip.path, folder / file, Track(wave, track.rate, track.start), clip.target)
        info = {"clip": clip.hash, "file": clip.name, "edit": edit, "delta": delta, "seed": settings.seed}
        info["silence"] = [samples / track.rate for samples in silence]  # seconds at the start and at the end
        info["seconds"] = round(track.seconds, 6)
        if clip.event is not None:
            info["event"] = clip.event.to_dict()
        sample = Sample.of(video=file, id=id, source="thud", group=clip.group, split=clip.split, meta={**info, **meta})
        out.append(sample)
        return id

    for edit in _edits(clip, clips, track, settings, deltas, errors):
        if edit.silence not in originals:
            originals[edit.silence] = write(silenced(track.wave, *edit.silence), "none", edit.silence)
        meta: dict[str, Any] = {"original": originals[edit.silence]}
        if edit.donor is not None:
            meta |= {"donor": edit.donor.name, "similarity": round(edit.donor.similarity, 4)}
            its = clips[edit.donor.name].event
            if its is not None and its.heard is not None:
                meta["donor_heard"] = its.heard
        wave = edit.wave if edit.kind == "mute" else silenced(edit.wave, *edit.silence)
        write(wave, edit.kind, edit.silence, edit.delta, **meta)
    return out


def _edits(
    clip: _Clip,
    clips: dict[str, _Clip],
    track: Track,
    settings: Settings,
    deltas: tuple[float, ...],
    errors: list[dict[str, str]],
) -> Iterator[_Edit]:
    """The edits that are possible; the others become errors."""
    for kind in settings.edits:
        for delta in deltas if kind == "shift" else (0.0,):
            try:
                if kind == "shift":
                    yield _shift(clip, track, delta, [d for d in deltas if settings.even and abs(d) == abs(delta)])
                elif kind == "mute":
                    yield _Edit(kind, Mute()(track.wave), (0, 0))
                else:
                    yield _swap(clip, clips, track, settings)
            except DataError as e:
                errors.append({"id": clip.name, "error": str(e)})


def _shift(clip: _Clip, track: Track, delta: float, beside: Sequence[float] = ()) -> _Edit:
    """`beside` are other shifts whose silence the clip is to have too."""
    if abs(delta) >= track.seconds:
        raise MediaError(
            f"{clip.path}: {track.seconds:.2f} s of sound cannot be moved by {delta:+g} s: use shorter deltas"
        )
    waves = []
    for d in dict.fromkeys((delta, *beside)):
        by = round(d * track.rate)
        waves += [Shift(track.rate, d)(track.wave), silenced(track.wave, max(by, 0), max(-by, 0))]
    return _Edit("shift", waves[0], _common_ends(clip, *waves), delta)


def _swap(clip: _Clip, clips: dict[str, _Clip], track: Track, settings: Settings) -> _Edit:
    pool = {h: c.features for h, c in clips.items() if c.split == clip.split and (c is clip or not _same(c, clip))}
    try:
        donor = choose(clip.hash, pool, settings.seed, settings.band, f"split {clip.split}")
    except DataError as e:
        raise DataError(f"{clip.path}: {e}") from e
    sound = resampled(read_track(clips[donor.name].path), track.rate, len(track.wave)).wave
    wave, n = Swap(sound)(track.wave), track.wave.shape[-1]
    heard = fitted(sound.new_ones(1, sound.shape[-1]), n)[0] > 0  # where the donor reaches
    return _Edit("swap", wave, _common_ends(clip, track.wave * heard, wave), donor=donor)


def _same(a: _Clip, b: _Clip) -> bool:
    """Whether the same thing is known to be heard in both: either sound would then belong to either picture."""
    return None not in (a.event, b.event) and a.event.heard is not None and a.event.heard == b.event.heard


def _common_ends(clip: _Clip, *waves: Tensor) -> tuple[int, int]:
    """The silence, in samples at the start and at the end, that all get. Raises `MediaError` if no sound is left."""
    lead, tail = (max(ends) for ends in zip(*(silent_ends(w) for w in waves)))
    n = waves[0].shape[-1]
    if lead + tail >= n or any(silent_ends(silenced(w, lead, tail))[0] == n for w in waves):
        raise MediaError(
            f"{clip.path}: nothing would be left to hear after the edit: use shorter deltas or leave it out"
        )
    return lead, tail


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
