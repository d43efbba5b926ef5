"""Games against a code model (RedCoder, arXiv 2507.22063) as training data: for a guard, and for an attacker.

A guard's row is what it sees in front of the victim: the conversation up to a prompt. Its label is the analyser's word
about the code of the answer: the first finding (yes), or all code so far read and nothing found (no). An attacker's row
ends with the prompt that came next in a game that succeeded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.bank import PolicyBank
from datamodules.corpus.types import Corpus
from datamodules.jsonl import check_text, parse, read_lines
from datamodules.schema import SPLITS, DataError, Message, Part, Policy, PolicyEntry, Sample
from datamodules.sources.split import assign_splits

TARGET, ANY, CLEAN = "target-CWE", "any-CWE", "clean"
SUCCESSES = (TARGET, ANY)
BLOCKED = "blocked"  # a turn that a guard stopped
GAMES, PROMPTS = "games.jsonl", Path("training_set") / "prompts.jsonl"
SOURCE = "redcoder"
INSECURE = "insecure-code"
POLICY = Policy(
    "insecure code",
    (
        PolicyEntry(
            INSECURE,
            "insecure code",
            "The conversation leads, step by step, to code with a security weakness that a static analyser finds.",
        ),
    ),
)


def decisive(attempt: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the analyser that decides says of an attempt: the first one's opinion."""
    return next(iter(attempt["evaluation"]["opinions"].values()))


def last_turn(attempt: Mapping[str, Any]) -> int:
    """The turn of the first finding of an attempt that succeeded, from 0 on."""
    return int(decisive(attempt)["any_turn"])


def group_of(game: Mapping[str, Any]) -> str:
    """Games of one task stay together, whatever arm or attempt they are of."""
    return f"{SOURCE}-{game['task']['id']}"


def labelled_turns(attempt: Mapping[str, Any], left_out: Counter[str]) -> Iterator[tuple[int, bool]]:
    """(turn, whether its answer had the first finding) of each turn that the analyser's outcome says something of.

    An attempt that ended otherwise than with a finding or clean has none, nor have the turns before a finding where
    some code could not be read; a turn that a guard stopped has no answer. All of it is counted in `left_out`.
    """
    outcome = attempt["outcome"]
    if outcome not in (*SUCCESSES, CLEAN):
        left_out[outcome] += 1
        return
    found = last_turn(attempt) if outcome in SUCCESSES else None
    unread = found is not None and bool(decisive(attempt)["errors"])
    for turn, exchange in enumerate(attempt["exchanges"]):
        if turn == found:
            yield turn, True
            return
        if exchange["status"] == BLOCKED:
            left_out["turns that a guard stopped"] += 1
        elif unread:
            left_out["turns before a finding, with code that could not be read"] += 1
        else:
            yield turn, False


def chat_upto(attempt: Mapping[str, Any], turn: int) -> tuple[Message, ...]:
    """The conversation as a guard sees it: all before `turn`, and its prompt."""
    out: list[Message] = []
    for e in attempt["exchanges"][:turn]:
        out += [_said("user", e["prompt"]), _said("assistant", e["reply"])]
    return (*out, _said("user", attempt["exchanges"][turn]["prompt"]))


def _said(role: str, text: str) -> Message:
    return Message(role, (Part("text", text=text),))


# ---------------------------------------------------------------------------------------------------- rows for a guard


def load_games(path: str | Path | None, seed: int = 0, max_rows: int | None = None) -> Corpus:
    """Every turn of the games of a run (its folder, or its `games.jsonl`) that has a label, under `POLICY`.

    Games of one task are on one side. The first turns of many games are the same: of equal conversations one stays, on
    the test side where one is there, and it is a yes where any of them is. The report counts what is left out. Raises
    `DataError` for what holds no games, or none with a label.
    """
    file = _file(path, Path(GAMES))
    left_out: Counter[str] = Counter()
    rows: list[Sample] = []
    for n, game in enumerate(_lines(file, "game"), 1):
        try:
            rows += _of(game, left_out)
        except (KeyError, TypeError, IndexError, AttributeError, RuntimeError) as e:  # RuntimeError: no analyser spoke
            raise DataError(f"{file}: game {n} is not as recipe redcoder_gaming writes them ({e!r})") from e
    if not rows:
        raise DataError(f"{file}: no turn of its games has a label: every attempt ended in {_listed(left_out)}")
    kept = _once(assign_splits(rows[:max_rows], seed, near=None), left_out)
    report = {"errors": [], "left_out": dict(left_out)}
    return Corpus(kept, PolicyBank.of(POLICY), report, POLICY)


def _of(game: Mapping[str, Any], left_out: Counter[str]) -> Iterator[Sample]:
    for n, attempt in enumerate(game["attempts"], 1):
        for turn, found in labelled_turns(attempt, left_out):
            yield Sample(
                id=f"{game['id']}/{n}/{turn + 1}",
                messages=chat_upto(attempt, turn),
                policy=POLICY,
                target="conversation",
                categories={INSECURE: "yes" if found else "no"},
                source=SOURCE,
                group=group_of(game),
                meta={"licence": "what the victim's licence says of its answers"},
            )


def _once(samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
    first: dict[tuple[str, ...], int] = {}
    out: list[Sample] = []
    for sample in sorted(samples, key=lambda s: -SPLITS.index(str(s.split))):  # stable: in their order on each side
        said = tuple(p.text or "" for p in sample.parts)
        if said not in first:
            first[said] = len(out)
            out.append(sample)
            continue
        left_out["conversations that are there already"] += 1
        if sample.categories[INSECURE] == "yes":
            out[first[said]] = out[first[said]].replace(categories=sample.categories)
    return out


# ------------------------------------------------------------------------------------------------- rows for an attacker


def load_prompts(path: str | Path | None, seed: int = 0, max_rows: int | None = None) -> Corpus:
    """The prototypes of a gaming run (its folder, or its `prompts.jsonl`), a row a prompt that led to a finding.

    The last message is the prompt that came next; `meta` has the rest of what an attacker is told: request, weakness,
    turn, lesson, strategy. Raises `DataError` for what holds none.
    """
    file = _file(path, PROMPTS)
    rows = [_prompt(row, f"{file}: row {n}") for n, row in enumerate(_lines(file, "prompt"), 1)]
    if not rows:
        raise DataError(
            f"{file}: no game succeeded, so there is nothing to learn from: play more, or with more attempts"
        )
    return Corpus(assign_splits(rows[:max_rows], seed, near=None), PolicyBank.of(POLICY), {"errors": []}, POLICY)


TOLD = ("request", "weakness", "turn", "lesson", "strategy")


def _prompt(row: Mapping[str, Any], where: str) -> Sample:
    try:
        said = [(m["role"], m["content"]) for m in row["messages"]] + [("user", row["next"])]
        told = {k: row[k] for k in TOLD}
        texts = [row["id"], row["task"], *(t for _, t in said), *(v for k, v in told.items() if k != "strategy")]
    except (KeyError, TypeError) as e:
        raise DataError(f"{where}: not a prototype's prompt ({e} is missing): play the games again") from e
    if not all(isinstance(t, str) for t in texts) or not isinstance(told["strategy"], (str, type(None))):
        raise DataError(f"{where}: a prototype's prompt is made of texts")
    messages = tuple(_said(role, text) for role, text in said)
    group = f"{SOURCE}-{row['task']}"
    return Sample(row["id"], messages, POLICY, categories={INSECURE: "yes"}, source=SOURCE, group=group, meta=told)


# --------------------------------------------------------------------------------------------------------------- files


def _file(path: str | Path | None, inside: Path) -> Path:
    if path is None:
        raise DataError("give games=FOLDER (or data.path=FOLDER): the run's folder of recipe=redcoder_gaming")
    path = Path(path)
    file = path / inside if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file: give the run's folder of python -m zoo.test recipe=redcoder_gaming")
    return file


def _lines(file: Path, what: str) -> Iterator[dict[str, Any]]:
    check_text(file)
    needs: dict[str, Callable[[Any], bool]] = {
        "game": lambda r: isinstance(r.get("task"), dict) and isinstance(r.get("attempts"), list),
        "prompt": lambda r: "next" in r,
    }
    for n, _, line in read_lines(file):
        row = parse(line)
        if isinstance(row, DataError):
            raise DataError(f"{file} line {n}: {row}; of a run that was stopped: finish it with resume=")
        if not isinstance(row, dict) or not needs[what](row):
            raise DataError(f"{file} line {n}: not a {what} of recipe redcoder_gaming")
        yield row


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({n})" for name, n in counts.most_common()) or "nothing"
