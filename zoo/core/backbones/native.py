"""The native backbone: Qwen2.5-Omni's thinker takes text, pictures, sound and video with its own processors.

Words are the language model's own tokens; media stand between their marks as placeholders, whose embeddings the
model's encoders make. A clip's sound and frames are interleaved by time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    PreTrainedTokenizerBase,
    Qwen2_5OmniProcessor,
    Qwen2_5OmniThinkerForConditionalGeneration,
)

from datamodules.schema import DataError, Policy, Sample
from datamodules.transforms.augment import Augment
from zoo.core.backbones import branches as br
from zoo.core.backbones import omni_source, passes
from zoo.core.backbones.base import WHOLE_ONLY, Backbone, ExportParts, Scores
from zoo.core.backbones.cutting import cut_texts
from zoo.core.backbones.generation import Past, greedy
from zoo.core.backbones.omni_layout import Codes, Grid, Prompt
from zoo.core.backbones.omni_media import Inputs, MediaReader
from zoo.core.backbones.readers import TokenReader, plain_ids, query_ids
from zoo.core.backbones.sources import ReadLimits
from zoo.core.backbones.tuning import TUNINGS, checkpoint_activations, tune
from zoo.core.prompts import Media, Text, Turn, render
from zoo.core.query import Query
from zoo.core.weights import CheckpointError

DEFAULTS: dict[str, Any] = {
    "path": None,
    "tuning": "lora",
    "lora_rank": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "freeze_encoders": True,
    "dtype": "bfloat16",
    "gradient_checkpointing": True,
    "image_tokens": 512,
    "frame_tokens": 128,
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def locate(description: dict[str, Any]) -> Path:
    """The checked folder of the weights of a described backbone. Raises `CheckpointError`, also for a bad setting."""
    name = description["name"]
    for key, known in (("dtype", tuple(DTYPES)), ("tuning", TUNINGS)):
        if description[key] not in known:
            raise CheckpointError(f"backbone {name}: {key}={description[key]}: expected one of {', '.join(known)}")
    for key in ("image_tokens", "frame_tokens", "lora_rank"):
        if not isinstance(description[key], int) or description[key] < 1:
            raise CheckpointError(f"backbone {name}: {key}={description[key]}: expected a whole number from 1 on")
    return omni_source.locate(name, description["path"])


def build(description: dict[str, Any], folder: Path, limits: ReadLimits) -> NativeBackbone:
    """The backbone from its checked folder, with what is to be trained marked. Raises `CheckpointError`."""
    processors = omni_source.load_processors(folder)
    thinker = omni_source.load_thinker(folder, DTYPES[description["dtype"]])
    codes = omni_source.codes_of(processors.tokenizer, thinker.config, folder)
    tune(thinker, *(description[k] for k in ("tuning", "lora_rank", "lora_alpha", "lora_dropout")))
    if not description["freeze_encoders"]:
        for encoder in (thinker.model.visual, thinker.model.audio_tower):
            encoder.requires_grad_(True)
        thinker.model.audio_tower.audio_bos_eos_token.requires_grad_(False)  # the thinker never reads it
    if description["gradient_checkpointing"]:
        checkpoint_activations(thinker.get_decoder())
    media = MediaReader(processors, limits, description["image_tokens"], description["frame_tokens"])
    return NativeBackbone(thinker, processors.tokenizer, codes, media, description, folder)


@dataclass
class Prepared:
    """One sample: `ids` [n] and `positions` [3, n] of its prompt, `suffix` [T] of its branches."""

    id: str
    ids: Tensor
    positions: Tensor
    after: int
    inputs: Inputs
    suffix: Tensor
    branches: br.RowBranches
    truncated: bool


@dataclass
class Batch:
    """b prompts, right-padded to p; the patches of all pictures and frames, the mel frames of all sounds, in order."""

    ids: list[str]
    prompt: Tensor  # [b, p]
    positions: Tensor  # [3, b, p]
    lengths: Tensor  # [b]
    after: Tensor  # [b], the position of what follows
    patches: Tensor  # [n, c]
    grids: Tensor  # [pictures and clips, 3]
    mels: Tensor  # [bands, frames]
    mel_lengths: Tensor  # [sounds]
    suffix: Tensor  # [b, T]
    branches: br.Branches
    truncated: list[bool]

    @property
    def size(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str, **kw: bool) -> Batch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {n: v.to(device, **kw) for n, v in values.items() if isinstance(v, (Tensor, br.Branches))}
        return Batch(**{**values, **moved})


@dataclass
class State(Past):
    """The prompts' keys and values, and the batch they came from."""

    batch: Batch


class NativeBackbone(Backbone):
    """`thinker` with its encoders; which of its parameters are trained is decided before (see `tuning`)."""

    def __init__(
        self,
        thinker: Qwen2_5OmniThinkerForConditionalGeneration,
        tokenizer: PreTrainedTokenizerBase,
        codes: Codes,
        media: MediaReader,
        description: dict[str, Any],
        base: Path | None = None,
    ):
        """`base` is the folder that the thinker came from."""
        super().__init__()
        self.base = base
        self.lm = thinker
        self.tokenizer = tokenizer
        self.codes = codes
        self.media = media
        self.modalities = media.modalities
        self.description = description
        start, end = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
        self.reader = TokenReader(tokenizer, end, [start], [end], plain_ids(tokenizer, "\n"))

    @property
    def encoders(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        return self.lm.model.visual, self.lm.model.audio_tower

    def train(self, mode: bool = True) -> NativeBackbone:
        """Frozen encoders stay in evaluation mode."""
        super().train(mode)
        for encoder in self.encoders:
            encoder.train(mode and _trained(encoder))
        return self

    def describe(self) -> dict[str, Any]:
        return self.description

    # ------------------------------------------------------------------------------------------- reading (worker)

    def prepare(
        self, sample: Sample, policy: Policy | None, queries: Sequence[Query] = (), augment: Augment | None = None
    ) -> Prepared:
        self.check([sample])
        if any(q.after is not None for q in queries):
            raise DataError(f"backbone {self.description['name']} {WHOLE_ONLY}")
        prompt, inputs = Prompt(self.codes), Inputs()
        pieces = render(sample, policy)
        typed = [p.text for p in pieces if isinstance(p, Text) and p.role == "content"]
        texts, truncated = cut_texts([plain_ids(self.tokenizer, t) for t in typed], self.media.limits.text_tokens)
        contents = iter(texts)
        for piece in pieces:
            if isinstance(piece, Media):
                self.media.add(piece.part, prompt, inputs, augment)
                continue
            if isinstance(piece, Turn):
                sources = [self.reader.turn(piece)]
            elif piece.role == "content":
                sources = self.reader.content(next(contents))
            else:
                sources = [(self.reader.speaker if piece.role == "speaker" else self.reader.phrase)(piece.text)]
            for source in sources:
                if source is not None:
                    prompt.add_text(source.value.tolist())
        ids = torch.tensor(prompt.ids, dtype=torch.long)
        suffix, branches = query_ids(self.reader, queries)
        return Prepared(sample.id, ids, prompt.positions, prompt.after, inputs, suffix, branches, truncated)

    def collate(self, rows: Sequence[Prepared]) -> Batch:
        """Pads on the right, to a round length."""
        patches = [p for r in rows for p in r.inputs.patches]
        grids: list[Grid] = [g for r in rows for g in r.inputs.grids]
        mels = [m for r in rows for m in r.inputs.mels]
        prompt = br.pad_rows([r.ids for r in rows], 0)  # [b, p]
        places = pad_sequence([r.positions.T for r in rows], batch_first=True)  # [b, longest, 3]
        return Batch(
            [r.id for r in rows],
            prompt,
            torch.nn.functional.pad(places, (0, 0, 0, prompt.shape[1] - places.shape[1])).permute(2, 0, 1),
            torch.tensor([len(r.ids) for r in rows]),
            torch.tensor([r.after for r in rows]),
            torch.cat(patches) if patches else torch.zeros(0, 0),
            torch.tensor(grids, dtype=torch.long).reshape(-1, 3),
            torch.cat(mels, dim=1) if mels else torch.zeros(0, 0),
            torch.tensor([m.shape[1] for m in mels], dtype=torch.long),
            br.pad_rows([r.suffix for r in rows], 0),
            br.collate([r.branches for r in rows]),
            [r.truncated for r in rows],
        )

    # ------------------------------------------------------------------------------------------- encoding

    def _see(self, patches: Tensor, grids: Tensor) -> Tensor:
        """Patches [n, c] of pictures and clips → [tokens, d]."""
        visual = self.lm.model.visual
        return visual(patches.to(visual.dtype), grid_thw=grids).pooler_output

    def _hear(self, mels: Tensor, lengths: Tensor) -> Tensor:
        """Mel frames [bands, frames] of sounds → [tokens, d]."""
        tower = self.lm.model.audio_tower
        return tower(mels.to(tower.dtype), feature_lens=lengths).last_hidden_state

    def _media(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Embeddings of what is seen and of what is heard, in the order of their placeholders; None where nothing is.

        Among several processes every encoder takes part in every step, on a blank where a batch has nothing for it:
        those whose batch has something wait for the others.
        """
        everyone = _several_processes()
        seen = heard = None
        if len(batch.grids) or everyone:
            given = (batch.patches, batch.grids) if len(batch.grids) else self._blank_picture(batch)
            with torch.set_grad_enabled(torch.is_grad_enabled() and _trained(self.encoders[0])):
                seen = self._see(*given)
        if len(batch.mel_lengths) or everyone:
            given = (batch.mels, batch.mel_lengths) if len(batch.mel_lengths) else self._silence(batch)
            with torch.set_grad_enabled(torch.is_grad_enabled() and _trained(self.encoders[1])):
                heard = self._hear(*given)
        return seen, heard

    def _blank_picture(self, batch: Batch) -> tuple[Tensor, Tensor]:
        c, merge = self.lm.config.vision_config, self.codes.merge
        width = c.in_channels * c.temporal_patch_size * c.patch_size**2
        new = batch.positions.new_tensor
        return torch.zeros(merge**2, width, device=batch.prompt.device), new([[1, merge, merge]])

    def _silence(self, batch: Batch) -> tuple[Tensor, Tensor]:
        bands, frames = self.lm.config.audio_config.num_mel_bins, 4  # a token
        return torch.zeros(bands, frames, device=batch.prompt.device), batch.positions.new_tensor([frames])

    def input_embeddings(self, batch: Batch) -> Tensor:
        c, ids = self.codes, batch.prompt
        x = self.lm.get_input_embeddings()(ids)  # [b, p, d]
        seen, heard = self._media(batch)
        for values, places in ((seen, (ids == c.image) | (ids == c.video)), (heard, ids == c.audio)):
            if values is not None:
                x = x.masked_scatter(places.unsqueeze(-1), values.to(x.dtype))
        return x

    def encode(self, batch: Batch, embeddings: Tensor | None = None) -> State:
        """`embeddings` [b, p, d] replaces the prompts' own (for gradients with respect to the input)."""
        x = self.input_embeddings(batch) if embeddings is None else embeddings
        cache = passes.encode(self.lm, x, batch.lengths, batch.positions)
        return State(cache, batch.lengths, x.shape[1], batch.after, batch)

    def score(self, state: State, queries: Sequence[Sequence[Query]] | None = None) -> Scores:
        device = state.lengths.device
        if queries is None:
            suffix, branches = state.batch.suffix, state.batch.branches
        else:
            rows = [query_ids(self.reader, q) for q in queries]
            suffix = br.pad_rows([ids for ids, _ in rows], 0).to(device)
            branches = br.collate([b for _, b in rows]).to(device)
        hidden = passes.go_on(self.lm, state, self.lm.get_input_embeddings()(suffix), branches)  # [b, T, d]
        return br.gather_scores(branches, hidden, self.lm.get_output_embeddings())

    def score_batch(self, batch: Batch) -> Scores:
        """Prompts and branches in one pass without a cache, as gradient checkpointing needs it."""
        prompt = self.input_embeddings(batch)
        suffix = self.lm.get_input_embeddings()(batch.suffix)
        hidden = passes.at_once(
            self.lm, prompt, suffix, batch.branches, batch.lengths, batch.after, batch.positions
        )  # [b, T, d]
        return br.gather_scores(batch.branches, hidden, self.lm.get_output_embeddings())

    @torch.no_grad()
    def generate(self, state: State, suffixes: Sequence[Query], max_new_tokens: int = 64) -> list[str]:
        rows = [torch.tensor(self.reader.suffix_ids(q.suffix), dtype=torch.long) for q in suffixes]
        x = self.lm.get_input_embeddings()(br.pad_rows(rows, 0).to(state.lengths.device))  # [b, s, d]
        lengths = torch.tensor([len(r) for r in rows], device=state.lengths.device)
        ids = greedy(self.lm, state, x, lengths, self.reader.terminator, max_new_tokens)
        return [self.reader.decode(row) for row in ids]

    def export_parts(self) -> ExportParts:
        """Raises `CheckpointError` where the folder lacks a processor: the hub's class needs all of them."""
        parts, name = self.media.processors, self.description["name"]
        lacking = [n for n in ("image", "video", "sound") if getattr(parts, n) is None]
        if lacking:
            raise CheckpointError(
                f"backbone {name}: its folder has no processor for {', '.join(lacking)}: put the base model's "
                "preprocessor_config.json there, and export again"
            )
        template = getattr(parts.tokenizer, "chat_template", None)
        return ExportParts(
            self.lm,
            Qwen2_5OmniProcessor(parts.image, parts.video, parts.sound, parts.tokenizer, chat_template=template),
            Qwen2_5OmniThinkerForConditionalGeneration,
            base=self.base,
            base_name=self.description.get("path") or omni_source.HUB[name].repo,
            base_revision=None if self.description.get("path") else omni_source.HUB[name].revision,
        )


def _several_processes() -> bool:
    d = torch.distributed
    return d.is_available() and d.is_initialized() and d.get_world_size() > 1


def _trained(encoder: torch.nn.Module) -> bool:
    return any(p.requires_grad for p in encoder.parameters())
