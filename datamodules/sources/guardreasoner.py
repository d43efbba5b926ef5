"""How yueliu1999/GuardReasoner writes the rows of other people's benchmarks, which four sources here are read from.

A row has an `instruction` (the same for all), an `input` (the turns after "Human user:" and "AI assistant:"; the answer
is "None" where only the request is judged) and an `output`, the label in words.
"""

from __future__ import annotations

from pathlib import Path

from datamodules.schema import DataError
from datamodules.sources.files import read_json

_USER, _ASSISTANT = "Human user:\n", "\n\nAI assistant:\n"


def rows(path: Path, labels: dict[str, bool]) -> list[tuple[str, str | None, bool]]:
    """(request, answer or None, unsafe) of each row. `labels` maps the outputs that are known to unsafe or not.

    Raises `DataError` for a row that is written in another way.
    """
    out = []
    for n, row in enumerate(read_json(path)):
        request, found, answer = row["input"].removeprefix(_USER).partition(_ASSISTANT)
        if not found or row["output"].strip() not in labels:
            raise DataError(f"{path}: row {n}: expected a user's and an assistant's turn, and one of {sorted(labels)}")
        answer = answer.strip()
        out.append((request.strip(), None if answer == "None" else answer, labels[row["output"].strip()]))
    return out
