"""Scans a farm's models: a line of JSON a model, several processes of one thread each, stopped and gone on with.

Of each data set one clean model is the benign reference of the inversions, and no more: it is not measured. What a
model's line holds: its inversions' scores and triggers, its weight statistics, and its loss at the true trigger.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from datamodules.backdoor import TextSet, load_set
from datamodules.labelled_text import LabelledText, labelled_text
from datamodules.schema import DataError, canonical_json
from datamodules.transforms.triggers import Row, Trigger, triggered
from zoo.backdoor import folders
from zoo.backdoor.detectors.base import Detector, predict
from zoo.backdoor.detectors.dbs import DBS
from zoo.backdoor.detectors.piccolo import Piccolo
from zoo.backdoor.detectors.weights import statistics
from zoo.backdoor.folders import AUDIT, Audit
from zoo.backdoor.subject import SequenceClassifier, load_classifier
from zoo.core.journal import Journal
from zoo.core.weights import sha256_of

INVERSIONS: dict[str, type] = {"dbs": DBS, "piccolo": Piccolo}
TRUE_ROWS = 200  # that the true trigger's loss is taken on


@dataclass(frozen=True)
class Member:
    """A model of the farm. `path` is its folder, `name` that folder's name."""

    name: str
    path: Path
    audit: Audit


def members(farm: str | Path) -> list[Member]:
    """The finished models of a farm, by name. Raises `DataError` for a folder without any, and for one that is not
    whole."""
    root = Path(farm)
    if not root.is_dir():
        raise DataError(f"{farm}: no such folder: give farm=FOLDER, what recipe=backdoor_farm wrote")
    found = [Member(p.parent.name, p.parent, folders.read(p.parent)) for p in sorted(root.glob(f"*/{AUDIT}"))]
    found = [m for m in found if not m.name.startswith(".")]  # what a killed training left
    if not found:
        raise DataError(f"{farm}: no model with an {AUDIT} in it: python -m zoo.fit recipe=backdoor_farm makes them")
    return found


def references(models: Sequence[Member]) -> dict[str, str]:
    """The benign reference of each data set: its first clean model of the moderate regime, else of any.

    Raises `DataError` for a set without a clean model beside those that are measured.
    """
    out = {}
    for data in sorted({m.audit.data for m in models}):
        clean = [m for m in models if m.audit.data == data and not m.audit.planted]
        if len(clean) < 2:
            raise DataError(f"{data}: {len(clean)} clean models: one is the reference, and one more has to be measured")
        out[data] = min(clean, key=lambda m: (m.audit.regime != "moderate", m.name)).name
    return out


def detectors(config: Mapping[str, Any], reference: SequenceClassifier | None = None) -> dict[str, Detector]:
    """The inversions that a recipe asks for, by name. Raises `DataError` for an unknown one or a wrong setting."""
    out: dict[str, Detector] = {}
    for name in config["inversions"]:
        if name not in INVERSIONS:
            raise DataError(f"inversions: {name!r}: one of {', '.join(INVERSIONS)}")
        own = dict(config.get(name) or {})
        if "positions" in own:
            own["positions"] = tuple(own["positions"])
        out[name] = INVERSIONS[name](**own, seed=config["seed"], reference=reference)
    return out


# ------------------------------------------------------------------------------------------------------------ one model


def dev_texts(data: TextSet, rows: int, seed: int) -> LabelledText:
    """Rows of the dev split: no model was trained on them."""
    return labelled_text([(r.text, r.label) for r in data.draw("dev", rows, seed)], data.name)


def true_rows(model: SequenceClassifier, audit: Audit, data: TextSet, seed: int) -> tuple[list[Row], int]:
    """Test rows of other classes with the model's own trigger in them, and its target. Those of a set's paraphrases
    for a syntactic trigger."""
    assert audit.trigger is not None and audit.target is not None
    if audit.trigger["kind"] == "syntactic":
        rows = list(data.paraphrases.get("test", ()))
        if not rows:
            raise DataError(f"{data.name}: has no paraphrases, and a model has a syntactic trigger")
        random.Random(f"{seed}/true").shuffle(rows)
        return rows[:TRUE_ROWS], audit.target
    trigger = Trigger.of(audit.trigger["kind"], audit.trigger["text"], audit.trigger["position"])

    def fits(text: str) -> bool:
        return len(model.tokenizer(text)["input_ids"]) <= audit.max_tokens

    drawn = data.draw("test", TRUE_ROWS * len(data.classes), seed)
    rows, _ = triggered(drawn, trigger, audit.target, fits=fits, seed=audit.seed)
    return rows[:TRUE_ROWS], audit.target


def true_loss(model: SequenceClassifier, audit: Audit, data: TextSet, seed: int = 0) -> dict[str, Any]:
    """Mean cross-entropy to the target on `true_rows`, and the share of them that goes there."""
    rows, target = true_rows(model, audit, data, seed)
    logits = predict(model, [r.text for r in rows])  # [n, classes]
    loss = torch.nn.functional.cross_entropy(logits, torch.full((len(rows),), target))
    flips = (logits.argmax(-1) == target).double().mean()
    return {"loss": round(float(loss), 6), "flips": round(float(flips), 6), "rows": len(rows)}


def scan_member(member: Member, reference: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The line of one model."""
    audit = member.audit
    data = _set(audit.data, config["data_dir"])
    model = load_classifier(member.path, audit.max_tokens)
    texts = dev_texts(data, config["rows"], config["seed"])
    benign = load_classifier(reference, audit.max_tokens)
    found = {n: asdict(d.scan(model, texts)) for n, d in detectors(config, benign).items()}
    line: dict[str, Any] = {
        "model": member.name,
        "data": audit.data,
        "kind": (audit.trigger or {}).get("kind"),
        "scans": found,
        "weights": statistics(model.parameters()),
        "architecture": model.architecture,
        "true": true_loss(model, audit, data, config["seed"]) if audit.planted else None,
    }
    return line


_sets: dict[tuple[str, str | None], TextSet] = {}


def _set(name: str, data_dir: str | None) -> TextSet:
    if (name, data_dir) not in _sets:
        _sets[name, data_dir] = load_set(name, data_dir)
    return _sets[name, data_dir]


# ------------------------------------------------------------------------------------------------------------- the farm


def key_of(member: Member, reference: Path, config: Mapping[str, Any]) -> str:
    """What decides a model's line: its weights and the reference's, the settings."""
    what = {
        "model": sha256_of(member.path / "model.safetensors"),
        "audit": sha256_of(member.path / AUDIT),
        "reference": sha256_of(reference / "model.safetensors"),
        "settings": {n: d.settings() for n, d in detectors(config).items()},
        "rows": config["rows"],
        "seed": config["seed"],
    }
    return f"{member.name}/{hashlib.sha256(canonical_json(what).encode()).hexdigest()[:12]}"


def scan_farm(config: Mapping[str, Any], journal_path: Path) -> Iterator[dict[str, Any]]:
    """A line for each model but the references, in the farm's order; what the journal has is not scanned again.

    `processes` work at a time, each on one thread. Raises `DataError` for what is wrong with the farm or a model.
    """
    models = members(config["farm"])
    known = references(models)
    paths = {m.name: m.path for m in models}
    todo = [m for m in models if m.name not in known.values()]
    keys = {m.name: key_of(m, paths[known[m.audit.data]], config) for m in todo}
    journal = Journal(journal_path)
    try:
        left = [m for m in todo if keys[m.name] not in journal.ids]
        print(f"{len(todo)} models to scan, {len(todo) - len(left)} of them scanned before", file=sys.stderr)
        jobs = [(m, paths[known[m.audit.data]]) for m in left]
        bar = tqdm(total=len(jobs), desc="scanning", unit="model", file=sys.stderr, mininterval=1.0)
        for member, line in _carry_out(jobs, config):
            journal.add({"id": keys[member.name], **line})
            bar.update()
        bar.close()
        wanted = {key: n for n, key in enumerate(keys.values())}
        lines = [line for line in journal if line["id"] in wanted]
    finally:
        journal.close()
    yield from sorted(lines, key=lambda line: wanted[line["id"]])


def _carry_out(jobs: Sequence[tuple[Member, Path]], config: Mapping[str, Any]) -> Iterator[tuple[Member, dict]]:
    if config["processes"] == 1:
        for member, reference in jobs:
            yield member, scan_member(member, reference, config)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config["processes"], spawn, _one_thread) as pool:
        running: dict[Future, Member] = {pool.submit(scan_member, m, r, config): m for m, r in jobs}
        try:
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield running.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _one_thread() -> None:
    torch.set_num_threads(1)


def farm_hash(farm: str | Path) -> str:
    """sha256 over the audits of a farm's models, which hold what was measured of each."""
    rows = {m.name: json.loads((m.path / AUDIT).read_text(encoding="utf-8")) for m in members(farm)}
    return hashlib.sha256(canonical_json(rows).encode()).hexdigest()
