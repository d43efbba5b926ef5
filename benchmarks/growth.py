"""How time and memory grow: `python -m benchmarks.growth` → results/growth.json and docs/growth.png.

Against pictures in a message, seconds of a video, and processes that score side by side, each point in a fresh process;
against rows of a manifest from results/manifest.json (`python -m benchmarks.manifest --million`). Every file is encoded
again for each point: no cache. Memory is the growth of the resident set at its peak, over the loaded model's.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

from benchmarks.manifest import peak_mb
from datamodules.corpus.clips import write_clip
from datamodules.schema import Message, Part, Sample
from zoo import cli
from zoo.core.run import write_json
from zoo.registry import load

ROOT = Path(__file__).parent.parent
RESULT, PLOT, MANIFEST = ROOT / "results" / "growth.json", ROOT / "docs" / "growth.png", ROOT / "results/manifest.json"
MODEL, ROUNDS, FPS, SIZE = "omniguard-tiny", 5, 12, 256
POINTS = {"images": (1, 2, 4, 8, 16, 32), "video": (2, 4, 8, 16, 32, 64), "processes": (1, 2, 4)}
TEXTS, SECONDS = 64, 6.0  # texts of a batch; how long each process scores
NAMES = {
    "images": ("pictures in a message", "seconds a message"),
    "video": ("seconds of video, 12 frames a second", "seconds a message"),
    "processes": ("processes, one thread each", "texts a second"),
    "rows": ("rows of a manifest", "seconds to load"),
}


def _images(folder: Path, count: int) -> Sample:
    rng = np.random.default_rng(0)
    parts = [Part("text", text="Look at these.")]
    for n in range(count):
        path = folder / f"{n}.png"
        Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(path)
        parts.append(Part("image", path=path))
    return Sample("images", (Message("user", tuple(parts)),))


def _video(folder: Path, seconds: int) -> Sample:
    rng = np.random.default_rng(0)
    frames = np.tile(np.linspace(0, 255, SIZE, dtype=np.uint8)[None, None, :, None], (seconds * FPS, SIZE, 1, 3)).copy()
    for n, frame in enumerate(frames):
        frame[n % 200 : n % 200 + 40, 2 * n % 200 : 2 * n % 200 + 40] = rng.integers(0, 255, 3)
    path = folder / "clip.mp4"
    write_clip(path, frames, FPS, rng.normal(0, 0.1, seconds * 16_000).astype(np.float32), 16_000)
    return Sample("video", (Message("user", (Part("text", text="Watch this."), Part("video", path=path))),))


def point(kind: str, size: int) -> dict[str, float]:
    """One point, in this process: median seconds of a verdict, and megabytes over those of the loaded model."""
    guard = load(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        sample = {"images": _images, "video": _video}[kind](Path(folder), size)
        guard.moderate(Sample.of("warm"))
        base, times = peak_mb(reset=True), []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            guard.moderate(sample)
            times.append(time.perf_counter() - started)
        return {"seconds": statistics.median(times), "growth_mb": round(peak_mb() - base, 1)}


def scoring(start: float) -> dict[str, float]:
    """Texts a second of this process alone, from the moment `start` on, which all processes share."""
    guard = load(MODEL)
    texts = [Sample.of(f"a text of a few words, number {n}") for n in range(TEXTS)]
    guard.moderate(texts)
    time.sleep(max(0.0, start - time.time()))
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        guard.moderate(texts)
        done += len(texts)
    return {"rate": done / (time.perf_counter() - began), "peak_mb": round(peak_mb(), 1)}


def _child(*words: str, threads: int | None = None) -> subprocess.Popen[str]:
    env = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    command = [sys.executable, "-m", "benchmarks.growth", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


def _said(child: subprocess.Popen[str]) -> dict[str, float]:
    out, _ = child.communicate()
    if child.returncode:
        raise SystemExit(f"error: a point of the growth plot failed with exit code {child.returncode}")
    return json.loads(out)


def _processes(count: int) -> dict[str, float]:
    start = str(time.time() + 15 + 10 * count)  # all have loaded the model by then
    all_said = [_said(c) for c in [_child("--score", start, threads=1) for _ in range(count)]]
    return {"rate": sum(s["rate"] for s in all_said), "peak_mb": round(sum(s["peak_mb"] for s in all_said), 1)}


def _panel(axes: Axes, kind: str, points: list[dict[str, float]]) -> None:
    x_name, y_name = NAMES[kind]
    y, memory = ("rate", "peak_mb") if kind == "processes" else ("seconds", "growth_mb")
    xs = [p["size"] for p in points]
    axes.loglog(xs, [p[y] for p in points], "o-", color="#0072B2", label=y_name)
    axes.loglog(xs, [points[-1][y] * x / xs[-1] for x in xs], ":", color="0.5", label="linear")
    axes.set_xticks(xs, [f"{x:,}" for x in xs])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name, color="#0072B2")
    other = axes.twinx()
    other.semilogx(xs, [p[memory] for p in points], "s--", color="#D55E00")
    other.set_ylabel("MB", color="#D55E00")
    other.set_ylim(bottom=0)
    axes.legend(loc="upper left", frameon=False)


def fixed(points: list[dict[str, float]]) -> dict[str, float]:
    """A least-squares line: seconds that do not depend on a message's size, and those each picture or second takes."""
    sizes, times = [p["size"] for p in points], [p["seconds"] for p in points]
    each, constant = np.polyfit(sizes, times, 1)
    return {"fixed_seconds": float(constant), "seconds_each": float(each)}


def plot(result: dict[str, list[dict[str, float]]], path: Path) -> None:
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (kind, points) in zip(figure.subplots(2, 2).flat, result.items()):
        _panel(axes, kind, points)
    figure.savefig(path, format="png", dpi=100, metadata={"Software": None})


def finish(result: dict[str, list[dict[str, float]]]) -> None:
    write_json(RESULT, {"points": result, "lines": {k: fixed(result[k]) for k in ("images", "video")}})
    plot(result, PLOT)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--point"]:
        print(json.dumps(point(arguments[1], int(arguments[2]))))
        return 0
    if arguments[:1] == ["--score"]:
        print(json.dumps(scoring(float(arguments[1]))))
        return 0
    result: dict[str, list[dict[str, float]]] = {}
    for kind, sizes in POINTS.items():
        result[kind] = []
        for size in sizes:
            said = _processes(size) if kind == "processes" else _said(_child("--point", kind, str(size)))
            result[kind].append({"size": size, **said})
            print(kind, result[kind][-1], file=sys.stderr)
    if MANIFEST.exists():
        loads = json.loads(MANIFEST.read_text(encoding="utf-8"))["loads"]
        result["rows"] = [
            {"size": m["rows"], "seconds": m["load"]["seconds"], "growth_mb": m["growth_mb"]}
            for m in loads if m["splits"]
        ]  # fmt: skip
    finish(result)
    print(RESULT, PLOT, file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
