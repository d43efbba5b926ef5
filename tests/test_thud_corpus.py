"""The rendered clips of Thud, and when their events are seen and heard."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from datamodules.corpus import thud
from datamodules.corpus.clips import write_clip
from datamodules.corpus.draw import rng_of
from datamodules.corpus.thud import BANDS, FIRST, LAST, build_thud, render, thud_hash, thud_plan
from datamodules.corpus.thud_scenes import FPS, KINDS, SECONDS, frames, sound
from datamodules.media import read_video
from datamodules.schema import DataError, MediaError
from datamodules.transforms.edit_files import Settings, edit_folder
from datamodules.transforms.events import (
    Event,
    Unfit,
    event_of,
    picture_onsets,
    read_events,
    sound_onsets,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Ten test clips and a quiet one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thud, "COUNTS", {"train": 1, "val": 1, "test": 10})
        patch.setattr(thud, "QUIET", {"train": 1, "val": 0, "test": 0})
        yield build_thud(tmp_path_factory.mktemp("thud") / "corpus", progress=False)


@pytest.fixture(scope="module")
def edited(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edited") / "test"
    deltas = tuple(s * b for b in BANDS for s in (-1, 1))
    return edit_folder(corpus / "clips" / "test", folder, Settings(deltas=deltas, spread=True, even=True, split="test"))


# --------------------------------------------------------------------------------------------------------------- plan


def test_the_plan_is_balanced_and_splits_share_nothing():
    scenes = thud_plan(0)
    clips = [s for s in scenes if s.at is not None]
    for split in ("train", "val", "test"):
        counts = Counter(s.kind for s in clips if s.split == split)
        assert set(counts) == set(KINDS) and len(set(counts.values())) == 1
    assert len({s.file for s in scenes}) == len({s.key for s in scenes}) == len(scenes)
    assert {s.at for s in clips} <= {n / FPS for n in range(int(FIRST * FPS), int(LAST * FPS) + 1)}
    # Moved by 2 s either way it is heard beside 2 s of silence at both ends.
    assert all(s.at - 2 > 2 and s.at + 2 + 0.5 <= SECONDS - 2 for s in clips)
    assert [s.kind for s in scenes if s.at is None and s.split == "test"] == []
    assert thud_plan(0) == scenes != thud_plan(1)
    with pytest.raises(ValueError, match="scale"):
        thud_plan(0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_changes_the_picture_from_its_frame_on(kind):
    """Up to the frame before it the clip could be any of those in which it comes later; then the state is another."""
    a, b = (frames(kind, "middle", at, rng_of("x")).astype(int) for at in (2.5, 3.5))
    quiet = frames(kind, "middle", None, rng_of("x")).astype(int)
    assert (a[0] == quiet[0]).all() and (quiet == quiet[0]).all()
    assert np.abs(a[20:] - quiet[20:]).mean((1, 2, 3)).min() > 0.05  # to the end: few frames are enough to see it
    assert np.abs(b[20] - a[20]).mean() > 0.05 and (a[28:36] == b[36:44]).all()
    wave = sound(kind, 2.5, rng_of("x"))
    assert wave.dtype == np.float32 and len(wave) == SECONDS * 16_000
    level = np.abs(wave[:32_000]).max()
    assert level < 0.03 and np.abs(wave[40_000:41_600]).max() > 5 * level
    assert not sound(kind, None, rng_of("x")).any()


def test_the_corpus_is_hashed_and_verified(corpus, tmp_path, monkeypatch):
    note = json.loads((corpus / "corpus.json").read_text())
    assert thud_hash(corpus) == note["sha256"]
    scenes = {s.file: s for s in thud_plan(0)}
    media = json.loads((corpus / "media.json").read_text())
    file = sorted(f for f in media if "/test/" in f)[0]
    assert render(scenes[file], tmp_path / "again.mp4") == media[file]  # of the full plan: counts move no scene
    other = {s.file: s for s in thud_plan(1)}
    assert render(next(iter(other.values())), tmp_path / "b.mp4") not in media.values()
    assert build_thud(corpus, progress=False) == corpus
    with pytest.raises(DataError, match="is not the corpus of"):
        build_thud(corpus, seed=1)
    events = corpus / "clips" / "test" / "events.jsonl"
    before = events.read_text()
    events.write_text(before.replace("t_a", "t_b", 1))
    with pytest.raises(DataError, match="changed on disk"):
        build_thud(corpus)
    events.write_text(before)
    (corpus / file).rename(tmp_path / "gone.mp4")
    with pytest.raises(DataError, match="not a whole rendered corpus"):
        build_thud(corpus)
    (tmp_path / "gone.mp4").rename(corpus / file)


# ------------------------------------------------------------------------------------------------------------- events


def test_events_are_where_the_files_have_them(corpus):
    """Read back through the codec: the sound within 50 ms, the picture within the tolerance."""
    folder = corpus / "clips" / "test"
    events = read_events(folder)
    assert len(events) == 10 and {e.heard for e in events.values()} == set(KINDS)
    for name, event in events.items():
        found = event_of(folder / name)
        assert found.by == "estimate" and found.t_a == pytest.approx(event.t_a, abs=0.05), event
        assert found.t_v == pytest.approx(event.t_v, abs=0.8), event
        assert event_of(folder / name, event) == event
    late = Event(2.5, 2.5 + 0.6)
    drum = next(folder / n for n, e in events.items() if e.heard == "bell")
    at = events[drum.name].t_a
    assert event_of(drum, Event(at, at + 0.45)).t_a == at + 0.45
    for wrong, reason in (
        (Event(at, at + 0.6), "annotation not heard"),
        (Event(0.1, at), "annotation not seen"),
        (Event(None, at), "no annotated time"),
    ):
        with pytest.raises(Unfit) as e:
            event_of(drum, wrong)
        assert e.value.reason == reason, late


def test_estimates_that_do_not_agree_are_told(tmp_path):
    pixels = np.zeros((32, 16, 32, 3), np.uint8)
    pixels[8:] = 200  # at 1 s
    wave = np.zeros(64_000, np.float32)
    wave[40_000:44_000] = 0.5  # at 2.5 s
    write_clip(tmp_path / "a.mp4", pixels, 8, wave, 16_000)
    write_clip(tmp_path / "still.mp4", pixels[8:], 8, wave, 16_000)
    write_clip(tmp_path / "mute.mp4", pixels, 8, 0 * wave, 16_000)
    write_clip(tmp_path / "none.mp4", pixels, 8, None, 16_000)
    for name, reason, words in (
        ("a", "seen and heard apart", "at 1.00 s and what is heard at 2.5"),
        ("still", "nothing moves", "nothing moves"),
        ("mute", "nothing heard", "nothing is heard"),
        ("none", "no sound", "no sound track"),
    ):
        with pytest.raises(Unfit) as e:
            event_of(tmp_path / f"{name}.mp4")
        assert e.value.reason == reason and words in str(e.value) and name in str(e.value)
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:300])
    with pytest.raises(MediaError):
        event_of(tmp_path / "b.mp4")


def test_onsets_of_made_up_curves():
    wave = np.zeros(32_000, np.float32)
    wave[8_000:9_000], wave[24_000:] = 0.2, 0.8
    heard = sound_onsets(wave, start=0.5)
    assert heard.strongest == pytest.approx(2.0, abs=0.011)
    assert heard.near(1.0, 0.05) is False  # a quarter of the strongest: not clear
    assert heard.near(1.6, 0.5) and not heard.near(1.4, 0.5)
    grey = [Image.new("RGB", (8, 8), (v, v, v)) for v in (0, 0, 0, 100, 100, 100)]
    assert picture_onsets(grey, [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]).strongest == 1.5


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"t_v": 1}', "`file`"),
        ('{"file": "b.mp4"}', "'b.mp4' is not in the folder"),
        ('{"file": "a.mp4", "t_v": -1}', "t_v must be seconds"),
        ('{"file": "a.mp4", "t_a": true}', "t_a must be seconds"),
        ('{"file": "a.mp4", "heard": 3}', "heard must be a string"),
        ('{"file": "a.mp4", "tv": 3}', "unknown field 'tv'"),
        ("{", "line 1"),
        ('{"file": "a.mp4"}\n{"file": "a.mp4"}', "line 2: 'a.mp4' has an event already"),
    ],
)
def test_annotations_that_are_wrong(tmp_path, line, words):
    (tmp_path / "a.mp4").write_bytes(b"x")
    (tmp_path / "events.jsonl").write_text(line + "\n")
    with pytest.raises(DataError) as e:
        read_events(tmp_path)
    assert words in str(e.value)


# -------------------------------------------------------------------------------------------------------------- edits


def test_edits_take_turns_and_know_their_events(edited):
    assert not edited.errors
    kinds = Counter(s.meta["edit"] for s in edited.samples)
    assert kinds["shift"] == 20 and kinds["mute"] == kinds["swap"] == 10
    assert Counter(abs(s.meta["delta"]) for s in edited.samples if s.meta["edit"] == "shift") == dict.fromkeys(BANDS, 4)
    per_clip = {}
    for s in edited.samples:
        if s.meta["edit"] == "shift":
            per_clip.setdefault(s.meta["clip"], []).append(s.meta["delta"])
    assert all(len(d) == 2 and sum(d) == 0 for d in per_clip.values())
    for s in edited.samples:
        event = Event.from_dict(s.meta["event"], "meta")
        assert event.seen == event.heard
        if s.meta["edit"] == "swap":
            assert s.meta["donor_heard"] != event.heard  # the same kind's sound would belong to the picture


def test_silence_does_not_tell_the_direction(edited):
    """Both shifts of a clip and their one original are silent for the same time, at both ends for as long as Δ."""
    by_id = {s.id: s for s in edited.samples}
    originals = {}
    for s in edited.samples:
        if s.meta["edit"] == "shift":
            originals.setdefault(s.meta["clip"], set()).add(s.meta["original"])
            assert s.meta["silence"] == by_id[s.meta["original"]].meta["silence"]
            assert min(s.meta["silence"]) >= abs(s.meta["delta"]) - 1e-3
            lead, tail = s.meta["silence"]
            for time in (s.meta["event"]["t_a"], s.meta["event"]["t_a"] + s.meta["delta"]):
                assert lead < time < s.meta["seconds"] - tail - 0.4
    assert all(len(own) == 1 for own in originals.values()) and len(originals) == 10


def test_a_shifted_file_is_heard_when_it_should(edited, tmp_path_factory):
    folder = next(p for p in tmp_path_factory.getbasetemp().glob("edited*/test"))
    moved = [s for s in edited.samples if s.meta["edit"] == "shift" and abs(s.meta["delta"]) > 1]
    for s in moved[:4]:
        clip = read_video(folder / s.media[0].path, 8, 48)
        heard = sound_onsets(clip.sound.numpy(), start=clip.sound_start).strongest
        assert heard == pytest.approx(s.meta["event"]["t_a"] + s.meta["delta"], abs=0.1)


def test_what_the_time_of_a_sound_alone_tells_about_sync():
    """The readme's bound: the best guess from the heard time, each right answer a third, over the corpus's times."""
    width = 0.05
    times = np.arange(FIRST, LAST, width) + width / 2
    likelihoods = []
    for moves in ((0.0,), BANDS, tuple(-b for b in BANDS)):
        heard = (times[:, None] + np.asarray(moves)).ravel()
        counts, _ = np.histogram(heard, bins=np.arange(FIRST - 2.5, LAST + 2.5, width))
        likelihoods.append(counts / counts.sum())
    assert np.max(likelihoods, axis=0).sum() / 3 == pytest.approx(0.58, abs=0.01)
