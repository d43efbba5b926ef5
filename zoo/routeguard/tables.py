"""A RouteGuard's figures as text: the table that `fit` prints, and the cards."""

from __future__ import annotations

from typing import Any

from zoo.core.tables import fmt, markdown_table, text_table
from zoo.routeguard.model import RouteGuard

HEAD = ("routing", "macro F1", "micro F1", "macro F1, unsafe rows", "verdict F1", "AUPRC", "experts a row", "null")


def _rows(metrics: dict[str, Any]) -> list[list[str]]:
    out = []
    for name, way in metrics["routeguard"]["ways"].items():
        keys = ("macro_f1_all", "micro_f1_all", "macro_f1_unsafe", "f1", "auprc")
        figures = [fmt(way["overall"][k]) for k in keys]
        out.append([name, *figures, f"{way['experts_per_row']:.2f}", f"{way['null_share']:.2f}"])
    return out


def routing_table(metrics: dict[str, Any]) -> str:
    """The guard's own figures, then every way to route."""
    return f"{text_table(metrics)}\n\n{markdown_table(list(HEAD), _rows(metrics))}"


def routeguard_card(config: dict[str, Any], metrics: dict[str, Any], guard: RouteGuard) -> str:
    r = metrics["routeguard"]
    experts = [
        [e.name, ", ".join(guard.policy.entry(i).name for i in e.categories), str(r["rows"]["pools"][e.name]["own"])]
        for e in guard.backbone.experts.values()
    ]
    return f"""# {guard.name}

RouteGuard (arXiv 2605.30693): experts as adapters in the upper layers of `{config["base"]}`, a router that reads what
they share, and a fallback (`{config["fallback"]}`). Trained by `python -m zoo.fit recipe={config["recipe"]}` with
`data={config["data"]["source"]}`, {r["rows"]["each"]} rows for each reader, seed {config["seed"]}.
Routing: `{r["deployed"]}`.

P(unsafe) is the maximum of the called experts' calibrated P(unsafe), categories are the union of theirs. A row that no
expert is called for is the fallback's; `route` of a verdict says so.

{markdown_table(["expert", "answers for", "own training rows"], experts)}

## Test split

{markdown_table(list(HEAD), _rows(metrics))}

F1 over all rows counts false alarms on safe rows; the paper counts unsafe rows alone. The oracle knows the gold
domains. A batch takes {fmt(r["batch_ms"]["ratio"])} × the base's time.

## Limits

Readers are trained under the policy above. An entry that belongs to no expert is the monolith's, in any policy. A
category that was added later is asked of its expert alone: a row that the router does not give to it, or that falls
back, is not judged by it.
"""


def expert_card(config: dict[str, Any], metrics: dict[str, Any], guard: RouteGuard) -> str:
    expert = guard.backbone.experts[guard.only]
    names = [guard.policy.entry(i).name for i in expert.categories]
    own = metrics["overall"]
    figures = [["own domain", own["n"], fmt(own["f1"]), fmt(own["auprc"]), fmt(own["fpr"])]]
    return f"""# {guard.name}

An expert for {", ".join(names)}: an adapter over `{config["base"]}`, to be added to a RouteGuard over the same base. By
itself it judges these entries of any policy. Trained by `python -m zoo.fit recipe={config["recipe"]}`, seed
{config["seed"]}.

{markdown_table(["slice", "n", "F1", "AUPRC", "FPR"], figures)}
"""
