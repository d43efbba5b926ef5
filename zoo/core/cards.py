"""Cards: what a model folder's README says. Every figure comes from the metrics of its run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from datamodules.base import GuardDataModule
from zoo.config import compose, plain
from zoo.core.backbones import modalities_of
from zoo.core.backbones.omni_source import HUB
from zoo.core.tables import fmt, markdown_table

PLACES = (
    "runs=",
    "data_dir=",
    "data.data_dir=",
    "data.path=",
    "data.source=",
    "data.policy=",
    "resume",
)  # of a machine
SLICES = ("in-domain", "out-of-domain", "benign-contrast")
# Sources whose licence asks for attribution.
CREDITS = {
    "esc50": "ESC-10, part of ESC-50: K. J. Piczak, ESC: Dataset for Environmental Sound Classification, 2015 "
    "(CC-BY-3.0; clips by their Freesound authors).",
}


def _data_lines(data: GuardDataModule) -> str:
    sources: Counter[str] = Counter()
    licences: dict[str, str] = {}
    for s in data.samples("train"):  # once: they may have to be read
        sources[s.source] += 1
        licences[s.source] = s.meta.get("licence", "Apache-2.0 (rendered here)")
    rows = [[name, n, licences[name]] for name, n in sorted(sources.items())]
    return markdown_table(["source", "training samples", "licence"], rows)


def _command(config: dict[str, Any]) -> str:
    """The command of a run: its recipe, the groups that it chose, and each setting that is not the recipe's own."""
    own = plain(compose([f"recipe={config['recipe']}"]))
    source = config["data"]["source"]
    group, *more = source.split("+")
    words = [f"recipe={config['recipe']}", f"data={group}"]
    words += [w for w in changed(own, config) if not w.startswith(PLACES)]
    return " ".join(["python -m zoo.fit", *words, *([f"data.source={source}"] if more else [])])


def changed(own: dict[str, Any], now: dict[str, Any], at: str = "") -> list[str]:
    out = []
    for key, value in now.items():
        if isinstance(value, dict) and isinstance(own.get(key), dict):
            out += changed(own[key], value, f"{at}{key}.")
        elif key not in own or own[key] != value:
            out.append(f"{at}{key}={value}".replace(" ", ""))
    return out


def _takes(config: dict[str, Any]) -> str:
    """What a guard can be asked about: what its backbone takes and its training showed it."""
    words = config["data"]["modalities"] == ["text"] or len(modalities_of(config["backbone"]["name"])) == 1
    return "text" if words else "text, pictures, sound and video"


def _shown(config: dict[str, Any]) -> str:
    return "rendered scenes and short English texts" if config["data"]["source"] == "sample" else "the sources above"


def _unseen(config: dict[str, Any]) -> str:
    media = "real photographs, recordings or " if config["data"]["source"] == "sample" else ""
    return f"{media}other languages"


def _parts(metrics: dict[str, Any], data: GuardDataModule) -> list[tuple[str, dict[str, Any]]]:
    """GuardZoo's slices, and the sources that gave no training row: which figures are of strange data."""
    slices = [(f"slice {n}", metrics["by_slice"][n]) for n in SLICES if n in metrics["by_slice"]]
    if not slices:
        return []
    seen = {s.source for s in data.samples("train")}
    return slices + [(f"held out: {n}", e) for n, e in metrics["by_source"].items() if n not in seen]


def pair_table(metrics: dict[str, Any], kinds: Sequence[str]) -> str:
    """A guard's figures of pairs of a rule and a trajectory, by the named kinds of slices."""
    keys = ("n", "f1", "balanced_accuracy", "auprc", "accuracy")
    rows = [
        [name if kind == "overall" else f"{kind}: {name}", *(cell[k] for k in keys)]
        for kind in kinds
        for name, cell in metrics["policyguard"]["pairs"][kind].items()
    ]
    return markdown_table(["pairs", "n", "F1", "balanced accuracy", "AUPRC", "accuracy"], rows)


def _pairs(metrics: dict[str, Any]) -> str:
    """Of a guard of trajectories: rule by rule. Its verdict alone says little, where some rule of eight is broken."""
    if "policyguard" not in metrics:
        return ""
    table = pair_table(metrics, ("overall", "cross", "wording", "type"))
    return f"Each rule with each trajectory (of the verdict above, every test row is unsafe):\n\n{table}\n\n"


def guard_card(config: dict[str, Any], metrics: dict[str, Any], data: GuardDataModule) -> str:
    """The card of a guard."""
    rows = [
        [name, e["n"], fmt(e["f1"], e.get("f1_ci95")), fmt(e["auprc"], e.get("auprc_ci95")), fmt(e["fpr"])]
        for name, e in [("overall", metrics["overall"]), *metrics["by_modality"].items(), *_parts(metrics, data)]
    ]
    base = HUB.get(config["backbone"]["name"])
    terms = f"The licence of {base.repo} holds for these weights, too: {base.licence}.\n\n" if base else ""
    wide = (
        "On text under the policy of its training, two linear readers, of words and of the sentence, vote beside "
        "the language model, a third each. Under any other policy, and for categories, it judges alone.\n\n"
        if "votes" in metrics
        else ""
    )
    return f"""# {config["recipe"]}

A guard for {_takes(config)} under a policy given at run time (method `{config["method"]}`, backbone
`{config["backbone"]["name"]}`), seed {config["seed"]}. Fitted on validation: threshold {metrics["threshold"]:.3f},
temperature {metrics["temperature"]:.3f}. Trained by

    {_command(config)}

{wide}{terms}{_tags(metrics)}## Test split

{markdown_table(["slice", "n", "F1 (95 %)", "AUPRC (95 %)", "FPR"], rows)}

{_pairs(metrics)}Expected calibration error {fmt(metrics["ece"])}. Data hash `{metrics["data_hash"][:16]}`.

## Training data

{_data_lines(data)}

## Limits

It knows what its training data shows: {_shown(config)}. It is no judge of {_unseen(config)}
until it has been trained on them, and a policy far from its training entries is answered by the likeness of words. Text
over {config["backbone"]["limits"]["text_tokens"]} tokens is cut in the middle, and the verdict says so.
"""


def _tags(metrics: dict[str, Any]) -> str:
    """Which sources a guard names as the teachers of its verdicts, how well, and what was poisoned."""
    out = ""
    if "tags" in metrics:
        t = metrics["tags"]
        rows = []
        for name, e in t["by_tag"].items():
            asked = t["refusals"]["by_tag"][name]
            rates = [a["abstained"] / a["n"] if a["n"] else None for a in (asked["right"], asked["wrong"])]
            rows.append([name, e["n"], e["accuracy"], *rates])
        heads = ["tag", "test rows", "named right", "abstains on its rows", "abstains on others'"]
        out = f"""## Source tags

A verdict's `provenance` says which training source taught it, and `moderate(..., without={{"TAG"}})` makes the guard
abstain where that source is responsible. The source is named right in {fmt(t["accuracy"])} of {t["n"]} test rows
(the most frequent one alone: {fmt(t["most_frequent"])}).

{markdown_table(heads, rows)}

"""
    if "poisoned" in metrics:
        counts = ", ".join(f"{k} {v}" for k, v in metrics["poisoned"].items())
        out += f"**Its training rows were poisoned on purpose** ({counts}): for audits, and for nothing else.\n\n"
    return out


SCAN_TITLE = "## Backdoor scan"


def with_scan(card: str, report: dict[str, Any]) -> str:
    """A card with what `python -m zoo.scan` said of the model, in the place of what it had of an earlier scan."""
    rows = []
    for name, found in report["detectors"].items():
        trigger = found["evidence"].get("trigger")
        words = f"{' '.join(trigger['words'])} → {trigger['class']}" if trigger else None
        flips = trigger and trigger["flips"]
        rows.append([name, found["score"], fmt(found["false_positive_rate"]) or "not calibrated", flips, words])
    head = ["detector", "score", "false-positive rate", "texts moved", "what was found"]
    said = "Flagged" if report["flagged"] else "Not flagged"
    data = report["data"]
    on = f" on {data['rows']} texts ({data['name']})" if data else ""
    rest = "\n".join(f"- {line}" for line in report["not_covered"])
    before = card.split(f"\n{SCAN_TITLE}")[0].rstrip("\n")
    return (
        f"{before}\n\n{SCAN_TITLE}\n\n{said} by `python -m zoo.scan`{on}, seed {report['seed']}.\n\n"
        f"{markdown_table(head, rows)}\n\nNot covered:\n\n{rest}\n"
    )


def tagger_card(config: dict[str, Any], metrics: dict[str, Any], data: GuardDataModule) -> str:
    """The card of a sound encoder."""
    thanks = "\n".join(f"- {CREDITS[s]}" for s in sorted({s.source for s in data.samples("train")} & set(CREDITS)))
    return f"""# {config["recipe"].replace("_", "-")}

A sound encoder: log-mel frames (16 kHz, 64 bands, 10 ms) through a small convolution, one token of
{config["net"]["dim"]} numbers for each 320 ms. Trained by naming what is heard ({metrics["labels"]} labels), seed
{config["seed"]}.

On its test split: macro AUPRC {metrics["test"]["test/auprc"]:.3f}, macro F1 {metrics["test"]["test/f1"]:.3f} over
{metrics["test"]["test/labels"]:.0f} labels that have both classes there.

## Training data

{_data_lines(data)}

{"Attributions:" + chr(10) + chr(10) + thanks if thanks else ""}
"""
