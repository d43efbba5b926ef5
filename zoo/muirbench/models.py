"""Who answers: a guard's backbone, or any image-text-to-text model in Hugging Face's layout. Plain torch.

Both give the log-probabilities of a record's letters, and written answers. A sample that cannot be put to a model
raises `DataError`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor

from datamodules.media import read_image
from datamodules.muirbench import ANSWER
from datamodules.schema import DataError, Sample
from zoo.core.backbones.hub_folders import weight_files
from zoo.core.backbones.readers import marks_of
from zoo.core.guard import Guard
from zoo.core.weights import CheckpointError
from zoo.muirbench.protocol import answer_query
from zoo.registry import load


class Model(Protocol):
    """`prepare` raises `DataError` for what the model cannot take. `scored` gives the log-probabilities of each row's
    letters, `written` greedy text; both take what `prepare` made. `truncated` tells whether text was cut.
    """

    def prepare(self, sample: Sample) -> Any: ...
    def scored(self, rows: Sequence[Any]) -> list[list[float]]: ...
    def written(self, rows: Sequence[Any], max_new_tokens: int) -> list[str]: ...
    def truncated(self, row: Any) -> bool: ...


class GuardModel:
    """A guard's backbone, which reads the question without a policy and answers it by a query."""

    def __init__(self, guard: Guard):
        """Raises `DataError` for a backbone that reads nothing without a policy."""
        if guard.backbone.needs_policy:
            raise DataError(f"{guard.name} reads nothing without a policy: a benchmark's questions have none")
        self.guard, self.backbone = guard.eval(), guard.backbone

    def prepare(self, sample: Sample) -> Any:
        query = answer_query(sample)
        return query, self.backbone.prepare(sample, None, [query])

    def _collated(self, rows: Sequence[Any]) -> Any:
        return self.backbone.collate([row for _, row in rows]).to(self.guard.device)

    @torch.no_grad()
    def scored(self, rows: Sequence[Any]) -> list[list[float]]:
        logp = self.backbone.score_batch(self._collated(rows)).logp[:, 0].tolist()  # [b, letters]
        return [line[: len(query.options)] for line, (query, _) in zip(logp, rows)]

    @torch.no_grad()
    def written(self, rows: Sequence[Any], max_new_tokens: int) -> list[str]:
        state = self.backbone.encode(self._collated(rows))
        return self.backbone.generate(state, [query for query, _ in rows], max_new_tokens)

    def truncated(self, row: Any) -> bool:
        return row[1].truncated


class HubModel:
    """A folder with safetensors weights and a processor. Its own chat template is used where it has one.

    A letter's probability is that of its token, with or without a space before it: as the first token of the answer.
    """

    def __init__(self, folder: str | Path, device: str = "cpu"):
        """Raises `CheckpointError` for pickled or missing weights, and for a folder that does not load."""
        folder = Path(folder)
        weight_files(folder)
        try:
            self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            self.model, report = AutoModelForImageTextToText.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype="auto",
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as e:
            line = " ".join(str(e).split())[:300]
            raise CheckpointError(f"{folder}: does not load as an image-text-to-text model: {line}") from e
        if report["missing_keys"]:
            raise CheckpointError(f"{folder}: the weights lack {', '.join(sorted(report['missing_keys'])[:3])}")
        self.tokenizer = getattr(self.processor, "tokenizer", None)
        if self.tokenizer is None:
            raise CheckpointError(f"{folder}: its processor has no tokenizer: is it an image-text-to-text model?")
        self.model = self.model.to(device).eval()
        self.marks = [m for m in marks_of(self.tokenizer) if m.strip()]
        template = getattr(self.processor, "chat_template", None) or getattr(self.tokenizer, "chat_template", None)
        self.chats = template is not None
        if not self.chats and getattr(self.processor, "image_token", None) is None:
            raise CheckpointError(f"{folder}: neither a chat template nor an image token: pictures have no place")

    def prepare(self, sample: Sample) -> dict[str, Any]:
        content, pictures = [], []
        for part in sample.messages[0].content:
            if part.type == "image":
                pictures.append(read_image(str(part.path)))
                content.append({"type": "image"})
                continue
            if mark := next((m for m in self.marks if m in (part.text or "")), None):
                raise DataError(f"record {sample.id!r}: its text has {mark!r}, a token of the model's own")
            content.append({"type": "text", "text": part.text})
        content.append({"type": "text", "text": f"\n{ANSWER}"})
        if self.chats:
            turns = [{"role": "user", "content": content}]
            text = self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        else:
            text = "".join(c["text"] if c["type"] == "text" else self.processor.image_token for c in content)
        images = {"images": [pictures]} if pictures else {}
        inputs = self.processor(text=[text], return_tensors="pt", add_special_tokens=not self.chats, **images)
        return {"inputs": inputs, "letters": sample.meta["letters"]}

    def _on_device(self, row: dict[str, Any]) -> dict[str, Any]:
        moved = {k: v.to(self.model.device) for k, v in row["inputs"].items()}
        return {k: v.to(self.model.dtype) if v.is_floating_point() else v for k, v in moved.items()}

    @torch.no_grad()
    def scored(self, rows: Sequence[Any]) -> list[list[float]]:
        out = []
        for row in rows:
            logp = self.model(**self._on_device(row)).logits[0, -1].float().log_softmax(-1)  # [v]
            out.append([float(logp[self._tokens(letter)].logsumexp(0)) for letter in row["letters"]])
        return out

    def _tokens(self, letter: str) -> list[int]:
        """The tokens that are this letter. Raises `CheckpointError` where there is none."""
        ways = [self.tokenizer(w, add_special_tokens=False)["input_ids"] for w in (letter, f" {letter}")]
        single = sorted({ids[0] for ids in ways if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id})
        if not single:
            raise CheckpointError(f"the tokenizer has no token for {letter!r}: use parser=strict")
        return single

    @torch.no_grad()
    def written(self, rows: Sequence[Any], max_new_tokens: int) -> list[str]:
        out = []
        for row in rows:
            inputs = self._on_device(row)
            ids = self.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
            out.append(self.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip())
        return out

    def truncated(self, row: Any) -> bool:
        return False  # nothing is cut: a prompt that is too long is the model's error


def model_named(name: str, device: str = "cpu") -> Model:
    """A published guard, a run's folder, or a folder in Hugging Face's layout (its config.json has a `model_type`)."""
    config = Path(name) / "config.json"
    if config.is_file():
        try:
            found = json.loads(config.read_text(encoding="utf-8"))
        except ValueError as e:
            raise CheckpointError(f"{config}: not readable as JSON: {e}") from e
        if isinstance(found, dict) and "model_type" in found:
            return HubModel(name, device)
    return GuardModel(load(name, device, cached=True))
