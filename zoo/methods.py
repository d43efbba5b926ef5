"""Methods by name: how a recipe becomes a module, and what a finished run leaves. Explicit code, no import paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L

from datamodules.base import GuardDataModule
from datamodules.loading import MODALITIES
from datamodules.provenance import count_tags
from datamodules.schema import DataError
from zoo.core import weights
from zoo.core.backbones import check, modalities_of
from zoo.core.backbones.base import WHOLE_ONLY
from zoo.core.backbones.omni_source import HUB
from zoo.core.cards import guard_card, tagger_card
from zoo.core.guard import Guard
from zoo.core.launch import is_main
from zoo.core.lesson_module import LessonModule
from zoo.core.losses import LossWeights
from zoo.core.module import GuardModule
from zoo.core.orders import order_named
from zoo.core.tables import text_table
from zoo.core.tags import SourceTags
from zoo.debuglm import evaluate as debuglm_test
from zoo.debuglm import recipe as debuglm
from zoo.debuglm.guards import check_switch, rows_left
from zoo.evaluate import evaluate
from zoo.muirbench import recipe as muirbench
from zoo.omniguard.model import omniguard
from zoo.policyguard.evaluation import measure as measure_steps
from zoo.policyguard.evaluation import table as steps_table
from zoo.policyguard.model import policyguard
from zoo.redcoder import trained as redcoder
from zoo.registry import recipe_backbone, save
from zoo.routeguard import recipe as routeguard
from zoo.routeguard.tables import routing_table
from zoo.soundtagger.model import SoundTagger
from zoo.soundtagger.module import SoundTaggerModule, has_sound, sound_labels
from zoo.thinkguard.model import thinkguard
from zoo.thud import recipe as thud
from zoo.thud.module import ThudModule


@dataclass(frozen=True)
class Method:
    """`build(config, data)` makes the module; `finish(module, data, config, run)` tests it and writes `model/`.

    `check(config)` raises what is wrong with a configuration before the data is made; `table(metrics)` is what `fit`
    prints. `several`: whether the method can train on several processes. `data(config)` makes the DataModule, of a
    method that needs another than a guard's.
    """

    build: Callable[[dict[str, Any], GuardDataModule], L.LightningModule]
    finish: Callable[[Any, GuardDataModule, dict[str, Any], Path], dict[str, Any]]
    table: Callable[[dict[str, Any]], str]
    check: Callable[[dict[str, Any]], None] = lambda config: None
    several: bool = True
    data: Callable[[dict[str, Any]], GuardDataModule] | None = None


def _check_guard(config: dict[str, Any]) -> None:
    """Raises `DataError` for a backbone that cannot be built or cannot take the data."""
    check(**recipe_backbone(config["backbone"]))
    more = config.get("evaluate", {})
    check_switch(more.get("without"), more.get("fallback"))
    if more.get("without") and not config.get("tags", False):
        raise DataError("evaluate.without switches off what has a tag: set tags=true")
    takes, data = modalities_of(config["backbone"]["name"]), config["data"]
    if data["modalities"] is None and data["source"] == "manifest":
        return  # its rows decide, when they are read
    wanted = set(data["modalities"] or MODALITIES)
    if len(takes) == 1 and wanted - takes:
        raise DataError(
            f"backbone {config['backbone']['name']} takes only {', '.join(takes)}, and data.source={data['source']} "
            f"brings {', '.join(sorted(wanted - takes))} too: set data.modalities=[{', '.join(takes)}]"
        )


def _build_guard(config: dict[str, Any], data: GuardDataModule) -> GuardModule:
    return _module(_tagged(omniguard(config["backbone"], data.default_policy, config["recipe"]), config, data), config)


def _tagged(guard: Guard, config: dict[str, Any], data: GuardDataModule) -> Guard:
    """The guard with a tag for each training source, where the recipe says so. Raises `DataError` for one source."""
    if config.get("tags", False):  # runs from before it was there go on without
        guard.tags = SourceTags(tuple(count_tags(data.samples("train"))))
        more = config.get("evaluate", {})
        if (named := guard.switched_off(more.get("without") or ())) and more["fallback"] is None:
            rows_left(data, named)  # what cannot be judged afterwards is said before the training
    return guard


def _module(guard: Guard, config: dict[str, Any]) -> GuardModule:
    return GuardModule(
        guard,
        loss=LossWeights(**config["loss"]),
        max_categories=config["max_categories"],
        steps=config.get("steps", 0),
        **config["optim"],
    )


def _check_thinkguard(config: dict[str, Any]) -> None:
    """Raises `DataError` for an order that the training does not teach, or that its processes cannot go through."""
    _check_guard(config)
    if not order_named(config["order"]).explanation_first:
        return
    if not config["loss"]["critique"] or config["data"]["critic"] == "none":
        raise DataError(
            "order=explanation_first judges by an explanation: it needs loss.critique above 0 and a data.critic"
        )
    if config["trainer"]["strategy"] in ("fsdp", "deepspeed"):
        raise DataError(
            "order=explanation_first: an explanation takes as many passes as it has words, and processes that share "
            "a sharded model must take the same: use trainer=ddp"
        )


def _build_thinkguard(config: dict[str, Any], data: GuardDataModule) -> GuardModule:
    wide = config.get("wide", False)  # runs from before it was there go on without
    guard = thinkguard(config["backbone"], data.default_policy, config["recipe"], config["order"], wide)
    return _module(_tagged(guard, config, data), config)


def _check_policyguard(config: dict[str, Any]) -> None:
    """Raises `DataError` for a backbone that cannot be asked after each step, and for one sharded over processes."""
    _check_guard(config)
    if config["backbone"]["name"] in HUB:
        raise DataError(f"backbone {config['backbone']['name']} {WHOLE_ONLY}")
    if config["trainer"]["strategy"] in ("fsdp", "deepspeed"):
        raise DataError(
            "recipe policyguard measures steps in one process, and a sharded model needs all: use trainer=ddp"
        )


def _build_policyguard(config: dict[str, Any], data: GuardDataModule) -> GuardModule:
    return _module(policyguard(config["backbone"], data.default_policy, config["recipe"]), config)


def _finish_guard(module: GuardModule, data: GuardDataModule, config: dict[str, Any], run: Path) -> dict[str, Any]:
    kind, more = config["trainer"]["accelerator"], config.get("evaluate", {})
    metrics = evaluate(module, data, run, accelerator=kind, seed=config["seed"], **more)
    if is_main():
        marks = {} if data.poisoned is None else {"poisoned": data.poisoned}
        save(module.guard, run / "model", config["method"], guard_card(config, metrics, data), marks)
    return metrics


def _finish_policyguard(
    module: GuardModule, data: GuardDataModule, config: dict[str, Any], run: Path
) -> dict[str, Any]:
    kind, seed = config["trainer"]["accelerator"], config["seed"]
    metrics = evaluate(module, data, run, accelerator=kind, seed=seed)
    if is_main():
        metrics["policyguard"] = measure_steps(module.guard, data.samples("test"))
        save(module.guard, run / "model", config["method"], guard_card(config, metrics, data))
    return metrics


def _build_tagger(config: dict[str, Any], data: GuardDataModule) -> SoundTaggerModule:
    data.keep(has_sound)
    labels = sorted({name for s in data.samples("train") for name in sound_labels(s)})
    return SoundTaggerModule(SoundTagger(labels, **config["net"]), seed=config["seed"], **config["optim"])


def _finish_tagger(
    module: SoundTaggerModule, data: GuardDataModule, config: dict[str, Any], run: Path
) -> dict[str, Any]:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (scores,) = trainer.test(module, datamodule=data, verbose=False, weights_only=True)
    metrics = {"test": scores, "labels": len(module.tagger.labels), "failed": len(data.errors) + len(module.failed_ids)}
    tagger = module.tagger
    config_ = {
        "kind": "encoder",
        "method": "soundtagger",
        "name": config["recipe"],
        "net": tagger.shape,
        "labels": list(tagger.labels),
    }
    state = {k: v for k, v in tagger.state_dict().items() if not k.startswith("mel.")}
    weights.write(run / "model", config_, state, tagger_card(config, metrics, data))
    return metrics


def _finish_lessons(module: LessonModule, data: GuardDataModule, config: dict[str, Any], run: Path) -> dict[str, Any]:
    """As any guard, with what the stages trained on. The card names the backbone that the base brought."""
    name = module.guard.backbone.describe()["name"]
    metrics = _finish_guard(module, data, {**config, "backbone": {**config["backbone"], "name": name}}, run)
    metrics[config["method"]] = {"rows": module.plan.counts, "steps": module.plan.steps}
    return metrics


def _finish_thud(module: ThudModule, data: GuardDataModule, config: dict[str, Any], run: Path) -> dict[str, Any]:
    metrics = _finish_lessons(module, data, config, run)
    metrics["thud"]["pairs"] = len(module.plan.pairs)
    if module.first:
        metrics["thud"] |= {"dpo_first": module.first, "dpo_last": module.last}
    return metrics


METHODS = {
    "omniguard": Method(_build_guard, _finish_guard, text_table, _check_guard),
    "thinkguard": Method(_build_thinkguard, _finish_guard, text_table, _check_thinkguard),
    "policyguard": Method(_build_policyguard, _finish_policyguard, steps_table, _check_policyguard),
    "routeguard": Method(
        routeguard.build_routeguard, routeguard.finish_routeguard, routing_table, routeguard.check, several=False
    ),
    "muirbench": Method(muirbench.build_muirbench, _finish_lessons, text_table, muirbench.check_muirbench),
    # The reference is computed by the process that trains: another would have only its part of the pairs.
    "thud": Method(thud.build_thud_module, _finish_thud, text_table, thud.check_thud, several=False),
    "debuglm": Method(
        debuglm.build, debuglm.finish, debuglm_test.table, debuglm.check, several=False, data=debuglm.build_data
    ),
    "redcoder": Method(redcoder.build, redcoder.finish, redcoder.table, redcoder.check, several=False),
    "expert": Method(routeguard.build_expert, routeguard.finish_expert, text_table, routeguard.check, several=False),
    "soundtagger": Method(
        _build_tagger,
        _finish_tagger,
        lambda m: "\n".join(f"{k}  {v:.3f}" for k, v in m["test"].items()),
        several=False,  # its batch norms and its loss see one process's batch
    ),
}
