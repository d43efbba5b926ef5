"""How the recipe becomes a module that trains a guard to listen, and what a finished run leaves."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from datamodules.base import GuardDataModule
from datamodules.corpus.thud import build_thud
from datamodules.media import content_hash
from datamodules.schema import DataError, Sample, near
from datamodules.thud import Item, Loaded, edited_clips, load_thud
from datamodules.transforms.preferences import KINDS
from zoo import registry
from zoo.core import weights
from zoo.core.backbones import build, check, modalities_of
from zoo.core.guard import Guard
from zoo.core.losses import LossWeights
from zoo.thud import evaluate as probe
from zoo.thud.module import ThudModule
from zoo.thud.plan import (
    DPO,
    GENERAL,
    SFT,
    STAGES,
    Asking,
    Plan,
    Row,
    Stage,
    event_answers,
    event_pairs,
    general_pairs,
    general_rows,
    plan,
    rows_for,
)

CLIPS = ("edited", "natural")


def check_thud(config: dict[str, Any]) -> None:
    """Raises `DataError` for a setting that is unknown or impossible, and for a base that cannot see and hear."""
    probe.check(config)
    for key, value, known in (
        ("stage", config["stage"], tuple(STAGES)),
        ("sft.clips", config[SFT]["clips"], CLIPS),
        *(("dpo.kinds", kind, KINDS) for kind in config[DPO]["kinds"]),
    ):
        if value not in known:
            raise DataError(f"{key}={value}: expected one of {', '.join(known)}{near(str(value), known)}")
    if not config[DPO]["kinds"] or len(set(config[DPO]["kinds"])) < len(config[DPO]["kinds"]):
        raise DataError(f"dpo.kinds: name each kind once; known: {', '.join(KINDS)}")
    for name in (SFT, DPO):
        if not isinstance(config[name]["epochs"], int) or config[name]["epochs"] < 1:
            raise DataError(f"{name}.epochs={config[name]['epochs']}: expected a whole number from 1 on")
        if not 0 <= config[name][GENERAL] < 1:
            raise DataError(f"{name}.general={config[name][GENERAL]}: expected a share from 0 to below 1")
    for key, value in (("dpo.beta", config[DPO]["beta"]), ("dpo.lr", config[DPO]["lr"])):
        if not value or value < 0:
            raise DataError(f"{key}={value}: expected a number above 0")
    if config["trainer"]["max_epochs"] != 1 or config["data"]["balance"] != 1 or config["data"]["epoch_size"]:
        raise DataError(
            "one epoch of the trainer holds each row of both stages once: leave trainer.max_epochs=1, data.balance=1 "
            "and data.epoch_size=null, and set sft.epochs and dpo.epochs"
        )
    if config["data"]["bucket"] or set((config["data"]["shares"] or {}).values()) - {1.0}:
        raise DataError("both stages go through their rows as planned: leave data.bucket=false and data.shares at 1")
    if config["base"] is None:
        if config["stage"] == DPO:
            raise DataError("stage=dpo prefers against a trained model: give base=MODEL (a name or a run's folder)")
        _sees_and_hears(config["backbone"]["name"], "backbone")
        check(**registry.recipe_backbone(config["backbone"]))
        return
    held, _ = weights.read(weights.find(config["base"]))
    if held.get("kind") != "guard" or "routing" in held:
        raise DataError(f"base={config['base']}: expected an omni guard with one backbone, not a {held.get('method')}")
    _sees_and_hears(held["backbone"]["name"], f"base={config['base']}: backbone")


def _sees_and_hears(name: str, what: str) -> None:
    if lacking := sorted({"video", "audio"} - modalities_of(name)):
        raise DataError(f"{what} {name} takes no {' and no '.join(lacking)}: Thud asks about clips with sound")


# ------------------------------------------------------------------------------------------------------------ building


def build_thud_module(config: dict[str, Any], data: GuardDataModule) -> ThudModule:
    loaded, quiet = training_clips(config)
    data.errors += loaded.errors
    guard = guard_of(config, data)
    guard.train()
    return ThudModule(
        guard,
        functools.partial(planned, config, loaded.items, quiet),
        beta=config[DPO]["beta"],
        dpo_lr=config[DPO]["lr"],
        loss=LossWeights(**config["loss"]),
        max_categories=config["max_categories"],
        **config["optim"],
    )


def guard_of(config: dict[str, Any], data: GuardDataModule) -> Guard:
    """The base with the recipe's limits on what it reads of a clip, or a fresh guard over the recipe's backbone."""
    if config["base"] is None:
        settings = registry.recipe_backbone(config["backbone"])
        settings["limits"] = {**(settings.get("limits") or {}), **config["limits"]}
        guard = registry.create(settings.pop("name"), data.default_policy, **settings)
    else:
        base = registry.load(config["base"])
        description = base.backbone.describe()
        limits = {**description["limits"], **config["limits"]}
        backbone = build({**description, "limits": limits}, cached=True)
        backbone.load_saved_state(base.backbone.saved_state())
        guard = Guard(backbone, base.policy, order=base.order)
    guard.name = config["recipe"]
    return guard


def training_clips(config: dict[str, Any]) -> tuple[Loaded, list[Item]]:
    """The items of training clips, and, of rendered ones, clips in which nothing happens and nothing is heard."""
    source, quiet = config["clips"]["path"], []
    if source is None:
        folder = build_thud(seed=config["clips"]["seed"], scale=config["clips"]["scale"])
        source = folder / "clips" / "train"
        quiet = quiet_items(folder / "quiet" / "train")
    where, errors = edited_clips(source, probe.settings_of(config, "train"))
    loaded = load_thud(where, "train")
    loaded.errors[:0] = [{"id": str(e.get("id")), "error": str(e.get("error"))} for e in errors]
    if not loaded.items:
        raise DataError(f"{source}: no training clip that can be asked about: edit clips with split=train")
    return loaded, quiet


def quiet_items(folder: Path) -> list[Item]:
    """Clips without an event as items of existence: in natural clips, where nothing is seen nothing is heard."""
    out = []
    for path in sorted(folder.glob("*.mp4")):
        sample = Sample.of(video=str(path), id=f"quiet-{path.stem}", source="thud", split="train")
        out.append(Item(sample, "existence", "silent", False, 0.0, content_hash(path)))
    return out


def planned(config: dict[str, Any], items: list[Item], quiet: list[Item], data: GuardDataModule) -> Plan:
    """The rows of the stages that the configuration asks for. Raises `DataError` for a stage without rows."""
    seed, own, policy = config["seed"], data.samples("train"), data.default_policy
    asking = Asking(tuple(config["wordings"]), config["answers"], config["offset"])
    parts: dict[str, tuple[Stage, list[Row]]] = {}
    for name in STAGES[config["stage"]]:
        stage = Stage(config[name]["epochs"], config[name][GENERAL])
        if name == SFT:
            natural = config[SFT]["clips"] == "natural"
            shown = [*(i for i in items if not i.edited), *quiet] if natural else items
            rows = event_answers(shown, asking, policy, seed)
            more = general_rows(own, rows_for(stage.general, len(rows)), seed, name)
            rows += [(sample, None, GENERAL) for sample in more]
        else:
            rows = event_pairs(items, config[DPO]["kinds"], asking, policy, seed)
            n = rows_for(stage.general, len(rows))
            rows += general_pairs(own, n, data.bank, data.max_entries, seed)
        parts[name] = (stage, rows)
    return plan(parts, data.batch_size)
