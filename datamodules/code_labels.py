"""Code with labels: functions before and after a fix (SVEN), insecure files (SecurityEval), benign ones (HumanEval).

Read from `data_dir`; nothing of it is copied here. What a static analyser says is measured against these labels.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from datamodules.schema import DataError, near
from datamodules.sources.files import locate, read_jsonl

LANGUAGES = {"py": "python", "c": "c", "h": "c", "cpp": "cpp", "cc": "cpp", "cxx": "cpp"}


@dataclass(frozen=True)
class LabelledCode:
    """`vulnerable` is the label, `cwe` the weakness that it is about (None of code that is benign as a whole).

    `group` is shared by a function before its fix and after it.
    """

    id: str
    text: str
    language: str
    vulnerable: bool
    cwe: int | None
    source: str
    group: str


def sven(data_dir: str | Path) -> list[LabelledCode]:
    """SVEN (eth-sri, MIT): 803 functions, each before (vulnerable) and after (fixed) its commit; 9 CWEs.

    Functions stand in classes: they are moved to the left. He and Vechev, CCS 2023.
    """
    out = []
    for part in ("train", "val"):
        for path in sorted(locate(data_dir, "code", "sven", part).glob("*.jsonl")):
            for n, r in enumerate(read_jsonl(path)):
                suffix = r["file_name"].rsplit(".", 1)[-1].lower()
                if suffix not in LANGUAGES:
                    raise DataError(f"{path}: row {n + 1}: unknown language of {r['file_name']!r}")
                group = f"sven-{part}-{r['vul_type']}-{n}"
                for state, vulnerable in (("before", True), ("after", False)):
                    text = textwrap.dedent(r[f"func_src_{state}"])
                    cwe = int(r["vul_type"].removeprefix("cwe-"))
                    row = LabelledCode(f"{group}-{state}", text, LANGUAGES[suffix], vulnerable, cwe, "sven", group)
                    out.append(row)
    return out


def securityeval(data_dir: str | Path) -> list[LabelledCode]:
    """SecurityEval (s2e-lab): 121 insecure Python files, 69 CWEs. Siddiq and Santos, MSR4P&S 2022."""
    rows = read_jsonl(locate(data_dir, "code", "securityeval", "dataset.jsonl"))
    return [
        LabelledCode(
            f"securityeval-{r['ID']}", r["Insecure_code"], "python", True, int(r["ID"][4:].split("_")[0]),
            "securityeval", f"securityeval-{r['ID']}",
        )
        for r in rows
    ]  # fmt: skip


def human_eval(data_dir: str | Path) -> list[LabelledCode]:
    """HumanEval (openai, MIT): 164 benign functions with their canonical solutions. Chen et al., arXiv 2107.03374."""
    rows = read_jsonl(locate(data_dir, "code", "human_eval", "HumanEval.jsonl.gz"))
    return [
        LabelledCode(
            f"human_eval-{n}", r["prompt"] + r["canonical_solution"], "python", False, None, "human_eval", str(n)
        )
        for n, r in enumerate(rows)
    ]


LABELLED: Mapping[str, Callable[[str | Path], list[LabelledCode]]] = {
    "sven": sven, "securityeval": securityeval, "human_eval": human_eval,
}  # fmt: skip


def load_labelled(sources: list[str], data_dir: str | Path | None) -> list[LabelledCode]:
    """The files of all `sources`. Raises `DataError` for an unknown one, and without `data_dir`."""
    for name in sources:
        if name not in LABELLED:
            raise DataError(f"sources: unknown {name!r}{near(name, list(LABELLED))}")
    if not sources or len(set(sources)) < len(sources):
        raise DataError(f"sources={sources}: give at least one, and none twice")
    if data_dir is None:
        raise DataError("labelled code is read from data_dir=FOLDER, the one that holds code/")
    return [row for name in sources for row in LABELLED[name](data_dir)]
