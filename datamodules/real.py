"""`data=real`: public data with human labels as one corpus of training, validation and test samples.

Text keeps its own label and target (prompt or response). Recordings, photos and clips are judged under policies made
from their labels ("no power tools"): drawn anew in training, fixed for validation and test. Some entries and all
test-only wordings are met in the test split alone (`sources/wordings.py`). Sources are read where they lie; nothing is
copied.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datamodules.bank import unique_ids
from datamodules.corpus.types import Corpus
from datamodules.real_joint import joint_samples, several_photos
from datamodules.real_policies import fixed_media, fixed_text, hide, slices, thin_cross_modal, under_default
from datamodules.real_split import assign_media, assign_text, cap, drop_duplicates
from datamodules.schema import DataError, Sample, near
from datamodules.sources.files import licensed
from datamodules.sources.media_labels import cross_modal
from datamodules.sources.registry import SOURCES
from datamodules.sources.wordings import real_bank

MODALITIES = ("text", "image", "audio", "video", "joint")
LICENCES = ("all", "permissive")
# Policies that a file is tested under: files are few, and each answers many policies.
POLICIES_PER_FILE = {"fsdd": 2, "figstep": 2, "real_joint": 2, "real_photos": 2}
PREFIXES = {"audio": ("snd.",), "image": ("img.",), "video": ("vid.",), "joint": ("snd.", "img.")}


def load_real(
    data_dir: str | Path,
    seed: int = 0,
    licences: str = "all",
    max_rows_per_source: int = 700,
    modalities: Iterable[str] = MODALITIES,
) -> Corpus:
    """Reads, splits, de-duplicates and caps the public sources under `data_dir`.

    `licences="permissive"` leaves out non-commercial rows and rows without a licence. Joint samples are made of the
    photos and recordings that are read, and need both modalities. Raises `DataError` for a missing file, an unknown
    option, or a cap below 1.
    """
    data_dir, modalities = Path(data_dir), tuple(modalities)
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder: set data_dir=… to the folder of public data")
    if licences not in LICENCES:
        raise DataError(f"licences={licences!r}{near(str(licences), LICENCES)}")
    for m in modalities:
        if m not in MODALITIES:
            raise DataError(f"modalities: {m!r}{near(m, MODALITIES)}")
    if "joint" in modalities and not {"image", "audio"} <= set(modalities):
        raise DataError("modalities: joint samples need image and audio too")
    if max_rows_per_source < 1:
        raise DataError(f"max_rows_per_source={max_rows_per_source}: must be 1 or more")

    bank = real_bank()
    dropped: dict[str, Counter] = defaultdict(Counter)
    read: dict[str, int] = {}
    texts: list[Sample] = []
    files: list[Sample] = []
    for name, source in SOURCES.items():
        if source.modality not in modalities:
            continue
        rows = source.module.load(data_dir)
        read[name] = len(rows)
        rows = [licensed(s, source.module) for s in rows]
        # Split first, then filter: a row is on the same side whatever licences are asked for.
        if source.modality == "text":
            rows = assign_text(rows, bank.held_out, seed, dropped[name])
        else:
            rows = assign_media(rows, bank.held_out, seed)
        if licences == "permissive":
            allowed = [s for s in rows if s.meta["permissive"]]
            dropped[name]["licence"] += len(rows) - len(allowed)
            rows = allowed
        if source.share is not None:
            limit = max(1, round(max_rows_per_source * source.share))
            rows = cap(rows, limit, bank.held_out, seed, dropped[name])
        (texts if source.modality == "text" else files).extend(rows)

    samples = _texts(drop_duplicates(texts, dropped), bank, seed, dropped)
    samples += _media(files, bank, seed, modalities, dropped)
    unique_ids(samples)
    return Corpus(samples, bank, _report(samples, read, dropped, licences, bank.held_out))


def _texts(texts: list[Sample], bank: Any, seed: int, dropped: dict[str, Counter]) -> list[Sample]:
    out = []
    for sample in texts:
        if sample.split != "test":
            hidden = hide(sample, bank.held_out, dropped[sample.source])
            if hidden is None:
                continue
            sample = hidden
        if sample.split != "train":
            fixed = fixed_text(sample, bank, seed)
            if fixed is None:
                dropped[sample.source]["no verdict under any policy"] += 1
                continue
            sample = fixed
        elif sample.policy is not None and sample.gold(sample.policy) is None and not _decided(sample):
            dropped[sample.source]["no verdict under any policy"] += 1
            continue
        out.append(sample)
    return out


def _decided(sample: Sample) -> bool:
    return any(label != "unknown" for label in sample.categories.values())


def _media(
    files: list[Sample], bank: Any, seed: int, modalities: tuple[str, ...], dropped: dict[str, Counter]
) -> list[Sample]:
    own = [s.replace(categories=cross_modal(s.modality, s.categories)) if s.policy is None else s for s in files]
    photos = [s for s in own if s.modality == "image" and s.policy is None]
    clips = [s for s in own if s.modality == "audio"]
    own += several_photos(photos, seed)
    if "joint" in modalities:
        own += joint_samples(photos, clips, seed)
    out = []
    for sample in own:
        prefixes = PREFIXES[sample.modality]
        if sample.source == "figstep":
            prefixes += ("S",)
        if sample.split != "test":
            hidden = hide(sample, bank.held_out, dropped[sample.source])
            if hidden is None:
                continue
            sample = thin_cross_modal(hidden, prefixes, seed)
        if sample.split == "train":
            if _decided(sample):
                out.append(sample)
            else:
                dropped[sample.source]["no known label"] += 1
            continue
        fixed = fixed_media(sample.replace(unsafe=None), bank, prefixes, POLICIES_PER_FILE.get(sample.source, 4), seed)
        if sample.source in ("imagenet_samples", "clothing"):
            fixed.append(under_default(sample, bank.held_out))
        elif sample.policy is not None:
            fixed.append(slices(sample.replace(id=f"{sample.id}#default"), sample.policy, bank.held_out, False))
        if not fixed:
            dropped[sample.source]["no verdict under any policy"] += 1
        out += fixed
    return out


def _report(
    samples: list[Sample],
    read: dict[str, int],
    dropped: dict[str, Counter],
    licences: str,
    held_out: frozenset[str],
) -> dict[str, Any]:
    """Counts, by source and by modality: rows read, used and left out (with the reason), and what is unsafe."""
    by_source: dict[str, Counter] = defaultdict(Counter)
    by_modality: dict[str, Counter] = defaultdict(Counter)
    unsafe: dict[str, Counter] = defaultdict(Counter)
    slices_: Counter = Counter()
    for s in samples:
        by_source[s.source][str(s.split)] += 1
        by_modality[s.modality][str(s.split)] += 1
        if s.split != "train":
            assert s.policy is not None
            unsafe[f"{s.modality}/{s.split}"][str(s.gold(s.policy)).lower()] += 1
            if s.split == "test":
                slices_[f"entry {s.meta['entry']}"] += 1
                slices_[f"wording {s.meta['wording']}"] += 1
    return {
        "licences": licences,
        "licence_of": {name: SOURCES[name].module.LICENCE for name in read},
        "read": read,
        "by_source": {k: dict(v) for k, v in sorted(by_source.items())},
        "by_modality": {k: dict(v) for k, v in sorted(by_modality.items())},
        "unsafe": {k: dict(v) for k, v in sorted(unsafe.items())},
        "test_slices": dict(slices_),
        "dropped": {k: {r: n for r, n in v.items() if n} for k, v in sorted(dropped.items()) if sum(v.values())},
        "held_out": sorted(held_out),
    }
