"""The result of a manifest check as one self-contained HTML page: tables and histograms."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from re_llm.core.files import write_text
from re_llm.core.page import Block, Drawing, Heading, Items, Paragraph, Table, html_page, quote
from re_llm.core.records import DIMENSIONS
from re_llm.data.check import CheckReport
from re_llm.data.leakage import Leakage
from re_llm.data.manifest import HISTOGRAM_SECONDS, Summary

SHOWN = 200  # rows of a table; the count is always that of all
LAST_BAR = 60  # of the histogram of lengths; it counts everything longer as well
WIDTH = 9.0  # inches of a row of figures
_NONE = Paragraph("None.")


def write_page(report: CheckReport, out: str | os.PathLike[str], against: Leakage | None = None) -> Path:
    """Writes the page of a check, and of the comparison with other manifests; returns its path.

    Raises:
        RellmError: it cannot be written.
    """
    path = Path(out)
    write_text(path, page(report, against))
    return path


def page(report: CheckReport, against: Leakage | None = None) -> str:
    """The page as text."""
    summary = report.summary
    name = Path(report.manifest).name
    problems = [(problem.line or 0, problem.what) for problem in report.problems]
    blocks: list[Block] = [
        Heading(1, quote(name)),
        *_overview(report),
        *_section("Splits", ("split", "utterances", "speakers"), _splits(summary)),
        *_section("Emotions", ("emotion", *sorted(summary.splits)), _counts(summary, summary.emotions)),
        *_section("Speakers", ("speaker", *sorted(summary.splits)), _counts(summary, summary.speakers)),
        Heading(2, "Distributions"),
        Drawing(_histograms(summary), "Histograms of lengths and of annotated dimensions"),
        *_section("Problems", ("line", "what"), problems, text=(1,)),
        *_section("Same recording under several keys", ("keys",), [(", ".join(k),) for k in report.duplicates]),
        *_leakage("Shared by training and test", report.leakage),
    ]
    if against is not None:
        blocks += _leakage("Shared with the other manifests", against)
    return html_page(name, blocks)


def _overview(report: CheckReport) -> list[Block]:
    summary = report.summary
    checked = "Rows and recordings were checked" if report.decoded else "Rows were checked, recordings were not"
    count = len(report.problems)
    verdict = f"{count or 'no'} problem{'' if count == 1 else 's'}"
    sources = ", ".join(f"{name} {rows:,}" for name, rows in summary.sources.most_common())
    size = f"{summary.rows:,} utterances, {summary.seconds / 3600:.2f} h, {summary.number_of_speakers():,} speakers"
    corpora, languages = (", ".join(sorted(names)) for names in (summary.corpora, summary.languages))
    return [
        Paragraph(quote(f"{size}; corpora {corpora}; languages {languages}; V/A/D: {sources}.")),
        Paragraph(f"{checked}: **{verdict}**.", aside=not report.ok),
    ]


def _section(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str | int]], text: Sequence[int] = (0,)
) -> list[Block]:
    """A table of at most `SHOWN` rows under its heading; `text` are the columns that do not hold numbers."""
    if not rows:
        return [Heading(2, title), _NONE]
    cells = [[quote(c) if isinstance(c, str) else f"{c:,}" for c in row] for row in rows[:SHOWN]]
    more = [Paragraph(f"{SHOWN} of {len(rows):,} are shown.")] if len(rows) > SHOWN else []
    return [Heading(2, title), Table(header, cells, text), *more]


def _splits(summary: Summary) -> list[tuple[str, int, int]]:
    return [(split, n, summary.number_of_speakers(split)) for split, n in sorted(summary.splits.items())]


def _counts(summary: Summary, counts: Counter[tuple[str, str]]) -> list[list[str | int]]:
    """Rows by split of each emotion or speaker, the most frequent first."""
    total: Counter[str] = Counter()
    for (_, name), number in counts.items():
        total[name] += number
    return [[name, *(counts[split, name] for split in sorted(summary.splits))] for name, _ in total.most_common()]


def _histograms(summary: Summary) -> str:
    """Histograms of the lengths and of the annotated dimensions, as SVG."""
    # Without pyplot: no global state, and no window system is needed.
    import matplotlib
    from matplotlib.figure import Figure

    names = [name for name in DIMENSIONS if any(key[0] == name for key in summary.dimensions)]
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(names), squeeze=False)[0]
    bars: Counter[int] = Counter()
    for bar, count in summary.durations.items():
        bars[min(bar, LAST_BAR)] += count
    axes[0].bar([bar * HISTOGRAM_SECONDS for bar in bars], list(bars.values()), HISTOGRAM_SECONDS, align="edge")
    longer = f" (the last bar: {LAST_BAR * HISTOGRAM_SECONDS:g} and longer)" if LAST_BAR in bars else ""
    axes[0].set_xlabel("length in s" + longer)
    for axis, name in zip(axes[1:], names, strict=True):
        axis.bar([k / 10 for k in range(10)], [summary.dimensions[name, k] for k in range(10)], 0.1, align="edge")
        axis.set_xlabel(name)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    buffer = io.StringIO()
    # Without a date and random names, the same manifest gives the same page.
    with matplotlib.rc_context({"svg.hashsalt": "re-llm", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _leakage(title: str, found: Leakage | None) -> list[Block]:
    if found is None:
        return [Heading(2, title), Paragraph("The manifest has either training rows or test rows only.")]
    header = ("what", "different ones shared", "training rows", "test rows", "such as")
    rows = [
        (o.kind, o.shared, o.train_rows, o.test_rows, "; ".join(value[:60] for value, _, _ in o.examples[:2]))
        for o in found.overlaps.values()
    ]
    missing = found.not_compared()
    listed: list[Block] = [Items([quote(sentence) for sentence in missing])] if missing else []
    return [*_section(title, header, rows, text=(0, 4)), *listed]
