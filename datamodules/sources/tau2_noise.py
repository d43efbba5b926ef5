"""Background noise of tau2-bench: six recordings (horn, dog, engine, talk, phone, siren), 4 to 41 s at 16 kHz.

Upstream: sierra-research/tau2-bench (MIT). Citation: Barres, Dong, Ray, Si and Narasimhan (2025), "τ²-Bench: Evaluating
Conversational Agents in a Dual-Control Environment".

A label is the file's name. The recordings are of one kind each, but of the street: what else is in them is unknown
where it is likely (talk beside a horn).
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import Sample
from datamodules.sources.files import locate, media_sample
from datamodules.sources.media_labels import SOUND, SOUND_UNSURE, labels

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
FILES = {
    "car_horn": ({"car_horn"}, "a car's horn", "train"),
    "dog_bark": ({"dog"}, "a barking dog", "test"),
    "engine_idling": ({"engine"}, "an idling engine", "train"),
    "people_talking": ({"speech", "crowd"}, "people talking", "train"),
    "ringing_phone": ({"phone"}, "a ringing telephone", "val"),
    "siren": ({"siren"}, "a siren", "test"),
}


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing."""
    return [
        media_sample(
            "tau2_noise", name, "audio", locate(data_dir, "audio/tau2_background_noise", f"{name}.wav"),
            labels(tags, SOUND, SOUND_UNSURE), f"The sound is {words}.", split=split, meta={"tags": sorted(tags)},
        )
        for name, (tags, words, split) in FILES.items()
    ]  # fmt: skip
