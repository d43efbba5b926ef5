"""ESC-50, a subset: 152 clips of 5 s at 16 kHz in 50 classes of environmental sound.

Upstream: karoldvl/ESC-50, here through londonreturns/ESC-50_Sound_Classification. Licence: the ESC-10 classes are
CC-BY-3.0, the others CC-BY-NC-3.0; each sample says which. Citation: Piczak (2015), "ESC: Dataset for Environmental
Sound Classification".

A label is the one class of a clip. Folds keep clips cut from one recording together: 1 to 3 train, 4 val, 5 test, and
the recording is the group. Trap: esc50.csv lists all 2,000 clips of the full set; only those on disk are read. Classes
outside ESC-10 are thin: most have one clip, in fold 1.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import DataError, Sample
from datamodules.sources.files import locate, media_sample, read_csv
from datamodules.sources.media_labels import SOUND, SOUND_UNSURE, labels

LICENCE = "CC-BY-3.0 / CC-BY-NC-3.0"
PERMISSIVE = False  # as a whole; the ESC-10 clips are
TARGET = "prompt"
SPLIT_OF_FOLD = {"1": "train", "2": "train", "3": "train", "4": "val", "5": "test"}


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the folder is missing or a clip is not in its table."""
    folder = locate(data_dir, "audio/esc50_subset_16k")
    rows = {row["filename"]: row for row in read_csv(locate(data_dir, "audio/esc50_subset_16k", "esc50.csv"))}
    samples = []
    for path in sorted(folder.glob("*.wav")):
        if path.name not in rows:
            raise DataError(f"{path}: not listed in esc50.csv: remove it or add its row")
        row = rows[path.name]
        tag, free = row["category"], row["esc10"] == "True"
        samples.append(
            media_sample(
                "esc50", path.stem, "audio", path, labels({tag}, SOUND, SOUND_UNSURE),
                f"The sound is of the class {tag.replace('_', ' ')}.",
                group=f"esc50-{row['src_file']}", split=SPLIT_OF_FOLD[row["fold"]],
                meta={"tags": [tag], "licence": "CC-BY-3.0" if free else "CC-BY-NC-3.0", "permissive": free},
            )
        )  # fmt: skip
    return samples
