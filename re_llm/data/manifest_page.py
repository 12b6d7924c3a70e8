"""The result of a manifest check as one HTML page: tables and histograms, nothing to load from elsewhere."""

from __future__ import annotations

import html
import io
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from re_llm.core.records import DIMENSIONS, disk_error
from re_llm.data.leakage import Leakage
from re_llm.data.manifest import HISTOGRAM_SECONDS, CheckReport, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 200  # problems and duplicates on the page; the count is always that of all
LONGEST_BAR = 60  # bars of the histogram of lengths; what is longer is counted in the last
WIDTH = 9.0  # inches of a row of figures

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; } th, td { padding: .2rem .8rem .2rem 0; text-align: left; }
th { border-bottom: 1px solid #999; font-weight: 600; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
.good { color: #17692f; } .bad { color: #a3190f; } svg { max-width: 100%; height: auto; } code { font-size: .9em; }
"""


def write_page(report: CheckReport, out: str | os.PathLike[str], against: Leakage | None = None) -> Path:
    """Writes the page of a check, and of the comparison with other manifests; returns its path.

    Raises:
        RellmError: it cannot be written.
    """
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(report, against), encoding="utf-8")
    except OSError as error:
        raise disk_error(path, error) from error
    return path


def page(report: CheckReport, against: Leakage | None = None) -> str:
    """The page as text."""
    summary = report.summary
    name = html.escape(Path(report.manifest).name)
    parts = [
        f"<h1>{name}</h1>",
        f"<p>{_headline(report)}</p>",
        "<h2>Splits</h2>" + _splits(summary),
        "<h2>Emotions</h2>" + _emotions(summary),
        "<h2>Speakers</h2>" + _speakers(summary),
        f"<h2>Distributions</h2>{_figure(summary)}",
        f"<h2>Problems</h2>{_problems(report)}",
        f"<h2>Same recording under several keys</h2>{_duplicates(report)}",
        f"<h2>Shared by training and test</h2>{_leakage(report.leakage)}",
    ]
    if against is not None:
        parts.append(f"<h2>Shared with the other manifests</h2>{_leakage(against)}")
    head = f'<meta charset="utf-8"><title>{name}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _headline(report: CheckReport) -> str:
    summary = report.summary
    checked = "Rows and recordings were checked" if report.decoded else "Rows were checked, recordings were not"
    kind, verdict = ("good", "no problem") if report.ok else ("bad", _count(len(report.problems), "problem"))
    sources = ", ".join(f"{html.escape(k)} {n:,}" for k, n in summary.sources.most_common())
    return (
        f"{summary.rows:,} utterances, {summary.seconds / 3600:.2f} h, {summary.number_of_speakers():,} speakers; "
        f"corpora {html.escape(', '.join(sorted(summary.corpora)))}; languages "
        f"{html.escape(', '.join(sorted(summary.languages)))}; V/A/D: {sources}.<br>"
        f'{checked}: <b class="{kind}">{verdict}</b>.'
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def table(header: Sequence[str], rows: Iterable[Sequence[str | int | float]]) -> str:
    """An HTML table; numbers are set to the right, texts are escaped."""

    def cell(value: str | int | float, tag: str = "td") -> str:
        if isinstance(value, str):
            return f"<{tag}>{html.escape(value)}</{tag}>"
        return (
            f'<{tag} class="n">{value:,.2f}</{tag}>'
            if isinstance(value, float)
            else f'<{tag} class="n">{value:,}</{tag}>'
        )

    body = "".join(f"<tr>{''.join(cell(value) for value in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(cell(name, 'th') for name in header)}</tr>{body}</table>"


def _splits(summary: Summary) -> str:
    rows = ((split, n, summary.number_of_speakers(split)) for split, n in sorted(summary.splits.items()))
    return table(("split", "utterances", "speakers"), rows)


def _emotions(summary: Summary) -> str:
    splits = sorted(summary.splits)
    names = sorted(
        {emotion for _, emotion in summary.emotions}, key=lambda e: -sum(summary.emotions[s, e] for s in splits)
    )
    return table(("emotion", *splits), ((name, *(summary.emotions[split, name] for split in splits)) for name in names))


def _figure(summary: Summary) -> str:
    """Histograms of the lengths and of the annotated dimensions, as an inline SVG."""
    # Without pyplot: no global state, and no window system is asked for.
    from matplotlib.figure import Figure

    names = [name for name in DIMENSIONS if any(key[0] == name for key in summary.dimensions)]
    figure = Figure(figsize=(WIDTH, 2.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(names), squeeze=False)[0]
    bars = [0] * (LONGEST_BAR + 1)
    for bar, count in summary.durations.items():
        bars[min(bar, LONGEST_BAR)] += count
    last = max((k for k, count in enumerate(bars) if count), default=0)
    axes[0].bar([k * HISTOGRAM_SECONDS for k in range(last + 1)], bars[: last + 1], HISTOGRAM_SECONDS, align="edge")
    axes[0].set_xlabel(
        f"length in s (the last bar: {LONGEST_BAR * HISTOGRAM_SECONDS:g} and longer)"
        if last == LONGEST_BAR
        else "length in s"
    )
    for axis, name in zip(axes[1:], names, strict=True):
        axis.bar([k / 10 for k in range(10)], [summary.dimensions[name, k] for k in range(10)], 0.1, align="edge")
        axis.set_xlabel(name)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    import matplotlib

    buffer = io.StringIO()
    # Without a date and random names, the same manifest gives the same page.
    with matplotlib.rc_context({"svg.hashsalt": "re-llm", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _problems(report: CheckReport) -> str:
    if not report.problems:
        return '<p class="good">None.</p>'
    rows = ((problem.line or 0, problem.what) for problem in report.problems[:SHOWN])
    return table(("line", "what"), rows) + _more(len(report.problems))


def _duplicates(report: CheckReport) -> str:
    if not report.duplicates:
        return '<p class="good">None.</p>'
    return table(("keys",), ((", ".join(keys),) for keys in report.duplicates[:SHOWN])) + _more(len(report.duplicates))


def _more(count: int) -> str:
    return f"<p>{SHOWN} of {count:,} are shown.</p>" if count > SHOWN else ""


def _speakers(summary: Summary) -> str:
    splits = sorted(summary.splits)
    counts: Counter[str] = Counter()
    for (_, name), number in summary.speakers.items():
        counts[name] += number
    most = [name for name, _ in counts.most_common(SHOWN)]
    rows: list[tuple[str | int, ...]] = [(name, *(summary.speakers[split, name] for split in splits)) for name in most]
    return table(("speaker", *splits), rows) + _more(len(counts))


def _leakage(found: Leakage | None) -> str:
    if found is None:
        return "<p>The manifest has one side only.</p>"
    overlaps = found.overlaps.values()
    rows = (
        (
            o.kind,
            o.shared,
            o.train_rows,
            o.test_rows,
            o.unknown,
            "; ".join(value[:60] for value, _, _ in o.examples[:2]),
        )
        for o in overlaps
    )
    header = ("what", "different ones shared", "training rows", "test rows", "not comparable", "such as")
    return table(header, rows)
