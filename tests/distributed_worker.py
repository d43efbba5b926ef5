"""What tests/test_distributed.py runs in several processes: `python distributed_worker.py FOLDER PROCESSES`.

Every check leaves what it found in `FOLDER/<check>-<rank>.pt` for the test to look at. The test runs the same checks in
its own process, too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from helpers import random_backbone, write_audio, write_image
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import LoraConfig, inject_adapter_in_model
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from datamodules import DataError, GuardDataModule, Policy, PolicyEntry, Sample
from datamodules.assets import zoo_home
from datamodules.sampling import ProcessBatches, process
from zoo import fit as fitting
from zoo import registry
from zoo import test as testing
from zoo.core import launch
from zoo.core.backbones.soft_token import SoftTokenBackbone
from zoo.core.cache import FeatureCache
from zoo.core.guard import Guard
from zoo.core.module import GuardModule
from zoo.core.processes import plan
from zoo.core.sharding import full
from zoo.evaluate import judge

POLICY = Policy("site", (PolicyEntry("fire", "open fire", "Flames."), PolicyEntry("alarm", "alarm")))
TRAINER = {"accelerator": "cpu", "nodes": 1, "precision": "32-true", "accumulate": 1}
PLAIN = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
PLAIN |= {"enable_checkpointing": False}
BATCH = 8
PATIENCE = 1500  # seconds; a run takes less than a minute on two free cores


def write_data(folder: Path) -> None:
    """Text, pictures and sounds, some with critiques, some without a label; a broken picture in each split."""
    rows = []
    for n in range(40):
        kind = ("text", "image", "audio", "text")[n % 4]
        part = {"type": "text", "text": f"the picture shows {'a fire' if n % 3 else 'the end'} {n % 7}"}
        if kind == "image":
            part = {"type": "image", "path": write_image(folder / f"{n}.png", n).name}
        elif kind == "audio":
            part = {"type": "audio", "path": write_audio(folder / f"{n}.wav", n, 0.2).name}
        row: dict[str, Any] = {"id": f"r{n}", "messages": [{"role": "user", "content": [part]}], "target": "prompt"}
        row["split"] = "train" if n < 22 else "val" if n < 29 else "test"
        if n % 5:
            row["categories"] = {"fire": "yes" if n % 2 else "no", "alarm": "no" if n % 3 else "unknown"}
            row["critique"] = "the picture shows a fire" if n % 4 else None
        rows.append(row)
    (folder / "bad.png").write_bytes(b"\x89PNG no picture")
    for split in ("train", "val", "test"):
        content = [{"type": "image", "path": "bad.png"}]
        rows.append({"id": f"bad-{split}", "messages": [{"role": "user", "content": content}], "split": split})
    (folder / "m.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "policy.json").write_text(json.dumps(POLICY.to_dict()))


def data_of(folder: Path, **kw: Any) -> GuardDataModule:
    return GuardDataModule("manifest", path=folder / "m.jsonl", policy=POLICY, **{"batch_size": BATCH, **kw})


def module_of(kind: str = "encoded") -> GuardModule:
    """`kind`: encoded, tokens, or lora (a frozen language model with adapters and checkpointed activations)."""
    backbone = random_backbone("tokens" if kind == "lora" else kind)
    if kind == "lora":
        backbone.lm.requires_grad_(False)
        inject_adapter_in_model(LoraConfig(r=2, target_modules="all-linear"), backbone.lm)
        backbone.lm.gradient_checkpointing_enable({"use_reentrant": False})
    return GuardModule(Guard(backbone, POLICY), lr=1e-3, warmup=0.1)


class Halt(L.Callback):
    """Ends a run after its first epoch."""

    def on_train_epoch_end(self, trainer, module) -> None:
        trainer.should_stop = True


class Losses(L.Callback):
    """The logged loss of every step, and the metrics of every validation."""

    def __init__(self) -> None:
        self.train: list[float] = []
        self.val: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, index) -> None:
        self.train.append(trainer.logged_metrics["train/loss"].item())

    def on_validation_end(self, trainer, module) -> None:
        self.val.append({k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


def weights_of(module: GuardModule) -> dict[str, torch.Tensor]:
    return {k: full(v).clone() for k, v in module.guard.backbone.saved_state().items()}


def train(
    folder: Path,
    strategy: str,
    *,
    accumulate: int = 1,
    kind: str = "encoded",
    precision: str = "32-true",
    loader: Callable[[GuardDataModule], DataLoader] | None = None,
    halt: str | None = None,
    resume: str | None = None,
    **kw: Any,
) -> dict[str, Any]:
    """Weights, losses and validation metrics of a short training, and the bytes that this process trains.

    `halt` names the checkpoint to leave after one of its two epochs, `resume` the one to go on from.
    """
    settings = {**TRAINER, "devices": process()[1], "strategy": strategy, "accumulate": accumulate}
    settings["precision"] = precision
    module, data, losses = module_of(kind), data_of(folder, accumulate=accumulate, **kw), Losses()
    calls = [losses, *([Halt(), ModelCheckpoint(folder, halt)] if halt else [])]
    plain = {**PLAIN, "enable_checkpointing": halt is not None, "gradient_clip_val": 1.0}
    trainer = L.Trainer(**plan(settings, BATCH).trainer(), **plain, max_epochs=2, callbacks=calls)
    if loader is None:
        trainer.fit(module, data, ckpt_path=resume and folder / f"{resume}.ckpt", weights_only=True)
    else:
        module.hook(data)
        trainer.fit(module, loader(data))
    held = [v.to_local() if isinstance(v, DTensor) else v for v in module.guard.backbone.saved_state().values()]
    found = {"weights": weights_of(module), "losses": losses.train, "val": losses.val, "failed": module.failed_ids}
    return {**found, "held": sum(p.numel() * p.element_size() for p in held)}


def in_order(data: GuardDataModule, ids: list[str]) -> DataLoader:
    """Training batches of these samples in this order, so that a test decides what each process gets."""
    samples = {s.id: s for s in data.corpus.samples}
    whole = data.loader([samples[i] for i in ids], train=True)
    batches = ProcessBatches([(n, 0) for n in range(len(ids))], BATCH, *process())
    return DataLoader(whole.dataset, batch_sampler=batches, collate_fn=data.collate)


def text_and_pictures(data: GuardDataModule) -> DataLoader:
    """Texts for even places, pictures for odd ones: of two processes one reads texts, the other pictures."""
    return in_order(data, [f"r{n}" for n in (3, 1, 4, 9, 7, 13, 8, 17)] * 2)


def good_and_broken(data: GuardDataModule) -> DataLoader:
    """Labelled rows for the first of two processes; broken, then unlabelled ones for the second."""
    first = [x for n in (3, 4, 7, 8) for x in (f"r{n}", "bad-train")]
    return in_order(data, first + [x for n in (11, 12, 16, 19) for x in (f"r{n}", "r0")])


def arguments(folder: Path, strategy: str, processes: int, recipe: str = "omniguard") -> list[str]:
    out = {"recipe": recipe, "data": "manifest", "data.path": folder / "m.jsonl"}
    out |= {
        "runs": folder / f"runs-{strategy}",
        "data.policy": folder / "policy.json",
        "data.batch_size": BATCH,
        "trainer.max_epochs": 2,
    }
    out |= {"trainer": "cpu" if strategy == "single" else strategy, "trainer.accelerator": "cpu"}
    out |= {
        "trainer.devices": processes,
        "trainer.precision": "32-true",
        "trainer.val_every": 1,
        "trainer.max_epochs": 2,
    }
    return [f"{k}={v}" for k, v in out.items()]


def small_parts(description: dict[str, Any], cached: bool = False) -> SoftTokenBackbone:
    """Instead of `zoo.registry.build`: the tests' random parts, where a run would take fetched ones."""
    return random_backbone(cache=FeatureCache(zoo_home() / "features") if cached else None)


def whole_run(folder: Path, strategy: str, recipe: str = "omniguard") -> dict[str, Any]:
    """`python -m zoo.fit` from data to a published model. The text guard's has a wide half, fitted at the end."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        run, metrics, errors = fitting.fit(arguments(folder, strategy, process()[1], recipe))
    return {"run": str(run), "metrics": metrics, "errors": errors, "printed": out.getvalue()}


def tested(folder: Path) -> dict[str, Any]:
    """`python -m zoo.test` of the model that `fit-ddp` left."""
    (run,) = (folder / "runs-ddp" / "omniguard").iterdir()
    settings = [a for a in arguments(folder, "ddp", process()[1]) if not a.startswith("runs=")]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        code = testing.main([*settings, f"model={run}", f"runs={folder / 'tests'}"])
    return {"code": code, "printed": out.getvalue()}


def sample_of(text: str) -> Sample:
    return Sample.of(text, id=text)


def judged(folder: Path) -> list[tuple[str, float]]:
    """Every test sample's log-odds: 11 samples for two processes, in batches of four."""
    module, data = module_of(), data_of(folder)
    module.attach(data)
    return [(o.sample.id, o.log_odds) for o in judge(module, data, data.samples("test"), "cpu", "test")]


def usual_sampler(folder: Path) -> str:
    """Lightning's own sampler would repeat samples; whoever forgets to switch it off is told."""
    trainer = L.Trainer(accelerator="cpu", devices=process()[1], strategy="ddp", max_epochs=1, **PLAIN)
    try:
        trainer.fit(module_of(), data_of(folder))
    except TypeError as e:
        return str(e)
    return "nothing said"


def agreeing(folder: Path) -> dict[str, Any]:
    """What processes tell each other, errors too."""
    rank, processes = process()
    found: dict[str, Any] = {"gathered": launch.gather(rank), "first": launch.first(lambda: f"of {rank}")}
    found["place"] = launch.place()
    if processes > 1:
        found["patience"] = launch._agreement(dist.group.WORLD)._get_backend(torch.device("cpu")).options._timeout

    def fail(culprit: int) -> str:
        if rank == culprit:
            raise DataError(f"process {culprit} fails")
        return "fine"

    for name, agree, culprit in (
        ("first", launch.first, 0),
        ("in_turn", launch.in_turn, processes - 1),
        ("together", launch.together, processes - 1),
    ):
        try:
            agree(lambda c=culprit: fail(c))
        except DataError as e:
            found[f"{name} error"] = str(e)
    return found


CHECKS = {
    "agreeing": agreeing,
    "judged": judged,
    "ddp": lambda f: train(f, "ddp"),
    "ddp-accumulated": lambda f: train(f, "ddp", accumulate=2),
    "ddp-short": lambda f: train(f, "ddp", epoch_size=17),  # the last batch has one sample: one process has none
    "ddp-tokens": lambda f: train(f, "ddp", kind="tokens"),
    "fsdp": lambda f: train(f, "fsdp"),
    "fsdp-lora": lambda f: train(f, "fsdp", kind="lora"),
    "fsdp-halted": lambda f: train(f, "fsdp", halt="sharded"),
    "ddp-resumed": lambda f: train(f, "ddp", resume="sharded"),
    "fsdp-resumed": lambda f: train(f, "fsdp", resume="whole"),
    "fsdp-accumulated": lambda f: train(f, "fsdp", accumulate=2),
    "ddp-modalities": lambda f: train(f, "ddp", loader=text_and_pictures),
    "ddp-broken": lambda f: train(f, "ddp", loader=good_and_broken),
    "fsdp-modalities": lambda f: train(f, "fsdp", loader=text_and_pictures),
    "fsdp-broken": lambda f: train(f, "fsdp", loader=good_and_broken),
    "fsdp-bf16": lambda f: train(f, "fsdp", precision="bf16-mixed"),
    "fit-ddp": lambda f: whole_run(f, "ddp"),
    "test-ddp": tested,
    "fit-fsdp": lambda f: whole_run(f, "fsdp"),
    "wide-ddp": lambda f: whole_run(f, "ddp", "thinkguard"),
    "wide-fsdp": lambda f: whole_run(f, "fsdp", "thinkguard"),
    "usual-sampler": usual_sampler,
}


def main(folder: Path, processes: int) -> None:
    faulthandler.dump_traceback_later(PATIENCE, exit=True)  # processes that wait for each other say where, and end
    torch.set_num_threads(1)
    launch.start(plan({**TRAINER, "devices": processes, "strategy": "ddp"}, BATCH))
    registry.build = small_parts
    for name, check in CHECKS.items():
        torch.save(check(folder), folder / f"{name}-{process()[0]}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
