"""Writes the tables of the README and of docs/ from the files in `results/`: `python -m benchmarks.readme`.

Each table stands between `<!-- table:NAME -->` and `<!-- end -->`. A figure that no result file has stays blank.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.claims.report import readme_table
from zoo.core.cards import pair_table
from zoo.core.source_table import source_tables
from zoo.core.tables import fmt, markdown_table
from zoo.thud.metrics import arms_table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "results"
README = ROOT / "README.md"
PAGES = (
    README,
    ROOT / "docs" / "results.md",
    ROOT / "docs" / "debuglm.md",
    ROOT / "docs" / "policyguard.md",
    ROOT / "docs" / "guardzoo.md",
    ROOT / "zoo" / "thud" / "README.md",
)
_BLOCK = re.compile(r"(<!-- table:(?P<name>[a-z_]+) -->\n).*?(<!-- end -->)", re.S)


def result(name: str) -> dict[str, Any] | None:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _row(name: str, entry: dict[str, Any] | None) -> list[Any]:
    if entry is None:
        return [name, *[""] * 7]
    return [
        name,
        entry["n"],
        fmt(entry.get("prevalence")),
        fmt(entry["f1"], entry.get("f1_ci95")),
        fmt(entry["auprc"], entry.get("auprc_ci95")),
        fmt(entry["fpr"]),
        fmt(entry.get("recall_at_fpr5")),
        fmt(entry["accuracy"]),
    ]


HEAD = ["test slice", "n", "prevalence", "F1 [95 %]", "AUPRC [95 %]", "FPR", "recall at 5 % FPR", "accuracy"]


def sample() -> str:
    m = result("omniguard_sample")
    if m is None:
        return ""
    rows = [_row("all", m["overall"]), *(_row(k, e) for k, e in m["by_modality"].items())]
    wanted = ("entry:seen", "entry:unseen", "wording:seen", "wording:unseen", "hard_negative")
    rows += [_row(k, m["by_slice"].get(k)) for k in wanted if k in m["by_slice"]]
    note = f"Seed {m['seed']}, threshold {m['threshold']:.3f}, expected calibration error {m['ece']:.3f}"
    return (
        markdown_table(HEAD, rows)
        + f"\n\n{note}; trained in {m['seconds']['train']:.0f} s, {m['seconds']['total']:.0f} s in all.\n"
    )


def twins() -> str:
    m = result("omniguard_sample")
    if m is None:
        return ""
    t = m["twins"]
    rows = [["everything", 4 * t["n"], fmt(t["accuracy"], t.get("accuracy_ci95"))]]
    rows += [
        [k.replace(":", " "), e["n"], fmt(e["accuracy"])] for k, e in m["by_slice"].items() if k.startswith("without:")
    ]
    return markdown_table(["what the guard is shown of the twins", "n", "accuracy [95 %]"], rows) + "\n"


def _text_rows(ours: dict[str, Any], theirs: dict[str, Any]) -> list[list[Any]]:
    rows = []
    pairs = [("all", ours["by_modality"].get("text"), theirs["by_modality"]["text"])]
    pairs += [(source, ours["by_source"].get(source), base) for source, base in theirs["by_source"].items()]
    for source, mine, base in pairs:
        rows.append(
            [
                source,
                base["n"],
                fmt(base.get("prevalence")),
                fmt(mine["f1"], mine.get("f1_ci95")) if mine else "",
                fmt(base["f1"], base.get("f1_ci95")),
                fmt(mine["auprc"], mine.get("auprc_ci95")) if mine else "",
                fmt(base["auprc"], base.get("auprc_ci95")),
            ]
        )
    return rows


def real_text() -> str:
    ours, theirs = result("omniguard_real"), result("text_baseline")
    if ours is None or theirs is None:
        return ""
    head = ["source (text)", "n", "prevalence", "F1, omniguard", "F1, TF-IDF", "AUPRC, omniguard", "AUPRC, TF-IDF"]
    note = f"At most {theirs['max_rows']} rows of a source; {theirs['train_rows']} training rows.\n"
    return markdown_table(head, _text_rows(ours, theirs)) + "\n\n" + note


def held_out() -> str:
    """GuardZoo's held-out sources, and its slices: the published text guard beside word counts on the same rows."""
    ours, theirs = result("thinkguard_small"), result("thinkguard_small_tfidf")
    if ours is None or theirs is None:
        return ""
    if ours["data_hash"] != theirs["data_hash"]:
        raise SystemExit("results: thinkguard_small and its baseline are of different data")
    places = [("by_source", n) for n in ("openai_moderation", "toxicchat", "aegis", "safe_rlhf", "xstest", "notinject")]
    places += [("by_slice", n) for n in ("out-of-domain", "in-domain", "benign-contrast")]
    rows = []
    for where, name in places:
        a, b = ours[where][name], theirs[where][name]
        cells = [fmt(e[k], e.get(f"{k}_ci95")) for k in ("auprc", "f1") for e in (a, b)]
        rows.append([name, a["n"], fmt(a["prevalence"]), *cells, fmt(a["fpr"]), fmt(b["fpr"])])
    head = ["held out", "n", "prevalence", "AUPRC", "AUPRC, TF-IDF", "F1", "F1, TF-IDF", "FPR", "FPR, TF-IDF"]
    note = f"Seed {ours['seed']}, threshold {ours['threshold']:.3f}, {theirs['train_rows']} labelled training rows.\n"
    return markdown_table(head, rows) + "\n\n" + note


def real_media() -> str:
    m = result("omniguard_real")
    if m is None:
        return ""
    rows = [_row(k, e) for k, e in m["by_modality"].items()]
    for modality in ("image", "audio", "video", "joint"):
        rows += [_row(k, e) for k, e in m["by_slice"].items() if k.startswith(f"{modality}/entry:")]
    return markdown_table(HEAD, rows) + f"\n\nSeed {m['seed']}, threshold {m['threshold']:.3f}.\n"


def overflagging() -> str:
    ours, theirs = result("omniguard_real"), result("text_baseline")
    if ours is None or theirs is None:
        return ""
    rows = []
    for name, m in (("omniguard, real files", ours), ("TF-IDF + logistic regression", theirs)):
        slices = m["by_slice"]
        xstest, notinject = m["by_source"].get("xstest"), m["by_source"].get("notinject")
        rows.append(
            [
                name,
                fmt(xstest["fpr"]) if xstest else "",
                fmt(xstest["recall"]) if xstest else "",
                fmt(xstest.get("recall_at_fpr5")) if xstest else "",
                fmt(notinject["fpr"]) if notinject else "",
                fmt(slices["benign_contrast"]["fpr"]) if "benign_contrast" in slices else "",
            ]
        )
    head = ["guard", "XSTest FPR", "XSTest recall", "XSTest recall at 5 % FPR", "NotInject FPR", "both, FPR"]
    return markdown_table(head, rows) + "\n"


def speed() -> str:
    m = result("speed")
    if m is None:
        return ""
    c = m["cached_epoch"]
    rows = [
        [f"{what}, against 64 generated tokens, {v['rows']} at a time", f"{v[key]:.1f} ×"]
        for what, key in (("the verdict", "ratio_verdict"), ("verdict and all categories", "ratio"))
        for v in m["verdict_first"]
    ]
    rows += [
        ["encoding part of an epoch: from the cache, against from files", f"{c['ratio']:.0f} ×"],
    ]
    return markdown_table(["what, in one run", "ratio"], rows) + "\n"


def benchmarks() -> str:
    m = result("benchmarks")
    if m is None:
        return ""
    prefix, lengths = result("prefix_small"), result("lengths_small")
    rows: list[list[str]] = []
    if "step" in m:
        rows.append(["a training step", "the same model in a bare PyTorch loop", f"{m['step']['ratio']:.2f} ×"])
    if "sft" in m:
        what = f"SFT tokens a second, SmolLM2-135M with LoRA ({m['sft']['rows']} rows)"
        rows.append([what, "TRL's SFTTrainer: same token rows, LoRA and loss mask", f"{m['sft']['ratio']:.2f} ×"])
    if "verdicts" in m:
        what = "verdicts a second, mixed lengths, 15-entry policy, SmolLM2-135M"
        v = m["verdicts"]
        rows.append([what, "generation of 64 tokens by transformers, parsed", f"{v['against_generation']:.1f} ×"])
        rows.append(["the same", "one by one", f"{v['against_single']:.1f} ×"])
    if "video" in m:
        rows.append(["sampled video frames a second", "bare decord", f"{m['video']['ratio']:.2f} ×"])
    if prefix:
        for name in ("training", "scoring"):
            what = f"{name} with the policy read once a batch, small random model"
            rows.append([what, "the policy read in each row", f"{prefix['lora'][name]['ratio']:.2f} ×"])
    if lengths:
        for name, what in (("buckets", "batches of similar length"), ("packed", "packed rows")):
            rows.append(
                [f"training with {what}, small random model", "padded rows", f"{lengths['ways'][name]['ratio']:.2f} ×"]
            )
    if "routeguard" in m:
        for name in ("all fall back", "half fall back", "none falls back"):
            mix = m["routeguard"][name]
            what = f"RouteGuard's time of a batch, rows: {name}, {mix['experts_per_row']:g} experts a row"
            rows.append([what, "the monolith at equal backbone", f"{mix['ratio']:.2f} ×"])
    if "waiting" in m:
        w = m["waiting"]
        rows.append([f"waiting for data, {w['workers']} worker: share of an epoch, cached", "", f"{w['cached']:.0%}"])
        rows.append(["the same, uncached", "", f"{w['uncached']:.0%}"])
    if manifest := result("manifest"):
        over = manifest["over_1000_rows_mb"]
        for name, what in (("splits_named", "with a split in each row"), ("splits_drawn", "whose splits are drawn")):
            rows.append([f"memory of a manifest of 100,000 rows {what}", "1,000 rows", f"+ {over[name]:.0f} MB"])
    return markdown_table(["what", "against", "in one run"], rows) + "\n"


def growth() -> str:
    m = result("growth")
    if m is None:
        return ""
    rows = []
    for kind, what in (("images", "a picture"), ("video", "a second of video")):
        line, points = m["lines"][kind], m["points"][kind]
        rows.append(
            [
                f"a verdict, for {what} more ({points[0]['size']} to {points[-1]['size']})",
                f"{line['seconds_each'] * 1000:.0f} ms",
                f"{line['fixed_seconds'] * 1000:.0f} ms",
            ]
        )
    rows += [[f"texts a second, processes: {p['size']}", f"{p['rate']:.0f}", ""] for p in m["points"]["processes"]]
    rows += [[f"loading {p['size']:,} manifest rows", f"{p['seconds']:.2g} s", ""] for p in m["points"].get("rows", [])]
    return markdown_table(["what", "measured", "fixed part"], rows) + "\n"


def guardzoo() -> str:
    m = result("guardzoo")
    return "" if m is None else source_tables(m) + "\n"


def thud_real() -> str:
    """The probe on real clips: `python -m zoo.test recipe=thud model=omniguard-tiny data_dir=…/video`."""
    m = result("thud_real")
    if m is None:
        return ""
    head, *rows = arms_table(m["arms"])
    asked = ", ".join(f"{n} about {name}" for name, n in m["items"].items())
    left = "; ".join(f"{n}: {reason}" for reason, n in m["rejected"].items())
    note = f"{m['model']}; questions: {asked}. Clips and shifts that sync is not asked of: {left or 'none'}.\n"
    return f"{markdown_table(head, rows)}\n\n{note}"


def claims() -> str:
    """From `recipes/claims/results/`, which `python -m zoo.reproduce` writes."""
    return readme_table() + "\n"


def policyguard() -> str:
    m = result("policyguard_small")
    return "" if m is None else pair_table(m, ("overall", "cross", "wording", "type", "domain")) + "\n"


def debuglm() -> str:
    """What `zoo.test recipe=debuglm` printed of one model."""
    m = result("debuglm")
    if m is None:
        return ""
    from zoo.debuglm.evaluate import table

    return f"```\n{table(m)}\n```\n\nSeed {m['seed']}, {m['n']} test rows.\n"


TABLES: dict[str, Callable[[], str]] = {
    "policyguard": policyguard,
    "debuglm": debuglm,
    "sample": sample,
    "growth": growth,
    "twins": twins,
    "real_text": real_text,
    "held_out": held_out,
    "real_media": real_media,
    "overflagging": overflagging,
    "speed": speed,
    "benchmarks": benchmarks,
    "guardzoo": guardzoo,
    "claims": claims,
    "thud_real": thud_real,
}


def rendered(text: str) -> str:
    """`text` with its tables made anew. Raises KeyError for a table that nobody writes."""
    return _BLOCK.sub(lambda m: m.group(1) + TABLES[m.group("name")]() + m.group(3), text)


def main() -> int:
    for page in PAGES:
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(page, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
