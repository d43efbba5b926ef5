"""How the recipe becomes a module that teaches a guard to answer questions about several pictures."""

from __future__ import annotations

import functools
from typing import Any

from datamodules.base import GuardDataModule
from datamodules.corpus.muir import build_muir
from datamodules.muirbench import Record
from datamodules.muirbench_files import Loaded, load_muirbench
from datamodules.schema import DataError, near
from zoo.bases import check_base, guard_of
from zoo.core.lesson_module import LessonModule
from zoo.core.lessons import GENERAL, Plan, check_stages, general_rows, plan, rows_for
from zoo.core.losses import LossWeights
from zoo.muirbench import evaluate
from zoo.muirbench.plan import FORMS, IMAGES, SFT, Teaching, record_rows


def check_muirbench(config: dict[str, Any]) -> None:
    """Raises `DataError` for a setting that is unknown or impossible, and for a base that takes no pictures."""
    evaluate.check_records(config)
    sft = config[SFT]
    for key, value, known in (
        ("sft.images", sft["images"], IMAGES),
        *(("sft.forms", form, tuple(FORMS)) for form in sft["forms"]),
    ):
        if value not in known:
            raise DataError(f"{key}={value}: expected one of {', '.join(known)}{near(str(value), known)}")
    if not sft["forms"] or len(set(sft["forms"])) < len(sft["forms"]):
        raise DataError(f"sft.forms: name each form once; known: {', '.join(FORMS)}")
    if not 0 <= sft["unanswerable"] <= 1:
        raise DataError(f"sft.unanswerable={sft['unanswerable']}: expected a share from 0 to 1")
    if not isinstance(sft["pairs"], int) or sft["pairs"] < 1:
        raise DataError(f"sft.pairs={sft['pairs']}: expected a whole number from 1 on")
    check_stages(config, [SFT])
    check_base(config, {"image"}, "MuirBench asks about pictures")


def build_muirbench(config: dict[str, Any], data: GuardDataModule) -> LessonModule:
    loaded = training_records(config)
    data.errors += loaded.errors
    guard = guard_of(config, data.default_policy)
    guard.train()
    return LessonModule(
        guard,
        functools.partial(planned, config, loaded.records),
        loss=LossWeights(**config["loss"]),
        max_categories=config["max_categories"],
        **config["optim"],
    )


def training_records(config: dict[str, Any]) -> Loaded:
    """Those of rendered training scenes, or the training split of `records.path` or of the hub's records."""
    records = config["records"]
    if _rendered(config):
        return load_muirbench(build_muir(seed=records["seed"], pairs=config[SFT]["pairs"], split="train"))
    loaded = evaluate.of_split(evaluate.load_records(config), records["seed"], "train")
    if not loaded.records:
        raise DataError("no record is in the training split: too few groups of questions share no picture")
    return loaded


def _rendered(config: dict[str, Any]) -> bool:
    return config["records"]["path"] is None and config["records"]["source"] == "sample"


def planned(config: dict[str, Any], records: list[Record], data: GuardDataModule) -> Plan:
    """The rows of all epochs: the records, and a share of the guard's own rows."""
    sft, seed = config[SFT], config["seed"]
    licence = None if _rendered(config) else "not known here: that of each picture's source"
    teaching = Teaching(sft["images"], float(sft["unanswerable"]), tuple(sft["forms"]), config["answers"], licence)
    own, epochs = data.samples("train"), []
    for epoch in range(sft["epochs"]):
        rows = record_rows(records, teaching, data.default_policy, seed, epoch)
        more = general_rows(own, rows_for(sft[GENERAL], len(rows)), seed, "muirbench", f"{SFT}/{epoch}")
        epochs.append([*rows, *((sample, None, GENERAL) for sample in more)])
    return plan({SFT: epochs}, data.batch_size)
