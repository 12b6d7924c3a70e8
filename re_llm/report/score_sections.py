"""Sections of a report from the scores: recognition and its confusion matrices, levels, and truncation of replies."""

from __future__ import annotations

import zlib
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Plot, Table, percent, quote
from re_llm.evaluate.empathy.epitome import LEVELS, MECHANISMS
from re_llm.evaluate.empathy.truncation import AT_64, WHOLE
from re_llm.report.plots import Counts, confusion_plot, level_plot
from re_llm.report.tables import METRIC_TITLES, ScoreTable, corpus_title, show_cell, system_title


def _figure(out: Path, kind: str, corpus: str) -> tuple[Path, str]:
    """File of a plot, and its place relative to the page: readable, and different for corpora of any names."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in corpus).strip("-")[:40]
    slug = plain if plain == corpus else f"{plain}-{zlib.crc32(corpus.encode()):08x}"
    relative = f"figures/{kind}_{slug}.png"
    return out / relative, relative


def _confusions(table: ScoreTable, corpus: str) -> tuple[dict[str, Counts], list[str]]:
    """Confusion matrices of the systems on a corpus, their seeds summed, and the label set."""
    matrices: dict[str, Counts] = {}
    labels: list[str] = []
    for system in table.systems:
        for extra in table.extras(system, corpus, "UA"):
            if "confusion" not in extra or (labels and extra["labels"] != labels):
                continue
            labels = list(extra["labels"])
            matrices[system_title(system)] = matrices.get(system_title(system), 0) + np.array(extra["confusion"])
    return matrices, labels


def recognition_blocks(table: ScoreTable, out: Path) -> list[Block]:
    """UA, WA, F1 and unparsable answers; a confusion plot for each corpus."""
    rows: list[Cells] = []
    for corpus, system in table.groups_present:
        ua = table.cell(system, corpus, "UA")
        if ua is None:
            continue
        wa, f1, unparsable = (table.cell(system, corpus, metric) for metric in ("WA", "F1", "UNPARSABLE"))
        number = sum(extra.get("number", 0) for extra in table.extras(system, corpus, "UNPARSABLE"))
        rows.append([
            quote(corpus_title(corpus)), quote(system_title(system)), str(ua.items), show_cell(ua),
            *(f"{cell.mean:.3f}" if cell else NONE for cell in (wa, f1)),
            f"{number} ({percent(unparsable.mean)})" if unparsable else NONE,
        ])  # fmt: skip
    if not rows:
        return []
    plots: list[Block] = []
    for corpus in table.corpora:
        matrices, labels = _confusions(table, corpus)
        if matrices:
            alt = f"{corpus_title(corpus)}: emotion named, by reference emotion (% of the reference)"
            path, relative = _figure(out, "confusion", corpus)
            plots.append(Plot(confusion_plot(path, matrices, labels, alt), relative, alt))
    header = ["corpus", "system", "answers", "UA", "WA", "macro-F1", "name no emotion"]
    note = "An answer that names no emotion is wrong and stays in every count; in the plots it is the column `none`."
    return [Heading(2, "Recognition"), Table(header, rows, (0, 1)), Paragraph(note), *plots]


def level_blocks(table: ScoreTable, out: Path) -> list[Block]:
    """A plot for each corpus: how many replies have level 0, 1 and 2."""
    plots: list[Block] = []
    for corpus in table.corpora:
        fractions: dict[str, dict[str, list[float]]] = {}
        for metric in MECHANISMS:
            for system in table.systems:
                if values := list(table.items.get((system, corpus, metric), {}).values()):
                    each = [values.count(level) / len(values) for level in range(LEVELS)]
                    fractions.setdefault(metric, {})[system_title(system)] = each
        if fractions:
            alt = f"{corpus_title(corpus)}: share of the replies at each level"
            path, relative = _figure(out, "levels", corpus)
            plots.append(Plot(level_plot(path, fractions, alt), relative, alt))
    return [Heading(2, "Levels behind the means"), *plots] if plots else []


def _both(extras: list[dict[str, Any]]) -> Cells:
    """Mean at 64 tokens, mean without truncation, and the difference; the means of the seeds are averaged."""
    if not extras or not all("truncations" in extra for extra in extras):
        return [NONE, NONE, NONE]
    short, whole = (fmean(extra["truncations"][t]["mean"] for extra in extras) for t in (AT_64, WHOLE))
    return [f"{short:.3f}", f"{whole:.3f}", f"{whole - short:+.3f}"]


def truncation_blocks(table: ScoreTable) -> list[Block]:
    """What part of the replies was scored, how many are longer than 64 tokens, and both scores where there are both."""
    rows: list[Cells] = []
    used: set[str] = set()
    metrics = [m for m in MECHANISMS if any(m == metric for _, _, metric in table.items)]
    both = False
    for corpus, system in table.groups_present:
        extras = {m: [e for e in table.extras(system, corpus, m) if "truncation" in e] for m in metrics}
        every = [extra for each in extras.values() for extra in each]
        if not every:
            continue
        used |= {extra["truncation"] for extra in every}
        both |= any("truncations" in extra for extra in every)
        over = percent(fmean(extra["over_64"] for extra in every))
        rows.append([quote(corpus_title(corpus)), quote(system_title(system)), over,
                     *(cell for each in extras.values() for cell in _both(each))])  # fmt: skip
    if not rows:
        return []
    names = " and ".join({AT_64: "the first 64 tokens of a reply", WHOLE: "the whole reply"}[t] for t in sorted(used))
    text = f"ER, Ex and IP elsewhere in this report are of **{names}**. over 64: share of replies of more tokens."
    header = ["corpus", "system", "over 64"]
    if both:
        header += [f"{METRIC_TITLES[m]} {part}" for m in metrics for part in ("at 64", "whole", "change")]
        text += (
            " A bi-encoder scores a whole reply in windows and gives it the level of its highest one, so that level "
            "can only rise with length; other scorers take of a reply at 64 tokens about as many words as they hold."
        )
    else:
        rows = [row[: len(header)] for row in rows]
        text += " Both side by side: `re-llm score --truncation both`."
    return [Heading(2, "Truncation at 64 tokens"), Paragraph(text), Table(header, rows, (0, 1))]
