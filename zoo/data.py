"""Fetches pretrained parts and data, and counts what a source holds.

`python -m zoo.data fetch [NAME …]` resolves assets (all of them without a name) into ZOO_HOME, verified.
`python -m zoo.data fetch PACK data_dir=DIR [base_url=URL]` builds a folder of public data from its repositories.
`python -m zoo.data count [recipe=NAME] [key=value …]` prints the samples of a recipe's data by split and modality.
"""

from __future__ import annotations

import sys

from datamodules.assets import ASSETS, resolve
from datamodules.schema import SPLITS, DataError, near
from datamodules.sources.fetching import RAW, rebuild
from datamodules.sources.registry import GUARDZOO, SOURCES
from zoo import cli
from zoo.config import compose, plain, split_arguments
from zoo.core.tables import markdown_table
from zoo.fit import build_data

VERBS = ("fetch", "count", "sources")
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
    rows = [[name, module.TARGET, module.LICENCE, module.PERMISSIVE] for name, module in sorted(SOURCES.items())]
    print(markdown_table(["source", "the label is about", "licence", "permissive"], rows))


def main(arguments: list[str]) -> int:
    verb = arguments[0] if arguments else ""
    if verb == "fetch":
        fetch(arguments[1:])
    elif verb == "count":
        return count(arguments[1:])
    elif verb == "sources":
        sources()
    else:
        raise DataError(f"unknown verb {verb!r}{near(verb, VERBS)}")
    return 0


if __name__ == "__main__":
    cli.run(main)
