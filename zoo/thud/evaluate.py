"""`python -m zoo.test recipe=thud model=…`: a model and the baselines on the same clips, in one table."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from typing import Any

from datamodules.corpus.thud import build_thud
from datamodules.schema import SPLITS, DataError, Sample, near
from datamodules.thud import DIMENSIONS, LABELS, Item, Loaded, edited_clips, load_thud, without
from datamodules.transforms.edit_files import Settings
from zoo.answering import Model, ask, model_named
from zoo.core.letters import strict
from zoo.core.run import finish_test
from zoo.core.tables import aligned
from zoo.thud.metrics import UNPARSED, Outcome, arms_table, details_table, summarise
from zoo.thud.questions import ANSWERS, OFFSET, WORDINGS, Question, questions

PARSERS = ("scored", "strict")
BLIND = {"vision_only": "sound", "audio_only": "frames"}  # what each of them does not get


def check(config: dict[str, Any]) -> None:
    """Raises `DataError` for a setting that is unknown or impossible, before anything is rendered or loaded."""
    if not config["wordings"] or len(set(config["wordings"])) < len(config["wordings"]):
        raise DataError(f"wordings: name each wording once; known: {', '.join(WORDINGS)}")
    for key, value, known in (
        ("parser", config["parser"], PARSERS),
        ("answers", config["answers"], ANSWERS),
        *(("wordings", w, tuple(WORDINGS)) for w in config["wordings"]),
    ):
        if value not in known:
            raise DataError(f"{key}={value}: expected one of {', '.join(known)}{near(str(value), known)}")
    for key in ("batch_size", "max_new_tokens"):
        if not isinstance(config[key], int) or config[key] < 1:
            raise DataError(f"{key}={config[key]}: expected a whole number from 1 on")
    if config["clips"]["split"] not in (None, *SPLITS):
        raise DataError(f"clips.split={config['clips']['split']}: expected one of {', '.join(SPLITS)}")
    scale = config["clips"]["scale"]
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale <= 20:
        raise DataError(f"clips.scale={scale}: expected a number above 0, at most 20")
    seed = config["clips"]["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise DataError(f"clips.seed={seed}: expected a whole number from 0 on")
    settings_of(config)


def settings_of(config: dict[str, Any], split: str = "test") -> Settings:
    """How clips are edited, all of one split: those of the probe are test clips."""
    sizes = config["clips"]["deltas"]
    if not sizes or not all(isinstance(d, (int, float)) and not isinstance(d, bool) and d > 0 for d in sizes):
        raise DataError(f"clips.deltas={sizes}: expected sizes of shifts in seconds, above 0; each is used both ways")
    deltas = tuple(sign * float(d) for d in sizes for sign in (-1, 1))
    clips = config["clips"]
    return Settings(deltas=deltas, seed=clips["seed"], spread=clips["spread"], even=True, split=split)


def load_data(config: dict[str, Any]) -> Loaded:
    """The items of the folder, or of the rendered corpus's test clips."""
    source = config["data_dir"]
    if source is None:
        source = build_thud(seed=config["clips"]["seed"], scale=config["clips"]["scale"]) / "clips" / "test"
    folder, errors = edited_clips(source, settings_of(config))
    loaded = load_thud(folder, config["clips"]["split"])
    loaded.errors[:0] = [{"id": str(e.get("id")), "error": str(e.get("error"))} for e in errors]
    if not loaded.items:
        why = f": {loaded.errors[0]['error']}" if loaded.errors else ""
        raise DataError(f"{source}: no clip that can be asked about{why}")
    return loaded


def look(config: dict[str, Any]) -> tuple[str, list[Sample]]:
    """The hash of the clips that are asked about. They are no judged rows: a claim compares what is reported."""
    return load_data(config).sha256, []


def outcomes(asked: Sequence[Question], said: dict[str, dict[str, Any]], parser: str) -> list[Outcome]:
    """The likeliest option, or what is read of the written answer. The offset's answer goes to its item of sync."""
    sizes = {q.item.id: _size(q, said[q.id], parser) for q in asked if q.about == OFFSET and q.id in said}
    out = []
    for q in asked:
        if q.about == OFFSET or q.id not in said:
            continue
        one = said[q.id]
        label, how = _label(q, one, parser)
        size = sizes.get(q.item.id) if q.about == "sync" else None
        out.append(Outcome(q.item, label or UNPARSED, size, how, one.get("text"), one["truncated"]))
    return out


def _label(q: Question, one: dict[str, Any], parser: str) -> tuple[str | None, str]:
    if parser == "scored":
        return max(zip(one["logp"], q.labels), key=lambda pair: pair[0])[1], "scored"
    parsed = strict(one["text"], q.texts)
    if parsed.letter is None or (parsed.how == "letter" and q.query.options[0] != "A"):
        return None, "unparsed"  # a letter means nothing where none was offered
    return q.labels["ABCDE".index(parsed.letter)], parsed.how


def _size(q: Question, one: dict[str, Any], parser: str) -> float | None:
    """Seconds, or None where none can be read. In words any number of seconds counts, not only those offered."""
    label, _ = _label(q, one, parser)
    if label is not None:
        return float(label)
    found = re.findall(r"\d+(?:\.\d+)?", one["text"])
    return float(found[0]) if len(found) == 1 else None


def constant(items: Sequence[Item]) -> list[Outcome]:
    """The model that believes what it sees: in sync, there is sound, and it belongs to the picture."""
    return [Outcome(item, LABELS[item.dimension][0]) for item in items]


def arms_of(
    model: Model, loaded: Loaded, config: dict[str, Any]
) -> tuple[dict[str, list[Outcome]], list[dict[str, str]]]:
    """The model in each wording, the same without sound and without frames, and constant answers: on the same items.

    An item that one of the arms cannot take is left out of all of them with every other of its source clip, and told.
    """
    said: dict[str, tuple[list[Question], dict[str, dict[str, Any]]]] = {}
    errors: list[dict[str, str]] = []
    lost: dict[str, str] = {}  # clip → the item that could not be put to the model
    shown = {"model": loaded.items}
    shown |= {arm: [without(i, part) for i in loaded.items] for arm, part in BLIND.items()}
    for wording in config["wordings"]:
        for arm, items in shown.items():
            name = f"{arm}, {wording}"
            asked = questions(items, wording, config["answers"], config["offset"], config["seed"])
            pairs = [(q.sample, q.query) for q in asked]
            got, failed = ask(
                model, pairs, config["parser"] == "scored", config["batch_size"], config["max_new_tokens"], name
            )
            said[name] = asked, got
            errors += failed
            bad = {e["id"] for e in failed}
            lost |= {q.item.clip: q.id for q in asked if q.id in bad}
    kept = [i for i in loaded.items if i.clip not in lost]
    if not kept:
        raise DataError(f"the model can take none of the {len(loaded.items)} questions: {errors[0]['error']}")
    told = {e["id"] for e in errors}
    for item in loaded.items:
        if item.clip in lost and not any(t.startswith(f"{item.sample.id}/") for t in told):
            errors.append({"id": item.id, "error": f"left out: {lost[item.clip]!r} of the same clip cannot be used"})
    arms = {
        name: [o for o in outcomes(asked, got, config["parser"]) if o.item.clip not in lost]
        for name, (asked, got) in said.items()
    }
    arms["constant"] = constant(kept)
    return arms, errors


def test(config: dict[str, Any], name: str) -> int:
    """Writes `metrics.json`, `answers.jsonl` and, for rows that cannot be used, `errors.jsonl`; prints the tables."""
    started = time.perf_counter()
    check(config)
    model = model_named(name, config["device"], omni=True)
    loaded = load_data(config)
    arms, errors = arms_of(model, loaded, config)
    errors = loaded.errors + errors
    measured = {arm: summarise(rows, config["seed"]) for arm, rows in arms.items()}
    items = arms["constant"]
    metrics = {
        "model": name,
        "parser": config["parser"],
        "answers": config["answers"],
        "items": {d: sum(o.item.dimension == d for o in items) for d in DIMENSIONS},
        "rejected": loaded.rejected,
        "arms": measured,
        "errors": len(errors),
        "seed": config["seed"],
        "data_hash": loaded.sha256,
        "seconds": round(time.perf_counter() - started, 1),
    }
    if loaded.rejected:
        told = ", ".join(f"{reason}: {n}" for reason, n in loaded.rejected.items())
        print(f"sync is not asked of some clips or edits ({told})", file=sys.stderr)
    first = f"model, {config['wordings'][0]}"
    tables = f"{first}\n{aligned(details_table(measured[first]))}\n\n{aligned(arms_table(measured))}"
    lines = [_line(arm, o) for arm, rows in arms.items() for o in rows]
    return finish_test(config, name, metrics, lines, errors, tables)


def _line(arm: str, o: Outcome) -> dict[str, Any]:
    line = {"id": o.item.id, "arm": arm, "said": o.said, "label": o.item.label, "delta": o.item.delta}
    line |= {"offset": o.offset, "how": o.how}
    return line if o.text is None else {**line, "text": o.text}
