"""Questions, answers and where they come from, as a DataModule: around public sets, one's own rows, or any text data.

DebugDataModule("sets", data_dir=FOLDER, sets=["BANKING", "MATHS"], stages=[Stage(("BANKING", "MATHS"), 4)])
DebugDataModule.around(TextDataModule("guardzoo", data_dir=FOLDER), stages=[Stage(("AEGIS", "XSTEST"), 4)])
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datamodules.bank import PolicyBank
from datamodules.base import GuardDataModule
from datamodules.corpus.types import Corpus
from datamodules.debuglm_sources import load_public
from datamodules.debuglm_views import (
    CONTROLS,
    LEVELS,
    Plan,
    Stage,
    View,
    Wanted,
    all_tags,
    answer_of,
    asked_views,
    check_stages,
    plan,
    prompt_of,
    set_of,
    stage_of,
    tag_name,
    tags_of,
)
from datamodules.jsonl import check_text, read_lines
from datamodules.sampling import ProcessBatches, process
from datamodules.schema import SPLITS, DataError, Message, Part, Sample, reject_unknown
from datamodules.sources.split import assign_splits, draw
from datamodules.taxonomy import DEFAULT_POLICY

SOURCES = ("sets", "rows")
VERDICTS = {True: "unsafe", False: "safe"}


class DebugDataModule(GuardDataModule):
    """Rows of several sets with the tags that say so, in plain, debug and refusal views, stage by stage.

    Args:
        source: sets (the public ones, `sets`), rows (a JSONL file, `path`), or what any text DataModule reads
            (guardzoo, manifest, …): its own settings are then in `inner`.
        sets: names of the sets to keep; None: those of the stages.
        level: coarse (a tag a set) or fine (a tag a part, too).
        max_rows: of each set, drawn by its conversations' names before the split.
        also: further sets that are made of others, as in {MONEY: [BANKING, ASSISTANT/CARDS]}: a row of these has
            several tags.
        stages: what training goes through, in turn. views: how often it shows a row, and how.
        control: none, untagged or shuffled (see `debuglm_views.plan`).
    """

    def __init__(
        self,
        source: str = "sets",
        *,
        stages: Sequence[Stage],
        sets: Sequence[str] | None = None,
        views: Wanted | None = None,
        level: str = "coarse",
        also: Mapping[str, Sequence[str]] | None = None,
        control: str = "none",
        inner: GuardDataModule | None = None,
        path: str | Path | None = None,
        data_dir: str | Path | None = None,
        max_rows: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        workers: int = 0,
    ):
        super().__init__(
            source, path=path, data_dir=data_dir, modalities=("text",), batch_size=batch_size, seed=seed,
            max_rows=max_rows, workers=workers,
        )  # fmt: skip
        for key, value, known in (("level", level, LEVELS), ("control", control, CONTROLS)):
            if value not in known:
                raise DataError(f"{key}={value}: expected one of {', '.join(known)}")
        if inner is None and source not in SOURCES:
            raise DataError(f"source={source}: expected one of {', '.join(SOURCES)}, or wrap another DataModule")
        self.stages, self.wanted, self.level, self.control = tuple(stages), views or Wanted(), level, control
        self.sets = tuple(sets) if sets else tuple(dict.fromkeys(n for s in stages for n in s.sets))
        self.also, self.inner = {k: tuple(v) for k, v in (also or {}).items()}, inner
        self._plan: Plan | None = None
        self.encode: Any = _unchanged  # View → what a batch is made of; the module sets it

    @classmethod
    def around(cls, inner: GuardDataModule, **settings: Any) -> DebugDataModule:
        """The rows of any DataModule of text: the set is a row's source, the part its first broken category."""
        return cls(inner.source, inner=inner, **settings)

    # ------------------------------------------------------------------------------------------------ rows

    def _load(self) -> Corpus:
        if self._corpus is None:
            rows, parted = self._read()
            rows, merged = merged_rows(rows)
            rows = [s.replace(meta={**s.meta, "tags": joined(s.meta["tags"], self.also)}) for s in rows]
            there = sorted({t for s in rows for t in tags_of(s, "coarse")})
            check_stages(self.stages, there)
            rows = at_most(rows, self.max_rows)
            rows = rows if parted else assign_splits(rows, self.corpus_seed)
            counts = Counter((s.split, s.source) for s in rows)
            self._corpus = Corpus(rows, PolicyBank.of(DEFAULT_POLICY), {"merged": merged, "rows": dict(counts)})
        return self._corpus

    def _read(self) -> tuple[list[Sample], bool]:
        """The rows, and whether they are in splits already."""
        if self.inner is not None:
            self.inner.prepare_data()
            self.errors += self.inner.errors
            rows = [tagged(s) for split in SPLITS for s in self.inner.samples(split)]
            kept = [s for s in rows if s is not None]
            self.errors += [
                {"id": "-", "error": f"{len(rows) - len(kept)} rows without a text or a label are left out"}
            ] * (len(kept) < len(rows))
            return [s for s in kept if set(tags_of(s, "coarse")) & self._wanted_sets()], True
        if self.source == "sets":
            return load_public([n for n in self._wanted_sets(ordered=True) if n not in self.also], self.data_dir), False
        if self.path is None:
            raise DataError("source=rows needs data.path=FILE.jsonl with prompt, answer and set in each line")
        rows = read_rows(Path(self.path))
        parted = all(s.split is not None for s in rows)
        return [s for s in rows if set(tags_of(s, "coarse")) & self._wanted_sets()], parted

    def _wanted_sets(self, ordered: bool = False) -> Any:
        """The sets to read: those that are named, and those that a set of `also` is made of."""
        names = [*self.sets, *(set_of(t) for k in self.also if k in self.sets for t in self.also[k])]
        names = list(dict.fromkeys(names))
        return names if ordered else set(names)

    @property
    def tags(self) -> list[str]:
        """Every tag that training may teach: the sets, then, of level fine, their parts."""
        rows = [s for s in self.samples("train") if stage_of(s, self.stages) is not None]
        return all_tags(rows, self.level)

    def asked(self, split: str) -> list[View]:
        """What a test asks: each row of the stages' sets in each of its views."""
        rows, known = [s for s in self.samples(split) if stage_of(s, self.stages) is not None], self.tags
        return [v for s in rows for v in asked_views(s, self.level, known)]

    # ------------------------------------------------------------------------------------------------ loaders

    @property
    def plan(self) -> Plan:
        if self._plan is None:
            rows = list(self.samples("train"))
            settings = (self.stages, self.wanted, self.level, self.batch_size, self.seed, self.control)
            self._plan = plan(rows, *settings)
        return self._plan

    def train_dataloader(self) -> DataLoader:
        """All stages as one epoch: the trainer has `max_epochs=1`."""
        order = Places(len(self.plan.views))
        loader = self._loader(self.plan.views, order)
        self._order = order  # type: ignore[assignment]
        if self._start is not None:
            self._skip_to(*self._start)
            self._start = None
        return loader

    def val_dataloader(self) -> DataLoader:
        """Plain and debug views of validation rows: what a loss can be told of."""
        kept = [v for v in self.asked("val") if not v.refuse]
        return self._loader(kept, Places(len(kept)))

    def _loader(self, given: Sequence[View], order: Sampler) -> DataLoader:
        return DataLoader(
            Views(given, self.encode),
            batch_sampler=ProcessBatches(order, self.batch_size, *process()),
            num_workers=self.workers,
            collate_fn=self.collate,
            generator=torch.Generator().manual_seed(self.seed),  # an iterator draws a number: not from the global state
        )


def _unchanged(view: View) -> View:
    return view


class Views(Dataset):
    """Views as the module encodes them."""

    def __init__(self, given: Sequence[View], encode: Any):
        self.given, self.encode = given, encode

    def __len__(self) -> int:
        return len(self.given)

    def __getitem__(self, at: int) -> Any:
        return self.encode(self.given[at])


class Places(Sampler[int]):
    """0 … n - 1, or from where a resumed training goes on."""

    def __init__(self, n: int):
        self.n, self.skip = n, 0

    def start_at(self, epoch: int, samples: int) -> None:
        self.skip = self.n if epoch else samples

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Any:
        first, self.skip = self.skip, 0
        return iter(range(first, self.n))


# ------------------------------------------------------------------------------------------------------- reading rows

FIELDS = ("id", "prompt", "answer", "set", "part", "tags", "group", "split", "licence")


def read_rows(path: Path) -> list[Sample]:
    """Rows of a JSONL file: `prompt`, `answer`, and `set` (with `part`) or `tags`, a list of names.

    `group` names the conversation that a split must not part. Raises `DataError` that names the line.
    """
    check_text(path)
    out: list[Sample] = []
    for n, _, line in read_lines(path):
        where = f"{path}: line {n}"
        try:
            row = json.loads(line)
        except ValueError as e:
            raise DataError(f"{where} is not JSON: {e}") from e
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object with prompt, answer and set")
        reject_unknown(row, FIELDS, where)
        for key in ("prompt", "answer"):
            if not isinstance(row.get(key), str) or not row[key].strip():
                raise DataError(f"{where}: `{key}` is missing or empty")
        if ("set" in row) == ("tags" in row):
            raise DataError(f"{where}: give `set` (and `part`), or `tags`, a list of names")
        tags = row["tags"] if "tags" in row else [row["set"] + (f"/{row['part']}" if row.get("part") else "")]
        if not isinstance(tags, list) or not tags:
            raise DataError(f"{where}: `tags`: expected a list of names such as [MINE, MINE/PART]")
        try:
            tags = sorted({tag_name(str(t)) for t in tags})
        except DataError as e:
            raise DataError(f"{where}: {e}") from e
        if row.get("split") not in (None, *SPLITS):
            raise DataError(f"{where}: `split`: expected one of {', '.join(SPLITS)}")
        out.append(_row(str(row.get("id", f"{path.stem}-{n}")), row["prompt"], row["answer"], tags, row))
    ids = Counter(s.id for s in out)
    if (twice := next((i for i, c in ids.items() if c > 1), None)) is not None:
        raise DataError(f"{path}: the id {twice!r} comes twice: make ids unique")
    splits = {s.split is None for s in out}
    if len(splits) > 1:
        raise DataError(f"{path}: some rows have a `split` and some have none: give all of them one, or none")
    return out


def _row(id: str, prompt: str, answer: str, tags: list[str], row: Mapping[str, Any]) -> Sample:
    messages = tuple(
        Message(who, (Part("text", text=text.strip()),)) for who, text in (("user", prompt), ("assistant", answer))
    )
    meta = {"tags": tags, "licence": row.get("licence", "of the file's owner"), "permissive": False}
    group = row.get("group")
    return Sample(
        id, messages, target="response", source=set_of(tags[0]), group=None if group is None else str(group),
        split=row.get("split"), meta=meta,
    )  # fmt: skip


def tagged(sample: Sample) -> Sample | None:
    """A guard's row as a question with an answer; None where it has no text or no label to answer with.

    The answer is the assistant's last message, or else the verdict. The set is the source, the part the first broken
    category. The split and the conversation stay.
    """
    texts = [(m.role, "\n".join(p.text or "" for p in m.content)) for m in sample.messages]
    if sample.media or not any(t.strip() for _, t in texts):
        return None
    if texts[-1][0] == "assistant" and len(texts) > 1:
        asked, answer = texts[:-1], texts[-1][1]
    elif sample.unsafe is not None:
        asked, answer = texts, VERDICTS[sample.unsafe]
    else:
        return None
    if not answer.strip():
        return None
    prompt = asked[0][1] if len(asked) == 1 else "\n".join(f"{role}: {text}" for role, text in asked)
    name = re.sub(r"[^A-Z0-9_-]", "_", sample.source.upper())
    broken = next((k for k, v in sorted(sample.categories.items()) if v == "yes"), None)
    part = None if broken is None else re.sub(r"[^A-Z0-9_-]", "_", broken.upper())
    tag = tag_name(f"{name}/{part}" if part else name)
    meta = {k: sample.meta[k] for k in ("licence", "permissive") if k in sample.meta}
    messages = (Message("user", (Part("text", text=prompt),)), Message("assistant", (Part("text", text=answer),)))
    return Sample(
        sample.id, messages, target="response", source=name, group=sample.group, split=sample.split,
        meta={**meta, "tags": [tag]},
    )  # fmt: skip


def merged_rows(rows: Sequence[Sample]) -> tuple[list[Sample], int]:
    """Rows with one question and answer as one row with all their tags, and how many were merged.

    Questions and answers are compared without case and runs of spaces. Raises `DataError` where the same row is in two
    splits: a test would ask what training showed.
    """
    kept: dict[tuple[str, str], Sample] = {}
    for s in rows:
        key = (_plain(prompt_of(s)), _plain(answer_of(s)))
        old = kept.get(key)
        if old is None:
            kept[key] = s
            continue
        if old.split != s.split:
            raise DataError(f"rows {old.id!r} and {s.id!r} are the same question in two splits: leave one out")
        kept[key] = old.replace(meta={**old.meta, "tags": sorted({*old.meta["tags"], *s.meta["tags"]})})
    return list(kept.values()), len(rows) - len(kept)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def joined(tags: Sequence[str], also: Mapping[str, Sequence[str]]) -> list[str]:
    """`tags` with those sets of `also` that hold one of them, or its set."""
    own = {*tags, *(set_of(t) for t in tags)}
    more = [name for name, parts in also.items() if own & set(parts)]
    return sorted({*tags, *map(tag_name, more)})


def at_most(rows: Sequence[Sample], n: int | None) -> list[Sample]:
    """`n` rows of each set at most: those whose ids come first after hashing, in their order."""
    if n is None:
        return list(rows)
    by_set: dict[str, list[Sample]] = {}
    for s in rows:
        by_set.setdefault(s.source, []).append(s)
    kept = {s.id for own in by_set.values() for s in sorted(own, key=lambda s: draw(f"{s.id}\x1fkept", 0))[:n]}
    return [s for s in rows if s.id in kept]
