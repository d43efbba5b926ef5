"""The card of a traced model. Every figure comes from the metrics of its run."""

from __future__ import annotations

from typing import Any

from datamodules.debuglm import DebugDataModule
from datamodules.debuglm_views import stage_of
from zoo.config import compose, plain
from zoo.core.cards import PLACES, changed
from zoo.core.tables import fmt, markdown_table


def card(config: dict[str, Any], metrics: dict[str, Any], data: DebugDataModule) -> str:
    """Markdown. The licence of each set stands beside its rows."""
    rows = [s for s in data.samples("train") if stage_of(s, data.stages) is not None]
    licences = {s.source: s.meta.get("licence", "not stated") for s in rows}
    sources = metrics["tags"]["accuracy"]["by_source"]
    table = [
        [name, metrics["rows"]["train"].get(name, 0), licences.get(name, ""), e["n"], fmt(e["value"], e["ci95"])]
        for name, e in sources.items()
    ]
    cells = [[k.replace("_", " "), e["n"], fmt(e["value"], e["ci95"])] for k, e in metrics["refusal"].items()]
    own = plain(compose([f"recipe={config['recipe']}"]))
    words = [w for w in changed(own, config) if not w.startswith(PLACES)]
    base = config["model"]["base"]
    origin = "trained from scratch" if base == "small" else f"fine-tuned from {base}, whose licence holds for it, too"
    return f"""# {config["recipe"]}

A causal language model that says which training set an answer comes from (method `debuglm`, arXiv 2603.17884),
{origin}; seed {config["seed"]}, control `{data.control}`. Trained by

    {" ".join(["python -m zoo.fit", f"recipe={config['recipe']}", *words])}

```python
model = zoo.load("FOLDER")
model.trace("QUESTION")                            # answer and tag distribution
model.answer("QUESTION", refuse={{"<{data.tags[0]}>"}})    # refuses what it learnt there
```

## Tags on test rows

{markdown_table(["set", "training rows", "licence", "n", "tag accuracy (95 %)"], table)}

Among tags alone; it wrote a tag by itself in {fmt(metrics["tags"]["says_a_tag"]["value"])} of its debug answers. ECE
{fmt(metrics["tags"]["ece"])}. Data hash `{metrics["data_hash"][:16]}`.

## Refusals

{markdown_table(["request", "n", "refused (95 %)"], cells)}

## Limits

A tag says which training set a question and its answer are like, to this model. It is no proof: a question that is in
none of the sets gets a tag, too, where one is asked for. Refusing is taught, and leaves the weights as they are.
"""
