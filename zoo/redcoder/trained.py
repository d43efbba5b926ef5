"""The recipe `redcoder`: how it becomes a module, what a finished run leaves, and how that attacks.

A run's `model/` holds what training changed, and pins its base. It is for the evaluation of one's own models, and is
published nowhere: `zoo.publish` refuses it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import lightning as L

from datamodules.assets import asset_hash
from datamodules.atomic import write_text
from datamodules.base import GuardDataModule
from datamodules.schema import DataError, Sample, near
from zoo.core import weights
from zoo.core.backbones import causal_lm, converted_smollm2
from zoo.core.tables import markdown_table
from zoo.core.weights import CheckpointError
from zoo.evaluate import data_hash
from zoo.redcoder.attackers import REPLY, WORDS, told_chat
from zoo.redcoder.model import NextPrompt, byte_pairs, small_model, tokenizer_of
from zoo.redcoder.module import RedCoderModule

KIND = "attacker"
OWN, SMOLLM2, CAUSAL_LM = "tiny_code", "smollm2", "causal_lm"
BACKBONES = (OWN, SMOLLM2, CAUSAL_LM)
SHAPE = ("layers", "width", "heads", "mlp")
TOKENIZER = "tokenizer.json"


def check(config: dict[str, Any]) -> None:
    """Raises `DataError` for games that are not given, a backbone that writes no text, or an impossible limit."""
    if config["games"] is None:
        raise DataError("give games=FOLDER: the run's folder of python -m zoo.test recipe=redcoder_gaming")
    backbone, limits = config["backbone"], config["limits"]
    if backbone["name"] not in BACKBONES:
        raise DataError(f"backbone={backbone['name']}: an attacker writes text{near(backbone['name'], BACKBONES)}")
    for key, value in limits.items():
        if not isinstance(value, int) or value < 1:
            raise DataError(f"limits.{key}={value}: expected a whole number from 1 on")
    if backbone["name"] == CAUSAL_LM:
        causal_lm.locate(backbone["path"], backbone["revision"])
    if backbone["name"] != OWN:
        causal_lm.check_settings(backbone, f"backbone {backbone['name']}")


def chat_of(sample: Sample, words: int = WORDS, reply: int = REPLY) -> list[dict[str, str]]:
    """What an attacker is told before the last message of a prototype's row."""
    said = [p.text or "" for p in sample.parts[:-1]]
    return told_chat(sample.meta, list(zip(said[::2], said[1::2])), words, reply)


def build(config: dict[str, Any], data: GuardDataModule) -> RedCoderModule:
    limits = config["limits"]

    def chat(sample: Sample) -> list[dict[str, str]]:
        return chat_of(sample, limits["words"], limits["reply"])

    if config["backbone"]["name"] == OWN:
        own = config["backbone"]
        texts = (t for s in data.samples("train") for t in (*(m["content"] for m in chat(s)), s.parts[-1].text or ""))
        tokenizer = byte_pairs(texts, own["vocabulary"])
        lm = small_model({k: own[k] for k in SHAPE}, tokenizer)
    else:
        lm, tokenizer = _pretrained(config["backbone"])
    model = NextPrompt(lm.train(), tokenizer, config["recipe"], limits["tokens"])
    return RedCoderModule(model, chat, **config["optim"])


def _pretrained(backbone: dict[str, Any]) -> tuple[Any, Any]:
    return causal_lm.load(_base(backbone), {**causal_lm.SETTINGS, **backbone})


def _base(backbone: dict[str, Any]) -> Path:
    if backbone["name"] == SMOLLM2:
        return converted_smollm2()
    return causal_lm.locate(backbone["path"], backbone["revision"])


def _pin(backbone: dict[str, Any]) -> str:
    """The hash of a pretrained base; that of the quantised file where it is converted here."""
    return asset_hash("smollm2-135m-q4") if backbone["name"] == SMOLLM2 else causal_lm.folder_hash(_base(backbone))


# -------------------------------------------------------------------------------------------------------- what is left


def finish(module: RedCoderModule, data: GuardDataModule, config: dict[str, Any], run: Path) -> dict[str, Any]:
    """Loss and right prompts on test games, and `model/`: what training changed, and what it needs to be loaded."""
    metrics: dict[str, Any] = {"rows": {s: len(data.samples(s)) for s in ("train", "val", "test")}}
    if metrics["rows"]["test"]:
        kind = config["trainer"]["accelerator"]
        trainer = L.Trainer(accelerator=kind, devices=1, logger=False, enable_checkpointing=False,
                            enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
        (found,) = trainer.test(module, datamodule=data, verbose=False, weights_only=True)
        metrics["test"] = {k.removeprefix("test/"): v for k, v in found.items()}
    else:
        metrics["test"], metrics["reason"] = None, "no task's games are on the test side: play more tasks"
    metrics["seed"], metrics["data_hash"], metrics["failed"] = (
        config["seed"],
        data_hash(data.corpus.samples),
        len(data.errors),
    )
    save(module.model, config, run / "model", card(config, metrics))
    return metrics


def save(model: NextPrompt, config: dict[str, Any], folder: Path, text: str) -> None:
    """Writes `config.json`, `model.safetensors`, the card, and the tokenizer where it is the run's own."""
    backbone = {k: v for k, v in config["backbone"].items() if k != "lr"}
    described = {"kind": KIND, "method": config["method"], "name": config["recipe"], "limits": config["limits"]}
    if backbone["name"] == OWN:
        pieces = model.tokenizer.backend_tokenizer.to_str()
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / TOKENIZER, pieces)
        pin = hashlib.sha256(pieces.encode()).hexdigest()
    else:
        if backbone["name"] == CAUSAL_LM and not causal_lm.is_hub_name(backbone["path"]):
            backbone["path"] = str(Path(backbone["path"]).resolve())  # it attacks from any working folder
        pin = _pin(backbone)
    weights.write(folder, {**described, "backbone": backbone, "pin": pin}, model.trained_state(), text)


def find(name: str | Path) -> Path | None:
    """The model folder of an attacker that was trained here (a run's folder or that folder); None of anything else."""
    for folder in (Path(name) / "model", Path(name)):
        path = folder / "config.json"
        if path.is_file():
            try:
                config = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as e:
                raise CheckpointError(f"{path}: not readable as JSON: {e}") from e
            return folder if isinstance(config, dict) and config.get("kind") == KIND else None
    return None


def load(folder: Path) -> tuple[NextPrompt, dict[str, Any]]:
    """An attacker and its limits. Raises `CheckpointError` for damaged files, or a base that is another one now."""
    config, state = weights.read(folder)
    backbone, limits = config["backbone"], config["limits"]
    if backbone["name"] == OWN:
        try:
            pieces = (folder / TOKENIZER).read_text(encoding="utf-8")
        except OSError as e:
            raise CheckpointError(f"{folder / TOKENIZER}: {e.strerror}: get the run again") from e
        if hashlib.sha256(pieces.encode()).hexdigest() != config["pin"]:
            raise CheckpointError(f"{folder / TOKENIZER}: the file was changed: get the run again")
        tokenizer = tokenizer_of(pieces)
        lm = small_model({k: backbone[k] for k in SHAPE}, tokenizer)
    else:
        if _pin(backbone) != config["pin"]:
            raise CheckpointError(f"{folder}: its base is another one now: put back the one that it was trained on")
        lm, tokenizer = _pretrained(backbone)
    model = NextPrompt(lm, tokenizer, str(folder), limits["tokens"])
    model.load_trained(state)
    return model.eval(), limits


def table(metrics: dict[str, Any]) -> str:
    if metrics["test"] is None:
        return metrics["reason"]
    head = ["test prompts", "loss, nats a token", "right tokens", "right prompts"]
    t = metrics["test"]
    shares = [f"{t['loss']:.3f}", f"{t['token_accuracy']:.3f}", f"{t['exact']:.3f}"]
    return markdown_table(head, [[metrics["rows"]["test"], *shares]])


def card(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    return f"""# {config["recipe"]}

An attacker for the evaluation of code models (RedCoder, arXiv 2507.22063): told of a game, it writes the next prompt.
Backbone `{config["backbone"]["name"]}`, seed {config["seed"]}, trained on {metrics["rows"]["train"]} prompts of
prototype conversations that were played here.

**Not for publication.** It is made again from the recipe, for the models that one answers for: `zoo.publish` refuses
it.

    python -m zoo.test recipe=redcoder_eval victim=FOLDER attacker=THIS_RUN

{table(metrics)}
"""
