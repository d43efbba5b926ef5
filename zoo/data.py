"""Fetches pretrained parts and data, and counts what a source holds.

`python -m zoo.data fetch [NAME …]` resolves assets (all of them without a name) into ZOO_HOME, verified.
`python -m zoo.data count [recipe=NAME] [key=value …]` prints the samples of a recipe's data by split and modality.
"""

from __future__ import annotations

import sys

from datamodules.assets import ASSETS, resolve
from datamodules.schema import SPLITS, DataError, near
from datamodules.sources.registry import SOURCES
from zoo import cli
from zoo.config import compose, plain
from zoo.core.tables import markdown_table
from zoo.fit import build_data

VERBS = ("fetch", "count", "sources")


def fetch(names: list[str]) -> None:
    for name in names:
        if name not in ASSETS:
            raise DataError(f"unknown asset {name!r}{near(name, sorted(ASSETS))}")
    for name in names or sorted(ASSETS):
        print(f"{name}\t{ASSETS[name].licence}\t{resolve(name)}", flush=True)


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
