"""Sources by name: the sample corpus, the real files, a user's manifest."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.assets import zoo_home
from datamodules.bank import PolicyBank, unique_ids
from datamodules.corpus import scenes
from datamodules.corpus.concepts import bank as scene_bank
from datamodules.corpus.types import Corpus
from datamodules.real import load_real
from datamodules.schema import SPLITS, DataError, Policy, Sample, near
from datamodules.sources import bastioncorpus, everyday, pyrit_scores
from datamodules.sources.split import assign_splits, near_duplicates
from datamodules.sources.wordings import text_bank
from datamodules.taxonomy import DEFAULT_POLICY

SOURCES = ("sample", "real", "manifest")
FRACTIONS = (0.7, 0.12, 0.18)


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
) -> Corpus:
    """Samples with their splits, and the bank that training policies come from. Raises `DataError`.

    `source` may name several, as in `sample+real`.
    """
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
        return _merged([load_corpus(name, **settings) for name in source.split("+")])
    if source == "sample":
        corpus = load_sample(seed, scale, modalities)
    elif source == "real":
        if data_dir is None:
            raise DataError("source 'real' needs data_dir=FOLDER: the folder that SOURCES.md lists")
        limit = {} if max_rows is None else {"max_rows_per_source": max_rows}
        needed = () if modalities is None else (*modalities, *(("image", "audio") if "joint" in modalities else ()))
        kinds = {"modalities": tuple(dict.fromkeys(needed))} if needed else {}
        corpus = load_real(Path(data_dir), seed=seed, licences=licences, **limit, **kinds)
    elif source == "manifest":
        corpus = load_manifest(path, data_dir, policy, seed, max_rows)
    else:
        raise DataError(f"unknown data source {source!r}{near(source, SOURCES)}")
    if modalities:
        corpus.samples = [s for s in corpus.samples if s.modality in modalities]
    unique_ids(corpus.samples)
    return corpus


def _merged(corpora: Sequence[Corpus]) -> Corpus:
    """All samples; the entries of all banks. Near-duplicates of validation and test rows leave the training rows."""
    bank = corpora[0].bank
    for c in corpora[1:]:
        bank = bank.merge(c.bank)
    samples = [s for c in corpora for s in c.samples]
    groups = near_duplicates([s for s in samples if not s.media])
    held = {g for s, g in zip((s for s in samples if not s.media), groups) if s.split != "train"}
    of = dict(zip((s.id for s in samples if not s.media), groups))
    kept = [s for s in samples if s.split != "train" or of.get(s.id) not in held]
    report = {
        "errors": [e for c in corpora for e in c.report.get("errors", [])],
        "near_duplicates": len(samples) - len(kept),
    }
    return Corpus(kept, bank, report)


def load_sample(seed: int = 0, scale: float = 1.0, modalities: Sequence[str] | None = None) -> Corpus:
    """The sample corpus: rendered scenes, and real text under permissive licences.

    `scale` is for the scenes; text is taken as it is, and so is its split. All text is judged under the whole default
    policy: a response that people scored as harmless for what its request aims at counts as safe.
    """
    samples: list[Sample] = []
    wanted = set(modalities or ("text", "image", "audio", "video", "joint"))
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


def load_manifest(
    path: str | Path | None, data_dir: str | Path | None, policy: Policy | None, seed: int, max_rows: int | None = None
) -> Corpus:
    """A user's JSONL manifest. A bad row is listed in the report's `errors` and left out; the others count.

    Rows without a split are assigned one by group; a manifest whose rows all say `train` gives up some groups for
    validation and test.
    """
    if path is None:
        raise DataError("source 'manifest' needs data.path=FILE.jsonl")
    path = Path(path)
    policy = policy or DEFAULT_POLICY
    samples: list[Sample] = []
    errors: list[dict[str, str]] = []
    seen: set[str] = set()
    for n, row in read_rows(path):
        where = f"{path.name} line {n}"
        if isinstance(row, DataError):
            errors.append({"id": f"line {n}", "error": f"{where}: {row}"})
            continue
        id = str(row["id"]) if isinstance(row, dict) and row.get("id") not in (None, "") else f"line {n}"
        try:
            sample = Sample.from_dict(row, data_dir or path.parent, where)
            if sample.id in seen:
                raise DataError(f"{where} (id {sample.id!r}): duplicate id: make ids unique")
            own = sample.policy or policy
            for category in sample.categories:
                if category not in own.ids:
                    raise DataError(
                        f"{where} (id {sample.id!r}): category {category!r} is not in the policy {own.name!r}"
                        f"{near(category, own.ids)}; give data.policy=FILE.yaml or a `policy` in the row"
                    )
            if sample.unsafe and all(sample.categories.get(i) == "no" for i in own.ids):
                raise DataError(
                    f"{where} (id {sample.id!r}): `unsafe` is true but every category of the policy is no: "
                    "correct one of them"
                )
        except DataError as e:
            errors.append({"id": id, "error": str(e)})
            continue
        seen.add(sample.id)
        samples.append(sample.replace(policy=own))
        if max_rows is not None and len(samples) >= max_rows:
            break
    bank = PolicyBank.of(policy)
    for s in samples:
        if s.policy is not policy:
            bank = bank.merge(PolicyBank.of(s.policy)) if set(s.policy.ids) - set(bank.train) else bank
    return Corpus(_split(samples, seed), bank, {"errors": errors})


def read_rows(path: Path) -> list[tuple[int, Any]]:
    """The number and the JSON value of each non-empty line, or the `DataError` that it deserves."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines() would cut at U+2028 inside a text
    except OSError as e:
        raise DataError(f"{path}: cannot read the manifest: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not UTF-8 text (byte {e.start}): save it as UTF-8 JSONL") from e
    rows: list[tuple[int, Any]] = []
    for n, line in enumerate(lines, 1):
        if line.strip():
            try:
                row = json.loads(line)
                json.dumps(row, ensure_ascii=False).encode()
            except UnicodeEncodeError:
                row = DataError("half a surrogate pair (\\ud800 to \\udfff) in a text: write whole characters")
            except (ValueError, RecursionError) as e:
                row = DataError(f"not valid JSON: {e}")
            rows.append((n, row))
    return rows


def _split(samples: list[Sample], seed: int) -> list[Sample]:
    """Rows that name a split keep it, and so does their group; other groups are assigned one."""
    named = {s.group: s.split for s in samples if s.split and s.group}
    samples = [s.replace(split=named.get(s.group)) if s.split is None and s.group in named else s for s in samples]
    free = iter(assign_splits([s for s in samples if s.split is None], seed=seed, fractions=FRACTIONS))
    samples = [s if s.split else next(free) for s in samples]
    counts = Counter(s.split for s in samples)
    missing = [s for s in SPLITS[1:] if not counts[s]]
    if missing and counts["train"] > 2:
        fractions = (1 - 0.15 * len(missing), *(0.15 if s in missing else 0.0 for s in SPLITS[1:]))
        train = assign_splits([s for s in samples if s.split == "train"], seed=seed, fractions=fractions)
        samples = [*train, *(s for s in samples if s.split != "train")]
        print(f"the manifest has no rows for {' and '.join(missing)}: some training groups are taken", file=sys.stderr)
    return samples
