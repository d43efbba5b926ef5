"""How every source reads its files, and what their rows have in common."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from datamodules.schema import DataError, Message, Part, Policy, Sample
from datamodules.taxonomy import DEFAULT_POLICY

csv.field_size_limit(10_000_000)


def locate(data_dir: str | Path, *names: str) -> Path:
    """`data_dir/names…`. Raises `DataError` naming the file and the fix when it is not there."""
    path = Path(data_dir).joinpath(*names)
    if not path.exists():
        raise DataError(f"{path}: no such file: set data_dir=… to the folder that holds {names[0].split('/')[0]}/")
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a UTF-8 CSV with a header."""
    with path.open(encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def read_json(path: Path) -> Any:
    """A JSON file's value. Raises `DataError` naming a file that is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise DataError(f"{path}: not JSON: {e}") from e


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, gzipped or not. Raises `DataError` naming the line that is not JSON."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    rows = []
    for n, line in enumerate(text.split("\n"), 1):  # not splitlines(): a JSON string may hold U+2028
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as e:
                raise DataError(f"{path}: line {n} is not JSON: {e}") from e
    return rows


def text_sample(
    source: str,
    key: object,
    prompt: str,
    response: str | None = None,
    *,
    unsafe: bool | None,
    categories: dict[str, str] | None = None,
    policy: Policy = DEFAULT_POLICY,
    group: object = None,
    split: str | None = None,
    **meta: Any,
) -> Sample:
    """One row of a text source: the label is of the response where there is one, else of the prompt."""
    messages = [Message("user", (Part("text", text=prompt),))]
    if response is not None:
        messages.append(Message("assistant", (Part("text", text=response),)))
    target = "prompt" if response is None else "response"
    categories = dict(categories or {})
    return Sample(
        id=f"{source}-{key}",
        messages=tuple(messages),
        policy=policy,
        target=target,
        unsafe=unsafe,
        categories=categories,
        critique=text_critique(target, categories),
        source=source,
        group=f"{source}-{key if group is None else group}",
        split=split,
        meta=meta,
    )


def licensed(sample: Sample, module: ModuleType) -> Sample:
    """The sample with its source's licence in `meta`, unless it has one of its own."""
    return sample.replace(meta={"licence": module.LICENCE, "permissive": module.PERMISSIVE, **sample.meta})


def text_critique(target: str, categories: dict[str, str]) -> str | None:
    """ "The response contains hate and harassment.": names what the label gives, None where it gives no category."""
    names = [DEFAULT_POLICY.entry(id).name for id, label in categories.items() if label == "yes"]
    if not names:
        return None
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return f"The {target} contains {listed}."


def media_sample(
    source: str, key: str, kind: str, path: Path, categories: dict[str, str], critique: str, **fields: Any
) -> Sample:
    """One file of a media source. Its policy is drawn from its labels, so `unsafe` alone means nothing: None."""
    fields.setdefault("group", f"{source}-{key}")
    return Sample(
        id=f"{source}-{key}",
        messages=(Message("user", (Part(kind, path=str(path)),)),),
        target="prompt",
        categories=categories,
        critique=critique,
        source=source,
        **fields,
    )
