"""Plots of a report, as PNG files: confusion matrices, and how the levels are spread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Counts = npt.NDArray[np.int64]

COLUMNS = 4
LEVEL_COLORS = ("#d4dae3", "#8fb2ff", "#2458c5")


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, npt.NDArray[Any]]:
    """A figure that needs no display and leaves matplotlib's global state alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _plain(text: str) -> str:
    """Names of others hold no formulas."""
    return text.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date and no version: the same scores give the same file.
    figure.savefig(path, metadata={"Software": None})
    return path


def confusion_plot(path: Path, matrices: Mapping[str, Counts], labels: Sequence[str], title: str) -> Path:
    """One panel per system: what the reference emotions were named as, in %; counts [C, C + 1] as in `SerResult`."""
    columns = min(COLUMNS, len(matrices))
    rows = -(-len(matrices) // columns)
    size = 0.55 * len(labels) + 1.3
    figure, axes = _figure(rows, columns, columns * (size + 0.4), rows * size + 0.5)
    figure.suptitle(_plain(title))
    names = [*map(_plain, labels), "none"]
    for axis, (system, counts) in zip(axes.flat, matrices.items(), strict=False):
        fractions = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        axis.imshow(fractions, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axis.set_title(_plain(system), fontsize=9)
        axis.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
        axis.set_yticks(range(len(labels)), names[:-1], fontsize=7)
        axis.axvline(len(labels) - 0.5, color="white", linewidth=2)
        for (row, column), fraction in np.ndenumerate(fractions):
            shade = "white" if fraction > 55 else "#1d2430"
            axis.text(column, row, f"{fraction:.0f}", ha="center", va="center", fontsize=7, color=shade)
    for axis in axes.flat[len(matrices) :]:
        axis.axis("off")
    axes[-1, 0].set_xlabel("named", fontsize=8)
    axes[0, 0].set_ylabel("reference", fontsize=8)
    return _save(figure, path)


def level_plot(path: Path, fractions: Mapping[str, Mapping[str, Sequence[float]]], title: str) -> Path:
    """How many replies stand at level 0, 1, 2: metric -> system -> three fractions (0..1); one panel per metric."""
    systems = max((list(each) for each in fractions.values()), key=len)
    alike = all(list(each) == systems for each in fractions.values())
    figure, axes = _figure(1, len(fractions), 4.2 * len(fractions) + 1.5, 0.34 * len(systems) + 1.4)
    figure.suptitle(_plain(title))
    for axis, (metric, each) in zip(axes.flat, fractions.items(), strict=True):
        names = list(each)
        left = np.zeros(len(names))
        for level, color in enumerate(LEVEL_COLORS):
            width = np.array([100 * each[name][level] for name in names])
            axis.barh(range(len(names)), width, left=left, color=color, label=f"level {level}", height=0.72)
            left += width
        axis.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_title(f"{metric}, % of the replies", fontsize=9)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right", "left"]].set_visible(False)
    for axis in axes.flat[1:] if alike else ():
        axis.set_yticklabels([])
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return _save(figure, path)
