"""`python -m zoo.test recipe=muirbench model=…`: a model and the baselines on the same records, in one table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datamodules import loading
from datamodules.assets import zoo_home
from datamodules.corpus.muir import build_muir
from datamodules.muirbench import Record, sample_of, samples_of
from datamodules.muirbench_files import Loaded, load_muirbench, records_hash
from datamodules.schema import SPLITS, DataError, Sample, near
from zoo.answering import Model, ask, model_named
from zoo.core.run import finish_test
from zoo.core.tables import aligned
from zoo.muirbench import baselines
from zoo.muirbench.metrics import Outcome, arms_table, slices_table, summarise
from zoo.muirbench.parsers import PARSERS, parser_named
from zoo.muirbench.protocol import ABLATIONS, ANSWERS, LAYOUTS, ablated, answer_query, concatenated

SOURCES = ("sample", "hub")


def check(config: dict[str, Any]) -> None:
    """Raises `DataError` for a setting that is unknown, before anything is rendered or loaded."""
    check_records(config)
    for key, value, known in (
        ("parser", config["parser"], ("scored", *PARSERS)),
        ("pictures", config["pictures"], LAYOUTS),
        *(("ablations", a, ABLATIONS) for a in config["ablations"] or []),
    ):
        if value not in known:
            raise DataError(f"{key}={value}: expected one of {', '.join(known)}{near(str(value), known)}")
    for key in ("batch_size", "max_new_tokens"):
        if not isinstance(config[key], int) or config[key] < 1:
            raise DataError(f"{key}={config[key]}: expected a whole number from 1 on")


def check_records(config: dict[str, Any]) -> None:
    """Raises `DataError` for settings of `records` that are unknown or impossible, and for those of `data` that mean
    them: `data` is a guard's own rows.
    """
    records, data = config["records"], config["data"]
    if set(str(data["source"]).split("+")) - set(loading.SOURCES):
        raise DataError(
            f"data.source={data['source']} is no source of a guard's own rows: for the hub's questions give "
            "records.source=hub"
        )
    if data["source"] == "sample" and data["path"] is not None:
        raise DataError(
            "data.path is for a guard's own rows of data=manifest: give the questions' folder with records.path=DIR"
        )
    if config["answers"] not in ANSWERS:
        raise DataError(f"answers={config['answers']}: expected one of {', '.join(ANSWERS)}")
    if records["source"] not in SOURCES:
        known = f"{', '.join(SOURCES)}{near(str(records['source']), SOURCES)}"
        raise DataError(f"records.source={records['source']}: expected one of {known}")
    if records["split"] not in (None, *SPLITS):
        raise DataError(f"records.split={records['split']}: expected one of {', '.join(SPLITS)}")
    for key, least in (("seed", 0), ("pairs", 1)):
        value = records[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise DataError(f"records.{key}={value}: expected a whole number from {least} on")


def load_records(config: dict[str, Any]) -> Loaded:
    """The records of `records.path`, of the hub, or of the rendered test scenes."""
    records = config["records"]
    if records["path"] is not None:
        return load_muirbench(records["path"])
    if records["source"] == "hub":
        return load_muirbench(None, records["revision"])
    return load_muirbench(build_muir(seed=records["seed"], pairs=records["pairs"]))


def of_split(loaded: Loaded, seed: int, split: str) -> Loaded:
    """What `samples_of` deals out to a split: no pair, and no picture, is in two of them."""
    kept = {s.id for s in samples_of(loaded.records, seed) if s.split == split}
    records = [r for r in loaded.records if r.idx in kept]
    return replace(loaded, records=records, sha256=records_hash(records))


def load_data(config: dict[str, Any]) -> Loaded:
    """The records that a test asks about. Raises `DataError` where the wanted split has none."""
    loaded, split = load_records(config), config["records"]["split"]
    if split is None:
        return loaded
    loaded = of_split(loaded, config["records"]["seed"], split)
    if not loaded.records:
        raise DataError(f"records.split={split}: no record is in it: too few groups of questions share no picture")
    return loaded


def look(config: dict[str, Any]) -> tuple[str, list[Sample]]:
    """The hash of the records that are asked about. They are no judged rows: a claim compares what is reported."""
    return load_data(config).sha256, []


def outcomes(
    records: Sequence[Record], said: dict[str, dict[str, Any]], parser: str, strategies: dict[str, str]
) -> list[Outcome]:
    """Letters from what was said, in the records' order: that of the likeliest answer, or what the parser reads."""
    read = None if parser == "scored" else parser_named(parser)
    out = []
    for r in records:
        one, strategy = said[r.idx], strategies.get(r.pair)
        if read is None:
            letter = max(zip(one["logp"], r.letters), key=lambda pair: pair[0])[1]
            out.append(Outcome(r, letter, "scored", None, strategy, one["truncated"]))
        else:
            parsed = read(one["text"], r.options)
            out.append(Outcome(r, parsed.letter, parsed.how, one["text"], strategy, one["truncated"]))
    return out


def arms_of(
    model: Model, loaded: Loaded, config: dict[str, Any], folder: Path
) -> tuple[dict[str, list[Outcome]], list[dict[str, str]]]:
    """The model, its ablations and the baselines, all on the same pairs.

    A record that one of the arms cannot take is left out of all of them, with its twin, and is in the errors.
    """
    errors: list[dict[str, str]] = []
    shown: dict[str, list[Sample]] = {"model": []}
    for record in loaded.records:
        sample = sample_of(record)
        try:
            shown["model"].append(concatenated(sample, folder) if config["pictures"] == "concatenated" else sample)
        except DataError as e:
            errors.append({"id": record.idx, "error": str(e)})
    for what in config["ablations"] or []:
        shown[what] = [ablated(sample_of(r), what) for r in loaded.records]
    said: dict[str, dict[str, dict[str, Any]]] = {}
    for arm, samples in shown.items():
        asked = [(s, answer_query(s, config["answers"])) for s in samples]
        scored = config["parser"] == "scored"
        said[arm], failed = ask(model, asked, scored, config["batch_size"], config["max_new_tokens"], arm)
        errors += failed
    bad = {e["id"] for e in errors}
    lost = {r.pair for r in loaded.records if r.idx in bad}
    for r in loaded.records:
        if r.pair in lost and r.idx not in bad:
            errors.append({"id": r.idx, "error": f"left out: its twin {r.counterpart_idx!r} cannot be used"})
    records = [r for r in loaded.records if r.pair not in lost]
    if not records:
        raise DataError(f"the model can take none of the {len(loaded.records)} records: {errors[0]['error']}")
    arms = {arm: outcomes(records, rows, config["parser"], loaded.strategies) for arm, rows in said.items()}
    for other in PARSERS:  # the same answers, read the other way
        if config["parser"] != "scored" and other != config["parser"]:
            arms[f"model, parser={other}"] = outcomes(records, said["model"], other, loaded.strategies)
    arms["always_none"] = baselines.always_none(records, loaded.strategies)
    arms["random"] = baselines.random_letters(records, loaded.strategies, config["seed"])
    return arms, errors


def test(config: dict[str, Any], name: str) -> int:
    """Writes `metrics.json`, `answers.jsonl` and, for rows that cannot be used, `errors.jsonl`; prints the tables."""
    started = time.perf_counter()
    check(config)
    model = model_named(name, config["device"])
    loaded = load_data(config)
    arms, errors = arms_of(model, loaded, config, zoo_home() / "muirbench" / "concatenated")
    errors = loaded.errors + errors
    measured = {arm: summarise(rows, config["seed"]) for arm, rows in arms.items()}
    metrics = {
        "model": name,
        "parser": config["parser"],
        "answers": config["answers"],
        "pictures": config["pictures"],
        "chance": round(baselines.chance([o.record for o in arms["model"]]), 6),
        "arms": measured,
        "errors": len(errors),
        "seed": config["seed"],
        "data_hash": loaded.sha256,
        "seconds": round(time.perf_counter() - started, 1),
    }
    tables = f"{aligned(slices_table(measured['model']))}\n\n{aligned(arms_table(measured))}"
    lines = [_line(arm, o) for arm, rows in arms.items() for o in rows]
    return finish_test(config, name, metrics, lines, errors, tables)


def _line(arm: str, o: Outcome) -> dict[str, Any]:
    line = {"id": o.record.idx, "arm": arm, "letter": o.letter, "answer": o.record.answer, "how": o.how}
    return line if o.text is None else {**line, "text": o.text}
