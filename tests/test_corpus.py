from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from datamodules.corpus import clips, concepts, scenes, sounds
from datamodules.corpus.jobs import IMAGE_SIZES
from datamodules.corpus.plan import plan
from datamodules.schema import DataError, Sample

SCALE = 0.01
# Seed 0 at SCALE; changes with VERSION, or with Pillow, NumPy or libsndfile.
EXPECTED_HASH = "ebdf1f327632dd3f36f083fc44951626f1ac00db6e8b8d84b72130b0a3c963da"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, list[Sample]]:
    root = tmp_path_factory.mktemp("corpus") / "scenes"
    return root, scenes.build(root, seed=0, scale=SCALE, progress=False)


@pytest.fixture(scope="module")
def planned() -> list[Sample]:
    return plan(0, 1.0).samples


def decoded(path: str | Path) -> tuple[np.ndarray, np.ndarray | None, int, float]:
    """Frames, samples (None without a track), sound rate and seconds of pictures."""
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        seconds = float(video.duration * video.time_base)
        pictures = np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)])
    with av.open(str(path)) as file:
        if not file.streams.audio:
            return pictures, None, 0, seconds
        rate = file.streams.audio[0].rate
        sound = np.concatenate([f.to_ndarray() for f in file.decode(audio=0)], axis=-1)
    return pictures, sound[0], rate, seconds


def quads(samples: list[Sample]) -> dict[str, list[Sample]]:
    out = defaultdict(list)
    for s in samples:
        if "twin" in s.meta:
            out[s.meta["twin"]].append(s)
    return out


def without(s: Sample, need: str) -> list:
    """All that a reader of `s` meets when one modality is taken away."""
    seen: list = []
    for p in s.parts:
        if p.type == "video":
            frames, sound, _, _ = decoded(p.path)
            seen += [] if need == "frames" else [frames.tobytes()]
            seen += [] if need == "sound" else [sound.tobytes()]
        elif {"audio": "sound"}.get(p.type, p.type) != need:
            seen.append(p.text or Path(p.path).read_bytes())
    return seen


def test_same_seed_same_corpus(built, tmp_path):
    root, samples = built
    first = scenes.corpus_hash(root)
    again = scenes.build(tmp_path / "again", seed=0, scale=SCALE, progress=False)
    assert scenes.corpus_hash(tmp_path / "again") == first
    assert [s.id for s in again] == [s.id for s in samples]
    assert first == EXPECTED_HASH


def test_processes_do_not_change_the_media(built, monkeypatch):
    jobs = plan(0, SCALE).jobs[:12]
    alone = [scenes.render(j, built[0].parent / "alone") for j in jobs]
    monkeypatch.setattr(scenes, "WORKERS", 2)
    monkeypatch.setattr(scenes, "SERIAL", 0)
    assert list(scenes._render_all(jobs, built[0].parent / "pooled")) == alone


def test_other_seed_other_media(built, tmp_path):
    scenes.build(tmp_path / "other", seed=1, scale=SCALE, progress=False)
    assert scenes.corpus_hash(tmp_path / "other") != scenes.corpus_hash(built[0])
    here, there = plan(0, SCALE), plan(1, SCALE)
    assert [s.to_dict() for s in here.samples] != [s.to_dict() for s in there.samples]
    assert not {j.shown_key or j.heard_key for j in here.jobs} & {j.shown_key or j.heard_key for j in there.jobs}


def test_second_build_reads_and_checks(built, monkeypatch, tmp_path):
    root, samples = built
    monkeypatch.setattr(scenes, "render", lambda *_: pytest.fail("rendered again"))
    assert scenes.build(root, seed=0, scale=SCALE, progress=False) == samples
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="not a rendered corpus"):
        scenes.build(tmp_path, progress=False)
    picture = next(p.path for s in samples for p in s.parts if p.type == "image")
    before = Path(picture).read_bytes()
    try:
        Path(picture).write_bytes(before + b"x")
        with pytest.raises(DataError, match="changed on disk"):
            scenes.build(root, seed=0, scale=SCALE, progress=False)
    finally:
        Path(picture).write_bytes(before)


def test_killed_build_leaves_nothing(tmp_path, monkeypatch):
    real, done = scenes.render, []

    def breaks(job, root):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(job)
        return real(job, root)

    monkeypatch.setattr(scenes, "render", breaks)
    monkeypatch.setattr(scenes, "WORKERS", 1)
    with pytest.raises(KeyboardInterrupt):
        scenes.build(tmp_path / "scenes", scale=SCALE, progress=False)
    assert len(done) == 5
    assert list(tmp_path.iterdir()) == []


def test_splits_share_nothing(planned):
    groups, media, ids = defaultdict(set), defaultdict(set), set()
    for s in planned:
        assert s.id not in ids
        ids.add(s.id)
        groups[s.group].add(s.split)
        for p in s.media:
            media[p.path].add(s.split)
    assert all(len(splits) == 1 for splits in (*groups.values(), *media.values()))


def test_every_file_has_one_job():
    todo = plan(0, 0.2)
    paths = [j.path for j in todo.jobs]
    assert len(paths) == len(set(paths))
    assert set(paths) == {p.path for s in todo.samples for p in s.media}


def test_balance_and_gold(planned):
    verdicts = defaultdict(list)
    for s in planned:
        assert set(s.categories) == set(concepts.IDS)
        assert len(s.critique.split()) <= 24
        if s.split == "train":
            assert s.policy is None
            continue
        gold = s.gold(s.policy)
        assert gold is not None
        verdicts[s.split, s.modality].append(gold)
    assert len(verdicts) == 8
    for key, golds in verdicts.items():
        assert 0.4 <= np.mean(golds) <= 0.6, key


def test_test_slices(planned):
    test = [s for s in planned if s.split == "test"]
    assert 0.4 <= np.mean([s.meta["wording"] == "unseen" for s in test]) <= 0.6
    assert 0.05 <= np.mean([s.meta["entry"] == "unseen" for s in test]) <= 0.3
    for wording in ("seen", "unseen"):  # the wording must tell nothing about the verdict
        assert 0.4 <= np.mean([s.gold(s.policy) for s in test if s.meta["wording"] == wording]) <= 0.6
    assert any(
        s.meta["entry"] == "unseen" and s.gold(s.policy.subset(sorted(concepts.HELD_OUT & set(s.policy.ids))))
        for s in test
        if concepts.HELD_OUT & set(s.policy.ids)
    )
    sizes = [len(s.policy) for s in test]
    assert 3 <= np.mean(sizes) <= 5
    assert min(sizes) >= 1 and max(sizes) == 8
    assert any(s.meta.get("hard_negative") for s in test)
    train = {w for ws in concepts.bank().train.values() for w in ws}
    reworded = {"val": set(), "test": set()}
    for s in planned:
        if s.split == "test":
            assert (set(s.policy.entries) <= train) == (s.meta["wording"] == "seen")
        if s.split != "train":
            reworded[s.split] |= set(s.policy.entries) - train
        if s.split == "val":
            assert not set(s.policy.ids) & concepts.HELD_OUT
    assert reworded["val"] and not reworded["val"] & reworded["test"]  # thresholds are not fitted on test wordings


def test_mixed_training_scenes_use_training_files_only(planned):
    mixed = [s for s in planned if "mixed" in s.id]
    files = {p.path for s in planned if s.split == "train" and "mixed" not in s.id for p in s.media}
    others = {p.path for s in planned if s.split != "train" for p in s.media}
    used = {p.path for s in mixed for p in s.media}
    assert mixed and used <= files and not used & others
    broken = np.mean([any(v == "yes" for i, v in s.categories.items() if i.startswith("joint.")) for s in mixed])
    assert 0.35 <= broken <= 0.65


def test_bank_wordings():
    bank = concepts.bank()
    names = [w.name for w in bank.wordings()]
    assert len(names) == len(set(names))
    assert not {w.description for ws in bank.train.values() for w in ws} & {
        w.description for ws in bank.test.values() for w in ws
    }
    assert bank.held_out and all(len(bank.train[i]) >= 4 and len(bank.test[i]) == 2 for i in concepts.IDS)


def test_training_policies_hold_no_held_out_entry(planned):
    bank, rng = concepts.bank(), random.Random(0)
    for s in planned:
        if s.split == "train":
            policy = bank.draw(s, rng)
            assert not set(policy.ids) & concepts.HELD_OUT
            assert s.gold(policy) is not None


def test_quads_are_balanced(planned):
    found = quads(planned)
    assert sum(four[0].split == "test" for four in found.values()) >= 30
    for four in found.values():
        assert len(four) == 4
        assert len({s.group for s in four}) == len({s.policy for s in four}) == 1
        pair = four[0].meta["contrast"]
        under = four[0].policy or concepts.bank().draw(four[0], random.Random(0))
        if four[0].split != "train":
            assert set(pair) <= set(under.ids)
            assert sorted(s.gold(under) for s in four) == [False, False, True, True]
        broken = [tuple(s.categories[i] for i in pair) for s in four]
        assert sorted(broken) == [("no", "no"), ("no", "no"), ("no", "yes"), ("yes", "no")]


@pytest.mark.parametrize("kind", ["text_image", "image_sound", "text_sound", "frames_sound"])
def test_removing_a_needed_modality_leaves_opposite_pairs(built, kind):
    four = next(q for id, q in quads(built[1]).items() if id.startswith(f"test-twin-{kind}"))
    whole = [without(s, "nothing") for s in four]
    assert all(whole[a] != whole[b] for a in range(4) for b in range(a))
    for need in four[0].meta["needs"]:
        left = [without(s, need) for s in four]
        same = [(a, b) for a in range(4) for b in range(a) if left[a] == left[b]]
        assert len(same) == 2, need
        for a, b in same:
            assert four[a].gold(four[a].policy) != four[b].gold(four[b].policy)


def test_files_read_back(built):
    seen = set()
    for s in built[1]:
        for p in s.media:
            if p.type == "image":
                with Image.open(p.path) as image:
                    assert image.format == "PNG" and image.mode == "RGB" and image.size in IMAGE_SIZES
            elif p.type == "audio":
                info = soundfile.info(p.path)
                assert (info.format, info.samplerate, info.channels, info.frames) == ("FLAC", 16_000, 1, sounds.N)
            elif p.path not in seen and len([x for x in seen if x.endswith(".mp4")]) < 6:
                frames, sound, rate, seconds = decoded(p.path)
                assert frames.shape == (clips.FRAMES, clips.SIZE, clips.SIZE, 3)
                assert seconds == pytest.approx(3.0, abs=0.01)
                if sound is not None:
                    assert rate == 16_000 and len(sound) / rate == pytest.approx(3.0, abs=0.15)
            seen.add(p.path)
    assert {Path(p).suffix for p in seen} == {".png", ".flac", ".mp4"}


def test_clip_keeps_frames_and_sound(tmp_path):
    frames = clips.frames(("car",), None, np.random.default_rng(0))
    siren = sounds.sound(("alarm",), np.random.default_rng(0))
    clips.write_clip(tmp_path / "a.mp4", frames, 8, siren, 16_000)
    clips.write_clip(tmp_path / "b.mp4", frames, 8, None, 16_000)
    pictures, sound, _, _ = decoded(tmp_path / "a.mp4")
    assert np.abs(pictures.astype(int) - frames).mean() < 8
    spectra = [np.abs(np.fft.rfft(x[: sounds.N])) for x in (siren, sound)]
    assert np.corrcoef(*spectra)[0, 1] > 0.8
    silent = decoded(tmp_path / "b.mp4")
    assert silent[1] is None and np.array_equal(silent[0], pictures)
    with pytest.raises(ValueError, match="even"):
        clips.write_clip(tmp_path / "c.mp4", frames[:, :-1], 8, None, 16_000)


def test_labels_follow_content():
    labels = concepts.Content(shown=(("dog",),), said="sell").labels()
    assert {i for i, v in labels.items() if v == "yes"} == {"obj.dog", "joint.animal_sale"}
    labels = concepts.Content(happening="ignite", heard=("alarm",)).labels()
    assert {i for i, v in labels.items() if v == "yes"} == {"obj.fire", "snd.alarm", "evt.ignite", "joint.fire_alarm"}
    assert "yes" not in concepts.Content(shown=(("tulip",),), heard=("rain",)).labels().values()
