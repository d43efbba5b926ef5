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
from zoo.bases import check_base, guard_of
from zoo.core.lessons import GENERAL, Plan, Row, check_stages, general_rows, plan, rows_for
from zoo.core.losses import LossWeights
from zoo.thud import evaluate as probe
from zoo.thud.module import ThudModule
from zoo.thud.plan import DPO, SFT, STAGES, Asking, event_answers, event_pairs, general_pairs

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
    for key, value in (("dpo.beta", config[DPO]["beta"]), ("dpo.lr", config[DPO]["lr"])):
        if not value or value < 0:
            raise DataError(f"{key}={value}: expected a number above 0")
    check_stages(config, [SFT, DPO])
    if config["base"] is None and config["stage"] == DPO:
        raise DataError("stage=dpo prefers against a trained model: give base=MODEL (a name or a run's folder)")
    check_base(config, {"video", "audio"}, "Thud asks about clips with sound")


# ------------------------------------------------------------------------------------------------------------ building


def build_thud_module(config: dict[str, Any], data: GuardDataModule) -> ThudModule:
    loaded, quiet = training_clips(config)
    data.errors += loaded.errors
    guard = guard_of(config, data.default_policy)
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
    parts: dict[str, list[list[Row]]] = {}
    for name in STAGES[config["stage"]]:
        if name == SFT:
            natural = config[SFT]["clips"] == "natural"
            shown = [*(i for i in items if not i.edited), *quiet] if natural else items
            rows = event_answers(shown, asking, policy, seed)
            more = general_rows(own, rows_for(config[SFT][GENERAL], len(rows)), seed, "thud", name)
            rows += [(sample, None, GENERAL) for sample in more]
        else:
            rows = event_pairs(items, config[DPO]["kinds"], asking, policy, seed)
            n = rows_for(config[DPO][GENERAL], len(rows))
            rows += general_pairs(own, n, data.bank, data.max_entries, seed)
        parts[name] = [rows] * config[name]["epochs"]
    return plan(parts, data.batch_size)
