"""Free Spoken Digit Dataset, a subset: 300 recordings (10 digits, 6 speakers, 5 takes) at 8 kHz.

Upstream: Jakobovski/free-spoken-digit-dataset (CC-BY-SA-4.0). Citation: Jackson, Souza, Flaks, Pan, Nicolas and Thite
(2018), "Jakobovski/free-spoken-digit-dataset: v1.0.8".

A label is the digit; here the point is that somebody speaks. Split by speaker, so that no voice is in two splits.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, media_sample
from datamodules.sources.media_labels import SOUND, SOUND_UNSURE, labels

LICENCE = "CC-BY-SA-4.0"
PERMISSIVE = False  # share-alike: weights trained on it would have to carry its licence
TARGET = "prompt"
SPLIT_OF_SPEAKER = {"theo": "val", "yweweler": "test"}  # the other four train


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when the folder is missing."""
    samples = []
    for path in sorted(locate(data_dir, "audio/fsdd").glob("*.wav")):
        digit, speaker, _take = path.stem.split("_")
        found = labels({"speech"}, SOUND, SOUND_UNSURE)
        found["snd.body"] = "no"  # clean studio takes: unlike a talk, nothing but the word is in them
        samples.append(
            media_sample(
                "fsdd", path.stem, "audio", path, found, f"The sound is a voice that says the digit {digit}.",
                group=f"fsdd-{speaker}", split=SPLIT_OF_SPEAKER.get(speaker, "train"),
                meta={"tags": ["speech"], "digit": int(digit)},
            )
        )  # fmt: skip
    return samples
