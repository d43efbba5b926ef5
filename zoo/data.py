"""Fetches pretrained parts and data, and counts what a source holds.

`python -m zoo.data fetch [NAME …]` resolves assets (all of them without a name) into ZOO_HOME, verified.
`python -m zoo.data fetch PACK data_dir=DIR [base_url=URL]` builds a folder of public data from its repositories.
`python -m zoo.data count [recipe=NAME] [key=value …]` prints the samples of a recipe's data by split and modality.
`python -m zoo.data sources` lists the public data sets with their licences.
`python -m zoo.data guardzoo data_dir=DIR [licences=permissive] [seed=0] [max_rows=N] [json=FILE]` prints GuardZoo's
sources × categories, and what was left out; `json` writes the same counts to a file.
`python -m zoo.data policyguard [data_dir=DIR] [held_out=gitlab] [scale=1] [seed=0] [licences=permissive] [json=FILE]
[baselines=true]` prints the generated bench's domains × rule types and its splits, and what one side of a pair tells.
`python -m zoo.data thud in=DIR out=DIR [edits=shift,mute,swap] [deltas=-2,2] [seed=0] [band=LOW,HIGH] [split=test]
[spread=true] [even=true]` changes the sound of MP4 and WebM clips and leaves their pictures as they are; `out` gets the
clips and a manifest. With spread each clip is shifted by the deltas of one size alone, and the clips take turns; with
even a clip that is moved both ways is silent at both ends for as long.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datamodules.assets import ASSETS, resolve
from datamodules.guardzoo import load_guardzoo
from datamodules.policyguardbench import load_policyguard
from datamodules.schema import SPLITS, DataError, near
from datamodules.sources.fetching import RAW, rebuild
from datamodules.sources.registry import GUARDZOO, SOURCES
from datamodules.transforms.edit_files import ERRORS, MANIFEST, Settings, edit_folder
from zoo import cli
from zoo.config import compose, plain, split_arguments
from zoo.core.run import write_json
from zoo.core.source_table import source_tables
from zoo.core.tables import markdown_table
from zoo.fit import build_data
from zoo.policyguard.baselines import BASELINES, judge
from zoo.policyguard.pairs import pairs_of
from zoo.policyguard.tables import baseline_table, bench_tables

VERBS = ("fetch", "count", "sources", "guardzoo", "policyguard", "thud")
GUARDZOO_KEYS = ("data_dir", "licences", "seed", "max_rows", "json")
POLICYGUARD_KEYS = ("data_dir", "held_out", "scale", "seed", "licences", "json", "baselines")
THUD_KEYS = ("in", "out", "edits", "deltas", "seed", "band", "split", "spread", "even")
PACKS = {"guardzoo": [source.module for source in GUARDZOO.values()]}


def fetch(arguments: list[str]) -> None:
    """Names of assets and packs; `data_dir=` and `base_url=` are about packs."""
    names = [a for a in arguments if "=" not in a]
    settings = split_arguments([a for a in arguments if "=" in a])
    for name in names:
        if name not in ASSETS and name not in PACKS:
            raise DataError(f"unknown asset {name!r}{near(name, sorted([*ASSETS, *PACKS]))}")
    for key in settings:
        if key not in ("data_dir", "base_url"):
            raise DataError(f"unknown setting {key!r}{near(key, ('data_dir', 'base_url'))}")
    packs = [name for name in names if name in PACKS]
    if settings and not packs:
        raise DataError(f"{next(iter(settings))} is about a pack of public data: name one of {', '.join(PACKS)}")
    if packs and not settings.get("data_dir"):
        raise DataError(f"{packs[0]}: set data_dir=… to the folder that is to hold the files")
    for name in names or sorted(ASSETS):
        if name in ASSETS:
            print(f"{name}\t{ASSETS[name].licence}\t{resolve(name)}", flush=True)
        else:
            fetch_pack(name, **settings)


def fetch_pack(name: str, data_dir: str, base_url: str = RAW) -> None:
    """Prints a line for each file: its path, its source's licence, and whether it was fetched or present."""
    licences = {file.path: module.LICENCE for module in PACKS[name] for file in module.FILES}
    files = [file for module in PACKS[name] for file in module.FILES]
    rebuild(files, data_dir, base_url, lambda f, state: print(f"{f.path}\t{licences[f.path]}\t{state}", flush=True))


def count(arguments: list[str]) -> int:
    if not any(a.startswith("recipe=") for a in arguments):
        arguments = ["recipe=omniguard", *arguments]
    data = build_data(plain(compose(arguments)))
    data.prepare_data()
    counts = data.counts()
    modalities = sorted({m for c in counts.values() for m in c})
    print(markdown_table(["split", *modalities], [[s, *(counts[s].get(m, 0) for m in modalities)] for s in SPLITS]))
    for error in data.errors[:5]:
        print(f"error: {error['error']}", file=sys.stderr)
    return 1 if data.errors else 0


def sources() -> None:
    modules = {name: source.module for name, source in (GUARDZOO | SOURCES).items()}
    rows = [[name, m.TARGET, m.LICENCE, m.PERMISSIVE] for name, m in sorted(modules.items())]
    print(markdown_table(["source", "the label is about", "licence", "permissive"], rows))


def guardzoo(arguments: list[str]) -> None:
    given = split_arguments(arguments)
    for key in given:
        if key not in GUARDZOO_KEYS:
            raise DataError(f"guardzoo has no key {key!r}{near(key, GUARDZOO_KEYS)}")
    if not given.get("data_dir"):
        raise DataError("guardzoo needs data_dir=FOLDER: the folder that SOURCES.md lists")
    numbers = {key: _number(key, given[key]) for key in ("seed", "max_rows") if key in given}
    report = load_guardzoo(
        given["data_dir"],
        seed=numbers.get("seed", 0),
        licences=given.get("licences", "all"),
        max_rows_per_source=numbers.get("max_rows"),
    ).report
    if given.get("json"):
        write_json(Path(given["json"]), report)
    print(source_tables(report))


def policyguard(arguments: list[str]) -> None:
    given = split_arguments(arguments)
    for key in given:
        if key not in POLICYGUARD_KEYS:
            raise DataError(f"policyguard has no key {key!r}{near(key, POLICYGUARD_KEYS)}")
    if given.get("baselines", "false") not in ("true", "false"):
        raise DataError(f"baselines={given['baselines']}: expected true or false")
    corpus = load_policyguard(
        given.get("data_dir") or None,
        seed=_number("seed", given.get("seed", "0")),
        scale=_decimals("scale", given.get("scale", "1"))[0],
        licences=given.get("licences", "permissive"),
        held_out=tuple(name.strip() for name in given.get("held_out", "").strip("[]").split(",") if name.strip()),
    )
    if given.get("json"):
        write_json(Path(given["json"]), corpus.report)
    print(bench_tables(corpus.report))
    if given.get("baselines") == "true":
        parts = [pairs_of(corpus.split(split)) for split in SPLITS]
        judged = {name: judge(name, *parts) for name in tqdm(BASELINES, desc="baselines", leave=False)}
        print("\n" + baseline_table(judged))


def thud(arguments: list[str]) -> int:
    given = split_arguments(arguments)
    for key in given:
        if key not in THUD_KEYS:
            raise DataError(f"thud has no key {key!r}{near(key, THUD_KEYS)}")
    for key, what in (("in", "the clips"), ("out", "a new folder for the edited ones")):
        if not given.get(key):
            raise DataError(f"thud needs {key}=FOLDER: {what}")
    settings: dict[str, Any] = {"split": given["split"]} if "split" in given else {}
    if "edits" in given:
        settings["edits"] = tuple(given["edits"].split(","))
    if "deltas" in given:
        settings["deltas"] = _decimals("deltas", given["deltas"])
    if "band" in given:
        settings["band"] = _decimals("band", given["band"])
        if len(settings["band"]) != 2:
            raise DataError(f"band={given['band']}: expected two numbers, such as 0.3,0.6")
    if "seed" in given:
        settings["seed"] = _number("seed", given["seed"])
    for key in ("spread", "even"):
        if key in given:
            if given[key] not in ("true", "false"):
                raise DataError(f"{key}={given[key]}: expected true or false")
            settings[key] = given[key] == "true"
    report = edit_folder(given["in"], given["out"], Settings(**settings))
    kinds = Counter(s.meta["edit"] for s in report.samples)
    print(markdown_table(["edit", "clips"], [[kind, n] for kind, n in sorted(kinds.items())]))
    print(Path(given["out"]) / MANIFEST, file=sys.stderr)
    if report.errors:
        where = Path(given["out"]) / ERRORS
        print(
            f"{len(report.errors)} could not be edited, e.g. {report.errors[0]['error']}; all: {where}", file=sys.stderr
        )
    return 1 if report.errors else 0


def _decimals(key: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise DataError(f"{key}={text}: expected numbers with commas between them") from None


def _number(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(f"{key}={text}: expected a whole number") from None


def main(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else ""
    if verb == "fetch":
        fetch(arguments[1:])
    elif verb == "count":
        return count(arguments[1:])
    elif verb == "sources":
        sources()
    elif verb == "guardzoo":
        guardzoo(arguments[1:])
    elif verb == "policyguard":
        policyguard(arguments[1:])
    elif verb == "thud":
        return thud(arguments[1:])
    else:
        raise DataError(f"unknown verb {verb!r}{near(verb, VERBS)}")
    return 0


if __name__ == "__main__":
    cli.run(main, __doc__)
