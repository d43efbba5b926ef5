"""Pictures of a run, as PNG files. No pyplot: a figure belongs to its function, and no global state leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torchmetrics.functional.classification import (
    binary_average_precision,
    binary_confusion_matrix,
    binary_precision_recall_curve,
)

from zoo.core.calibration import expected_calibration_error, flagged, labelled

# Okabe & Ito's palette, which colour-blind readers tell apart. Line styles change too, for print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", "-.", ":")
_TITLE, _LABEL, _TICK = 13, 12, 11  # points


def _figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches that draws with Agg."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _dress(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=_TITLE)
    axes.set_xlabel(x, fontsize=_LABEL)
    axes.set_ylabel(y, fontsize=_LABEL)
    axes.tick_params(labelsize=_TICK)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without the version in the file, the same numbers give the same bytes under any matplotlib.
    figure.savefig(path, format="png", dpi=120, metadata={"Software": None})
    return path


def _note(axes: Axes, text: str) -> None:
    axes.text(
        0.5, 0.5, text, ha="center", va="center", fontsize=_LABEL, transform=axes.transAxes, backgroundcolor="white"
    )


def reliability(scores: Any, golds: Any, path: str | Path, bins: int = 15) -> Path:
    """The share of unsafe rows against P(unsafe), a point a bin, with the number of rows of each bin below it.

    `scores` [N], `golds` [N] (None is masked). Returns `path`.
    """
    rows = labelled(scores, golds)
    ece = expected_calibration_error(rows.scores, rows.golds, bins)
    figure = _figure(6, 6.5)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    note = "" if ece is None else f", ECE = {ece:.3f}"
    _dress(top, f"Reliability (n = {len(rows.golds)}{note})", "", "share of unsafe rows")
    _dress(bottom, "", "P(unsafe)", "rows")
    top.plot([0, 1], [0, 1], color="0.6", linestyle="--", label="perfectly calibrated")
    edges = np.linspace(0, 1, bins + 1)
    index = np.minimum(np.digitize(rows.scores, edges) - 1, bins - 1)  # [n]; a score of 1 belongs to the last bin
    count = np.bincount(index, minlength=bins)  # [bins]
    used = count > 0
    share = np.bincount(index, rows.golds, bins)[used] / count[used]
    mean = np.bincount(index, rows.scores, bins)[used] / count[used]
    if used.any():
        top.vlines(mean, np.minimum(mean, share), np.maximum(mean, share), color=COLOURS[1], linewidth=2, label="gap")
        top.plot(mean, share, color=COLOURS[0], marker="o", linewidth=1.5, label="this model")
    else:
        _note(top, "no labelled row")
    top.legend(fontsize=_TICK, loc="upper left", frameon=False)
    bottom.bar(edges[:-1], count, width=1 / bins, align="edge", color=COLOURS[0], edgecolor="white")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    bottom.set_ylim(0, max(1, count.max() * 1.05))
    top.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
    figure.align_ylabels()
    return _save(figure, path)


def pr_curves(curves: Mapping[str, tuple[Any, Any]], path: str | Path) -> Path:
    """Precision against recall, a line a name of `curves`: name → (`scores` [N], `golds` [N]). Returns `path`.

    A name with one class has no curve; the legend says so.
    """
    figure = _figure(7, 5.5 + 0.24 * len(curves))
    axes = figure.subplots()
    rows = {name: labelled(*pair) for name, pair in curves.items()}
    total = sum(len(r.golds) for r in rows.values())
    n = f"n = {total}" if len(rows) < 2 else f"{len(rows)} curves, n beside each name"
    _dress(axes, f"Precision and recall ({n})", "recall", "precision")
    for number, (name, r) in enumerate(rows.items()):
        colour, style = COLOURS[number % len(COLOURS)], STYLES[number % len(STYLES)]
        label = f"{name}, n = {len(r.golds)}"
        if r.one_class:
            axes.plot([], [], color=colour, linestyle=style, label=f"{label}: {r.one_class.split(':')[0]}, no curve")
            continue
        score, gold = torch.from_numpy(r.scores), torch.from_numpy(r.golds).long()  # [n], [n]
        precision, recall, _ = binary_precision_recall_curve(score, gold)
        # AUPRC is the area under these steps: a straight line between the points would promise more than it.
        axes.step(recall, precision, where="post", color=colour, linestyle=style, linewidth=2)
        area = float(binary_average_precision(score, gold))
        label += f", AUPRC {area:.3f} (unsafe {r.golds.mean():.0%})"
        axes.plot([], [], color=colour, linestyle=style, linewidth=2, label=label)
    if rows:
        axes.legend(fontsize=_TICK, loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, handlelength=3)
    else:
        _note(axes, "nothing to draw")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
    axes.grid(color="0.92")
    return _save(figure, path)


def confusion(scores: Any, golds: Any, threshold: float, path: str | Path) -> Path:
    """Counts of gold against verdict at `threshold`; the shade and the percentage are shares of a gold class."""
    rows = labelled(scores, golds)
    counts = np.zeros((2, 2), dtype=np.int64)
    if len(rows.golds):
        flags = torch.from_numpy(flagged(rows.scores, threshold)).long()  # [n]
        counts = binary_confusion_matrix(flags, torch.from_numpy(rows.golds).long()).numpy()  # [gold, verdict]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _figure(5.5, 5)
    axes = figure.subplots()
    _dress(axes, f"Verdicts at threshold {threshold:.3g} (n = {len(rows.golds)})", "verdict", "gold")
    image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1)
    for gold in range(2):
        for verdict in range(2):
            text = f"{counts[gold, verdict]}\n{share[gold, verdict]:.1%}" if counts[gold].any() else "0"
            shade = "black" if share[gold, verdict] > 0.5 else "white"
            axes.text(verdict, gold, text, ha="center", va="center", fontsize=15, color=shade)
    axes.set_xticks([0, 1], ["safe", "unsafe"])
    axes.set_yticks([0, 1], ["safe", "unsafe"], rotation=90, va="center")
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, fraction=0.046)
    bar.ax.tick_params(labelsize=_TICK)
    bar.set_label("share of the gold class", fontsize=_LABEL)
    return _save(figure, path)


Interval = tuple[str, float | None, Sequence[float] | None, Sequence[float] | None]


def intervals(panels: Mapping[str, Sequence[Interval]], path: str | Path, heading: str = "") -> Path:
    """Values with their intervals, a panel a title: rows of (name, value, [low, high], margins). Returns `path`.

    Margins are marked by a dashed line in their row; a row without a value says so.
    """
    count = sum(len(rows) for rows in panels.values())
    figure = _figure(9, 0.5 + 1.2 * len(panels) + 0.42 * count)
    figure.suptitle(heading, fontsize=_TITLE, fontweight="bold")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[len(r) + 1 for r in panels.values()])[:, 0]
    for number, (ax, (title, rows)) in enumerate(zip(axes, panels.items())):
        _dress(ax, title, "", "")
        colour = COLOURS[number % len(COLOURS)]
        for y, (_, value, ci, margins) in enumerate(rows):
            if value is None:
                ax.text(0.5, y, "undefined", transform=ax.get_yaxis_transform(), ha="center", va="center")
                continue
            if ci:
                ax.hlines(y, *ci, color=colour, linewidth=2)
            ax.plot(value, y, marker="o", color=colour)
            if margins is not None:
                ax.vlines(margins, y - 0.4, y + 0.4, color=COLOURS[-1], linestyle="--", linewidth=1.5)
        if any(row[3] is not None for row in rows):
            ax.axvline(0, color="0.8", linewidth=1, zorder=0)
        ax.set_yticks(range(len(rows)), [row[0] for row in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(axis="x", color="0.92")
    return _save(figure, path)
