"""Lists what there is: `python -m zoo.list [models|recipes|claims|experts]`.

What training needs: `python -m zoo.list memory`.
"""

from __future__ import annotations

from datamodules.schema import DataError, near
from zoo import cli
from zoo.claims.report import list_table
from zoo.config import options, recipe_names, recipes_folder
from zoo.core.tables import markdown_table
from zoo.core.weights import manifest


def models() -> str:
    rows = [
        [name, e["kind"], e["method"], f"{e['parameters'] / 1e6:.1f}M", e["summary"]]
        for name, e in sorted(manifest().items())
    ]
    return markdown_table(["model", "kind", "method", "parameters", "what it does"], rows)


def recipes() -> str:
    rows = []
    for name in recipe_names():
        lines = (recipes_folder() / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
        rows.append([name, lines[0].removeprefix("# "), lines[1].removeprefix("# ")])
    groups = "\n".join(f"{g}: {', '.join(options(g))}" for g in ("data", "backbone", "trainer"))
    return markdown_table(["recipe", "command", "what it does"], rows) + "\n\n" + groups


def experts() -> str:
    """Experts to add to a RouteGuard: published ones, and those that installed packages offer."""
    from zoo.routeguard.offered import offered

    rows = [[name, "published", e["summary"]] for name, e in sorted(manifest().items()) if e["method"] == "expert"]
    rows += [[name, "package", point.value] for name, point in sorted(offered().items())]
    if not rows:
        return "no expert is published or offered by an installed package: recipe=expert trains one"
    return markdown_table(["expert", "from", "what it is"], rows)


def memory() -> str:
    """GiB on each GPU by strategy; docs/distributed.md holds this table."""
    from zoo.core.memory import table

    head = ["model", "trained", "strategy", "weights", "gradients", "optimizer", "gathered", "activations", "all"]
    return markdown_table(head, table())


LISTS = {"models": models, "recipes": recipes, "claims": list_table, "experts": experts}
MORE = {"memory": memory}  # only when asked for: it takes seconds


def main(arguments: list[str]) -> int:
    for name in arguments or sorted(LISTS):
        known = LISTS | MORE
        if name not in known:
            raise DataError(f"cannot list {name!r}{near(name, sorted(known))}")
        print(known[name]())
    return 0


if __name__ == "__main__":
    cli.run(main, __doc__)
