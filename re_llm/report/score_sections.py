"""Sections of a report from the scores: recognition and its confusion matrices, levels, and truncation of replies."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from re_llm.core.page import NONE, Block, Cells, Heading, Items, Paragraph, Plot, Table, Value, percent, quote
from re_llm.core.records import DIMENSIONS
from re_llm.evaluate.empathy.epitome import LEVELS, MECHANISMS, WEAKNESSES
from re_llm.evaluate.empathy.truncation import AT_64, WHOLE
from re_llm.report.plots import Counts, Points, confusion_plot, level_plot, plane_plot
from re_llm.report.tables import METRIC_TITLES, ScoreTable, corpus_title, show_cell, system_title


def corpus_plot(out: Path, kind: str, corpus: str, what: str, draw: Callable[..., Path], *data: object) -> Plot:
    """The plot that `draw(path, *data, title)` makes; its name is readable, and different for corpora of any names."""
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in corpus).strip("-")[:40]
    slug = plain if plain == corpus else f"{plain}-{zlib.crc32(corpus.encode()):08x}"
    relative, title = f"figures/{kind}_{slug}.png", f"{corpus_title(corpus)}: {what}"
    return Plot(draw(out / relative, *data, title), relative, title)


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
    """UA, WA, F1 and unparsable answers, UA of the categorical head; a confusion plot for each corpus."""
    rows: list[Cells] = []
    for corpus, system in table.groups_present:
        ua, head = (table.cell(system, corpus, metric) for metric in ("UA", "HEAD_UA"))
        first = ua or head
        if first is None:
            continue
        *means, unparsable = (table.cell(system, corpus, metric) for metric in ("WA", "F1", "WF1", "UNPARSABLE"))
        number = sum(extra.get("number", 0) for extra in table.extras(system, corpus, "UNPARSABLE"))
        rows.append([
            quote(corpus_title(corpus)), quote(system_title(system)), str(first.items), show_cell(ua) if ua else NONE,
            *(f"{cell.mean:.3f}" if cell else NONE for cell in means),
            f"{number} ({percent(unparsable.mean)})" if unparsable else NONE,
            show_cell(head) if head else NONE,
        ])  # fmt: skip
    if not rows:
        return []
    plots: list[Block] = []
    for corpus in table.corpora:
        matrices, labels = _confusions(table, corpus)
        if matrices:
            what = "emotion named, by reference emotion (% of the reference)"
            plots.append(corpus_plot(out, "confusion", corpus, what, confusion_plot, matrices, labels))
    header = ["corpus", "system", "answers", "UA", "WA", "macro-F1", "weighted F1", "name no emotion", "UA of the head"]
    note = (
        "An answer that names no emotion is wrong and stays in every count; in the plots it is the column `none`. "
        "UA of the head: of the likeliest class of the categorical head, without the LLM."
    )
    return [Heading(2, "Recognition"), Table(header, rows, (0, 1)), Paragraph(note), *plots]


def _planes(table: ScoreTable, corpus: str) -> tuple[dict[str, Points], Points]:
    """(valence, arousal) by reference emotion: estimates of every system, and the references."""
    estimates: dict[str, dict[str, list[tuple[float, float]]]] = {}
    references: dict[str, dict[str, tuple[float, float]]] = {}
    for system in table.systems:
        emotions = table.references(system, corpus)
        for (key, _), details in table.details.get((system, corpus, "VAD"), {}).items():
            pairs = details["pairs"]
            if "valence" in pairs and "arousal" in pairs:
                emotion = emotions.get(key, "all")
                estimate, reference = zip(pairs["valence"], pairs["arousal"], strict=True)
                estimates.setdefault(system_title(system), {}).setdefault(emotion, []).append(estimate)
                references.setdefault(emotion, {})[key] = reference
    return dict(estimates), {emotion: list(points.values()) for emotion, points in references.items()}


def dimension_blocks(table: ScoreTable, out: Path) -> list[Block]:
    """Valence, arousal and dominance against their references; a plot of the plane for each corpus."""
    metrics = [f"{kind}_{name.upper()}" for kind in ("CCC", "RMSE") for name in DIMENSIONS]
    rows: list[Cells] = []
    for corpus, system in table.groups_present:
        cells = [table.cell(system, corpus, metric) for metric in metrics]
        if any(cells):
            shown = [show_cell(cell) if cell else NONE for cell in cells]
            rows.append([quote(corpus_title(corpus)), quote(system_title(system)), *shown])
    if not rows:
        return []
    note = (
        "CCC: Lin's concordance correlation coefficient with its 95 % bootstrap interval over utterances; RMSE on the "
        "scale of 0 to 1. Estimates are those of the dimensional head."
    )
    header = ["corpus", "system", *(METRIC_TITLES[metric] for metric in metrics)]
    plots: list[Block] = []
    for corpus in table.corpora:
        estimates, references = _planes(table, corpus)
        if estimates:
            what = "valence and arousal by reference emotion; large marks are means"
            plots.append(corpus_plot(out, "plane", corpus, what, plane_plot, estimates, references))
    return [Heading(2, "Valence, arousal, dominance"), Table(header, rows, (0, 1)), Paragraph(note), *plots]


def transcript_blocks(table: ScoreTable) -> list[Block]:
    """Word error rate of the systems that answer their own transcript."""
    rows: list[Cells] = []
    for corpus, system in table.groups_present:
        if cell := table.cell(system, corpus, "WER"):
            shown = show_cell(cell)
            rows.append([quote(corpus_title(corpus)), quote(system_title(system)), str(cell.items), shown])
    if not rows:
        return []
    note = "Edits over the words of the reference; lower case, punctuation left out; 95 % bootstrap interval."
    header = ["corpus", "system", "transcripts", "word error rate"]
    return [Heading(2, "Transcripts"), Table(header, rows, (0, 1)), Paragraph(note)]


def reference_blocks(table: ScoreTable) -> list[Block]:
    """Replies against the references of a benchmark: right choices, and words shared with a reference reply."""
    rows: list[Cells] = []
    for corpus, system in table.groups_present:
        for metric in ("CHOICE", "ROUGE_L"):
            if cell := table.cell(system, corpus, metric):
                undecided = [each.get("undecided") for each in table.extras(system, corpus, metric)]
                told = str(sum(count or 0 for count in undecided)) if metric == "CHOICE" else NONE
                names = [quote(corpus_title(corpus)), quote(system_title(system)), METRIC_TITLES[metric]]
                rows.append([*names, str(cell.items), show_cell(cell), told])
    if not rows:
        return []
    note = (
        "Right choices: a reply that decides for no letter, or for several, is wrong. ROUGE-L: F-measure of the "
        "longest common subsequence of words. 95 % bootstrap intervals."
    )
    header = ["corpus", "system", "measure", "replies", "value", "decide for no letter"]
    return [Heading(2, "References of a benchmark"), Table(header, rows, (0, 1, 2)), Paragraph(note)]


def judge_blocks(table: ScoreTable) -> list[Block]:
    """What a judge LLM says of the replies: scores, comparisons with another system, and where it failed."""
    scored: list[Cells] = []
    pairs: list[Cells] = []
    for corpus, system in table.groups_present:
        names = [quote(corpus_title(corpus)), quote(system_title(system))]
        for metric in ("JUDGE_QUALITY", "JUDGE_EMPATHY", "JUDGE_PAIRWISE"):
            for row in table.groups_of(system, corpus, metric):
                extra = row.model_extra or {}
                value = NONE if row.value is None else Value(f"{row.value:.3f}", f"of {extra['count']}")
                failed = [str(extra["refused"]), str(extra["unparsable"]), quote(extra["judge"])]
                if metric == "JUDGE_PAIRWISE":
                    counts = [str(extra[name]) for name in ("wins", "ties", "losses", "place_decided")]
                    pairs.append([*names, quote(system_title(extra["against"])), value, *counts, *failed])
                else:
                    scored.append([*names, METRIC_TITLES[metric].removeprefix("judged "), value, *failed])
    if not scored and not pairs:
        return []
    blocks: list[Block] = [Heading(2, "A judge LLM")]
    if scored:
        header = ["corpus", "system", "criterion", "mean, 0 to 10", "refused", "unparsable", "judge"]
        blocks.append(Table(header, scored, (0, 1, 2, 6)))
    if pairs:
        header = ["corpus", "system", "against", "wins + ties / 2", "won", "tied", "lost", "tied by place", "refused",
                  "unparsable", "judge"]  # fmt: skip
        blocks.append(Table(header, pairs, (0, 1, 2, 10)))
    note = (
        "Prompts of the BLSP-Emo paper. A comparison is asked in both orders and won only in both; tied by place: the "
        "judge took the same place both times. Refusals and answers without a readable score are left out of the means."
    )
    return [*blocks, Paragraph(note)]


def level_blocks(table: ScoreTable, out: Path) -> list[Block]:
    """A plot for each corpus: how many replies have level 0, 1 and 2."""
    plots: list[Block] = []
    for corpus in table.corpora:
        fractions: dict[str, dict[str, list[float]]] = {}
        for metric in MECHANISMS:
            for system in table.systems:
                if values := list(table.items.get((system, corpus, metric), {}).values()):
                    each = [values.count(level) / len(values) for level in range(LEVELS)]
                    fractions.setdefault(METRIC_TITLES[metric], {})[system_title(system)] = each
        if fractions:
            what = "fraction of the replies at each level"
            plots.append(corpus_plot(out, "levels", corpus, what, level_plot, fractions))
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
    text = f"ER, Ex and IP elsewhere in this report are of **{names}**. over 64: fraction of replies of more tokens."
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


def weakness_blocks(table: ScoreTable) -> list[Block]:
    """What the scores do not see, and how good their scorer is."""
    scorers = sorted({(row.model_extra or {}).get("scorer", "") for row in table.groups.values()} - {""})
    blocks: list[Block] = [Heading(2, "What these scores do not see"), Items(WEAKNESSES)]
    if scorers:
        blocks.append(Paragraph(f"Scored by: {', '.join(f'`{name}`' for name in scorers)}. {_skill(scorers)}"))
    return blocks


def _skill(scorers: Sequence[str]) -> str:
    """How good the shipped scorer is, from the cross-validation that its file carries."""
    if "small" not in scorers:
        return ""
    from re_llm.evaluate.empathy.small_scorer import SmallScorer

    measured = SmallScorer.load().meta["cross_validation"]
    each = ", ".join(f"{METRIC_TITLES[m]} {100 * measured[m]['macro_f1']:.1f}" for m in MECHANISMS)
    return f"The small scorer's macro-F1 in cross-validation on EPITOME's Reddit pairs, in %: {each}."
