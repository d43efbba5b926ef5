"""Supervised fine-tuning of SmolLM2 on text, against TRL's `SFTTrainer`: the same token rows, LoRA and loss mask.

TRL is a dependency of this benchmark alone (`pip install -e ".[benchmark]"`). Each row is a prompt under the 15-entry
policy and its rendered verdict; both sides get the very same token ids, and the loss is on the verdict's tokens.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from datamodules.base import GuardDataModule
from datamodules.schema import Policy, PolicyEntry, Sample
from zoo.core.backbones import converted_smollm2
from zoo.core.backbones.soft_token import SoftTokenBackbone
from zoo.core.guard import Guard
from zoo.core.losses import CRITIQUE
from zoo.core.module import Example, GuardModule
from zoo.core.query import Query
from zoo.registry import create

ROWS, BATCH, SKIPPED = 48, 8, 1
LORA = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0}
POLICY = Policy("short", (PolicyEntry("harm", "harmful content", "Content that harms somebody."),))


def rows() -> list[tuple[Sample, Query]]:
    """ROWS texts of mixed lengths with the verdict that an SFT run would teach."""
    samples = GuardDataModule("sample", modalities=["text"]).samples("train")
    step = max(1, len(samples) // ROWS)
    out = []
    for s in samples[::step][:ROWS]:
        unsafe = bool(s.gold(s.policy))
        listed = ", ".join(e.name for e in s.policy.entries if s.categories.get(e.id) == "yes") or "none"
        answer = f"{'unsafe' if unsafe else 'safe'}\n- Categories: {listed}"
        out.append((s, Query(("- Safety Assessment:",), (answer,))))
    return out


def token_rows(backbone: SoftTokenBackbone, data: Sequence[tuple[Sample, Query]]) -> list[dict[str, list[int]]]:
    """The ids that the zoo reads for each row, and which of them are learned: what TRL is given."""
    out = []
    for sample, query in data:
        prompt = [i for s in backbone.prepare(sample, POLICY).prompt.sources for i in s.value.tolist()]
        prompt += [i for s in backbone.reader.suffix(query.suffix) for i in s.value.tolist()]
        answer = backbone.reader.answer(query.options[0])
        mask = [0] * len(prompt) + [1] * len(answer)
        out.append({"input_ids": prompt + answer, "completion_mask": mask})
    return out


class _Stopwatch(L.Callback):
    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == SKIPPED:
            self.started = time.perf_counter()
        self.ended = time.perf_counter()


def _as_it_is(batch: Any) -> Any:
    return batch


def zoo_seconds(guard: Guard, data: Sequence[tuple[Sample, Query]]) -> tuple[float, float]:
    """Seconds of all steps but the first SKIPPED, and the mean loss of the first step."""
    module = GuardModule(guard, lr=1e-4)
    batches, losses = [], []
    for n in range(0, len(data), BATCH):
        part = data[n : n + BATCH]
        rows = [Example(guard.backbone.prepare(s, POLICY, [q]), [0], [CRITIQUE], s, POLICY) for s, q in part]
        batches.append(module.collate(rows))

    class Losses(_Stopwatch):
        def on_train_batch_end(self, trainer: L.Trainer, module: Any, outputs: Any, *rest: Any) -> None:
            losses.append(float(outputs["loss"]))
            super().on_train_batch_end(trainer, module, outputs, *rest)

    watch = Losses()
    trainer = L.Trainer(
        accelerator="cpu", devices=1, precision="bf16-mixed", max_epochs=1, logger=False, callbacks=[watch],
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=1.0,
    )  # fmt: skip
    loader = DataLoader(batches, batch_size=None, collate_fn=_as_it_is)
    trainer.fit(module, train_dataloaders=loader, weights_only=True)
    return watch.ended - watch.started, losses[0]


def trl_seconds(token_rows: list[dict[str, list[int]]]) -> tuple[float, float]:
    """The same with TRL: no packing (its default), no checkpointing of activations, bfloat16 autocast as here."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            if state.global_step == SKIPPED:
                self.started = time.perf_counter()
            self.ended = time.perf_counter()

    folder, watch = converted_smollm2(), Watch()
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as out:
        trainer = SFTTrainer(
            model=model,
            processing_class=AutoTokenizer.from_pretrained(folder, local_files_only=True),
            train_dataset=Dataset.from_list(token_rows),
            peft_config=LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **LORA),
            callbacks=[watch],
            args=SFTConfig(
                out, per_device_train_batch_size=BATCH, num_train_epochs=1, learning_rate=1e-4, use_cpu=True,
                bf16=True, gradient_checkpointing=False, max_length=None, completion_only_loss=True, report_to="none",
                save_strategy="no", logging_steps=1, disable_tqdm=True, train_sampling_strategy="sequential",
            ),
        )  # fmt: skip
        trainer.train()
        first = next(h["loss"] for h in trainer.state.log_history if "loss" in h)
    return watch.ended - watch.started, first


def sft() -> dict[str, Any]:
    """Tokens a second of both, padding not counted; `ratio` is the zoo's over TRL's. The first losses must agree."""
    L.seed_everything(0, verbose=False)
    guard = create("smollm2", lora_rank=LORA["r"], lora_alpha=LORA["lora_alpha"], packed=True)
    data = rows()
    tokens = token_rows(guard.backbone, data)
    counted = sum(len(r["input_ids"]) for r in tokens[BATCH * SKIPPED :])
    ours, our_loss = zoo_seconds(copy.deepcopy(guard), data)
    theirs, their_loss = trl_seconds(tokens)
    if abs(our_loss - their_loss) > 0.02 * their_loss:
        raise RuntimeError(f"not the same training: first loss {our_loss:.4f} here, {their_loss:.4f} in TRL")
    return {
        "rows": len(tokens), "tokens": counted, "first_loss": our_loss, "trl_first_loss": their_loss,
        "zoo_tokens_per_second": counted / ours, "trl_tokens_per_second": counted / theirs, "ratio": theirs / ours,
    }  # fmt: skip
