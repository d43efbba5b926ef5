"""`data.augment=shift`: seeded, in training alone, past the cache for what it changes and only for that."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import random_backbone, write_audio
from native_helpers import random_native

from datamodules.base import GuardDataModule
from datamodules.corpus.clips import write_clip
from datamodules.media import read_audio
from datamodules.schema import DataError, Policy, PolicyEntry, Sample
from datamodules.transforms.augment import ShiftSounds, augmentation
from zoo.config import compose, plain
from zoo.core.cache import FeatureCache
from zoo.core.guard import Guard
from zoo.core.module import GuardModule
from zoo.fit import build_data

POLICY = Policy("p", (PolicyEntry("fire", "fire", "a fire"),))


def manifest(folder, rows: int = 6):
    lines = []
    for n in range(rows):
        write_audio(folder / f"{n}.wav", n)
        part = {"type": "audio", "path": f"{n}.wav"}
        row = {"id": f"r{n}", "messages": [{"role": "user", "content": [part]}], "categories": {"fire": "yes"}}
        lines.append(json.dumps({**row, "split": ("train", "train", "val", "test")[n % 4], "group": f"g{n}"}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def test_one_line_in_a_recipe(tmp_path):
    given = ["recipe=omniguard", "data=manifest", f"data.path={manifest(tmp_path)}", "data.augment=shift"]
    assert build_data(plain(compose(given))).augment_of is not None
    assert build_data(plain(compose(given[:-1]))).augment_of is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"augment": "shfit"}, "did you mean 'shift'"),
        ({"augment": "mute"}, "change what is heard"),
        ({"augment": "shift", "modalities": ["text", "image"]}, "leave it out"),
    ],
)
def test_what_is_not_possible(given, words):
    with pytest.raises(DataError, match=words):
        GuardDataModule("sample", **given)


def test_a_draw_depends_on_seed_epoch_and_sample():
    wave = torch.zeros(1000)
    wave[500] = 1.0

    def drawn(seed, epoch, id):
        return int(augmentation("shift", seed)(Sample.of("x", id=id), epoch)("sound", wave).argmax())

    assert drawn(0, 0, "a") == drawn(0, 0, "a")
    others = [drawn(*key) for key in ((1, 0, "a"), (0, 1, "a"), (0, 0, "b"))]
    assert drawn(0, 0, "a") not in others and all(250 <= at <= 750 for at in others)
    picture = torch.ones(3, 4, 4)
    assert ShiftSounds(0)("image", picture) is picture


def test_training_is_augmented_and_a_test_is_not(tmp_path):
    cache = FeatureCache(tmp_path / "cache")
    module = GuardModule(Guard(random_backbone("encoded", cache=cache), POLICY), critique=False)
    policy = tmp_path / "policy.yaml"
    policy.write_text(json.dumps(POLICY.to_dict()))
    data = GuardDataModule("manifest", path=manifest(tmp_path), policy=policy, batch_size=1, augment="shift")
    module.attach(data)
    size = len(cache)

    def sounds(loader):
        return {b.samples[0].id: b.inputs.prompt.sources["sound"][0] for b in loader}

    train, test = sounds(data.train_dataloader()), sounds(data.test_dataloader())
    assert len(train) == 4 and test and all(s.ready and s.key for s in test.values())
    for id, source in train.items():
        wave = read_audio(tmp_path / f"{id[1:]}.wav")
        sample = next(s for s in data.samples("train") if s.id == id)
        wanted = module.guard.backbone.encoders["sound"].load(data.augment_of(sample, 0)("sound", wave))
        assert source.key is None and not source.ready and torch.equal(source.value, wanted)
    cache.flush()
    assert len(cache) == size


def test_the_frames_of_a_clip_still_come_from_the_cache(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3), dtype=np.uint8)
    write_clip(
        tmp_path / "a.mp4", frames, 8, np.random.default_rng(1).normal(0, 0.1, 32_000).astype(np.float32), 16_000
    )
    row = Sample.of("x", video=tmp_path / "a.mp4")
    backbone = random_backbone("encoded", cache=FeatureCache(tmp_path / "cache"))
    backbone.warm([row])
    plain_, shifted = (backbone.prepare(row, POLICY, augment=a).prompt for a in (None, ShiftSounds(3)))
    for before, after in zip(plain_.sources, shifted.sources, strict=True):
        assert (before.kind, before.tokens, before.time) == (after.kind, after.tokens, after.time)
        if before.kind in ("image", "sound"):
            assert before.ready and after.ready == (after.kind == "image")
    assert plain_.layout == shifted.layout and {s.kind for s in plain_.sources} >= {"image", "sound"}


def test_the_native_backbone_hears_it(tmp_path):
    backbone = random_native(0, 256)
    write_audio(tmp_path / "a.wav")
    row = Sample.of("x", audio=tmp_path / "a.wav")

    class Silence:
        kinds = frozenset(("sound",))

        def __call__(self, kind, raw):
            return torch.zeros_like(raw)

    plain_, silent = (backbone.prepare(row, POLICY, augment=a) for a in (None, Silence()))
    (before,), (after,) = plain_.inputs.mels, silent.inputs.mels
    assert before.shape == after.shape and float(before.std()) > 0 and float(after.std()) == 0
    assert torch.equal(plain_.ids, silent.ids)
