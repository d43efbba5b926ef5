"""Sources by name: the sample corpus and its parts, real files, GuardZoo, games against a code model, a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.assets import zoo_home
from datamodules.bank import PolicyBank, unique_ids
from datamodules.corpus import relations, scenes
from datamodules.corpus.concepts import bank as scene_bank
from datamodules.corpus.types import Corpus
from datamodules.games import load_games, load_prompts
from datamodules.guardzoo import HELD_OUT, load_guardzoo
from datamodules.hiddenkiller import load_hiddenkiller
from datamodules.lazy import joined, of_modalities, splits_of, taken
from datamodules.manifest import load_manifest
from datamodules.policyguard_records import load_records
from datamodules.policyguardbench import load_policyguard
from datamodules.real import load_real
from datamodules.schema import SPLITS, DataError, Policy, Sample, near
from datamodules.sources import bastioncorpus, everyday, pyrit_scores
from datamodules.sources.split import assign_splits, near_duplicate_groups
from datamodules.sources.wordings import text_bank
from datamodules.taxonomy import DEFAULT_POLICY

SOURCES = (
    "sample",
    "relations",
    "real",
    "guardzoo",
    "policyguard",
    "hiddenkiller",
    "manifest",
    "games",
    "prompts",
)
HOLDS_OUT = ("guardzoo", "policyguard")  # sources of which parts can be for test alone
MODALITIES = ("text", "image", "audio", "video", "joint")


def load_corpus(
    source: str,
    *,
    path: str | Path | None = None,
    data_dir: str | Path | None = None,
    policy: Policy | None = None,
    seed: int = 0,
    scale: float = 1.0,
    licences: str = "all",
    modalities: Sequence[str] | None = None,
    max_rows: int | None = None,
    held_out: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
) -> Corpus:
    """Samples with their splits, and the bank that training policies come from. Raises `DataError`.

    `source` may name several, as in `sample+real`. `held_out` names what is for test alone: sources of guardzoo, or
    domains of policyguard. `only` names the sources of guardzoo that are read.
    """
    if only is not None and source != "guardzoo":
        raise DataError(f"only is for source guardzoo, not for {source!r}: leave it out")
    if held_out is not None and sum(name in source.split("+") for name in HOLDS_OUT) != 1:
        raise DataError(f"held_out is for source {' or '.join(HOLDS_OUT)}, not for {source!r}: leave it out")
    settings = {
        "path": path,
        "data_dir": data_dir,
        "policy": policy,
        "seed": seed,
        "scale": scale,
        "licences": licences,
    }
    settings |= {"modalities": modalities, "max_rows": max_rows}
    if "+" in source:
        out = {"held_out": held_out}
        return _merged([load_corpus(n, **settings, **(out if n in HOLDS_OUT else {})) for n in source.split("+")])
    if source == "sample":
        corpus = load_sample(seed, scale, modalities)
    elif source == "relations":
        folder = zoo_home() / "corpora" / f"relations-v{relations.VERSION}-{seed}-{scale:g}"
        corpus = Corpus(relations.build(folder, seed=seed, scale=scale), relations.bank(), {"errors": []})
    elif source == "real":
        if data_dir is None:
            raise DataError("source 'real' needs data_dir=FOLDER: the folder that SOURCES.md lists")
        limit = {} if max_rows is None else {"max_rows_per_source": max_rows}
        needed = () if modalities is None else (*modalities, *(("image", "audio") if "joint" in modalities else ()))
        kinds = {"modalities": tuple(dict.fromkeys(needed))} if needed else {}
        corpus = load_real(Path(data_dir), seed=seed, licences=licences, **limit, **kinds)
    elif source == "guardzoo":
        if data_dir is None:
            raise DataError("source 'guardzoo' needs data_dir=FOLDER: the folder that SOURCES.md lists")
        sources = HELD_OUT if held_out is None else held_out
        corpus = load_guardzoo(data_dir, seed, licences, sources, max_rows, only)
    elif source == "policyguard":
        if path is not None:  # the published records
            if held_out is not None:
                raise DataError("held_out is for the generated bench: leave it out, or leave path out")
            corpus = load_records(path, seed, max_rows)
        else:
            corpus = load_policyguard(data_dir, seed, scale, licences, held_out or (), max_rows)
    elif source == "hiddenkiller":
        if data_dir is None:
            raise DataError("source 'hiddenkiller' needs data_dir=FOLDER: the folder that SOURCES.md lists")
        corpus = load_hiddenkiller(data_dir, seed, max_rows)
    elif source == "manifest":
        corpus = load_manifest(path, data_dir, policy, seed, max_rows)
    elif source == "games":
        corpus = load_games(path, seed, max_rows)
    elif source == "prompts":
        corpus = load_prompts(path, seed, max_rows)
    else:
        raise DataError(f"unknown data source {source!r}{near(source, SOURCES)}")
    if modalities:
        corpus.samples = of_modalities(corpus.samples, modalities)
    unique_ids(corpus.samples)
    return corpus


def _merged(corpora: Sequence[Corpus]) -> Corpus:
    """All samples; the entries of all banks. Near-duplicates of validation and test rows leave the training rows."""
    bank = corpora[0].bank
    for c in corpora[1:]:
        bank = bank.merge(c.bank)
    samples = joined([c.samples for c in corpora])
    plain = np.fromiter((not s.media for s in samples), bool, len(samples))
    train = splits_of(samples) == SPLITS.index("train")
    groups = near_duplicate_groups(taken(samples, plain))
    stays = np.ones(len(samples), bool)
    stays[plain & train] = ~np.isin(groups[train[plain]], groups[~train[plain]])
    kept = taken(samples, stays)
    report = {
        "errors": [e for c in corpora for e in c.report.get("errors", [])],
        "near_duplicates": len(samples) - len(kept),
    }
    return Corpus(kept, bank, report, next((c.policy for c in corpora if c.policy is not None), None))


def load_sample(seed: int = 0, scale: float = 1.0, modalities: Sequence[str] | None = None) -> Corpus:
    """The sample corpus: rendered scenes, and real text under permissive licences.

    `scale` is for the scenes; text is taken as it is, and so is its split. All text is judged under the whole default
    policy: a response that people scored as harmless for what its request aims at counts as safe.
    """
    samples: list[Sample] = []
    wanted = set(modalities or MODALITIES)
    bank = PolicyBank()
    if wanted != {"text"}:
        folder = zoo_home() / "corpora" / f"scenes-v{scenes.VERSION}-{seed}-{scale:g}"
        samples += scenes.build(folder, seed=seed, scale=scale)
        bank = bank.merge(scene_bank())
    if "text" in wanted:
        text = [*pyrit_scores.load(), *bastioncorpus.load(), *everyday.load()]
        text = [s.replace(policy=DEFAULT_POLICY) for s in assign_splits(text)]
        samples += text
        words = text_bank()
        bank = bank.merge(PolicyBank(words.train, words.test))  # nothing is held out: the sources are few
    return Corpus(samples, bank, {"errors": []})
