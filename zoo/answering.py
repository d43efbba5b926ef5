"""Who answers a benchmark's questions: a guard's backbone, or a model in Hugging Face's layout. Plain torch.

A question is a sample and a closed query. Both kinds give the log-probabilities of the query's options, and written
answers. A sample that cannot be put to a model raises `DataError`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from datamodules.media import read_audio, read_image, read_video
from datamodules.schema import DataError, Part, Sample
from zoo.core.backbones import build, describe, omni_source
from zoo.core.backbones.hub_folders import read_json, weight_files
from zoo.core.backbones.readers import marks_of
from zoo.core.guard import Guard
from zoo.core.query import Query
from zoo.core.weights import CheckpointError
from zoo.registry import load

FPS, FRAMES = 2.0, 16  # of a clip that a Hugging Face model sees; the zoo's backbones have limits of their own


class Model(Protocol):
    """`prepare` raises `DataError` for what the model cannot take. `scored` gives the log-probabilities of each row's
    options, `written` greedy text; both take what `prepare` made. `truncated` tells whether text was cut.
    """

    def prepare(self, sample: Sample, query: Query) -> Any: ...
    def scored(self, rows: Sequence[Any]) -> list[list[float]]: ...
    def written(self, rows: Sequence[Any], max_new_tokens: int) -> list[str]: ...
    def truncated(self, row: Any) -> bool: ...


def ask(
    model: Model,
    questions: Sequence[tuple[Sample, Query]],
    scored: bool,
    batch_size: int,
    max_new_tokens: int,
    what: str = "answering",
) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:
    """What the model says to each sample it can take, by id; an `{"id", "error"}` for each other one.

    Where it is `scored` a row has `logp` of its options, else `text`; each has `truncated`.
    """
    out: dict[str, dict[str, Any]] = {}
    errors: list[dict[str, str]] = []
    bar = tqdm(total=len(questions), desc=what, file=sys.stderr)
    for start in range(0, len(questions), batch_size):
        ids, rows = [], []
        for sample, query in questions[start : start + batch_size]:
            try:
                rows.append(model.prepare(sample, query))
                ids.append(sample.id)
            except DataError as e:
                errors.append({"id": sample.id, "error": f"{what}: {e}"})
        if rows and scored:
            said = [{"logp": logp} for logp in model.scored(rows)]
        else:
            said = [{"text": t} for t in (model.written(rows, max_new_tokens) if rows else [])]
        for id, row, one in zip(ids, rows, said):
            out[id] = {**one, "truncated": model.truncated(row)}
        bar.update(min(batch_size, len(questions) - start))
    bar.close()
    return out, errors


class GuardModel:
    """A guard's backbone, which reads the question without a policy and answers it by a query."""

    def __init__(self, guard: Guard):
        """Raises `DataError` for a backbone that reads nothing without a policy."""
        if guard.backbone.needs_policy:
            raise DataError(f"{guard.name} reads nothing without a policy: a benchmark's questions have none")
        self.guard, self.backbone = guard.eval(), guard.backbone

    def prepare(self, sample: Sample, query: Query) -> Any:
        return query, self.backbone.prepare(sample, None, [query])

    def _collated(self, rows: Sequence[Any]) -> Any:
        return self.backbone.collate([row for _, row in rows]).to(self.guard.device)

    @torch.no_grad()
    def scored(self, rows: Sequence[Any]) -> list[list[float]]:
        logp = self.backbone.score_batch(self._collated(rows)).logp[:, 0].tolist()  # [b, options]
        return [line[: len(query.options)] for line, (query, _) in zip(logp, rows)]

    @torch.no_grad()
    def written(self, rows: Sequence[Any], max_new_tokens: int) -> list[str]:
        state = self.backbone.encode(self._collated(rows))
        return self.backbone.generate(state, [query for query, _ in rows], max_new_tokens)

    def truncated(self, row: Any) -> bool:
        return row[1].truncated


class HubModel:
    """A folder with safetensors weights and a processor. Its own chat template is used where it has one.

    The probability of an option of one token (a letter) is that of its token as the first of the answer, with or
    without a space before it; of several tokens, that of all of them. No terminator is counted. A clip is its frames
    (`FPS` a second, at most `FRAMES`) and then its sound, each where the processor takes it.
    """

    def __init__(self, folder: str | Path, device: str = "cpu", omni: bool = False):
        """`omni`: a model of sound too. Raises `CheckpointError` for pickled or missing weights, and for a folder that
        does not load.
        """
        folder = Path(folder)
        weight_files(folder)
        kind = AutoModelForMultimodalLM if omni else AutoModelForImageTextToText
        try:
            self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model, report = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype="auto",
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as e:
            line = " ".join(str(e).split())[:300]
            what = "a multimodal" if omni else "an image-text-to-text"
            raise CheckpointError(f"{folder}: does not load as {what} model: {line}") from e
        if report["missing_keys"]:
            raise CheckpointError(f"{folder}: the weights lack {', '.join(sorted(report['missing_keys'])[:3])}")
        self.tokenizer = getattr(self.processor, "tokenizer", None)
        if self.tokenizer is None:
            raise CheckpointError(f"{folder}: its processor has no tokenizer: is it an image-text-to-text model?")
        self.model = getattr(model, "thinker", model).to(device).eval()  # a talker has no part in answers
        self.marks = [m for m in marks_of(self.tokenizer) if m.strip()]
        template = getattr(self.processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)
        self.chats = template is not None
        self.takes = set(inspect.signature(type(self.processor).__call__).parameters)
        if not self.chats and (omni or getattr(self.processor, "image_token", None) is None):
            raise CheckpointError(f"{folder}: neither a chat template nor an image token: pictures have no place")

    # ---------------------------------------------------------------------------------------------------- reading

    def prepare(self, sample: Sample, query: Query) -> dict[str, Any]:
        content: list[dict[str, str]] = []
        media: dict[str, list[Any]] = {}
        for part in sample.messages[0].content:
            if part.type != "text":
                self._add(part, content, media)
                continue
            if mark := next((m for m in self.marks if m in (part.text or "")), None):
                raise DataError(f"record {sample.id!r}: its text has {mark!r}, a token of the model's own")
            _say(content, part.text or "")
        _say(content, f"\n{query.text}")
        if self.chats:
            turns = [{"role": "user", "content": content}]
            text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        else:
            text = "".join(c["text"] if c["type"] == "text" else self.processor.image_token for c in content)
        row = {"text": text, "media": media, "options": query.options}
        return {**row, "inputs": self._inputs(row)}

    def _add(self, part: Part, content: list[dict[str, str]], media: dict[str, list[Any]]) -> None:
        """A medium's place in the text, and what the processor gets for it."""
        if part.type == "image":
            content.append({"type": "image"})
            media.setdefault("images", []).append(read_image(str(part.path)))
            return
        wave, rate = None, self._rate()
        if part.type == "audio":
            wave = read_audio(str(part.path), rate)
        else:
            clip = read_video(str(part.path), FPS, FRAMES, frames=part.frames, sound=part.sound, rate=rate)
            wave = clip.sound
            if clip.frames and "videos" in self.takes:
                content.append({"type": "video"})
                media.setdefault("videos", []).append(clip.frames)
                media.setdefault("fps", []).append(len(clip.frames) / clip.duration)
            elif clip.frames:
                content += [{"type": "image"}] * len(clip.frames)
                media.setdefault("images", []).extend(clip.frames)
        if wave is not None:
            if "audio" not in self.takes:
                raise DataError(f"{part.path}: the model's processor takes no sound")
            content.append({"type": "audio"})
            media.setdefault("audio", []).append(wave.numpy())

    def _rate(self) -> int:
        extractor = getattr(self.processor, "feature_extractor", None)
        return getattr(extractor, "sampling_rate", None) or 16_000

    def _inputs(self, row: dict[str, Any], more: str = "") -> dict[str, torch.Tensor]:
        """The processor's tensors of the prompt, with `more` after it."""
        given = {k: v for k, v in row["media"].items() if k != "fps"}
        if "images" in given:
            given["images"] = [given["images"]]
        if "videos" in given:  # chosen already: the processor is not to choose among them again
            rate = row["media"]["fps"]
            given["videos_kwargs"] = {"do_sample_frames": False, "fps": rate[0] if len(rate) == 1 else rate}
        text = [row["text"] + more]
        return dict(self.processor(text=text, return_tensors="pt", add_special_tokens=not self.chats, **given))

    # --------------------------------------------------------------------------------------------------- answering

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, Any]:
        moved = {k: v.to(self.model.device) for k, v in inputs.items() if isinstance(v, torch.Tensor)}
        return {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in moved.items()}

    @torch.no_grad()
    def scored(self, rows: Sequence[Any]) -> list[list[float]]:
        out = []
        for row in rows:
            first = self.model(**self._on_device(row["inputs"])).logits[0, -1].float().log_softmax(-1)  # [v]
            out.append([self._option(row, option, first) for option in row["options"]])
        return out

    def _option(self, row: dict[str, Any], option: str, first: torch.Tensor) -> float:
        """The log-probability of an option, by all ways to write it; `first` [v] is that of each first token.

        Raises `CheckpointError` where there is none.
        """
        ways: dict[tuple[int, ...], str] = {}
        for text in (option, f" {option}"):
            ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
            if ids and self.tokenizer.unk_token_id not in ids:
                ways.setdefault(ids, text)
        ways = {ids: text for ids, text in ways.items() if len(ids) == min(map(len, ways))}
        if not ways:
            raise CheckpointError(f"the tokenizer has no token for {option!r}: use parser=strict")
        values = [first[ids[0]] if len(ids) == 1 else self._several(row, ids, text) for ids, text in ways.items()]
        return float(torch.stack(values).logsumexp(0))

    def _several(self, row: dict[str, Any], ids: tuple[int, ...], text: str) -> torch.Tensor:
        """The log-probability of several tokens after the prompt."""
        inputs = self._inputs(row, text)
        whole, n = inputs["input_ids"][0].tolist(), row["inputs"]["input_ids"].shape[1]
        if whole[n:] != list(ids) or whole[:n] != row["inputs"]["input_ids"][0].tolist():
            raise CheckpointError(f"the tokenizer joins {text!r} with what is before it: use answers=letters")
        logp = self.model(**self._on_device(inputs)).logits[0, n - 1 : -1].float().log_softmax(-1)  # [tokens, v]
        return logp.gather(-1, torch.tensor(ids, device=logp.device).unsqueeze(-1)).sum()

    @torch.no_grad()
    def written(self, rows: Sequence[Any], max_new_tokens: int) -> list[str]:
        out = []
        for row in rows:
            inputs = self._on_device(row["inputs"])
            ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
            out.append(self.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
        return out

    def truncated(self, row: Any) -> bool:
        return False  # nothing is cut: a prompt that is too long is the model's error


def _say(content: list[dict[str, str]], text: str) -> None:
    """Text that goes on is one piece: templates may put something between two."""
    if content and content[-1]["type"] == "text":
        content[-1]["text"] += text
    else:
        content.append({"type": "text", "text": text})


def model_named(name: str, device: str = "cpu", omni: bool = False) -> Model:
    """A published guard, a run's folder, or a folder in Hugging Face's layout (its config.json has a `model_type`).

    `omni`: the questions are about sound too. Qwen2.5-Omni is then read by the zoo's own backbone, which interleaves a
    clip's frames and sound by time as the model was trained.
    """
    config = Path(name) / "config.json"
    family = read_json(config).get("model_type") if config.is_file() else None
    if family is None:
        return GuardModel(load(name, device, cached=True))
    if omni and family in omni_source.FAMILIES:
        dtype = "float32" if torch.device(device).type == "cpu" else "bfloat16"
        path = str(Path(name).resolve())
        backbone = build(describe(next(iter(omni_source.HUB)), path=path, dtype=dtype))  # its LoRA is the identity
        return GuardModel(Guard(backbone, name=name).to(device).eval())
    return HubModel(name, device, omni)
