"""Plots of a report, as PNG files: confusion matrices, how the levels are spread, the plane of valence and arousal."""

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
# Told apart by people who see fewer colours (Okabe and Ito), and by their marks.
POINT_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
POINT_MARKS = "os^DvP*X"
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


Points = Mapping[str, Sequence[tuple[float, float]]]  # (valence, arousal) by emotion


def plane_plot(path: Path, estimates: Mapping[str, Points], references: Points, title: str) -> Path:
    """Valence and arousal: one panel for the references and one per system; small marks for items, large for means."""
    panels = {"reference": references, **estimates}
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = _figure(rows, columns, 3.1 * columns, 3.1 * rows + 0.8)
    figure.suptitle(_plain(title))
    for axis, (name, points) in zip(axes.flat, panels.items(), strict=False):
        for number, (emotion, pairs) in enumerate(sorted(points.items())):
            style = {"color": POINT_COLORS[number % 8], "marker": POINT_MARKS[number % 8]}
            x, y = np.array(pairs).T
            axis.scatter(x, y, s=8, alpha=0.25, linewidths=0, **style)
            axis.scatter(x.mean(), y.mean(), s=90, edgecolors="white", label=_plain(emotion), **style)
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.set_title(_plain(name), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(color="#e6e9ee", linewidth=0.6)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    axes[-1, 0].set_xlabel("valence", fontsize=8)
    axes[0, 0].set_ylabel("arousal", fontsize=8)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return _save(figure, path)


Bars = Mapping[str, Mapping[str, tuple[float, float, float]]]  # system -> factor -> (value, low, high), 0..1


def factor_plot(path: Path, panels: Mapping[str, Bars], title: str) -> Path:
    """How much each factor explains, in %: one panel per outcome, a group of bars with intervals per system."""
    systems = max((list(bars) for bars in panels.values()), key=len)
    figure, axes = _figure(1, len(panels), 4.0 * len(panels) + 1.5, 0.55 * len(systems) + 1.6)
    figure.suptitle(_plain(title))
    for axis, (outcome, bars) in zip(axes.flat, panels.items(), strict=True):
        factors = list(dict.fromkeys(factor for each in bars.values() for factor in each))
        height = 0.8 / len(factors)
        for number, factor in enumerate(factors):
            known = [(row, each[factor]) for row, each in enumerate(bars.values()) if factor in each]
            y = [row + (number - (len(factors) - 1) / 2) * height for row, _ in known]
            values = 100 * np.array([value for _, value in known])
            # An interval of resampled sentences may lie beside the value.
            sides = np.abs(np.clip([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]], 0, None))
            axis.barh(y, values[:, 0], height, xerr=sides, color=POINT_COLORS[number], ecolor="#1d2430", label=factor)
        axis.set_yticks(range(len(bars)), [_plain(name) for name in bars], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_title(f"{outcome}, % explained", fontsize=9)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    handles, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return _save(figure, path)


def reliability_plot(path: Path, lines: Mapping[str, Sequence[tuple[float, float]]], title: str) -> Path:
    """Confidence against accuracy, a line per head; on the diagonal a head is as often right as it is sure."""
    figure, axes = _figure(1, 1, 4.6, 4.4)
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="#9aa6b5", linewidth=1, linestyle="--")
    for number, (name, points) in enumerate(lines.items()):
        x, y = np.array(points).T
        axis.plot(
            x, y, color=POINT_COLORS[number % 8], marker=POINT_MARKS[number % 8], markersize=5, label=_plain(name)
        )
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
    axis.set_title(_plain(title), fontsize=9)
    axis.legend(fontsize=7, frameon=False, loc="upper left")
    return _save(figure, path)
