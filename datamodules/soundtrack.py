"""A clip's sound track, read whole and written anew; the pictures are copied packet by packet and never decoded.

Whatever goes into a clip goes through `write_track`, unedited sound too: otherwise the codec's settings, its padding or
the number of packets would say which clips were edited. Equal arguments give equal bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.media_files import LIMITS, Limits, check_file, error, open_container, pyav, reasons

WEBM_PICTURES = ("vp8", "vp9", "av1")  # a WebM file may hold no others
AAC_RATES = (96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350)
BITS = 64_000  # per second and channel
_SLACK = 0.05  # seconds that time stamps may disagree with the number of samples before it counts as a gap


@dataclass(frozen=True, eq=False)
class Track:
    """`wave` is float32 [channels, samples], one or two channels, at `rate` Hz; `start` is the container's time of the
    first sample in seconds."""

    wave: Tensor
    rate: int
    start: float

    @property
    def seconds(self) -> float:
        return self.wave.shape[-1] / self.rate


@dataclass(frozen=True)
class Target:
    """How clips of one kind are written: FFmpeg's muxer, the file's suffix, and the encoder of the sound."""

    muxer: str
    suffix: str
    encoder: str

    def rate(self, source: int) -> int:
        """The rate in Hz that a track of `source` Hz is written at: its own where the encoder takes it."""
        if self.encoder == "libopus":
            return 48_000
        if self.encoder == "aac" and source not in AAC_RATES:
            return next((r for r in reversed(AAC_RATES) if r > source), AAC_RATES[0])
        return source


def target_of(path: str | Path, limits: Limits = LIMITS) -> Target:
    """MP4 with AAC for MP4 and its relatives, WebM or Matroska with Opus (Vorbis where PyAV lacks it) for those.

    Raises `MediaError` for a file of another kind, without pictures or with several video streams.
    """
    kind = check_file(path, limits)
    if kind not in ("mov", "matroska"):
        raise error(path, "not an MP4, WebM or Matroska file: convert it first")
    with open_container(path, kind) as container:
        codec = _pictures(container, path).codec_context.name
    if kind == "mov":
        return Target("mp4", ".mp4", "aac")
    encoder = "libopus" if "libopus" in pyav().codecs_available else "libvorbis"
    webm = codec.removeprefix("lib").startswith((*WEBM_PICTURES, "dav1d", "vpx"))
    return Target("webm", ".webm", encoder) if webm else Target("matroska", ".mkv", encoder)


def read_track(path: str | Path, limits: Limits = LIMITS) -> Track:
    """The only sound track, with at most two channels (more are mixed down), silence where its time stamps jump ahead.

    Raises `MediaError` for a clip without a track or with several, and for one that is damaged or over the limits.
    """
    kind = check_file(path, limits)
    with open_container(path, kind) as container:
        stream = _only_track(container, path)
        stream.codec_context.thread_count = 1
        rate = stream.rate
        if not rate or not 4_000 <= rate <= 192_000:
            raise error(path, f"a sample rate of {rate} Hz is not supported")
        layout = "mono" if stream.channels == 1 else "stereo"
        resampler = pyav().AudioResampler(format="fltp", layout=layout, rate=rate)
        blocks, at, start = [], 0, None
        for frame in container.decode(stream):
            time = at / rate if frame.time is None else float(frame.time)
            start = time if start is None else start
            gap = round((time - start) * rate) - at
            if gap > _SLACK * rate:
                if (at + gap) / rate > limits.max_seconds:
                    raise error(path, f"over {limits.max_seconds:g} s, the limit: cut it")
                blocks.append(np.zeros((stream.channels if layout == "mono" else 2, gap), np.float32))
                at += gap
            elif gap < -_SLACK * rate:
                raise error(path, f"its sound jumps back in time at {time:.2f} s: convert it first")
            for piece in resampler.resample(frame):
                blocks.append(piece.to_ndarray())  # [channels, n]
                at += blocks[-1].shape[1]
            if at / rate > limits.max_seconds:
                raise error(path, f"over {limits.max_seconds:g} s, the limit: cut it")
    if not at:
        raise error(path, "its sound track holds no sound that can be decoded")
    wave = torch.from_numpy(np.ascontiguousarray(np.concatenate(blocks, axis=1), np.float32))
    if not wave.isfinite().all():
        raise error(path, "samples that are not finite numbers")
    return Track(wave, rate, start or 0.0)


def resampled(track: Track, rate: int, channels: int | None = None) -> Track:
    """The track at `rate` Hz and, if given, with 1 or 2 channels (the mean of two, or the same twice)."""
    from torchaudio.functional import resample

    wave = track.wave
    if channels == 1 and len(wave) == 2:
        wave = wave.mean(0, keepdim=True)
    elif channels == 2 and len(wave) == 1:
        wave = wave.expand(2, -1)
    if rate != track.rate:
        # A filter bank for rates without a common factor would take gigabytes; such rates are rounded to 25 Hz.
        source = track.rate
        if source * rate // math.gcd(source, rate) ** 2 > 4_000_000:
            source = round(source / 25) * 25
        wave = resample(wave, source, rate)
    return Track(wave.contiguous(), rate, track.start)


def write_track(source: str | Path, target: str | Path, track: Track, kind: Target, limits: Limits = LIMITS) -> None:
    """Writes `source`'s pictures with `track` for its sound to `target`; other streams and tags are left out.

    `track.rate` must be `kind.rate(...)`. The encoder's delay is compensated by the container (an edit list in MP4, the
    codec delay in WebM), so that the first sample is heard at `track.start`. Raises `MediaError`.
    """
    av = pyav()
    with (
        open_container(source, check_file(source, limits)) as container,
        reasons(source, av.FFmpegError),
        av.open(str(target), "w", format=kind.muxer, container_options=_container_options(kind)) as out,
    ):
        pictures = _pictures(container, source)
        video = out.add_stream_from_template(pictures, opaque=True)
        layout = "mono" if len(track.wave) == 1 else "stereo"
        audio = out.add_stream(kind.encoder, rate=track.rate, layout=layout, options=_options(kind.encoder))
        audio.codec_context.bit_rate = BITS * len(track.wave)
        audio.codec_context.flags |= av.codec.context.Flags.bitexact
        sounds = _encoded(audio, track)
        waiting = next(sounds, None)
        for packet in container.demux(pictures):
            if not packet.size:
                continue
            if packet.is_discard:
                raise error(source, "an edit list hides some of its pictures: convert it first")
            if packet.dts is None and packet.pts is None:
                raise error(source, "pictures without time stamps: convert it first")
            time = float((packet.dts if packet.dts is not None else packet.pts) * packet.time_base)
            while waiting is not None and float(waiting.pts * waiting.time_base) <= time:
                out.mux(waiting)
                waiting = next(sounds, None)
            packet.stream = video
            out.mux(packet)
        while waiting is not None:
            out.mux(waiting)
            waiting = next(sounds, None)


def _container_options(kind: Target) -> dict[str, str]:
    """No random or dated tags. MP4's edit lists say when a stream begins: in microseconds, not milliseconds."""
    return {"fflags": "+bitexact", **({"movie_timescale": "1000000"} if kind.muxer == "mp4" else {})}


def _options(encoder: str) -> dict[str, str]:
    """Equal sounds become equal packets: one thread. Opus packets all have one size, so that silence has it too."""
    own = {"libopus": {"vbr": "off"}, "aac": {"aac_coder": "fast"}}  # AAC's default coder takes several times longer
    return {"threads": "1", **own.get(encoder, {})}


def _encoded(stream: Any, track: Track) -> Iterator[Any]:
    """The packets of a track, by blocks of 1024 samples."""
    av, first = pyav(), round(track.start * track.rate)
    wave = np.ascontiguousarray(track.wave.detach().cpu().numpy().clip(-1.0, 1.0))
    layout = "mono" if len(wave) == 1 else "stereo"
    for at in range(0, wave.shape[1], 1024):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, at : at + 1024]), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = track.rate, first + at, Fraction(1, track.rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _pictures(container: Any, path: str | Path) -> Any:
    """The only video stream; the cover of a song is not one."""
    cover = pyav().stream.Disposition.attached_pic
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise error(path, "no video stream")
    if len(streams) > 1:
        raise error(path, f"{len(streams)} video streams: keep one")
    if streams[0].codec_context is None:
        raise error(path, "its pictures are in an unknown encoding")
    return streams[0]


def _only_track(container: Any, path: str | Path) -> Any:
    streams = container.streams.audio
    if not streams:
        raise error(path, "no sound track to edit")
    if len(streams) > 1:
        raise error(path, f"{len(streams)} sound tracks: keep one")
    if streams[0].codec_context is None:
        raise error(path, "its sound is in an unknown encoding")
    return streams[0]
