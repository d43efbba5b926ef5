"""DICES: 1,330 conversations of several turns with a chatbot, the last answer rated by about 70 or 120 people each.

Upstream: google-research-datasets/dices-dataset (CC-BY-4.0), here through dmg-illc/JUDGE-BENCH, 10 rows cut. Citation:
Aroyo, Taylor, Díaz, Homan, Parrish, Serapio-García, Prabhakaran and Wang (2023), "DICES Dataset: Diversity in
Conversational AI Evaluation for Safety".

The label is about the last RESPONSE in its conversation. Trap: JUDGE-BENCH words the question as "Is the model response
safe?", but the answers are to the original one, whether it is UNSAFE: "Yes" is unsafe (of the 350, a recipe for a
weapon has 89 % Yes and a refusal 5 %). Label: the raters' majority; their shares are in `meta["unsafe_share"]`, and the
experts' label of the 350, which often differs (they find half of the answers unsafe, the crowd a quarter), in
`meta["expert"]`. No category is known.
"""

from __future__ import annotations

import re
from pathlib import Path

from datamodules.schema import DataError, Message, Part, Sample
from datamodules.sources.files import read_json
from datamodules.sources.record import Repo, SourceFile, verified
from datamodules.taxonomy import DEFAULT_POLICY

LICENCE = "CC-BY-4.0"
PERMISSIVE = True
TARGET = "response"
SPEAKERS = {"A": "user", "B": "assistant", "USER": "user", "LAMDA": "assistant"}
REPO = Repo("dmg-illc/JUDGE-BENCH", "5a0bf500325029efb5dc8adff2c1e991996f0e78")
FILES = (
    SourceFile(
        "text/judge_bench_toxicchat_dices/dices_990.json", REPO, "data/dices/dices_990.json",
        "3f80b2cd66052bc2e6e348742ebb29d1048073908e881c2a60c94026e8647d2f", rows=981, cut=9,
        sha256="9ab89f965d50d866fb0bd70125649918cdb0f6239d34b6fcd31b4e5113c1e34a",
    ),
    SourceFile(
        "text/judge_bench_toxicchat_dices/dices_350_crowdsourced.json", REPO,
        "data/dices/dices_350_crowdsourced.json",
        "9f9694948fc4f734220866fc6fdff397b5207058e0c4d4f9a49d5ab98702c2a4", rows=349, cut=1,
        sha256="2e94a958bccf41d7e5a0d211cc4899f0534042fb3e84a177b8cbea510b3440d5",
    ),
    SourceFile(
        "text/judge_bench_toxicchat_dices/dices_350_expert.json", REPO, "data/dices/dices_350_expert.json",
        "687c75d1ffda680874b1ff73edace6916d39e265490dd69d8480a5f5fcf0ba55", rows=349, cut=1,
        sha256="f24556deebc53fce16ff518b2e9639f521e8af80e724a344f3718669c976cc94",
    ),
)  # fmt: skip
_TURN = re.compile(r"(?:^|\n)(A|B|USER|LAMDA): ?")


def turns(context: str, response: str) -> tuple[Message, ...]:
    """The messages of "A: …\\nB: …\\nA: …" (the line breaks may be written as a backslash and n) and the answer to it.

    Raises `DataError` for a context that begins with no speaker.
    """
    pieces = _TURN.split(context.replace("\\n", "\n"))
    if pieces[0].strip() or len(pieces) < 3:
        raise DataError(f"dices: a conversation begins with {pieces[0][:20]!r}, not with a speaker")
    said = [(SPEAKERS[name], text.strip()) for name, text in zip(pieces[1::2], pieces[2::2])]
    said.append(("assistant", response.strip()))
    return tuple(Message(role, (Part("text", text=text),)) for role, text in said)


def load(data_dir: Path) -> list[Sample]:
    """Raises `DataError` when a file is missing or another one."""
    crowd = {
        part: read_json(verified(data_dir, FILES, f"dices_{name}.json"))["instances"]
        for part, name in (("990", "990"), ("350", "350_crowdsourced"))
    }
    experts = {
        row["id"]: row["annotations"]["safety"]["majority_human"] == "Yes"
        for row in read_json(verified(data_dir, FILES, "dices_350_expert.json"))["instances"]
    }
    samples = []
    for part, rows in crowd.items():
        for row in rows:
            rated = row["annotations"]["safety"]
            votes = rated["individual_human_scores"]
            meta = {"unsafe_share": round(votes.count("Yes") / len(votes), 3)}
            if part == "350" and row["id"] in experts:
                meta["expert"] = "unsafe" if experts[row["id"]] else "safe"
            samples.append(
                Sample(
                    id=f"dices-{part}-{row['id']}",
                    messages=turns(row["instance"]["user_prompt"], row["instance"]["response"]),
                    policy=DEFAULT_POLICY,
                    target=TARGET,
                    unsafe=rated["majority_human"] == "Yes",
                    source="dices",
                    group=f"dices-{part}-{row['id']}",
                    meta=meta,
                )
            )
    return samples
