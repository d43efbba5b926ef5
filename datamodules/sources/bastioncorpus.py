"""bastioncorpus: 181 prompt injections and harmless look-alikes, in five languages and a dozen encodings.

Upstream: the package bastioncorpus 0.6.0 (S. Rizzello, MIT), `corpus/injections.jsonl`, asset `bastioncorpus`; it has
no paper. The label is about the PROMPT: malicious → S15 yes, benign (a false-positive trap) → S15 no. Benign rows are
ordinary support questions, so `unsafe` is false; other categories were not annotated and stay unknown.

A row's `{canary}` slot, which its runner fills, gets a code that is drawn from the row's id: left as it is, the slot
would give the label away. The group is the idea behind a row: translations, encodings and rewordings of one injection
share it (by the upstream `intent`, and by its words in all five languages where upstream gives none).
"""

from __future__ import annotations

import hashlib
import re

from datamodules.assets import resolve
from datamodules.schema import DataError, Sample
from datamodules.sources.files import read_jsonl, text_sample
from datamodules.sources.split import assign_splits
from datamodules.taxonomy import DEFAULT_POLICY

LICENCE = "MIT"
PERMISSIVE = True
TARGET = "prompt"
ASSET = "bastioncorpus"

# The ideas that come in several languages and wordings; the first that matches is the row's group.
_IDEAS = (
    ("decode", r"base64|rot13|encoded|^vtaber|ign0r3|^\.etis|i g n o r e|shipping notes|plain english: [01]"),
    ("persona", r"developer mode|\bdan\b|no longer a support bot|uncensored|pretend you are an ai|unrestricted mode"
                r"|desarrollador|sans re|sin re|senza re|uneingeschr"),
    ("delimiter", r"end of (user input|document)|^-+\s*system|im_start"),
    ("override", r"(ignor\w*|forget|disregard|oubli\w*|olvida|dimentica|vergiss).{0,30}"
                 r"(instru|istru|anweis|everything|guideline|richtlinien|above|alles)|override:|no restrictions"
                 r"|ab jetzt|ab sofort|rules have changed|new directive|new instructions|from now on|neue anweisungen"),
    ("reveal", r"system ?prompt|(reveal|print|repeat|tell me|output|show).{0,40}(instructions|words above|context)"
               r"|systemanweisung|instructions syst|instrucciones del sistema|istruzioni di sistema|prompt di si"
               r"|prompt del|prompt de s|deinen s"),
    ("mail-data", r"(email|forward|send).{0,30}customer|customer emails|donnees clients|http_post|send_email"),
    ("canary", r"\{canary\}"),
)  # fmt: skip


def load(seed: int = 5) -> list[Sample]:  # few and large groups: under this seed each split has both labels
    """All rows, split by idea. Raises `AssetError`, or `DataError` for a row that is not as expected."""
    path = resolve(ASSET) / "injections.jsonl"
    samples = []
    for n, row in enumerate(read_jsonl(path), 1):
        if row.get("label") not in ("malicious", "benign") or not row.get("text"):
            raise DataError(f"{path.name}: row {n} needs a text and a label of malicious or benign")
        unsafe = row["label"] == "malicious"
        sample = text_sample(
            "bastioncorpus",
            row["id"],
            row["text"].replace("{canary}", _code(row["id"])),
            unsafe=unsafe,
            categories={"S15": "yes" if unsafe else "no"},
            policy=DEFAULT_POLICY.subset(["S15"]),
            group=_idea(row),
            **{k: row.get(k) or "" for k in ("lang", "channel", "tactic")},
            kind=row["category"],
        )
        if not unsafe:
            sample = sample.replace(critique="The prompt is an ordinary request: nothing in it overrides the rules.")
        samples.append(sample)
    return assign_splits(samples, seed)


def _idea(row: dict[str, str]) -> str:
    if row["label"] == "benign":
        # Upstream names the trap (benign_ignore in five languages is one sentence); support questions are all distinct.
        shared = row["category"] not in ("benign_support", "benign_encoded", "benign_roleplay", "benign_codegen")
        return row["category"] if shared else row["id"]
    for name, pattern in _IDEAS:
        if re.search(pattern, row["text"].lower()):
            return name
    intent = row.get("intent")
    return "intent-" + hashlib.sha256(intent.encode()).hexdigest()[:12] if intent else row["id"]


def _code(id: str) -> str:
    return "REF-" + hashlib.sha256(id.encode()).hexdigest()[:8].upper()
