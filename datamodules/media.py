"""The only place that decodes: pictures, sounds and clips become PIL images and float32 samples.

Every file is untrusted. Its kind is read off its first bytes and fixes the demuxer, so a playlist or a text file never
reaches a parser that would follow it elsewhere. Every read is bounded by `Limits`, and every failure is a `MediaError`
of one line: `video/a.mp4: no video stream (0 bytes)`.

Video frames come from decord, and from PyAV where decord is missing (it has no arm64 build) or does not agree with the
file's own packet index; both are asked for the same frame numbers. Sounds come from soundfile, and from PyAV for
containers that it does not know. Readers open the file on each call and hold nothing, so they are safe in workers.
"""

from __future__ import annotations

import bisect
import hashlib
import math
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from datamodules.media_files import (
    LIMITS,
    Limits,
    check_file,
    error,
    one_line,
    open_container,
    pyav,
    reasons,
    warn_once,
)

__all__ = ["LIMITS", "Clip", "Limits", "content_hash", "frame_indices", "read_audio", "read_image", "read_video"]

# Not every format that Pillow knows: some (EPS) start another program.
_IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SOUNDFILE = ("wav", "flac", "ogg", "mp3", "aiff")
_DECORD = ("mov", "matroska")  # elsewhere (AVI, MPEG) its time stamps, and with them its seeks, are not reliable
_SOUND_RATES = (1_000, 768_000)  # Hz; outside it is a damaged header
# Of float samples, whose full scale is 1. Far above it a mel spectrum's squares are no numbers any more, and neither
# are the answers about whatever shares a batch with the sound.
_MAX_AMPLITUDE = 100.0


@dataclass(frozen=True, eq=False)
class Clip:
    """What `read_video` returns. All times are in seconds since the clip's start.

    `frames` are RGB pictures in the order of `times`; `sound` is float32 [samples], mono, or None where the clip has no
    sound track or it was not asked for; its first sample is heard at `sound_start`. `duration` is the pictures' length.
    """

    frames: list[Image.Image] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    sound: torch.Tensor | None = None
    sound_start: float = 0.0
    duration: float = 0.0


def content_hash(path: str | Path) -> str:
    """sha256 of the file's bytes, 64 hex digits: the key of a media cache. Raises `MediaError`."""
    digest = hashlib.sha256()
    with reasons(path), Path(path).open("rb") as f:
        while chunk := f.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------------------------------------------------- pictures


def read_image(path: str | Path, limits: Limits = LIMITS) -> Image.Image:
    """The picture as RGB: upright (EXIF), transparency on white, an animation's first frame. Raises `MediaError`."""
    check_file(path, limits)
    with reasons(path), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=_IMAGE_FORMATS) as im:
            if im.width * im.height > limits.max_pixels:
                raise error(path, f"{im.width}x{im.height} pixels, the limit is {limits.max_pixels}")
            im.load()
            im = ImageOps.exif_transpose(im)
        return _rgb(im, path)


def _rgb(im: Image.Image, path: str | Path) -> Image.Image:
    if im.mode == "F":
        raise error(path, "floating-point pixels have no known range: convert it to 8 bits")
    if im.mode.startswith("I"):  # 16 bits; Pillow's own conversion clips at 255 instead of scaling
        im = Image.fromarray((np.asarray(im).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    if im.has_transparency_data:
        im = im.convert("RGBA")
        im = Image.alpha_composite(Image.new("RGBA", im.size, "white"), im)
    return im.convert("RGB")


# ------------------------------------------------------------------------------------------------------------ sounds


def read_audio(
    path: str | Path, rate: int = 16_000, limits: Limits = LIMITS, start: float = 0.0, seconds: float | None = None
) -> torch.Tensor:
    """A sound, or a clip's sound track, as float32 [samples] at `rate` Hz: the mean of its channels, in about [-1, 1].

    `start` and `seconds` cut; without `seconds` it is read to the end. Raises `MediaError` also when there is no sound
    in that span, when the span is longer than `limits.max_seconds`, and for samples far above full scale.
    """
    kind = check_file(path, limits)
    if kind in _SOUNDFILE or Path(path).suffix.lower() == ".mp3":  # an MP3 may start with anything
        import soundfile

        try:
            wave, source_rate = _soundfile(path, limits, start, seconds)
        except soundfile.LibsndfileError as e:
            if kind is None:
                raise error(path, f"not a sound that can be read: {one_line(e)}") from e
            warn_once(f"soundfile cannot read a {kind} file ({one_line(e)}): PyAV reads it", path)
            wave, source_rate, _ = _av_sound(path, kind, limits, start, seconds)
    else:
        wave, source_rate, _ = _av_sound(path, kind, limits, start, seconds)
    if not wave.size:
        raise error(path, "no sound" if start == 0 else f"no sound after {start:g} s")
    return _resample(wave, source_rate, rate, path)


def _soundfile(path: str | Path, limits: Limits, start: float, seconds: float | None) -> tuple[np.ndarray, int]:
    import soundfile

    with reasons(path, soundfile.LibsndfileError), Path(path).open("rb") as raw, soundfile.SoundFile(raw) as f:
        rate = _known_rate(f.samplerate, path)
        first = round(start * rate)
        wanted = max(f.frames - first, 0)
        if seconds is not None:
            wanted = min(wanted, round(seconds * rate))
        _check_seconds(wanted / rate, limits, path)
        blocks = []
        if wanted:
            f.seek(first)
        while wanted > 0:  # by the second, so that many channels never lie in memory at once
            block = f.read(min(wanted, rate), dtype="float32", always_2d=True)  # [n, channels]
            if not len(block):
                raise error(path, f"truncated: {wanted / rate:.2f} s of sound are missing")
            wanted -= len(block)
            blocks.append(block.mean(axis=1))  # [n]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32), rate


def _av_sound(
    path: str | Path, kind: str | None, limits: Limits, start: float, seconds: float | None
) -> tuple[np.ndarray, int, float]:
    """Mono float32 samples, their rate in Hz, and the container's time of the track's first sample in seconds."""
    av = pyav()
    with open_container(path, kind) as container:
        stream = container.streams.best("audio")
        if stream is None:
            raise error(path, "no sound track")
        if stream.codec_context is None:
            raise error(path, "its sound is in an unknown encoding")
        stream.codec_context.thread_count = 1
        rate = _known_rate(stream.rate, path)
        begin, end = round(start * rate), math.inf if seconds is None else round((start + seconds) * rate)
        resampler = av.AudioResampler(format="fltp", rate=rate)  # the sample format only: channels and rate stay
        blocks, origin, at, kept = [], None, 0, 0
        for frame in container.decode(stream):
            if origin is None:
                origin = float(frame.time or 0.0)
            for piece in resampler.resample(frame):
                block = piece.to_ndarray().mean(axis=0, dtype=np.float32)  # [channels, n] -> [n]
                blocks.append(block[max(begin - at, 0) : int(max(min(end - at, len(block)), 0))])
                at += len(block)
                kept += len(blocks[-1])
            _check_seconds(kept / rate, limits, path)
            if at >= end:
                break
        else:
            declared = _declared_seconds(container, stream) if kind in _DECORD else 0.0
            if at / rate < 0.9 * declared - 1.0:
                raise error(path, f"truncated: {at / rate:.1f} s of {declared:.1f} s of sound are there")
        return (np.concatenate(blocks) if blocks else np.zeros(0, np.float32)), rate, origin or 0.0


def _declared_seconds(container: Any, stream: Any) -> float:
    """The length of a track by the container's header, 0 where it does not say."""
    if stream.duration is not None:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _resample(wave: np.ndarray, source_rate: int, rate: int, path: str | Path) -> torch.Tensor:
    if not np.isfinite(wave).all():
        raise error(path, "samples that are not finite numbers")
    peak = float(np.abs(wave).max(initial=0.0))
    if peak > _MAX_AMPLITUDE:
        raise error(path, f"samples up to {peak:.3g}, and full scale is 1: divide them, or save 16-bit samples")
    sound = torch.from_numpy(np.ascontiguousarray(wave, np.float32))  # [samples]
    if source_rate != rate:
        from torchaudio.functional import resample

        # The filter bank has as many taps as both rates have after division by their common factor, squared: an odd
        # rate in a header (44,101 Hz) would take gigabytes. Rounded to 25 Hz the pitch is off by 0.3% at 8 kHz at most.
        if (source_rate * rate) // math.gcd(source_rate, rate) ** 2 > 4_000_000:
            source_rate = round(source_rate / 25) * 25
        sound = resample(sound, source_rate, rate)
    return sound


def _known_rate(rate: int | None, path: str | Path) -> int:
    if rate is None or not _SOUND_RATES[0] <= rate <= _SOUND_RATES[1]:
        raise error(path, f"a sample rate of {rate} Hz is not supported")
    return rate


def _check_seconds(seconds: float, limits: Limits, path: str | Path) -> None:
    if seconds > limits.max_seconds:
        raise error(path, f"over {limits.max_seconds:g} s, the limit: cut it, or ask for fewer seconds")


# ------------------------------------------------------------------------------------------------------------- clips


def read_video(
    path: str | Path,
    fps: float = 2.0,
    max_frames: int = 8,
    limits: Limits = LIMITS,
    frames: bool = True,
    sound: bool = True,
    rate: int = 16_000,
) -> Clip:
    """Frames at `fps`, at most `max_frames` spread over the entire clip, and the sound at `rate` Hz.

    `frames=False` and `sound=False` leave one of them out. Raises `MediaError`, also for a file without pictures.
    """
    kind = check_file(path, limits)
    if not 0 < max_frames <= limits.max_frames or fps <= 0:
        raise error(path, f"cannot take {max_frames} frames at {fps:g} per second, the limit is {limits.max_frames}")
    index = _index(path, kind, limits)
    pictures: list[Image.Image] = []
    picks: list[int] = []
    if frames:
        picks = frame_indices(index.seconds, index.duration, fps, max_frames)
        if len(picks) * index.pixels > limits.max_clip_pixels:
            raise error(path, f"{len(picks)} frames of {index.pixels} pixels, the limit is {limits.max_clip_pixels}")
        pictures = _frames(path, kind, index, picks, limits)
    wave, wave_start = None, index.start
    if sound and index.has_sound:
        samples, source_rate, wave_start = _av_sound(path, kind, limits, 0.0, None)
        if not samples.size:
            raise error(path, "its sound track holds no sound that can be decoded")
        wave = _resample(samples, source_rate, rate, path)
    start = min(index.start, wave_start)
    times = [index.start - start + index.seconds[i] for i in picks]
    return Clip(pictures, times, wave, wave_start - start, index.duration)


def frame_indices(seconds: list[float], duration: float, fps: float, max_frames: int) -> list[int]:
    """Which frames stand for a clip whose frames are shown from `seconds` (ascending, the first at 0) on.

    The clip is cut into n equal spans (n = duration x fps, from 1 to `max_frames`), and each gives the frame that is on
    screen in its middle; a still that fills several spans is given once.
    """
    n = min(max(round(duration * fps), 1), max_frames)
    picks = [bisect.bisect_right(seconds, (k + 0.5) * duration / n) - 1 for k in range(n)]
    return sorted({max(i, 0) for i in picks})


@dataclass(frozen=True, eq=False)
class _Index:
    """What the container says about its pictures without decoding one."""

    stamps: list[int]  # of each frame in the order of showing, in units of the stream
    seconds: list[float]  # the same, since the first frame
    keys: list[int]  # stamps at which decoding can begin
    start: float  # the container's time of the first frame, seconds
    duration: float  # seconds
    pixels: int  # of one frame
    has_sound: bool
    seekable: bool  # stamps are those of showing, and a seek by them is exact


def _index(path: str | Path, kind: str | None, limits: Limits) -> _Index:
    with open_container(path, kind) as container:
        stream = _pictures(container)
        if stream is None:
            raise error(path, "no video stream")
        if stream.codec_context is None:
            raise error(path, "its pictures are in an unknown encoding")
        pixels = stream.codec_context.width * stream.codec_context.height
        if pixels > limits.max_pixels:
            raise error(path, f"frames of {pixels} pixels, the limit is {limits.max_pixels}")
        track = container.streams.best("audio")
        stamps, keys, has_sound, exact, end, packets, length = [], [], False, kind in _DECORD, 0.0, 0, 0
        for packet in container.demux([s for s in (stream, track) if s is not None]):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if not packet.size or stamp is None:
                continue
            end = max(end, float((stamp + (packet.duration or 0)) * packet.time_base))
            if packet.stream is not stream:
                has_sound = True
                continue
            packets += 1
            exact = exact and packet.pts is not None
            if not packet.is_discard:
                stamps.append(stamp)
                keys += [stamp] if packet.is_keyframe else []
                length = packet.duration or 0
        if not stamps:
            raise error(path, "no video frames")
        declared = (container.duration or 0) / 1e6 if kind in _DECORD else 0.0  # others only estimate it
        if packets < 0.95 * stream.frames:
            raise error(path, f"truncated: {packets} of {stream.frames} frames are there")
        if end < 0.9 * declared - 1.0:
            raise error(path, f"truncated: {end:.1f} s of {declared:.1f} s are there")
        stamps.sort()
        base = float(stream.time_base)
        seconds = [(s - stamps[0]) * base for s in stamps]
        last = length * base or (seconds[-1] / max(len(seconds) - 1, 1)) or 1.0  # how long the last frame is shown
        duration = seconds[-1] + last
        _check_seconds(duration, limits, path)
        return _Index(stamps, seconds, sorted(keys), stamps[0] * base, duration, pixels, has_sound, exact)


def _frames(path: str | Path, kind: str | None, index: _Index, picks: list[int], limits: Limits) -> list[Image.Image]:
    if kind in _DECORD:
        try:
            arrays = _decord_frames(path, picks, len(index.stamps))
            return [Image.fromarray(a) for a in arrays]
        except _SecondReader as e:
            warn_once(f"decord does not read it ({e}): PyAV does", path)
    return _av_frames(path, kind, index, picks, limits)


class _SecondReader(Exception):
    """decord cannot be used for this file."""


def _decord_frames(path: str | Path, picks: list[int], expected: int) -> np.ndarray:
    """uint8 [n, height, width, 3]."""
    try:
        import decord
    except ImportError as e:
        raise _SecondReader("not installed") from e
    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(Path(path).resolve()), ctx=decord.cpu(0), num_threads=1)
        if len(reader) != expected:
            raise _SecondReader(f"it counts {len(reader)} frames, the container has {expected}")
        return reader.get_batch(picks).asnumpy()
    except (decord.DECORDError, RuntimeError) as e:
        raise _SecondReader(re.sub(r"\[[\d:]+\] \S+ ", "", one_line(e))) from e  # without the time and its own file


def _av_frames(
    path: str | Path, kind: str | None, index: _Index, picks: list[int], limits: Limits
) -> list[Image.Image]:
    out: list[Image.Image] = []
    with open_container(path, kind) as container:
        stream = _pictures(container)
        stream.codec_context.thread_count = 1
        frames = container.decode(stream)
        count, at = -1, -math.inf  # the frame that was decoded last: its number, and its stamp
        for pick in picks:
            stamp = index.stamps[pick]
            key = index.keys[bisect.bisect_right(index.keys, stamp) - 1] if index.keys else stamp
            if index.seekable and at < key <= stamp and pick:
                container.seek(key, stream=stream)
                frames = container.decode(stream)
            for frame in frames:
                count, at = count + 1, frame.pts if frame.pts is not None else at
                if at >= stamp if index.seekable else count == pick:
                    break
            else:
                raise error(path, f"frame {pick} cannot be decoded")
            if frame.width * frame.height > limits.max_pixels:
                raise error(path, f"a frame of {frame.width}x{frame.height} pixels, the limit is {limits.max_pixels}")
            turns = round((frame.rotation or 0) / 90)
            out.append(Image.fromarray(np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))))
    return out


def _pictures(container: Any) -> Any:
    """The video stream, or None; the cover of a song is not one."""
    stream = container.streams.best("video")
    return None if stream is None or stream.disposition & pyav().stream.Disposition.attached_pic else stream
