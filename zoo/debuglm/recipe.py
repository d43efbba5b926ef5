"""How the recipe becomes data, a module and a published model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datamodules import GuardDataModule
from datamodules.debuglm import SOURCES, DebugDataModule
from datamodules.debuglm_sources import SETS
from datamodules.debuglm_views import CONTROLS, LEVELS, Stage, Wanted, answer_of, check_stages, prompt_of, stage_of
from datamodules.schema import SPLITS, DataError, Sample, near
from zoo import registry
from zoo.core import weights
from zoo.core.backbones import causal_lm, converted_smollm2
from zoo.core.launch import is_main
from zoo.debuglm import baselines, evaluate
from zoo.debuglm.card import card
from zoo.debuglm.model import KIND, TracedLM, small_lm, train_tokenizer, with_tags
from zoo.debuglm.module import DebugLM
from zoo.evaluate import data_hash

SMALL, SMOLLM2 = "small", "smollm2"


def check(config: dict[str, Any]) -> None:
    """Raises `DataError` for a setting that is unknown or impossible, before any file is read."""
    data = config["data"]
    for key, value, known in (
        ("data.level", data["level"], LEVELS),
        ("data.control", data["control"], CONTROLS),
        ("test.split", config["test"]["split"], SPLITS),
        *(("test.baselines", b, tuple(baselines.BASELINES)) for b in config["test"]["baselines"]),
    ):
        if value not in known:
            raise DataError(f"{key}={value}: expected one of {', '.join(known)}{near(str(value), known)}")
    Wanted(**data["views"])
    stages = stages_of(data)
    if data["source"] == "sets":
        check_stages(stages, (*SETS, *(data["also"] or {})))
    if not 0 <= data["stage2"]["share"] < 1:
        raise DataError(f"data.stage2.share={data['stage2']['share']}: expected a share from 0 to below 1")
    for key in ("batch_size", "max_new_tokens"):
        if type(config["test"][key]) is not int or config["test"][key] < 1:
            raise DataError(f"test.{key}={config['test'][key]}: expected a whole number from 1 on")
    model = config["model"]
    for key in ("words", "width", "layers", "heads", "limit", "answer_limit"):
        if type(model[key]) is not int or model[key] < 1:
            raise DataError(f"model.{key}={model[key]}: expected a whole number from 1 on")
    if model["words"] < 300:
        raise DataError(f"model.words={model['words']}: bytes alone take 256: give at least 300")
    if model["width"] % (2 * model["heads"]):
        raise DataError(f"model.width={model['width']}: expected a multiple of twice model.heads={model['heads']}")
    if config["trainer"]["accumulate"] != 1:
        raise DataError("recipe debuglm takes whole batches: leave trainer.accumulate=1, and lower data.batch_size")
    if config["trainer"]["max_epochs"] != 1:
        raise DataError("one epoch of the trainer holds all stages: leave trainer.max_epochs=1, set data.stage1.epochs")


def stages_of(data: dict[str, Any]) -> list[Stage]:
    one, two = data["stage1"], data["stage2"]
    out = [Stage(tuple(one["sets"]), one["epochs"])]
    if two["sets"]:
        out.append(Stage(tuple(two["sets"]), two["epochs"], float(two["share"]) if two["replay"] else 0.0))
    return out


def build_data(config: dict[str, Any]) -> DebugDataModule:
    """The DataModule of a configuration. Rows of a guard's source are read by `GuardDataModule` and wrapped."""
    data = config["data"]
    settings = {k: data[k] for k in ("level", "also", "control", "max_rows", "batch_size", "workers")}
    settings |= {"stages": stages_of(data), "views": Wanted(**data["views"]), "seed": config["seed"]}
    if data["source"] in SOURCES:
        return DebugDataModule(data["source"], path=data["path"], data_dir=data["data_dir"], **settings)
    own = {"path": data["path"], "data_dir": data["data_dir"], "modalities": ["text"]}
    return DebugDataModule.around(GuardDataModule(data["source"], **own), **settings)


def build(config: dict[str, Any], data: DebugDataModule) -> DebugLM:
    model = build_model(config, data)
    model.train()
    return DebugLM(model, **config["optim"])


def build_model(config: dict[str, Any], data: DebugDataModule) -> TracedLM:
    """A fresh model with the data's tags. Raises `DataError` for a base that cannot be loaded."""
    m = config["model"]
    if m["base"] == SMALL:
        rows = [s for s in data.samples("train") if stage_of(s, data.stages) is not None]
        tokenizer = train_tokenizer((t for s in rows for t in (prompt_of(s), answer_of(s))), m["words"])
        places = m["limit"] + m["answer_limit"] + 2 * len(data.tags) + 128
        lm = small_lm(len(tokenizer), m["width"], m["layers"], m["heads"], places, config["seed"])
    else:
        folder = converted_smollm2() if m["base"] == SMOLLM2 else causal_lm.locate(m["base"], m["revision"])
        lm, tokenizer = causal_lm.read(folder, "float32")
        if not getattr(tokenizer, "is_fast", False):
            raise DataError(f"model.base={m['base']}: its tokenizer is not a fast one, and cannot be published with it")
    model = with_tags(lm, tokenizer, data.tags, m["limit"], m["answer_limit"], config["seed"])
    model.name = config["recipe"]
    return model


def finish(module: DebugLM, data: DebugDataModule, config: dict[str, Any], run: Path) -> dict[str, Any]:
    """Asks the test rows, and writes `model/` and `answers.jsonl`. The baselines are a test's."""
    module.model.eval()
    metrics, answers = evaluate.measure(module.model, data, config)
    metrics["training"] = evaluate.training_of(module, data)
    if is_main():
        evaluate.write_answers(run, answers)
        save(module.model, run / "model", card(config, metrics, data))
    return metrics


def look(config: dict[str, Any]) -> tuple[str, list[Sample]]:
    """The hash of the rows. They are no judged rows: a claim compares what is reported."""
    data = build_data(config)
    data.prepare_data()
    return data_hash(data.corpus.samples), []


def test(config: dict[str, Any], name: str) -> int:
    """`python -m zoo.test recipe=debuglm model=…`. Raises `DataError` for a model that cannot trace."""
    check(config)
    model = registry.load_model(name)
    if not isinstance(model, TracedLM):
        raise DataError(f"model={name} is a guard: recipe debuglm tests what python -m zoo.fit recipe=debuglm trains")
    data = build_data(config)
    data.prepare_data()
    return evaluate.test(config, model, name, data)


def save(model: TracedLM, folder: Path, text: str) -> None:
    """Writes `config.json`, `model.safetensors` and the card."""
    config = {"kind": KIND, "method": "debuglm", "name": model.name, **model.describe()}
    weights.write(folder, config, model.saved_state(), text)
