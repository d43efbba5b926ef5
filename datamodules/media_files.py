"""What a media file is, before anything decodes it: its kind, its limits, and how its failures are told.

The kind is read off the first bytes and fixes the demuxer. FFmpeg would otherwise guess, and a playlist that is named
`a.mp4` could have it open other files or addresses.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from datamodules.schema import MediaError

log = logging.getLogger(__name__)

_MOV_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_MAGIC = (
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"FLV\x01", "flv"),
    (b"OggS", "ogg"),
    (b"fLaC", "flac"),
    (b"ID3", "mp3"),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "asf"),
    (b"\x00\x00\x01\xba", "mpeg"),
    (b"GIF8", "gif"),
    (b"#!AMR", "amr"),
)


@dataclass(frozen=True)
class Limits:
    """What one read may cost. Anything larger is a `MediaError`, never cut in silence."""

    max_bytes: int = 200_000_000  # of the file
    max_pixels: int = 50_000_000  # of one picture or frame
    max_seconds: float = 600.0  # of what is decoded of a sound; of a whole clip
    max_frames: int = 64  # of one clip
    max_clip_pixels: int = 600_000_000  # of all frames of one clip together: 3 bytes each


LIMITS = Limits()


def check_file(path: str | Path, limits: Limits) -> str | None:
    """The container's kind, read off its first bytes; None for an unknown one (a picture, for one).

    Raises `MediaError` for a file that is missing, empty or too large.
    """
    with reasons(path):
        size = Path(path).stat().st_size
        if not Path(path).is_file():
            raise error(path, "not a file")
        if size == 0:
            raise error(path, "empty file")
        if size > limits.max_bytes:
            raise error(path, f"too large, the limit is {limits.max_bytes} bytes")
        with Path(path).open("rb") as f:
            return _kind(f.read(400))


def _kind(head: bytes) -> str | None:
    if head[4:8] in _MOV_BOXES:
        return "mov"
    if head[:4] in (b"RIFF", b"RF64"):
        return {b"WAVE": "wav", b"AVI ": "avi"}.get(head[8:12])
    if head[:4] == b"FORM" and head[8:11] == b"AIF":
        return "aiff"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # the sync word of MPEG sound
        return "aac" if head[1] & 0x06 == 0 else "mp3"
    if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] == b"G":  # transport stream packets are 188 bytes
        return "mpegts"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)


@functools.cache
def pyav() -> Any:
    """The `av` module, silenced: imported by whoever needs it, since it loads FFmpeg."""
    import av
    import av.logging

    av.logging.set_level(av.logging.PANIC)  # its remarks are in our errors
    return av


@contextlib.contextmanager
def open_container(path: str | Path, kind: str | None) -> Iterator[Any]:
    """An open PyAV container; what FFmpeg raises inside the block becomes a `MediaError`."""
    if kind is None:
        raise error(path, "not a sound or video file of a known kind")
    av = pyav()
    with reasons(path, av.FFmpegError):
        try:
            with av.open(str(Path(path).resolve()), format=kind) as container:
                yield container
        except av.InvalidDataError as e:
            raise error(path, f"damaged or truncated: {e.strerror}") from e


def error(path: str | Path, reason: str) -> MediaError:
    """`path: reason (size)`."""
    try:
        size = f" ({Path(path).stat().st_size} bytes)"
    except OSError:
        size = ""
    return MediaError(f"{path}: {reason}{size}")


@contextlib.contextmanager
def reasons(path: str | Path, *more: type[Exception]) -> Iterator[None]:
    """Turns what a reader raises into a `MediaError`. Programming errors (TypeError, …) pass."""
    known = (OSError, ValueError, EOFError, SyntaxError, struct.error, Image.DecompressionBombError, *more)
    try:
        yield
    except MediaError:
        raise
    except UnidentifiedImageError as e:
        raise error(path, "not a picture of a known format") from e
    except Image.DecompressionBombWarning as e:
        raise error(path, f"too many pixels: {one_line(e)}") from e
    except known as e:
        raise error(path, one_line(getattr(e, "strerror", None) or e)) from e


def one_line(e: object) -> str:
    return " ".join(str(e).split())[:200] or type(e).__name__


def warn_once(reason: str, path: str | Path) -> None:
    """A second reader is used: told once a reason, with the first file that had it."""
    if reason not in _WARNED:
        _WARNED.add(reason)
        log.warning("%s: %s", path, reason)


_WARNED: set[str] = set()
