"""Plots of a report, as PNG files: confusion matrices, how the levels are spread, the plane of valence and arousal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Counts = npt.NDArray[np.int64]

COLUMNS = 4
# Told apart by people who see fewer colours (Okabe and Ito), and by their marks.
POINT_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
POINT_MARKS = "os^DvP*X"
QUARTERS = (0, 0.25, 0.5, 0.75, 1)
LEVEL_COLORS = ("#d4dae3", "#8fb2ff", "#2458c5")


@dataclass(frozen=True)
class _Margins:
    """Room around and between the panels, in inches. matplotlib's own layout would draw every figure twice."""

    left: float = 0.55
    right: float = 0.15
    top: float = 0.65
    bottom: float = 0.5
    across: float = 0.3
    down: float = 0.35


def _text_width(names: Iterable[str], size: float) -> float:
    """About how wide the longest name is, in inches."""
    return max((len(name) for name in names), default=0) * size * 0.62 / 72


def _figure(
    rows: int, columns: int, panel: tuple[float, float], margins: _Margins, *, shared: bool = False
) -> tuple[Figure, npt.NDArray[Any]]:
    """A figure of panels of a size in inches, which needs no display and leaves matplotlib's global state alone.

    Args:
        shared: all panels have the same axes: only the outer ones are labelled.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    m, (wide, high) = margins, panel
    width = m.left + m.right + columns * wide + (columns - 1) * m.across
    height = m.top + m.bottom + rows * high + (rows - 1) * m.down
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=shared, sharey=shared)
    figure.subplots_adjust(
        left=m.left / width, right=1 - m.right / width, top=1 - m.top / height, bottom=m.bottom / height,
        wspace=m.across / wide, hspace=m.down / high,
    )  # fmt: skip
    return figure, axes


def _finish(
    figure: Figure, path: Path, title: str, legend: tuple[list[Any], list[str]] | None = None, legend_columns: int = 6
) -> Path:
    """Writes the figure with its title above the panels, and a legend below them."""
    figure.suptitle(_plain(title), fontsize=10, y=1 - 0.12 / figure.get_figheight(), va="top")
    if legend:
        figure.legend(
            *legend, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=legend_columns, fontsize=8, frameon=False
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    # No date and no version: the same scores give the same file.
    figure.savefig(path, metadata={"Software": None})
    return path


def _plain(text: str) -> str:
    """Names of others hold no formulas."""
    return text.replace("$", r"\$")


def confusion_plot(path: Path, matrices: Mapping[str, Counts], labels: Sequence[str], title: str) -> Path:
    """One panel per system: what the reference emotions were named as, in %; counts [C, C + 1] as in `SerResult`."""
    columns = min(COLUMNS, len(matrices))
    rows = -(-len(matrices) // columns)
    names = [*map(_plain, labels), "none"]
    label = _text_width(names, 7)
    panel = 0.36 * len(names), 0.36 * len(labels)
    margins = _Margins(left=label + 0.4, bottom=0.75 * label + 0.4)
    figure, axes = _figure(rows, columns, panel, margins, shared=True)
    for axis, (system, counts) in zip(axes.flat, matrices.items(), strict=False):
        fractions = 100 * counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        axis.imshow(fractions, cmap="Blues", vmin=0, vmax=100, aspect="auto")
        axis.set_title(_plain(system), fontsize=8)
        axis.axvline(len(labels) - 0.5, color="white", linewidth=2)
        for (row, column), fraction in np.ndenumerate(fractions):
            shade = "white" if fraction > 55 else "#1d2430"
            axis.text(column, row, f"{fraction:.0f}", ha="center", va="center", fontsize=7, color=shade)
    axes[0, 0].set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
    axes[0, 0].set_yticks(range(len(labels)), names[:-1], fontsize=7)
    for axis in axes.flat:
        axis.tick_params(axis="x", labelrotation=45, labelsize=7)
        axis.tick_params(axis="y", labelsize=7)
    for axis in axes.flat[len(matrices) :]:
        axis.axis("off")
    axes[-1, 0].set_xlabel("named", fontsize=8)
    axes[0, 0].set_ylabel("reference", fontsize=8)
    return _finish(figure, path, title)


def level_plot(
    path: Path,
    fractions: Mapping[str, Mapping[str, Sequence[float]]],
    title: str,
    parts: Sequence[str] = ("level 0", "level 1", "level 2"),
) -> Path:
    """How many replies are of each of three parts: metric -> system -> three fractions (0..1); one panel per metric."""
    systems = max((list(each) for each in fractions.values()), key=len)
    alike = all(list(each) == systems for each in fractions.values())
    label = _text_width(map(_plain, systems), 8) + 0.25
    margins = _Margins(left=label, across=0.25 if alike else label, bottom=0.6)
    figure, axes = _figure(1, len(fractions), (3.2, 0.34 * len(systems)), margins)
    for axis, (metric, each) in zip(axes.flat, fractions.items(), strict=True):
        names = list(each)
        left = np.zeros(len(names))
        for level, (part, color) in enumerate(zip(parts, LEVEL_COLORS, strict=True)):
            width = np.array([100 * each[name][level] for name in names])
            axis.barh(range(len(names)), width, left=left, color=color, label=part, height=0.72)
            left += width
        axis.set_yticks(range(len(names)), [_plain(name) for name in names], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.set_title(f"{metric}, % of the replies", fontsize=9)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right", "left"]].set_visible(False)
    for axis in axes.flat[1:] if alike else ():
        axis.set_yticklabels([])
    return _finish(figure, path, title, axes.flat[0].get_legend_handles_labels())


Points = Mapping[str, Sequence[tuple[float, float]]]  # (valence, arousal) by emotion


def plane_plot(path: Path, estimates: Mapping[str, Points], references: Points, title: str) -> Path:
    """Valence and arousal: one panel for the references and one per system; small marks for items, large for means."""
    panels = {"reference": references, **estimates}
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = _figure(rows, columns, (2.6, 2.6), _Margins(bottom=0.8), shared=True)
    for axis, (name, points) in zip(axes.flat, panels.items(), strict=False):
        for number, (emotion, pairs) in enumerate(sorted(points.items())):
            style = {"color": POINT_COLORS[number % 8], "marker": POINT_MARKS[number % 8], "linestyle": "none"}
            x, y = np.array(pairs).T
            axis.plot(x, y, markersize=2.8, alpha=0.25, markeredgewidth=0, **style)
            axis.plot(x.mean(), y.mean(), markersize=9.5, markeredgecolor="white", label=_plain(emotion), **style)
        axis.set_title(_plain(name), fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(color="#e6e9ee", linewidth=0.6)
    axes[0, 0].set(xlim=(0, 1), ylim=(0, 1), xticks=QUARTERS, yticks=QUARTERS)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    axes[-1, 0].set_xlabel("valence", fontsize=8)
    axes[0, 0].set_ylabel("arousal", fontsize=8)
    return _finish(figure, path, title, axes.flat[0].get_legend_handles_labels())


Bars = Mapping[str, Mapping[str, tuple[float, float, float]]]  # system -> factor -> (value, low, high), 0..1


def factor_plot(path: Path, panels: Mapping[str, Bars], title: str) -> Path:
    """How much each factor explains, in %: one panel per outcome, a group of bars with intervals per system."""
    systems = max((list(bars) for bars in panels.values()), key=len)
    label = _text_width(map(_plain, systems), 8) + 0.25
    margins = _Margins(left=label, across=label, bottom=0.6)
    figure, axes = _figure(1, len(panels), (2.6, 0.5 * len(systems)), margins)
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
    return _finish(figure, path, title, axes.flat[0].get_legend_handles_labels())


def reliability_plot(path: Path, lines: Mapping[str, Sequence[tuple[float, float]]], title: str) -> Path:
    """Confidence against accuracy, a line per head; on the diagonal a head is as often right as it is sure."""
    figure, axes = _figure(1, 1, (3.9, 3.9), _Margins(top=0.45))
    axis = axes[0, 0]
    axis.plot([0, 1], [0, 1], color="#9aa6b5", linewidth=1, linestyle="--")
    for number, (name, points) in enumerate(lines.items()):
        x, y = np.array(points).T
        axis.plot(
            x, y, color=POINT_COLORS[number % 8], marker=POINT_MARKS[number % 8], markersize=5, label=_plain(name)
        )
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence", ylabel="accuracy")
    axis.legend(fontsize=7, frameon=False, loc="upper left")
    return _finish(figure, path, title)


class Point(Protocol):
    """A mean with its interval."""

    @property
    def mean(self) -> float: ...

    @property
    def interval(self) -> tuple[float, float]: ...


Curves = Mapping[str, Sequence[tuple[Point, Point]]]  # system -> (accuracy, score) of each dose


def dose_plot(path: Path, panels: Mapping[str, Curves], title: str) -> Path:
    """Scores over accuracy: one panel per metric, a line per system, 95 % intervals both ways."""
    systems = max(map(len, panels.values()))
    figure, axes = _figure(1, len(panels), (3.0, 2.6), _Margins(bottom=0.55 + 0.19 * systems))
    for axis, (metric, curves) in zip(axes.flat, panels.items(), strict=True):
        for number, (system, points) in enumerate(curves.items()):
            x, y = ([point[i].mean for point in points] for i in (0, 1))
            sides = [
                np.abs(np.array([[p[i].mean - p[i].interval[0], p[i].interval[1] - p[i].mean] for p in points])).T
                for i in (0, 1)
            ]
            style = {"color": POINT_COLORS[number % 8], "marker": POINT_MARKS[number % 8], "label": _plain(system)}
            axis.errorbar(x, y, xerr=sides[0], yerr=sides[1], markersize=5, linewidth=1, elinewidth=0.7, **style)
        axis.set_xlim(0, 1)
        axis.set_title(metric, fontsize=9)
        axis.set_xlabel("accuracy of the emotion", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(color="#e6e9ee", linewidth=0.6)
    return _finish(figure, path, title, axes.flat[0].get_legend_handles_labels(), 1)
