"""Edited files: pictures untouched, the sound moved by what was asked, and nothing that gives the edit away.

The same is asked of generated clips and, where they are, of the real ones (`ZOO_DATA_DIR`).
"""

from __future__ import annotations

import hashlib
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from datamodules.corpus.clips import write_clip
from datamodules.manifest import load_manifest
from datamodules.media import read_video
from datamodules.schema import DataError, MediaError
from datamodules.soundtrack import read_track, resampled, target_of
from datamodules.transforms.audio_edits import silent_ends
from datamodules.transforms.edit_files import Settings, edit_folder
from zoo.data import main

DATA = Path(os.environ.get("ZOO_DATA_DIR") or Path(__file__).resolve().parents[1].parent / "shared" / "data")
FRAME = {"mp4": 1024, "webm": 960}  # samples of a codec frame: AAC, Opus
RATE = 16_000


def bursts(seed: int, seconds: float, rate: int = RATE) -> np.ndarray:
    """Noise in bursts: never silent for long, and nothing in it repeats."""
    rng = np.random.default_rng(seed)
    envelope = np.repeat(rng.uniform(0.05, 1.0, int(seconds * 20) + 1), rate // 20)[: int(seconds * rate)]
    colour = np.convolve(rng.normal(0, 0.15, int(seconds * rate)), np.ones(1 + seed % 4) / (1 + seed % 4), "same")
    return (colour * envelope).astype(np.float32)


def mp4(path: Path, seed: int = 0, seconds: float = 3.0, sound: np.ndarray | None = None) -> Path:
    frames = np.random.default_rng(seed).integers(0, 255, (int(seconds * 8), 16, 32, 3), dtype=np.uint8)
    write_clip(path, frames, 8, bursts(seed, seconds) if sound is None else sound, RATE)
    return path


def clip(path: Path, tracks: int, codecs: tuple[str, str], seed: int = 0, seconds: float = 3.0) -> Path:
    """A clip with any number of sound tracks, in any container."""
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as out:
        video = out.add_stream(codecs[0], rate=8)
        video.width, video.height, video.pix_fmt = 32, 16, "yuv420p"
        sounds = [out.add_stream(codecs[1], rate=48_000, layout="mono") for _ in range(tracks)]
        for n in range(int(seconds * 8)):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (16, 32, 3), dtype=np.uint8), format="rgb24")
            frame.pts, frame.time_base = n, Fraction(1, 8)
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
        for n, stream in enumerate(sounds):
            frame = av.AudioFrame.from_ndarray(bursts(seed + n, seconds, 48_000)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
            out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return path


def frames_hash(path: Path) -> str:
    """Of every decoded picture, its turn and the time at which it is shown."""
    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            digest.update(f"{round(frame.time * 1000)} {frame.rotation} {frame.format.name}".encode())
            digest.update(frame.to_ndarray().tobytes())
    return digest.hexdigest()


def lag(moved: torch.Tensor, source: torch.Tensor) -> int:
    """Samples by which `moved` is later, by cross-correlation."""
    a, b = source.mean(0).double(), moved.mean(0).double()
    n = 1 << (len(a) + len(b)).bit_length()
    at = int(torch.fft.irfft(torch.fft.rfft(b, n) * torch.fft.rfft(a, n).conj(), n).argmax())
    return at - n if at > n // 2 else at


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def file_of(folder: Path, row: dict) -> Path:
    return folder / row["messages"][0]["content"][0]["path"]


def check(source: Path, out: Path, exact: int) -> dict[str, int]:
    """What must hold of every file: how many there are of each edit. `exact` is how far off a shift may be, in samples;
    None: one codec frame."""
    counts: dict[str, int] = {}
    hashes, tracks = {}, {}
    for row in rows(out):
        meta, file = row["meta"], file_of(out, row)
        name = meta["file"]
        if name not in hashes:
            hashes[name] = frames_hash(source / name)
            kind, track = target_of(source / name), read_track(source / name)
            tracks[name] = resampled(track, kind.rate(track.rate))
        assert frames_hash(file) == hashes[name], (name, meta)
        track, edited = tracks[name], read_track(file)
        one = FRAME.get(file.suffix[1:], 960)
        assert edited.rate == track.rate and len(edited.wave) == len(track.wave)
        assert abs(edited.wave.shape[1] - track.wave.shape[1]) <= one
        assert abs(edited.start - track.start) * track.rate <= one
        wanted = round(meta["delta"] * track.rate)
        if meta["edit"] in ("none", "shift"):
            assert abs(lag(edited.wave, track.wave) - wanted) <= min(exact, one), (name, meta)
        elif meta["edit"] == "mute":
            assert float(edited.wave.abs().max()) < 1e-4
        counts[meta["edit"]] = counts.get(meta["edit"], 0) + 1
    return counts


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    source, out = tmp_path_factory.mktemp("clips"), tmp_path_factory.mktemp("edits") / "out"
    for n in range(6):
        mp4(source / f"clip{n}.mp4", n)
    clip(source / "web.webm", 1, ("libvpx", "libopus"), seed=40)
    report = edit_folder(source, out, Settings(deltas=(1.0, -0.7), band=(0.05, 0.999), split="test"))
    assert not report.errors
    return source, out


def test_generated_clips(folders):
    source, out = folders
    counts = check(source, out, exact=2)
    assert counts["shift"] == 14 and counts["swap"] == counts["mute"] == 7


def test_a_swapped_track_is_the_donors(folders):
    source, out = folders
    names = {r["meta"]["clip"]: r["meta"]["file"] for r in rows(out)}
    for row in (r for r in rows(out) if r["meta"]["edit"] == "swap"):
        edited = read_track(file_of(out, row))
        donor = resampled(read_track(source / names[row["meta"]["donor"]]), edited.rate, len(edited.wave))
        assert row["meta"]["donor"] != row["meta"]["clip"] and abs(lag(edited.wave, donor.wave)) <= 2
        n = min(edited.wave.shape[1], donor.wave.shape[1])
        together = torch.corrcoef(torch.stack([edited.wave[0, :n], donor.wave[0, :n]]))[0, 1]
        assert together > 0.9 and 0.05 <= row["meta"]["similarity"] <= 0.999


def test_the_manifest_is_one_and_says_all(folders):
    source, out = folders
    found = rows(out)
    assert [r["id"] for r in found] == sorted(r["id"] for r in found)
    originals = {r["id"]: r for r in found if r["meta"]["edit"] == "none"}
    for row in found:
        meta = row["meta"]
        assert meta["clip"] == hashlib.sha256((source / meta["file"]).read_bytes()).hexdigest()
        assert row["group"] == f"clip-{meta['clip'][:16]}" and row["split"] == "test" and meta["seed"] == 0
        if meta["edit"] != "none":
            assert originals[meta["original"]]["meta"]["silence"] == meta["silence"]
            assert originals[meta["original"]]["meta"]["clip"] == meta["clip"]
    names = {p.name for p in (out / "clips").iterdir()}
    assert names == {Path(file_of(out, r)).name for r in found}
    corpus = load_manifest(out / "manifest.jsonl", None, None, 0)
    assert len(corpus.samples) == len(found) and not corpus.report["errors"]
    clip = read_video(corpus.samples[0].media[0].path)
    assert clip.frames and clip.sound is not None


def properties(path: Path) -> tuple[dict, list[int], tuple[int, int]]:
    """What can be read off a file without listening, the sizes of its packets, and the silence at its ends."""
    with av.open(str(path)) as container:
        tracks = container.streams.audio
        sizes = [p.size for p in container.demux(tracks[0]) if p.size]
    with av.open(str(path)) as container:
        stream, context = container.streams.audio[0], container.streams.audio[0].codec_context
        facts = {
            "codec": (context.name, context.rate, context.layout.name, context.extradata),
            "stream": (stream.start_time, stream.duration, stream.time_base, stream.frames, container.duration),
            "packets": len(sizes),
            "tags": (container.metadata, stream.metadata),
            "streams": len(container.streams),
        }
    return facts, sizes, silent_ends(read_track(path).wave)


def test_nothing_gives_an_edit_away(folders):
    _, out = folders
    files = {r["id"]: file_of(out, r) for r in rows(out)}
    seen = {id: properties(file) for id, file in files.items()}
    signs: dict[str, list[float]] = {"size": [], "start": [], "end": []}
    for row in (r for r in rows(out) if r["meta"]["edit"] != "none"):
        (facts, sizes, ends), (other, other_sizes, other_ends) = seen[row["id"]], seen[row["meta"]["original"]]
        assert facts == other, (row["meta"], facts, other)
        if row["meta"]["edit"] == "mute":
            continue  # it is heard, and a silent AAC packet is small
        # What an encoder makes of the first and last samples depends on them, up to a frame; neither side is favoured.
        assert all(abs(a - b) < 1024 for a, b in zip(ends, other_ends)), (row["meta"], ends, other_ends)
        both = ((sum(sizes), sum(other_sizes)), *zip(ends, other_ends))
        for name, (edited, original) in zip(signs, both):
            signs[name].append(float(np.sign(edited - original)))
    assert all(len(s) == 21 and abs(np.mean(s)) < 0.6 for s in signs.values()), signs  # under three deviations


def test_a_name_and_the_place_in_the_folder_say_nothing(folders):
    _, out = folders
    found = rows(out)
    for row in found:
        name = Path(file_of(out, row)).stem
        assert name == row["id"] and len(name) == 20 and set(name) <= set("0123456789abcdef")
    edited = [i for i, r in enumerate(found) if r["meta"]["edit"] != "none"]
    assert abs(np.mean(edited) / len(found) - 0.5) < 0.15  # neither first nor last


def test_the_same_settings_give_the_same_bytes_and_another_seed_other_names(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(3):
        mp4(tmp_path / "in" / f"{n}.mp4", n, seconds=1.5)
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        edit_folder(tmp_path / "in", tmp_path / name, Settings(deltas=(0.5,), seed=seed, band=(0, 1), split="val"))
        runs.append({p.name: p.read_bytes() for p in sorted((tmp_path / name).rglob("*")) if p.is_file()})
    assert runs[0] == runs[1] and set(runs[0]) & set(runs[2]) == {"manifest.jsonl"}


def test_clips_that_cannot_be_edited_are_listed(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    mp4(source / "good.mp4", 0)
    mp4(source / "deep" / "good2.MP4", 1)
    mp4(source / "short.mp4", 2, seconds=1.0)
    write_clip(source / "mute.mp4", np.zeros((8, 16, 32, 3), np.uint8), 8, None, RATE)
    mp4(source / "silent.mp4", 3, sound=np.zeros(3 * RATE, np.float32))
    clip(source / "two.mp4", 2, ("mpeg4", "aac"))
    (source / "same.mp4").write_bytes((source / "good.mp4").read_bytes())
    (source / "empty.mp4").write_bytes(b"")
    (source / "cut.mp4").write_bytes((source / "good.mp4").read_bytes()[:2000])
    (source / "notes.txt").write_text("not a clip")
    report = edit_folder(source, out, Settings(edits=("shift", "mute"), deltas=(1.5,)))
    said = {e["id"]: e["error"] for e in report.errors}
    wanted = {
        "short.mp4": "s of sound cannot be moved by +1.5 s",
        "mute.mp4": "no sound track",
        "silent.mp4": "silent",
        "two.mp4": "2 sound tracks",
        "same.mp4": "the same bytes as good.mp4",
        "empty.mp4": "empty",
        "cut.mp4": "damaged",
    }
    assert said.keys() == wanted.keys()
    for name, words in wanted.items():
        assert words in said[name]
    assert [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()] == report.errors
    edits = sorted((r["meta"]["file"], r["meta"]["edit"]) for r in rows(out))
    assert [e for e in edits if e[0] == "short.mp4"] == [("short.mp4", "mute"), ("short.mp4", "none")]
    assert len(edits) == 2 + 2 * 4  # a mute, a shift, and an original for each


def test_swap_without_a_donor_in_the_band(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(2):
        mp4(tmp_path / "in" / f"{n}.mp4", n, seconds=1.0)
    report = edit_folder(tmp_path / "in", tmp_path / "out", Settings(edits=("swap",), band=(0.0, 0.001), split="test"))
    assert len(report.errors) == 2 and "1 are nearer" in report.errors[0]["error"] and not report.samples


def test_donors_come_from_the_same_split(tmp_path):
    (tmp_path / "in").mkdir()
    for n in range(12):
        mp4(tmp_path / "in" / f"{n}.mp4", n, seconds=0.5)
    report = edit_folder(tmp_path / "in", tmp_path / "out", Settings(edits=("swap", "mute"), band=(0, 1)))
    split = {s.meta["clip"]: s.split for s in report.samples}
    swaps = [s for s in report.samples if s.meta["edit"] == "swap"]
    assert len(set(split.values())) > 1 and all(split[s.meta["donor"]] == s.split for s in swaps) and swaps


def test_nothing_is_left_where_a_run_ends_early(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    mp4(tmp_path / "in" / "a.mp4", seconds=1.0)
    calls = []

    def fail(*args):
        calls.append(args)
        raise KeyboardInterrupt

    monkeypatch.setattr("datamodules.transforms.edit_files.write_track", fail)
    with pytest.raises(KeyboardInterrupt):
        edit_folder(tmp_path / "in", tmp_path / "out", Settings(edits=("mute",)))
    assert calls and [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"edits": ("shfit",)}, "did you mean 'shift'"),
        ({"deltas": (0.0,)}, "none of them 0"),
        ({"deltas": ()}, "deltas is empty"),
        ({"band": (0.5, 0.2)}, "the smaller first"),
        ({"split": "dev"}, "unknown split 'dev'"),
    ],
)
def test_settings_that_are_not_possible(given, words):
    with pytest.raises(DataError, match=words):
        Settings(**given)


def test_folders_that_are_not_possible(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="no clip in it"):
        edit_folder(tmp_path / "in", tmp_path / "out")
    mp4(tmp_path / "in" / "a.mp4", seconds=0.5)
    with pytest.raises(DataError, match="one outside"):
        edit_folder(tmp_path / "in", tmp_path / "in" / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").touch()
    with pytest.raises(DataError, match="exists"):
        edit_folder(tmp_path / "in", tmp_path / "out")


def test_the_command(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    mp4(tmp_path / "in" / "a.mp4", seconds=1.0)
    write_clip(tmp_path / "in" / "mute.mp4", np.zeros((8, 16, 32, 3), np.uint8), 8, None, RATE)
    given = [f"in={tmp_path / 'in'}", f"out={tmp_path / 'out'}", "edits=shift", "deltas=0.25", "seed=3"]
    assert main(["thud", *given]) == 1
    said = capsys.readouterr()
    assert "no sound track" in said.err and "| shift | 1 |" in said.out
    assert sorted(r["meta"]["edit"] for r in rows(tmp_path / "out")) == ["none", "shift"]
    for word, message in (
        ("delta=1", "did you mean 'deltas'"),
        ("deltas=a", "expected numbers"),
        ("band=1", "two num"),
    ):
        with pytest.raises(DataError, match=message):
            main(["thud", *given[:2], word])
    with pytest.raises(DataError, match="thud needs out=FOLDER"):
        main(["thud", given[0]])


@pytest.mark.skipif(not (DATA / "video").is_dir(), reason=f"no data set folder at {DATA}: set ZOO_DATA_DIR")
def test_real_clips(tmp_path):
    """Stereo, mono at 22 kHz, and one whose pictures begin after the sound."""
    source = tmp_path / "in"
    source.mkdir()
    names = ("moviepy/example3.mp4", "specvqgan_vas/drum/video_02480.mp4", "video_llama_examples/applausing.mp4")
    for name in names:
        (source / Path(name).name).symlink_to(DATA / "video" / name)
    report = edit_folder(source, tmp_path / "out", Settings(edits=("shift",), deltas=(-0.9,), split="test"))
    assert not report.errors and check(source, tmp_path / "out", exact=1024)["shift"] == len(names)


@pytest.mark.skipif(not (DATA / "video").is_dir(), reason=f"no data set folder at {DATA}: set ZOO_DATA_DIR")
def test_real_clips_that_cannot_be_edited():
    for name, words in (("torchcodec/nasa_13013.mp4", "2 sound tracks"), ("mmaction2/demo.mp4", "no sound track")):
        with pytest.raises(MediaError, match=words):
            read_track(DATA / "video" / name)
