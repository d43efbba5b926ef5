"""Sources of soft tokens from texts and media files: cached features, or raw inputs for the frozen encoders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor, nn

from datamodules import media
from datamodules.schema import Part
from datamodules.transforms.augment import Augment
from zoo.core.backbones.tokens import Source
from zoo.core.cache import FeatureCache, feature_key

MEMO = 8192  # phrases kept in memory where there is no cache on disk


@dataclass(frozen=True)
class ReadLimits:
    """What one sample may hold. `text_tokens` counts the conversation's tokens; a longer one is cut and says so.

    `step_tokens`, where it is set, is for trajectories, which grow: each message is cut to so many by itself, and of
    messages that are too many together the oldest are not read.
    """

    text_tokens: int = 768
    step_tokens: int | None = None
    fps: float = 2.0
    frames: int = 8
    media: media.Limits = field(default_factory=media.Limits)


class SourceMaker:
    """Looks in the cache before it opens a file. An augmented input goes past the cache, both ways."""

    def __init__(self, encoders: nn.ModuleDict, limits: ReadLimits, cache: FeatureCache | None):
        self.encoders, self.limits, self.cache = encoders, limits, cache
        self._memo: dict[str, Tensor] = {}

    def _key(self, content: str, kind: str) -> str:
        encoder = self.encoders[kind]
        return feature_key(content, encoder.setting, encoder.fingerprint())

    def _cached(self, kind: str, key: str, time: float = 0.0) -> Source | None:
        features = self.cache.get(key) if self.cache is not None else None
        if features is None:
            features = self._memo.get(key)
        return None if features is None else Source(kind, features, len(features), True, time, key)

    def _raw(self, kind: str, raw: Tensor, key: str | None, time: float = 0.0) -> Source:
        return Source(kind, raw, self.encoders[kind].num_tokens(raw), False, time, key)

    def _picture(self, picture: Image.Image, key: str, augment: Augment | None, time: float = 0.0) -> Source:
        raw = self.encoders["image"].load(picture)
        if augment is not None:
            raw = augment("image", raw)
        return self._raw("image", raw, key if augment is None else None, time)

    def _sound(self, wave: Tensor, key: str, augment: Augment | None, time: float = 0.0) -> Source:
        if augment is not None:
            wave = augment("sound", wave)
        return self._raw("sound", self.encoders["sound"].load(wave), key if augment is None else None, time)

    def text(self, kind: str, ids: Tensor) -> Source:
        """`kind` is phrase or passage; `ids` [n] are word pieces."""
        if self.encoders[kind].trains:
            return self._raw(kind, ids, None)
        key = self._key(str(ids.tolist()), kind)
        return self._cached(kind, key) or self._raw(kind, ids, key)

    def media(self, part: Part, augment: Augment | None = None) -> list[tuple[Source, str]]:
        """Sources with their types; several are to be interleaved by time. Raises `MediaError`."""
        read = {"image": self._image, "audio": self._audio, "video": self._video}[part.type]
        changes = {k: augment if augment is not None and k in augment.kinds else None for k in ("image", "sound")}
        return read(part, media.content_hash(part.path), changes)

    def _image(self, part: Part, content: str, changes: dict[str, Augment | None]) -> list[tuple[Source, str]]:
        key = self._key(content, "image")
        source = self._cached("image", key) if changes["image"] is None else None
        if source is None:
            source = self._picture(media.read_image(part.path, self.limits.media), key, changes["image"])
        return [(source, "image")]

    def _audio(self, part: Part, content: str, changes: dict[str, Augment | None]) -> list[tuple[Source, str]]:
        key = self._key(content, "sound")
        source = self._cached("sound", key) if changes["sound"] is None else None
        if source is None:
            source = self._sound(media.read_audio(part.path, limits=self.limits.media), key, changes["sound"])
        return [(source, "sound")]

    def _video(self, part: Part, content: str, changes: dict[str, Augment | None]) -> list[tuple[Source, str]]:
        """Frames, then the track. The cached `index` [1 + frames, 1] holds their times: no need to open the file.

        Where only the sound is changed, the frames still come from the cache.
        """
        setting = f"{content}/{self.limits.fps}/{self.limits.frames}"
        index_key = self._key(f"{setting}/index", "image")
        wanted = {"frame": part.frames, "track": part.sound}
        changed = changes["sound"] is not None and wanted["track"]
        cached = None
        if self.cache is not None and changes["image"] is None:
            cached = self._cached_video(setting, index_key, wanted | {"track": wanted["track"] and not changed})
            if cached is not None and not changed:
                return cached
        limits, frames = self.limits, cached is None
        clip = media.read_video(part.path, limits.fps, limits.frames, limits.media, frames=frames)
        out = cached or []
        for n, (frame, time) in enumerate(zip(clip.frames, clip.times)):
            key = self._key(f"{setting}/{n}", "image")
            out.append((self._picture(frame, key, changes["image"], time), "frame"))
        if clip.sound is not None:
            key = self._key(f"{setting}/track", "sound")
            out.append((self._sound(clip.sound, key, changes["sound"], clip.sound_start), "track"))
        if self.cache is not None and not any(changes.values()):
            start = clip.sound_start if clip.sound is not None else math.nan
            self.cache.put(index_key, torch.tensor([[start], *([t] for t in clip.times)], dtype=torch.float32))
        return [(source, type) for source, type in out if wanted[type]]

    def _cached_video(self, setting: str, index_key: str, wanted: dict[str, bool]) -> list[tuple[Source, str]] | None:
        index = self.cache.get(index_key)
        if index is None:
            return None
        start, *times = index.flatten().tolist()
        out = []
        if wanted["frame"]:
            out += [
                (self._cached("image", self._key(f"{setting}/{n}", "image"), t), "frame") for n, t in enumerate(times)
            ]
        if wanted["track"] and not math.isnan(start):
            out.append((self._cached("sound", self._key(f"{setting}/track", "sound"), start), "track"))
        return None if any(s is None for s, _ in out) else out

    def encode(self, kind: str, sources: Sequence[Source]) -> None:
        """Replaces raw inputs by features in place, each content once.

        Those of a frozen encoder are float32: fresh and cached features are the same, whatever precision the language
        model runs in. One that is trained runs in the precision of the step.
        """
        raw = [s for s in sources if not s.ready]
        if not raw:
            return
        keys = [s.key or f"#{i}" for i, s in enumerate(raw)]
        first = {k: s.value for k, s in reversed(list(zip(keys, raw)))}
        encoder = self.encoders[kind]
        if encoder.trains:
            values = dict(zip(first, encoder.encode(list(first.values()))))
        else:
            with torch.no_grad(), torch.autocast(next(encoder.parameters()).device.type, enabled=False):
                values = dict(zip(first, encoder.encode(list(first.values()))))
        for key, source in zip(keys, raw):
            source.value, source.ready = values[key], True
            if kind == "phrase" and source.key and len(self._memo) < MEMO:
                self._memo[key] = values[key].cpu()
