"""Trains a sound tagger. No mathematics here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_f1_score

from datamodules import media
from datamodules.base import Failed
from datamodules.schema import Policy, Sample
from datamodules.transforms.augment import Augment
from zoo.core.encoders.audio import HOP, RATE
from zoo.core.optim import build_optimizer
from zoo.soundtagger.model import SoundTagger, augment_mel, tagging_loss

SECONDS = 5.0


def sound_labels(sample: Sample) -> dict[str, str]:
    """What is known to be heard, yes | no. Scenes list it in `meta["heard"]`, recordings in their categories."""
    return {k: v for k, v in sample.categories.items() if k.startswith("snd.") and v != "unknown"} | {
        f"heard.{name}": label for name, label in sample.meta.get("heard", {}).items()
    }


def has_sound(sample: Sample) -> bool:
    """Recordings with labels, and the scenes' clips that have a track; mixed scenes hold the files of others."""
    heard = sample.modality == "audio" or "heard" in sample.meta
    return heard and "mixed" not in sample.meta and bool(sound_labels(sample))


@dataclass
class SoundBatch:
    """mel [b, frames, 64]; labels [b, k] with −1 for unknown."""

    mel: Tensor
    labels: Tensor
    failed: list[Failed]

    def to(self, device: torch.device | str, **kw: bool) -> SoundBatch:
        return SoundBatch(self.mel.to(device, **kw), self.labels.to(device, **kw), self.failed)


class SoundTaggerModule(L.LightningModule):
    """Multi-label tagging of the sound of audio files and of videos' tracks."""

    def __init__(
        self,
        tagger: SoundTagger,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        warmup: float,
        seed: int = 0,
    ):
        super().__init__()
        self.tagger = tagger
        self.save_hyperparameters({"lr": lr, "weight_decay": weight_decay, "betas": list(betas), "warmup": warmup})
        self.generator = torch.Generator().manual_seed(seed)
        self.failed_ids: set[str] = set()
        self._mels: dict[str, Tensor] = {}
        self._outputs: list[tuple[Tensor, Tensor]] = []

    def attach(self, datamodule: Any) -> None:
        datamodule.transform, datamodule.collate = self.prepare, self.collate
        datamodule.keep(has_sound)

    def setup(self, stage: str) -> None:
        if getattr(self.trainer, "datamodule", None) is not None:
            self.attach(self.trainer.datamodule)

    def prepare(
        self, sample: Sample, policy: Policy, train: bool, augment: Augment | None = None
    ) -> tuple[Tensor, Tensor]:
        path = next(p.path for p in sample.media if p.type in ("audio", "video"))  # a photo may come first
        mel = self._mels.get(path) if augment is None else None
        if mel is None:
            wave = media.read_audio(path, rate=RATE)[: int(SECONDS * RATE)]
            if augment is not None:
                wave = augment("sound", wave)
            wave = torch.nn.functional.pad(wave, (0, int(SECONDS * RATE) - len(wave)))
            with torch.no_grad():
                mel = self.tagger.mel(wave)[: int(SECONDS * RATE / HOP)]
        if augment is None:  # decoded once: the corpus is small, and `augment_mel` works on the mel frames
            self._mels[path] = mel
        known = sound_labels(sample)
        labels = torch.tensor([{"yes": 1, "no": 0}.get(known.get(name, ""), -1) for name in self.tagger.labels])
        return mel, labels

    def collate(self, rows: list[Any]) -> SoundBatch:
        good = [r for r in rows if not isinstance(r, Failed)]
        return SoundBatch(
            torch.stack([m for m, _ in good]),
            torch.stack([y for _, y in good]),
            [r for r in rows if isinstance(r, Failed)],
        )

    def training_step(self, batch: SoundBatch, index: int) -> Tensor:
        self.failed_ids |= {f.id for f in batch.failed}
        loss = tagging_loss(self.tagger(augment_mel(batch.mel, self.generator)), batch.labels)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.mel))
        return loss

    def validation_step(self, batch: SoundBatch, index: int) -> None:
        self.failed_ids |= {f.id for f in batch.failed}
        self._outputs.append((self.tagger(batch.mel).float().sigmoid(), batch.labels))

    test_step = validation_step

    def _report(self, prefix: str) -> None:
        scores, labels = (torch.cat(x) for x in zip(*self._outputs))
        self._outputs.clear()
        seen = ((labels == 1).any(0) & (labels == 0).any(0)).nonzero().squeeze(-1)  # a label of one class has no AUPRC
        n = len(seen)
        auprc = multilabel_average_precision(scores[:, seen], labels[:, seen], n, average="macro", ignore_index=-1)
        f1 = multilabel_f1_score(scores[:, seen], labels[:, seen], n, average="macro", ignore_index=-1)
        self.log_dict({f"{prefix}/auprc": auprc, f"{prefix}/f1": f1, f"{prefix}/labels": float(n)}, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")

    def configure_optimizers(self) -> dict[str, Any]:
        steps = int(self.trainer.estimated_stepping_batches)
        return build_optimizer(
            self.tagger, **{k: self.hparams[k] for k in ("lr", "weight_decay", "betas", "warmup")}, steps=steps
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["augmentation"] = self.generator.get_state()
        checkpoint["failed_ids"] = sorted(self.failed_ids)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.generator.set_state(checkpoint["augmentation"])
        self.failed_ids |= set(checkpoint["failed_ids"])
