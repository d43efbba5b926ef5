"""Media files as Qwen2.5-Omni takes them: patches of pictures and frames, mel frames of sounds, and their places."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from datamodules import media
from datamodules.media_files import error
from datamodules.schema import Part
from datamodules.transforms.augment import Augment
from zoo.core.backbones.omni_layout import Grid, Prompt, audio_tokens
from zoo.core.backbones.omni_source import Processors
from zoo.core.backbones.sources import ReadLimits

LEAST_IMAGE, LEAST_FRAME = 4, 128  # tokens of a picture and of a pair of frames, as the published model was used
SHORTEST = 0.1  # seconds; a shorter sound is padded with silence: the audio tower makes no token of it


@dataclass
class Inputs:
    """What a prompt's placeholders stand for, in its order: n patches of c numbers, and mel frames."""

    patches: list[Tensor] = field(default_factory=list)  # each [n, c]
    grids: list[Grid] = field(default_factory=list)
    mels: list[Tensor] = field(default_factory=list)  # each [bands, frames]


class MediaReader:
    """Adds media parts to a prompt.

    `image_tokens` and `frame_tokens` bound the tokens of a picture and of a pair of frames: what is larger is scaled.
    """

    def __init__(self, processors: Processors, limits: ReadLimits, image_tokens: int, frame_tokens: int):
        self.processors, self.limits = processors, limits
        self.image_tokens, self.frame_tokens = image_tokens, frame_tokens
        if processors.video is not None:
            processors.video.cap_pixels_per_frame = True  # as the published model was used; asked for if not set

    @property
    def modalities(self) -> frozenset[str]:
        has = {
            "text": True,
            "image": self.processors.image,
            "audio": self.processors.sound,
            "video": self.processors.video,
        }
        return frozenset(kind for kind, there in has.items() if there is not None)

    def add(self, part: Part, prompt: Prompt, inputs: Inputs, augment: Augment | None = None) -> None:
        """Raises `MediaError` for a file that cannot be read. `augment` changes sounds; pictures stay."""
        read = {"image": self._image, "audio": self._audio, "video": self._video}[part.type]
        read(part, prompt, inputs, augment)

    def _image(self, part: Part, prompt: Prompt, inputs: Inputs, augment: Augment | None) -> None:
        picture = media.read_image(part.path, self.limits.media)
        processor = self.processors.image
        try:
            size = self._size(processor, LEAST_IMAGE, self.image_tokens)
            out = processor(images=[picture], size=size, return_tensors="pt")
        except ValueError as e:  # a strip that is 200 times as long as wide
            raise error(part.path, str(e)) from e
        prompt.add_image(self._keep(inputs, out["pixel_values"], out["image_grid_thw"]))

    def _audio(self, part: Part, prompt: Prompt, inputs: Inputs, augment: Augment | None) -> None:
        rate = self.processors.sound.sampling_rate
        prompt.add_audio(self._hear(media.read_audio(part.path, rate, self.limits.media), inputs, augment))

    def _video(self, part: Part, prompt: Prompt, inputs: Inputs, augment: Augment | None) -> None:
        """Frames and track in chunks of time; one of them alone where the part asks for it, nothing where for none."""
        limits, sound = self.limits, self.processors.sound
        rate = {"rate": sound.sampling_rate} if part.sound else {}
        clip = media.read_video(
            part.path, limits.fps, limits.frames, limits.media, frames=part.frames, sound=part.sound, **rate
        )
        heard = None if clip.sound is None else self._hear(clip.sound, inputs, augment)
        if not clip.frames:
            if heard is not None:
                prompt.add_audio(heard)
            return
        grid, times = self._see(part, clip.frames, clip.times, inputs)
        prompt.add_clip(grid, times, heard, clip.sound_start)

    def _see(
        self, part: Part, frames: list[Image.Image], times: list[float], inputs: Inputs
    ) -> tuple[Grid, list[float]]:
        """The frames' grid, and the seconds of its steps since the first frame."""
        processor = self.processors.video
        stacked = torch.stack([pil_to_tensor(f) for f in frames])  # [n, 3, h, w]
        size = self._size(processor, LEAST_FRAME, self.frame_tokens)
        try:
            out = processor(videos=[stacked], size=size, do_sample_frames=False, return_tensors="pt")
        except ValueError as e:
            raise error(part.path, str(e)) from e
        grid = self._keep(inputs, out["pixel_values_videos"], out["video_grid_thw"])
        return grid, [t - times[0] for t in times[:: processor.temporal_patch_size]]

    def _size(self, processor: Any, least: int, most: int) -> dict[str, int]:
        """A range of tokens as the processor's range of pixels.

        What is too small is scaled up to whole rows and columns: from half the limit on it would come out above it.
        """
        pixels = (processor.patch_size * processor.merge_size) ** 2  # of a token
        return {"shortest_edge": min(least * pixels, most * pixels // 2), "longest_edge": most * pixels}

    def _keep(self, inputs: Inputs, patches: Tensor, grids: Tensor) -> Grid:
        inputs.patches.append(patches)
        inputs.grids.append(tuple(grids[0].tolist()))
        return inputs.grids[-1]

    def _hear(self, wave: Tensor, inputs: Inputs, augment: Augment | None) -> int:
        """Adds mel frames of a sound [samples]; returns its tokens.

        The extractor pads to 30 s or 300 s; all that the mel frames of the sound itself can see is one window more.
        """
        if augment is not None:
            wave = augment("sound", wave)
        extractor = self.processors.sound
        least = int(SHORTEST * extractor.sampling_rate)
        samples = np.pad(wave.numpy(), (0, max(0, least - len(wave))))
        hop = extractor.hop_length
        padded = -(-(len(samples) + extractor.n_fft) // hop) * hop
        with torch.autocast("cpu", enabled=False):  # it computes with torch, and in float32
            out = extractor(
                samples,
                sampling_rate=extractor.sampling_rate,
                padding="max_length",
                max_length=padded,
                return_attention_mask=True,
                return_tensors="pt",
            )
        inputs.mels.append(out["input_features"][0][:, : int(out["attention_mask"].sum())])  # [bands, frames]
        return audio_tokens(inputs.mels[-1].shape[1])
