"""PyRIT's scorer evaluation sets: model responses that people scored for harm.

Upstream: the package pyrit 1.1.0 (Microsoft, MIT), `datasets/scorer_evals/harm/*.csv`, asset `pyrit-scores`. Citation:
Lopez Munoz et al. (2024), "PyRIT: A Framework for Security Risk Identification and Red Teaming in Generative AI
System".

1,005 rows in eleven files: 976 in the ten that name their scores `human_score_1…3`, and 29 in representational.csv.
The label is about the RESPONSE and about one harm. Scores are 0, 0.25, 0.5, 0.75 or 1 by one to three people.

From scores to labels: the files overlap (mini_hate_speech is part of hate_speech_multi_score, and five pairs of
objective and response are repeated within a file, four of them with other scores), so the scores of a pair are pooled
over all of its rows, a repeated row of scores counting once. A mean of at least 0.5 (moderate harm by PyRIT's scale) is
unsafe, at most 0.25 (minimal) is safe, and what lies between is dropped: people did not agree. `counts()` gives the
numbers.

Map: hate_speech and representational → S2, violence → S1, self_harm → S8, sexual → S9, privacy → S11, information
integrity → S7. "exploits" mixes what the taxonomy parts: computer systems → S14, instructions hidden in a text or asked
for by it → S15, people and institutions → S3, by the words of the objective.
The label says nothing of other harms: the sample's policy is that one entry. The group is the objective.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from pathlib import Path

from datamodules.assets import resolve
from datamodules.schema import DataError, Sample
from datamodules.sources.files import text_sample
from datamodules.sources.split import assign_splits, normalise
from datamodules.taxonomy import DEFAULT_POLICY

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "response"
ASSET = "pyrit-scores"
CATEGORIES = {
    "hate_speech": "S2",
    "representational": "S2",
    "violence": "S1",
    "self_harm": "S8",
    "sexual_content": "S9",
    "privacy": "S11",
    "information_integrity": "S7",
    "exploits": "S14",
}
UNSAFE_FROM, SAFE_TO = 0.5, 0.25

_INJECTION = re.compile(
    r"system prompt|prompt you were given|base64|i speak without a mouth|summari[sz]e this|crossword"
)
_COMPUTER = re.compile(
    r"hack|ddos|malware|ransomware|spyware|backdoor|phishing|botnet|overflow|sql|website|websocket|vulnerabilit|exploit"
    r"|\bapi\b|metadata url|reverse shell|defender|firmware|rfid|admin password|decrypt|security course|software"
)


def load(seed: int = 0) -> list[Sample]:
    """The labelled pairs, split by objective. Raises `AssetError`, or `DataError` for a row that is not as expected."""
    return _labelled(_pairs(resolve(ASSET)), seed)


def counts() -> dict[str, int]:
    """rows → distinct pairs → unsafe, safe and dropped ones."""
    pairs = _pairs(resolve(ASSET))
    labels = Counter(_label(p["scores"]) for p in pairs.values())
    rows = sum(p["rows"] for p in pairs.values())
    return {"rows": rows, "pairs": len(pairs), "unsafe": labels[True], "safe": labels[False], "dropped": labels[None]}


def _pairs(root: Path) -> dict[tuple[str, str, str], dict]:
    """(harm, objective, response), normalised → the texts and the scores of all rows that have it."""
    pairs: dict[tuple[str, str, str], dict] = {}
    for path in sorted((root / "harm").glob("*.csv")):
        for n, row in enumerate(_rows(path), 1):
            where = f"{path.name}: row {n}"
            harm = (row["harm_category"] or "").strip().lower()
            if harm not in CATEGORIES:
                raise DataError(f"{where}: unknown harm category {harm!r}")
            scores = tuple(float(v) for k, v in row.items() if k and k.startswith("human_score") and v)
            if not scores or any(s * 4 not in range(5) for s in scores):
                raise DataError(f"{where}: human scores {scores} are not quarters from 0 to 1")
            key = (CATEGORIES[harm], *(" ".join(row[k].lower().split()) for k in ("objective", "assistant_response")))
            pair = pairs.setdefault(key, {"row": row, "harm": harm, "scores": set(), "rows": 0})
            pair["rows"] += 1
            pair["scores"].add(scores)
    return pairs


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as f:
        if not f.readline().startswith("# dataset_version"):  # a line before the header
            raise DataError(f"{path.name}: expected a line with the data set's version first")
        return list(csv.DictReader(f))


def _label(scores: set[tuple[float, ...]]) -> bool | None:
    pooled = [s for row in scores for s in row]
    mean = sum(pooled) / len(pooled)
    return True if mean >= UNSAFE_FROM else False if mean <= SAFE_TO else None


def _labelled(pairs: dict[tuple[str, str, str], dict], seed: int) -> list[Sample]:
    samples = []
    for key, pair in pairs.items():
        unsafe = _label(pair["scores"])
        if unsafe is None:
            continue
        objective, response = pair["row"]["objective"].strip(), pair["row"]["assistant_response"].strip()
        id = _category(pair["harm"], objective)
        sample = text_sample(
            "pyrit_scores",
            _short("\x1f".join(key)),
            objective,
            response,
            unsafe=unsafe,
            categories={id: "yes" if unsafe else "no"},
            policy=DEFAULT_POLICY.subset([id]),
            group=_short(normalise(objective)),
            harm=pair["harm"],
        )
        if not unsafe:
            sample = sample.replace(critique=f"The response stays clear of {DEFAULT_POLICY.entry(id).name}.")
        samples.append(sample)
    # By group alone: two answers to one objective, and near-duplicates of it, are together; a refusal that many
    # objectives share would chain all of them into one group if the responses were compared.
    groups = {s.id: s.group for s in assign_splits([s.replace(messages=s.messages[:1]) for s in samples], seed)}
    return assign_splits([s.replace(group=groups[s.id]) for s in samples], seed, near=None)


def _category(harm: str, objective: str) -> str:
    if harm != "exploits":
        return CATEGORIES[harm]
    text = objective.lower()
    return "S15" if _INJECTION.search(text) else "S14" if _COMPUTER.search(text) else "S3"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
