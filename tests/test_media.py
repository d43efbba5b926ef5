"""Media: what decodes is right, what does not is one line."""

from __future__ import annotations

import builtins
import logging
import os
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from datamodules import media, media_files
from datamodules.media import Limits, content_hash, frame_indices, read_audio, read_image, read_video
from datamodules.schema import MediaError

RATE = 16_000
DATA = Path(os.environ.get("ZOO_DATA_DIR") or Path(__file__).resolve().parents[2] / "shared" / "data")
real = pytest.mark.skipif(not (DATA / "video").is_dir(), reason=f"no data set folder at {DATA}: set ZOO_DATA_DIR")


def tone(seconds: float, rate: int = RATE, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def make_clip(
    path: Path, frames: int = 30, fps: int = 10, sound: bool = True, video: bool = True, corner: int | None = None
) -> Path:
    """Frame i is grey of level 8 * i, so that a test can tell which frame it was given. Key frames every 12.

    64 x 48 pixels; `corner` paints the upper left quarter.
    """
    size = (64, 48)
    with av.open(str(path), "w") as c:
        if video:
            v = c.add_stream("mpeg4", rate=fps)
            v.width, v.height, v.pix_fmt, v.bit_rate, v.gop_size = *size, "yuv420p", 4_000_000, 12
            v.options = {"sc_threshold": "1000000000"}  # no key frames but those
        if sound:
            a = c.add_stream("aac", rate=RATE, layout="mono")
        for i in range(frames if video else 0):
            picture = np.full((size[1], size[0], 3), 8 * i, np.uint8)
            if corner is not None:
                picture[: size[1] // 2, : size[0] // 2] = corner
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            c.mux(v.encode(frame))
        if video:
            c.mux(v.encode(None))
        if sound:
            frame = av.AudioFrame.from_ndarray(tone(frames / fps)[None], format="fltp", layout="mono")
            frame.rate = RATE
            c.mux(a.encode(frame))
            c.mux(a.encode(None))
    return path


def levels(frames: list[Image.Image]) -> list[int]:
    return [round(np.asarray(f).mean() / 8) for f in frames]


def fails(read, path, *words: str, **kwargs) -> str:
    with pytest.raises(MediaError) as e:
        read(path, **kwargs)
    text = str(e.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    for word in words:
        assert word in text, text
    return text


# ---------------------------------------------------------------------------------------------------------- pictures


def test_picture_modes(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (4, 3), (255, 0, 0, 0)).save(path)
    assert read_image(path).getpixel((0, 0)) == (255, 255, 255)  # on white
    Image.new("RGBA", (4, 3), (255, 0, 0, 128)).save(path)
    assert read_image(path).getpixel((0, 0)) == pytest.approx((255, 127, 127), abs=1)
    palette = Image.new("P", (4, 3), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.save(path)
    assert read_image(path).getpixel((0, 0)) == (10, 20, 30)
    palette.save(path, transparency=1)
    assert read_image(path).getpixel((0, 0)) == (255, 255, 255)
    Image.fromarray(np.full((3, 4), 128 * 256, np.uint16)).save(path)  # 16 bits are scaled, not clipped
    assert read_image(path).getpixel((0, 0)) == (128, 128, 128)
    Image.new("CMYK", (4, 3), (0, 0, 0, 255)).save(tmp_path / "c.jpg")
    assert max(read_image(tmp_path / "c.jpg").getpixel((0, 0))) < 10
    Image.new("F", (4, 3)).save(tmp_path / "f.tiff")
    fails(read_image, tmp_path / "f.tiff", "floating-point")


def test_picture_is_upright_and_an_animation_gives_its_first_frame(tmp_path):
    im, exif = Image.new("RGB", (8, 4)), Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    im.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == (4, 8)
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    red.save(tmp_path / "a.gif", save_all=True, append_images=[blue])
    assert read_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_bad_pictures(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for kind in ("png", "jpg"):
        path = tmp_path / f"a.{kind}"
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        fails(read_image, path, f"({len(whole) // 2} bytes)")
    Image.new("RGB", (100, 100)).save(tmp_path / "big.png")
    fails(read_image, tmp_path / "big.png", "100x100 pixels", limits=Limits(max_pixels=9_999))
    assert read_image(tmp_path / "big.png", Limits(max_pixels=10_000)).size == (100, 100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6_000)  # Pillow's own guard: a warning, which must not be only that
    fails(read_image, tmp_path / "big.png", "too many pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    fails(read_image, tmp_path / "big.png", "big.png")


def test_eps_is_never_opened(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    fails(read_image, tmp_path / "a.png", "known format")


@pytest.mark.parametrize("read", [read_image, read_audio, read_video])
def test_files_that_are_none(read, tmp_path):
    empty, text = tmp_path / "a.mp4", tmp_path / "a.png"
    empty.write_bytes(b"")
    fails(read, empty, "empty file (0 bytes)")
    text.write_text("#EXTM3U\n#EXTINF:1,\n/etc/passwd\n")  # a playlist
    fails(read, text, "known", "(31 bytes)")
    fails(read, tmp_path / "missing.wav", "No such file")
    fails(read, tmp_path, "not a file")
    text.write_bytes(bytes(1000))
    fails(read, text, "limit is 999", limits=Limits(max_bytes=999))


# ------------------------------------------------------------------------------------------------------------ sounds


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_sound_formats_and_rates(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    stereo = np.stack([tone(1.0, 44_100), np.zeros(44_100, np.float32)], axis=1)
    soundfile.write(path, stereo, 44_100)
    got = read_audio(path)
    assert got.dtype == torch.float32 and got.ndim == 1 and abs(len(got) - RATE) < 0.15 * RATE
    middle = got[4_000:12_000]
    spectrum = torch.fft.rfft(middle * torch.hann_window(8_000)).abs()
    assert spectrum.argmax() * 2 == pytest.approx(440, abs=4)  # resampled: the pitch stays
    assert middle.abs().max() == pytest.approx(0.25, abs=0.03)  # the mean of both channels


def test_sound_cuts(tmp_path):
    ramp = np.linspace(-0.5, 0.5, 3 * RATE, dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", ramp, RATE, subtype="FLOAT")
    got = read_audio(tmp_path / "a.wav", start=1.0, seconds=0.5)
    assert np.array_equal(got.numpy(), ramp[RATE : RATE + RATE // 2])
    assert len(read_audio(tmp_path / "a.wav", start=2.5, seconds=9)) == RATE // 2
    fails(read_audio, tmp_path / "a.wav", "no sound after 3 s", start=3.0)
    fails(read_audio, tmp_path / "a.wav", "limit", limits=Limits(max_seconds=2.9))
    assert len(read_audio(tmp_path / "a.wav", limits=Limits(max_seconds=1.0), start=1.5, seconds=1.0)) == RATE


def test_track_of_a_clip_cuts_like_a_file(tmp_path):
    clip = make_clip(tmp_path / "a.mp4")
    whole = read_audio(clip)
    part = read_audio(clip, start=1.0, seconds=0.5)
    assert len(whole) == pytest.approx(3 * RATE, abs=2_048) and len(part) == RATE // 2
    assert torch.equal(part, whole[RATE : RATE + RATE // 2])
    fails(read_audio, clip, "limit", limits=Limits(max_seconds=2.0))
    fails(read_audio, make_clip(tmp_path / "b.mp4", sound=False), "no sound track")
    m4a = make_clip(tmp_path / "c.m4a", video=False)
    assert len(read_audio(m4a)) == pytest.approx(3 * RATE, abs=2_048)


def test_bad_sounds(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(0, np.float32), RATE)
    fails(read_audio, path, "no sound")
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    (tmp_path / "p.png").rename(path)
    fails(read_audio, path, "not a sound")
    soundfile.write(path, np.array([0.0, np.nan], np.float32), RATE, subtype="FLOAT")
    fails(read_audio, path, "not finite")
    soundfile.write(path, tone(0.1), RATE)
    head = bytearray(path.read_bytes())
    head[24:28] = struct.pack("<I", 7)
    path.write_bytes(head)
    fails(read_audio, path, "7 Hz")
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-1, 1, RATE), RATE)
    whole = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: len(whole) // 2])
    fails(read_audio, tmp_path / "a.flac", "a.flac")


def test_samples_far_above_full_scale_are_refused(tmp_path):
    """Their squares overflow in a mel spectrum, and a guard's answers about the whole batch are then no numbers."""
    path = tmp_path / "a.wav"
    for peak in (1e30, 32767.0):  # of an attacker, and of 16-bit samples that were saved as floats
        soundfile.write(path, (peak * tone(0.1)).astype(np.float32), RATE, subtype="FLOAT")
        fails(read_audio, path, "and full scale is 1")
    soundfile.write(path, (3 * tone(0.1)).astype(np.float32), RATE, subtype="FLOAT")  # too loud, and a sound
    assert read_audio(path).abs().max() > 1


def test_odd_rate_in_a_header_costs_no_memory(tmp_path, monkeypatch):
    import torchaudio.functional

    seen = []
    inner = torchaudio.functional.resample
    monkeypatch.setattr(torchaudio.functional, "resample", lambda w, a, b: seen.append((a, b)) or inner(w, a, b))
    soundfile.write(tmp_path / "a.wav", tone(0.5, 44_101), 44_101)
    assert len(read_audio(tmp_path / "a.wav")) == pytest.approx(RATE / 2, abs=5)
    assert seen == [(44_100, RATE)]


# ------------------------------------------------------------------------------------------------------------- clips


def test_frames_times_and_sound(tmp_path):
    clip = read_video(make_clip(tmp_path / "a.mp4"), fps=2, max_frames=8)
    assert levels(clip.frames) == [2, 7, 12, 17, 22, 27]
    assert clip.times == pytest.approx([0.2, 0.7, 1.2, 1.7, 2.2, 2.7])
    assert clip.duration == pytest.approx(3.0) and clip.sound_start == pytest.approx(0, abs=0.07)
    assert clip.sound.dtype == torch.float32 and len(clip.sound) == pytest.approx(3 * RATE, abs=2_048)
    assert clip.frames[0].size == (64, 48) and clip.frames[0].mode == "RGB"
    few = read_video(tmp_path / "a.mp4", fps=2, max_frames=3, sound=False)
    assert few.sound is None and levels(few.frames) == [5, 15, 25]  # over the entire clip, not its beginning
    deaf = read_video(tmp_path / "a.mp4", frames=False)
    assert deaf.frames == [] and deaf.times == [] and len(deaf.sound) > 2 * RATE
    assert read_video(make_clip(tmp_path / "b.mp4", sound=False)).sound is None


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov"])
def test_both_readers_give_the_same_frames(tmp_path, monkeypatch, caplog, suffix):
    path = make_clip(tmp_path / f"a.{suffix}")
    first = read_video(path, fps=3, max_frames=5)
    monkeypatch.setattr(media, "_DECORD", ()) if suffix == "avi" else hide_decord(monkeypatch)
    second = read_video(path, fps=3, max_frames=5)
    assert first.times == second.times and len(first.frames) == 5
    for a, b in zip(first.frames, second.frames):
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 2


def hide_decord(monkeypatch) -> None:
    inner = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "decord":
            raise ImportError("hidden")
        return inner(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(media_files, "_WARNED", set())


def test_missing_decord_is_told_once(tmp_path, monkeypatch, caplog):
    hide_decord(monkeypatch)
    with caplog.at_level(logging.WARNING):
        for name in ("a", "b"):
            read_video(make_clip(tmp_path / f"{name}.mp4", frames=5), sound=False)
    assert sum("PyAV" in r.message for r in caplog.records) == 1


def test_a_decord_that_counts_otherwise_is_not_trusted(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "a.mp4")
    inner = media._decord_frames
    monkeypatch.setattr(media, "_decord_frames", lambda p, picks, n: inner(p, picks, n + 1))
    assert levels(read_video(path).frames) == [2, 7, 12, 17, 22, 27]


def test_second_reader_seeks_instead_of_decoding_everything(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "a.mp4", frames=30)
    index = media._index(path, "mov", Limits())
    assert index.seekable and len(index.keys) == 3
    decoded = []
    real_open = media.open_container

    class Counted:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def decode(self, stream):
            for frame in self.inner.decode(stream):
                decoded.append(frame.pts)
                yield frame

    from contextlib import contextmanager

    @contextmanager
    def counted(*args):
        with real_open(*args) as c:
            yield Counted(c)

    monkeypatch.setattr(media, "open_container", counted)
    frames = media._av_frames(path, "mov", index, [1, 25], Limits())
    assert levels(frames) == [1, 25] and len(decoded) <= 5


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_both_readers_turn_a_phone_clip(tmp_path, degrees):
    path = make_clip(tmp_path / "a.mp4", frames=5, sound=False, corner=255)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: the matrix follows 40 bytes of fields
    turn = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[degrees]
    a, b, c, d = (v * 0x10000 for v in turn)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    index = media._index(path, "mov", Limits())
    ours = media._av_frames(path, "mov", index, [0, 3], Limits())
    theirs = media._frames(path, "mov", index, [0, 3], Limits())
    assert ours[0].size == theirs[0].size == ((64, 48) if degrees == 180 else (48, 64))
    assert np.abs(np.asarray(ours[1]).astype(int) - np.asarray(theirs[1])).mean() < 3
    w, h = ours[0].size  # where the painted corner is now: clockwise from the upper left
    assert ours[0].getpixel({90: (w - 5, 5), 180: (w - 5, h - 5), 270: (5, h - 5)}[degrees])[0] > 200


def test_bad_clips(tmp_path):
    fails(read_video, make_clip(tmp_path / "a.m4a", video=False), "no video stream")
    soundfile.write(tmp_path / "s.mp4", tone(0.1), RATE, format="WAV")
    fails(read_video, tmp_path / "s.mp4", "no video stream")
    path = make_clip(tmp_path / "a.mp4")
    fails(read_video, path, "limit", limits=Limits(max_seconds=2.5))
    fails(read_video, path, "pixels", limits=Limits(max_pixels=64 * 48 - 1))
    fails(read_video, path, "pixels", limits=Limits(max_clip_pixels=64 * 48 * 5))
    fails(read_video, path, "9 frames", limits=Limits(max_frames=8), max_frames=9)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    fails(read_video, path, f"({len(whole) // 2} bytes)")


@pytest.mark.parametrize("suffix", ["mkv", "avi"])
def test_truncated_clips_are_told(tmp_path, suffix):
    path = make_clip(tmp_path / f"a.{suffix}", frames=31)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3])
    fails(read_video, path, "truncated")


def test_random_damage_is_a_media_error_or_a_clip(tmp_path):
    rng = np.random.default_rng(0)
    whole = make_clip(tmp_path / "a.mp4", frames=12).read_bytes()
    for n in range(12):
        data = bytearray(whole)
        for at in rng.integers(8, len(data), 40):
            data[at] = int(rng.integers(0, 256))
        path = tmp_path / f"{n}.mp4"
        path.write_bytes(data)
        try:
            clip = read_video(path)
        except MediaError as e:
            assert "\n" not in str(e)
        else:
            assert len(clip.frames) == len(clip.times) > 0


def test_frame_indices():
    ten = [i / 10 for i in range(30)]
    assert frame_indices(ten, 3.0, 2, 8) == [2, 7, 12, 17, 22, 27]
    assert frame_indices(ten, 3.0, 2, 2) == [7, 22]
    assert frame_indices(ten, 3.0, 0.01, 8) == [15]  # never none
    assert frame_indices([0.0], 0.04, 2, 8) == [0]
    assert frame_indices([0.0, 2.0], 4.0, 2, 8) == [0, 1]  # a slide show: each still once
    many = frame_indices([i / 30 for i in range(900)], 30.0, 2, 8)
    assert len(many) == 8 and many[0] < 90 and many[-1] > 810 and np.ptp(np.diff(many)) <= 1


def test_content_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert content_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(MediaError, match="No such file"):
        content_hash(tmp_path / "b")


def test_libraries_keep_quiet(tmp_path, capfd):
    path = make_clip(tmp_path / "a.mp4")
    capfd.readouterr()
    whole = path.read_bytes()
    path.write_bytes(whole[:200] + bytes(400) + whole[600:])
    with pytest.raises(MediaError):
        read_video(path)
        path.write_bytes(whole[: len(whole) // 2])
        read_video(path)
    assert capfd.readouterr() == ("", "")


# --------------------------------------------------------------------------------------------------------- real files


@real
def test_real_files():
    """One of each kind; every file was read once when this was written."""
    clip = read_video(DATA / "video/decord/flipping_a_pancake.mkv")
    assert len(clip.frames) == 8 and clip.duration == pytest.approx(10.33, abs=0.05) and len(clip.sound) > 10 * RATE
    broken_index = read_video(DATA / "video/silent_llamafactory/2.avi", max_frames=4)  # decord gives other frames here
    assert len(broken_index.frames) == 4 and broken_index.sound is None
    late = read_video(DATA / "video/video_llama_examples/applausing.mp4", max_frames=2)  # the sound is first
    assert late.times[0] > 0.06 and late.sound_start == 0
    for path in sorted((DATA / "audio").glob("*/*.*"))[::40]:
        if path.suffix in (".wav", ".mp3", ".ogg"):
            assert read_audio(path).isfinite().all()
    for path in sorted((DATA / "image").rglob("*.*"))[::20]:
        if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            assert read_image(path).mode == "RGB"
