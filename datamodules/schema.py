"""The one record every part of the zoo speaks: a `Sample`, judged under a `Policy`.

Nothing downstream of these classes knows a file format, and nothing upstream knows a model.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PART_TYPES = ("text", "image", "audio", "video")
ROLES = ("system", "user", "assistant", "tool")
TARGETS = ("prompt", "response", "conversation", "trajectory")
LABELS = ("yes", "no", "unknown")
SPLITS = ("train", "val", "test")


class DataError(ValueError):
    """Something that the user's data, policy or command has wrong. Its message names the thing and the fix."""


class MediaError(DataError):
    """A media file that cannot be read, with its name and the reason."""


def near(name: str, known: list[str] | tuple[str, ...]) -> str:
    """`; did you mean …?` for the closest known names, or the list of all of them when none is close."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return "; did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "; known: " + ", ".join(sorted(known))


def reject_unknown(row: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    """Raises `DataError` for the first key of `row` that is not in `known`."""
    for key in row:
        if key not in known:
            raise DataError(f"{what}: unknown field {key!r}{near(str(key), known)}")


# ---------------------------------------------------------------------------------------------------------- policy


@dataclass(frozen=True)
class PolicyEntry:
    """One rule: `id` is for machines and never shown to a model; `name` and `description` are what it reads."""

    id: str
    name: str
    description: str = ""


@dataclass(frozen=True)
class Policy:
    """An ordered list of rules, given at run time. Ids and names are unique."""

    name: str
    entries: tuple[PolicyEntry, ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise DataError(f"policy {self.name!r} has no entries: give at least one")
        for what in ("id", "name"):
            seen: set[str] = set()
            for entry in self.entries:
                value = getattr(entry, what)
                if not isinstance(value, str) or not value.strip():
                    raise DataError(f"policy {self.name!r}: an entry has an empty {what}")
                if value in seen:
                    raise DataError(f"policy {self.name!r}: duplicate {what} {value!r}: make each {what} unique")
                seen.add(value)

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(e.id for e in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def entry(self, id: str) -> PolicyEntry:
        for e in self.entries:
            if e.id == id:
                return e
        raise DataError(f"policy {self.name!r} has no entry {id!r}{near(id, self.ids)}")

    def subset(self, ids: list[str] | tuple[str, ...]) -> Policy:
        """The entries with these ids, in the order of `ids`."""
        return Policy(self.name, tuple(self.entry(i) for i in ids))

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "entries": [dataclasses.asdict(e) for e in self.entries]}

    @classmethod
    def from_dict(cls, raw: Any, where: str = "policy") -> Policy:
        if not isinstance(raw, dict) or "entries" not in raw:
            raise DataError(f"{where}: expected a mapping with `name` and `entries`")
        reject_unknown(raw, ("name", "entries"), where)
        if not isinstance(raw["entries"], list):
            raise DataError(f"{where}: `entries` must be a list")
        entries = []
        for n, e in enumerate(raw["entries"], 1):
            if not isinstance(e, dict):
                raise DataError(f"{where}: entry {n} must be a mapping with id, name and description")
            reject_unknown(e, ("id", "name", "description"), f"{where}: entry {n}")
            if e.get("id") is None:
                raise DataError(f"{where}: entry {n} has no id")
            id = str(e["id"])
            entries.append(PolicyEntry(id, str(e.get("name") or id), str(e.get("description") or "")))
        try:
            return cls(str(raw.get("name") or "policy"), tuple(entries))
        except DataError as e:
            raise DataError(f"{where}: {e}") from e

    @classmethod
    def from_file(cls, path: str | Path) -> Policy:
        """Reads a policy from YAML or JSON. Raises `DataError` naming the file."""
        path = Path(path)
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as e:
            raise DataError(f"{path}: cannot read the policy: {e.strerror}") from e
        except (yaml.YAMLError, ValueError) as e:  # ValueError: not UTF-8, or a date such as 2024-13-99
            mark = getattr(e, "problem_mark", None)
            at = f" (line {mark.line + 1})" if mark else ""
            raise DataError(f"{path}: not a YAML policy{at}: {str(e).splitlines()[0]}") from e
        return cls.from_dict(raw, str(path))


# ---------------------------------------------------------------------------------------------------------- sample


@dataclass(frozen=True)
class Part:
    """One piece of a message. Media stay on disk until a backbone asks for them.

    `sound` and `frames` tell whether a video's sound track and pictures are to be looked at: an ablation or a
    transform turns one of them off without touching the file.
    """

    type: str
    text: str | None = None
    path: str | None = None
    sound: bool = True
    frames: bool = True


@dataclass(frozen=True)
class Message:
    role: str
    content: tuple[Part, ...]


_FIELDS = ("id", "messages", "policy", "target", "unsafe", "categories", "critique", "source", "group", "split", "meta")


@dataclass(frozen=True)
class Sample:
    """One thing to judge.

    `target` says what the label is about (prompt | response | conversation | trajectory). `unsafe` is true, false or
    None (unknown). `categories` maps entry ids to yes | no | unknown; an id that is missing is unknown: unknown is not
    safe. `group` names what a split must not part (scene, clip, dialogue). `meta` holds plain JSON values for slices.
    """

    id: str
    messages: tuple[Message, ...]
    policy: Policy | None = None
    target: str = "conversation"
    unsafe: bool | None = None
    categories: dict[str, str] = field(default_factory=dict)
    critique: str | None = None
    source: str = "user"
    group: str | None = None
    split: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        text: str | None = None,
        *,
        image: str | Path | list[str | Path] | None = None,
        audio: str | Path | list[str | Path] | None = None,
        video: str | Path | list[str | Path] | None = None,
        response: str | None = None,
        id: str = "sample",
        **fields: Any,
    ) -> Sample:
        """One user message (text first, then the media), with an optional assistant `response` after it."""
        parts = [Part("text", text=text)] if text is not None else []
        for kind, files in (("image", image), ("audio", audio), ("video", video)):
            files = [] if files is None else [files] if isinstance(files, (str, Path)) else files
            parts += [Part(kind, path=str(f)) for f in files]
        if not parts and response is None:
            raise DataError("nothing to judge: give text, image, audio, video or a response")
        messages = [Message("user", tuple(parts))] if parts else []
        if response is not None:
            messages.append(Message("assistant", (Part("text", text=response),)))
            fields.setdefault("target", "response")
        else:
            fields.setdefault("target", "prompt")
        return cls(id=id, messages=tuple(messages), **fields)

    def replace(self, **changes: Any) -> Sample:
        return dataclasses.replace(self, **changes)

    @property
    def parts(self) -> list[Part]:
        return [p for m in self.messages for p in m.content]

    @property
    def media(self) -> list[Part]:
        return [p for p in self.parts if p.type != "text"]

    @property
    def modality(self) -> str:
        """The bucket for metrics and balancing: text | image | audio | video | joint.

        A source that knows better (a picture that only the text beside it makes unsafe) says so in
        `meta["modality"]`; otherwise it is the kind of media, text where there is none, joint where there are several.
        """
        if "modality" in self.meta:
            return str(self.meta["modality"])
        kinds = sorted({p.type for p in self.media})
        return "text" if not kinds else kinds[0] if len(kinds) == 1 else "joint"

    def gold(self, policy: Policy) -> bool | None:
        """The verdict that the labels imply under `policy`: any entry yes → True; all no → False; else None (masked).

        A label that is only binary holds under the sample's own policy and no other.
        """
        labels = [self.categories.get(i, "unknown") for i in policy.ids]
        if "yes" in labels:
            return True
        if "unknown" not in labels:
            return False
        own = None if self.policy is None else set(self.policy.ids)
        if self.unsafe is False and (own is None or set(policy.ids) <= own):
            return False  # safe under its own policy: none of its entries is broken
        if self.unsafe and (own is None or own == set(policy.ids)):
            return True
        return None

    def label(self, id: str) -> bool | None:
        """Whether entry `id` is broken: what its label says, or what follows from the verdict; None: unknown.

        Safe under a policy: none of its entries is broken. Unsafe under a policy of one entry: that one is.
        """
        if (known := self.categories.get(id, "unknown")) != "unknown":
            return known == "yes"
        own = None if self.policy is None else self.policy.ids
        if self.unsafe is False and (own is None or id in own):
            return False
        return True if self.unsafe and own is not None and tuple(own) == (id,) else None

    def to_dict(self) -> dict[str, Any]:
        """The manifest form: what `from_dict` reads."""
        messages = []
        for m in self.messages:
            content = []
            for p in m.content:
                c: dict[str, Any] = {"type": p.type}
                c["text" if p.type == "text" else "path"] = p.text if p.type == "text" else p.path
                c.update({k: False for k in ("sound", "frames") if not getattr(p, k)})
                content.append(c)
            messages.append({"role": m.role, "content": content})
        row: dict[str, Any] = {"id": self.id, "messages": messages, "target": self.target}
        for key in ("unsafe", "categories", "critique", "source", "group", "split", "meta"):
            value = getattr(self, key)
            if value not in (None, {}):
                row[key] = value
        if self.policy is not None:
            row["policy"] = self.policy.to_dict()
        return row

    @classmethod
    def from_dict(cls, row: Any, root: str | Path = ".", where: str = "row", files: bool = True) -> Sample:
        """Reads a manifest row; `root` is the folder that its paths are relative to and must stay inside.

        Raises `DataError` that names `where` for an unknown field, a bad value, a path that leaves `root` or, with
        `files`, a missing file.
        """
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
        where = f"{where} (id {row['id']!r})" if "id" in row else where
        reject_unknown(row, _FIELDS, where)
        for key in ("id", "messages"):
            if not row.get(key) and not (key == "id" and type(row.get(key)) is int):  # rows numbered from 0
                raise DataError(f"{where}: `{key}` is required and must not be empty")
        if not isinstance(row["messages"], list):
            raise DataError(f"{where}: `messages` must be a list")
        messages = tuple(_message(m, root, where, files) for m in row["messages"])
        unsafe = row.get("unsafe")
        if unsafe is not None and not isinstance(unsafe, bool):
            raise DataError(f"{where}: `unsafe` must be true, false or null, got {unsafe!r}")
        categories = row.get("categories") or {}
        if not isinstance(categories, dict):
            raise DataError(f"{where}: `categories` must map ids to yes, no or unknown")
        for id, label in categories.items():
            _one_of(label, LABELS, f"{where}: category {id!r}")
        if unsafe is False and "yes" in categories.values():
            raise DataError(f"{where}: `unsafe` is false but a category is yes: correct one of them")
        for key in ("critique", "source", "group"):
            if row.get(key) is not None and not isinstance(row[key], str):
                raise DataError(f"{where}: `{key}` must be a string")
        meta = row.get("meta") or {}
        if not isinstance(meta, dict):
            raise DataError(f"{where}: `meta` must be a mapping")
        split = row.get("split")
        return cls(
            id=str(row["id"]),
            messages=messages,
            policy=Policy.from_dict(row["policy"], f"{where}: policy") if row.get("policy") else None,
            target=_one_of(row.get("target") or "conversation", TARGETS, f"{where}: target"),
            unsafe=unsafe,
            categories=dict(categories),
            critique=row.get("critique"),
            source=row.get("source") or "user",
            group=row.get("group"),
            split=_one_of(split, SPLITS, f"{where}: split") if split is not None else None,
            meta=dict(meta),
        )


def _one_of(value: Any, known: tuple[str, ...], what: str) -> Any:
    if value not in known:
        raise DataError(f"{what}: {value!r} is not one of {', '.join(known)}{near(str(value), known)}")
    return value


def _message(raw: Any, root: str | Path, where: str, files: bool) -> Message:
    if not isinstance(raw, dict):
        raise DataError(f"{where}: a message must be an object with role and content")
    reject_unknown(raw, ("role", "content"), f"{where}: message")
    content = raw.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise DataError(f"{where}: a message's `content` must be a string or a list of parts, and not empty")
    role = _one_of(raw.get("role"), ROLES, f"{where}: role")
    return Message(role, tuple(_part(p, root, where, files) for p in content))


def _part(raw: Any, root: str | Path, where: str, files: bool) -> Part:
    if not isinstance(raw, dict):
        raise DataError(f"{where}: a content part must be an object with a type")
    kind = _one_of(raw.get("type"), PART_TYPES, f"{where}: part type")
    if kind == "text":
        reject_unknown(raw, ("type", "text"), f"{where}: text part")
        if not isinstance(raw.get("text"), str):
            raise DataError(f"{where}: a text part needs `text`")
        return Part("text", text=raw["text"])
    known = ("type", "path", "sound", "frames") if kind == "video" else ("type", "path")
    reject_unknown(raw, known, f"{where}: {kind} part")
    name = raw.get("path")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where}: a part of type {kind} needs `path`")
    for switch in ("sound", "frames"):
        if not isinstance(raw.get(switch, True), bool):
            raise DataError(f"{where}: `{switch}` must be true or false, got {raw[switch]!r}")
    path = inside(root, name, where)
    if files and not os.path.isfile(path):  # Path.is_file raises for a name that is too long
        raise DataError(f"{where}: {name}: no such file under {Path(root)}")
    return Part(kind, path=str(path), sound=raw.get("sound", True), frames=raw.get("frames", True))


def inside(root: str | Path, name: str, where: str) -> Path:
    """`root / name`, resolved. Raises `DataError` when it lies outside `root` (by `..`, a link or an absolute path)."""
    root = Path(root).resolve()
    try:
        path = (root / name).resolve()
    except (ValueError, OSError, RuntimeError) as e:  # a NUL character, a loop of links
        raise DataError(f"{where}: {name!r}: not a usable path: {e}") from e
    if path != root and root not in path.parents:
        raise DataError(f"{where}: {name}: lies outside {root}: move the file or set data_dir")
    return path


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the form that hashes are taken of."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
