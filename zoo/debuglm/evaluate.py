"""Asks a traced model about rows that it has not seen, and the baselines about its answers."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.debuglm import DebugDataModule
from datamodules.debuglm_views import DEBUG, PLAIN, Stage, View, answer_of, prompt_of, tags_of
from datamodules.schema import DataError, Sample
from zoo.core.run import finish_test, write_lines
from zoo.core.tables import aligned, fmt
from zoo.debuglm import baselines, metrics
from zoo.debuglm.metrics import Asked
from zoo.debuglm.model import TracedLM
from zoo.evaluate import data_hash


def ask(model: TracedLM, given: Sequence[View], batch_size: int, max_new_tokens: int) -> list[Asked]:
    """What the model says to each view. To a refusal request it writes just as much as a refusal has."""
    reader = model.reader
    prompts = [reader.prompt(prompt_of(v.row), v.debug, v.refuse) for v in given]
    order = sorted(range(len(given)), key=lambda n: (bool(given[n].refuse), len(prompts[n][0])))
    out: list[Asked | None] = [None] * len(given)
    bar = tqdm(total=len(given), desc="asking", unit="row", file=sys.stderr, leave=False, mininterval=1.0)
    at = 0
    while at < len(order):
        short = bool(given[order[at]].refuse)
        picked = [n for n in order[at : at + batch_size] if bool(given[n].refuse) == short]
        at += len(picked)
        ids = [prompts[n][0] for n in picked]
        written = model.generate(ids, len(reader.refusal) + 1 if short else max_new_tokens)
        debug = [i for i, n in enumerate(picked) if given[n].kind == DEBUG]
        traced = dict(zip(debug, model.scored([ids[i] for i in debug], [written[i] for i in debug])))
        golds = [reader.answer(answer_of(given[n].row)) for n in picked]
        scores = None if short else model.answer_scores(ids, golds).tolist()
        for i, n in enumerate(picked):
            v, w = given[n], written[i]
            tags, told = traced.get(i, (None, None))
            out[n] = Asked(
                v.row,
                v.kind,
                v.refuse,
                reader.text(reader.up_to_mark(w)),
                model.refuses(w),
                sum(t >= model.tags.first for t in w),
                None if tags is None else dict(zip(model.tags.names, tags.tolist())),
                model.said(w) if v.kind == DEBUG else None,
                told,
                None if scores is None else tuple(scores[i]),
                prompts[n][1],
            )
        bar.update(len(picked))
    bar.close()
    return [a for a in out if a is not None]


def measure(
    model: TracedLM, data: DebugDataModule, config: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """All figures of a model on the rows of a split, and a line for each view that was asked."""
    settings = config["test"]
    given = data.asked(settings["split"])
    if not given:
        raise DataError(f"test.split={settings['split']}: no row of the stages' sets there")
    if unknown := sorted({t for v in given for t in (*v.tags, *v.refuse)} - set(model.tags.names)):
        raise DataError(
            f"the data has tags that the model was not taught: {', '.join(unknown)}; it knows "
            f"{', '.join(model.tags.names)}: set data.stage1.sets, data.stage2.sets and data.level as in its training"
        )
    asked = ask(model, given, settings["batch_size"], settings["max_new_tokens"])
    plain = [a for a in asked if a.kind == PLAIN]
    figures = {
        "n": len(plain),
        "names": list(model.tags.names),
        "tags": metrics.tags(asked, data.stages, data.level),
        "refusal": metrics.refusals(asked),
        **metrics.leaks(asked),
        "utility": metrics.utility(asked),
        "truncated": sum(a.cut for a in plain),
        "rows": _rows(data),
        "failed": len(data.errors),
        "data_hash": data_hash(data.corpus.samples),
        "seed": config["seed"],
    }
    return figures, [_line(a) for a in asked]


def compare(asked: Sequence[tuple[Sample, str]], data: DebugDataModule, names: Sequence[str]) -> dict[str, Any]:
    """Each baseline on the model's plain answers, (row, answer) each, alone and with their questions."""
    train = [s for s in data.samples("train") if data.stages and _in_stages(s, data.stages)]
    sets = [s.source for s in train]
    out: dict[str, Any] = {}
    for name in names:
        started = time.perf_counter()
        out[name] = {}
        for kind in baselines.TEXTS:
            known = [_text(kind, prompt_of(s), answer_of(s)) for s in train]
            texts = [_text(kind, prompt_of(s), said) for s, said in asked]
            found = baselines.BASELINES[name](known, sets, texts)
            hits = [f is not None and f in tags_of(s, "coarse") for f, (s, _) in zip(found, asked)]
            figures = metrics.accuracies([s for s, _ in asked], hits, data.stages)
            out[name][kind] = {**figures, "unmatched": sum(f is None for f in found)}
        print(f"baseline {name}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return out


def _in_stages(sample: Sample, stages: Sequence[Stage]) -> bool:
    return bool(set(tags_of(sample, "coarse")) & {n for s in stages for n in s.sets})


def _text(kind: str, prompt: str, answer: str) -> str:
    return answer if kind == "answer" else f"{prompt}\n{answer}"


def _rows(data: DebugDataModule) -> dict[str, Any]:
    by_split = {split: _counted(data.samples(split), data.stages) for split in ("train", "val", "test")}
    return {**by_split, "merged": data.corpus.report["merged"]}


def _counted(rows: Sequence[Sample], stages: Sequence[Stage]) -> dict[str, int]:
    names = [s.source for s in rows if _in_stages(s, stages)]
    return {n: names.count(n) for n in sorted(set(names))}


def training_of(module: Any, data: DebugDataModule) -> dict[str, Any]:
    """What a training went through: stages with their steps, rows and views."""
    p = data.plan
    return {
        "control": data.control,
        "stages": [
            {
                "sets": list(s.sets),
                "epochs": s.epochs,
                "steps": p.steps[n],
                "rows": p.rows[n],
                "replayed_rows": p.replayed[n],
                "views": p.counts[n],
                "repeated": p.repeated[n],
            }
            for n, s in enumerate(data.stages)
        ],
        "parameters": sum(x.numel() for x in module.model.parameters()),
    }


def _line(a: Asked) -> dict[str, Any]:
    line = {"id": a.row.id, "source": a.row.source, "gold": list(tags_of(a.row)), "view": a.kind}
    line |= {"refuse": list(a.refuse), "text": a.text, "refused": a.refused}
    if a.tags is not None:
        line |= {"tags": {t: round(p, 6) for t, p in a.tags.items()}, "said": a.said, "told": a.told}
    return line


def write_answers(run: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    write_lines(run / "answers.jsonl", lines)


def test(config: dict[str, Any], model: TracedLM, name: str, data: DebugDataModule) -> int:
    """Writes `metrics.json` and `answers.jsonl`, prints the tables; returns the exit code."""
    started = time.perf_counter()
    figures, lines = measure(model.to(config["device"]).eval(), data, config)
    by_id = {s.id: s for s in data.samples(config["test"]["split"])}
    plain = [(by_id[x["id"]], x["text"]) for x in lines if x["view"] == PLAIN]
    figures["baselines"] = compare(plain, data, config["test"]["baselines"])
    figures |= {"model": name, "seconds": round(time.perf_counter() - started, 1)}
    return finish_test(config, name, figures, lines, data.errors, table(figures))


# ------------------------------------------------------------------------------------------------------------- tables


def _cell(entry: Mapping[str, Any] | None) -> str:
    return "" if not entry or entry.get("value") is None else fmt(entry["value"], entry.get("ci95"))


def tag_table(figures: Mapping[str, Any]) -> list[list[str]]:
    """Accuracy of naming the source, by source: the model, its unforced tags, and the baselines on both texts."""
    ways = {"tag": figures["tags"]["accuracy"], "unforced": figures["tags"]["unforced"]}
    for name, texts in figures.get("baselines", {}).items():
        ways |= {f"{name}, {k.replace('_', ' ')}": v for k, v in texts.items()}
    sources = list(figures["tags"]["accuracy"]["by_source"])
    lines = [["source named by", "all", "letters", "texts", *sources]]
    for name, e in ways.items():
        cells = [_cell(e["overall"]), _cell(e["letter_only"]), _cell(e["text_answers"])]
        lines.append([name, *cells, *(fmt(e["by_source"][s]["value"]) for s in sources)])
    return lines


def table(figures: Mapping[str, Any]) -> str:
    """What `fit` and `test` print."""
    refused = [["refuses", "n", "share"]]
    for name, e in figures["refusal"].items():
        refused.append([name.replace("_", " "), str(e["n"]), _cell(e)])
    stages = [["stage", "tag accuracy", "unforced"]]
    for n, e in figures["tags"]["accuracy"]["by_stage"].items():
        stages.append([n, _cell(e), _cell(figures["tags"]["unforced"]["by_stage"][n])])
    used = [["answers", "loss", "token accuracy", "right letters"]]
    for kind, e in figures["utility"].items():
        used.append([kind, *(_cell(e[k]) for k in ("loss", "token_accuracy", "letters"))])
    tags = figures["tags"]
    told = (
        f"leak {_cell(figures['leak'])}  spam {_cell(figures['spam'])}  ECE of tags {fmt(tags['ece'])}  "
        f"says a tag unasked {_cell(tags['says_a_tag'])}"
    )
    parts = [tag_table(figures), stages, refused, used]
    return "\n\n".join([*(aligned(p) for p in parts), told])
