"""Section of a report on the two readings of long replies: the 64 tokens of the original scorer, and the whole."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from re_llm.core.page import NONE, Block, Heading, Paragraph, Table, Value, percent, quote
from re_llm.evaluate.empathy.epitome import MECHANISMS
from re_llm.evaluate.empathy.truncation import CUT, WHOLE
from re_llm.report.tables import ScoreTable, corpus_title, system_title

TITLES = {"ER": "ER", "IP": "IP", "EX": "Ex"}


def _extras(table: ScoreTable, system: str, corpus: str, metric: str) -> list[dict[str, Any]]:
    """What the group rows say beside their value, one entry per seed; older scores say nothing of readings."""
    rows = [row.model_extra or {} for row in table.groups_of(system, corpus, metric)]
    return [extra for extra in rows if "reading" in extra]


def _cells(extras: Sequence[dict[str, Any]]) -> list[Value | str]:
    """Mean at 64, mean of the whole, and the difference; the means of the seeds are averaged."""
    if not all("readings" in extra for extra in extras):
        return [NONE, NONE, NONE]
    cut, whole = (fmean(extra["readings"][reading]["mean"] for extra in extras) for reading in (CUT, WHOLE))
    return [f"{cut:.3f}", f"{whole:.3f}", f"{whole - cut:+.3f}"]


def reading_blocks(table: ScoreTable) -> list[Block]:
    """How long replies were read, what share of them the cut shortens, and both readings where both were made."""
    rows: list[list[Value | str]] = []
    readings: set[str] = set()
    metrics = [m for m in MECHANISMS if any(_extras(table, s, c, m) for s in table.systems for c in table.corpora)]
    both = False
    for corpus in table.corpora:
        for system in table.systems:
            each = {m: _extras(table, system, corpus, m) for m in metrics}
            extras = next((found for found in each.values() if found), None)
            if extras is None:
                continue
            readings |= {extra["reading"] for extra in extras}
            both |= any("readings" in extra for extra in extras)
            row: list[Value | str] = [quote(corpus_title(corpus)), quote(system_title(system))]
            row.append(percent(fmean(extra["cut"] for extra in extras)))
            for metric in metrics:
                row += _cells(each[metric]) if each[metric] else [NONE, NONE, NONE]
            rows.append(row)
    if not rows:
        return []
    used = " and ".join({CUT: "the first 64 tokens of a reply", WHOLE: "the whole reply"}[r] for r in sorted(readings))
    text = f"ER, Ex and IP elsewhere in this report are of **{used}**. cut: share of replies longer than 64 tokens."
    header = ["corpus", "system", "cut"]
    if both:
        header += [f"{TITLES[m]} {part}" for m in metrics for part in (CUT, WHOLE, "change")]
        text += (
            " A bi-encoder reads a whole reply in windows and gives it the level of its highest one, so that level can "
            "only rise with length; other scorers take of a cut reply about as many words as 64 tokens hold."
        )
    else:
        rows = [row[: len(header)] for row in rows]
        text += " Both readings side by side: `re-llm score --reading both`."
    return [Heading(2, "The cut at 64 tokens"), Paragraph(text), Table(header, rows, (0, 1))]
