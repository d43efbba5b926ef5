"""What a long manifest costs: `python -m benchmarks.manifest [--million] [--to FILE]`.

Generated text rows are loaded by a DataModule in a fresh process, 10³ to 10⁵ of them (with --million 10⁶): with a split
in each row, and without, so that near-duplicates have to be found before splits can be drawn. Memory is the growth of
the resident set at its peak, over the process with everything imported.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULT = Path(__file__).parent.parent / "results" / "manifest.json"
SIZES = (1_000, 10_000, 100_000)
WORDS, COPIES = 20_000, 0.02  # words there are; share of rows that are another row with one word changed
PROC = Path("/proc/self")


def write_rows(path: Path, rows: int, splits: bool, seed: int = 0) -> None:
    """Texts of words that are as unevenly frequent as those of a language, 4 to 200 a text, 24 in the middle."""
    rng = np.random.default_rng(seed)
    letters = [np.array(list(s)) for s in ("bcdfghjklmnprstvwz", "aeiou")]
    syllables = np.char.add(rng.choice(letters[0], (WORDS, 4)), rng.choice(letters[1], (WORDS, 4)))
    words = np.array(["".join(s[:n]) for s, n in zip(syllables, rng.integers(1, 5, WORDS))])
    share = np.cumsum(1 / np.arange(10, WORDS + 10))
    text: list[str] = []
    with open(path, "w", encoding="utf-8") as f:
        for n in range(rows):
            if text and rng.random() < COPIES:
                text = [*text[:-1], str(rng.choice(words))]
            else:
                size = int(np.clip(rng.lognormal(3.2, 0.6), 4, 200))
                text = words[np.searchsorted(share, rng.random(size) * share[-1])].tolist()
            row: dict[str, Any] = {
                "id": f"row-{n}",
                "messages": [{"role": "user", "content": " ".join(text)}],
                "unsafe": bool(n % 2),
                "categories": {"S1": "yes"} if n % 2 else {},
            }
            if splits:
                row["split"] = ("train", "train", "train", "val", "test")[n % 5]
            f.write(json.dumps(row) + "\n")


def peak_mb(reset: bool = False) -> float:
    """The largest resident set so far, or from here on."""
    if not PROC.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
    if reset:
        (PROC / "clear_refs").write_text("5")
    lines = (PROC / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


class Clock:
    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> dict[str, float]:
        return {
            "seconds": round(time.perf_counter() - self.wall, 2),
            "cpu": round(time.process_time() - self.cpu, 2),
        }


def load(path: Path) -> dict[str, Any]:
    """Loads a manifest in this process, then reads each training row once."""
    from datamodules import GuardDataModule
    from datamodules.jsonl import check_text, parse, read_lines

    base = peak_mb(reset=True)
    data, clock = GuardDataModule("manifest", path=path, batch_size=256, balance=1.0), Clock()
    data.prepare_data()
    out: dict[str, Any] = {"load": clock.seconds(), "growth_mb": round(peak_mb() - base, 1)}
    out["kept_mb"] = round(data.corpus.samples.rows.nbytes / 2**20, 1)
    out["counts"] = {s: sum(c.values()) for s, c in data.counts().items()}
    if data.errors:
        raise ValueError(f"{path}: {data.errors[0]}")
    clock = Clock()
    read = sum(len(batch) for batch in data.train_dataloader())
    out["epoch"] = {"rows": read, **clock.seconds(), "growth_mb": round(peak_mb() - base, 1)}
    clock = Clock()
    check_text(path)
    for _, _, line in read_lines(path):
        parse(line)
    out["of_which_json"] = clock.seconds()
    return out


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--load"]:
        print(json.dumps(load(Path(arguments[1]))))
        return 0
    result = Path(arguments[arguments.index("--to") + 1]) if "--to" in arguments else RESULT
    loads: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for splits in (True, False):
            for rows in (*SIZES, *((1_000_000,) if "--million" in arguments else ())):
                path = Path(folder) / "rows.jsonl"
                write_rows(path, rows, splits)
                command = [sys.executable, "-m", "benchmarks.manifest", "--load", str(path)]
                measured = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                size = round(path.stat().st_size / 2**20, 1)
                first = next((m for m in loads if m["splits"] == splits), {"growth_mb": measured["growth_mb"]})
                over = round(measured["growth_mb"] - first["growth_mb"], 1)
                loads.append({"rows": rows, "splits": splits, "file_mb": size, "over_1000_rows_mb": over, **measured})
                print(json.dumps(loads[-1]), file=sys.stderr)
    of = {m["splits"]: m["over_1000_rows_mb"] for m in loads if m["rows"] == 100_000}
    summary = {"over_1000_rows_mb": {"splits_named": of[True], "splits_drawn": of[False]}, "at_most_mb": 50}
    text = json.dumps({**summary, "loads": loads}, indent=1)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if max(of.values()) <= 50 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
