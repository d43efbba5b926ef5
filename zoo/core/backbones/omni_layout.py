"""Token ids and three-axis positions of Qwen2.5-Omni prompts: text, pictures, sounds and clips in reading order.

Text takes one position a token, the same on all three axes (time, row, column). A picture's tokens share one time and
spread over rows and columns. A clip's tokens carry their time, `per_second` positions a second; its sound is dealt out
between its frames in chunks of `per_chunk` positions. What follows a medium begins after its last chunk. So was the
model trained (arXiv 2503.20215, section 2.2). `get_rope_index` of transformers gives the same, but it wants a track in
every clip of a batch or in none, and frames that lie no further apart than a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Grid = tuple[int, int, int]  # patches in time, rows and columns


@dataclass(frozen=True)
class Codes:
    """Ids of the placeholders and of the marks around them, and the model's units of space and time."""

    image: int
    video: int
    audio: int
    vision_marks: tuple[int, int]
    audio_marks: tuple[int, int]
    merge: int = 2  # patches along a token's side
    per_second: int = 25
    per_chunk: int = 50


@dataclass
class Prompt:
    """Grows piece by piece. `after` is the position of what comes next."""

    codes: Codes
    ids: list[int] = field(default_factory=list)
    parts: list[Tensor] = field(default_factory=list)  # each [3, n]
    after: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def positions(self) -> Tensor:
        """[3, n]"""
        return torch.cat(self.parts, dim=1) if self.parts else torch.zeros(3, 0, dtype=torch.long)

    def _add(self, ids: Sequence[int], positions: Tensor) -> None:
        """`positions` [3, n] count from the present place; the next piece begins after the last of these."""
        if len(ids):
            self.ids += ids
            self.parts.append(positions + self.after)
            self.after += int(positions.max()) + 1

    def add_text(self, ids: Sequence[int]) -> None:
        self._add(ids, torch.arange(len(ids)).expand(3, -1))

    def add_image(self, grid: Grid) -> None:
        self.add_text(self.codes.vision_marks[:1])
        spread = self._spread(grid, [0] * grid[0])
        self._add([self.codes.image] * spread.shape[1], spread)
        self.add_text(self.codes.vision_marks[1:])

    def add_audio(self, tokens: int) -> None:
        begin, end = self.codes.audio_marks
        self.add_text([begin, *[self.codes.audio] * tokens, end])

    def add_clip(self, grid: Grid, times: Sequence[float], sound: int | None = None, sound_start: float = 0.0) -> None:
        """`times` are seconds of the grid's steps since its first; `sound` is the track's tokens, None without one."""
        c = self.codes
        heard_too = sound is not None
        begin = [c.vision_marks[0], c.audio_marks[0]][: 1 + heard_too]
        end = [c.audio_marks[1], c.vision_marks[1]][1 - heard_too :]
        spread = self._spread(grid, [self._at(t) for t in times])
        heard = torch.arange(sound or 0).expand(3, -1) + self._at(sound_start)
        self._add(begin, torch.zeros(3, len(begin), dtype=torch.long))
        first = self.after
        for chunk in torch.cat([spread[0], heard[0]]).div(c.per_chunk, rounding_mode="floor").unique().tolist():
            for code, place in ((c.video, spread), (c.audio, heard)):
                mine = place[:, place[0] // c.per_chunk == chunk]
                if mine.shape[1]:
                    self.after = first  # they share the clip's time
                    self._add([code] * mine.shape[1], mine)
        self._add(end, torch.zeros(3, len(end), dtype=torch.long))

    def _at(self, seconds: float) -> int:
        return int(seconds * self.codes.per_second + 1e-6)  # a clock's 0.9999999 s is a second

    def _spread(self, grid: Grid, times: Sequence[int]) -> Tensor:
        """[3, n] of the grid's tokens: time by time, row by row."""
        rows, columns = grid[1] // self.codes.merge, grid[2] // self.codes.merge
        axes = torch.tensor(times), torch.arange(rows), torch.arange(columns)
        return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)


def audio_tokens(frames: int) -> int:
    """Tokens that the audio tower makes of so many mel frames: a convolution and a pool, each by two."""
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1
