"""First sections of a report: what it holds, Table I, and the gains with their tests."""

from __future__ import annotations

from collections.abc import Sequence

from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Table, quote
from re_llm.evaluate.significance import EXACT_PAIRS, MIN_PAIRS, WilcoxonResult
from re_llm.report.tables import (
    METRIC_TITLES,
    TABLE_I,
    Gain,
    ScoreTable,
    corpus_title,
    show_cell,
    system_title,
)

MIN_ITEMS = 30


def _p(p: float) -> str:
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")


def introduction(table: ScoreTable, baseline: str | None) -> list[Block]:
    seeds = table.seeds()
    systems, corpora = len(table.systems), len(table.corpora)
    sizes = f"{systems} system{'s' * (systems > 1)} on {corpora} {'corpora' if corpora > 1 else 'corpus'}"
    text = (
        f"{sizes}. **ER** (emotional reactions), **Ex** (explorations) and **IP** (interpretations) are EPITOME "
        "levels from 0 to 2, **UA** is the unweighted accuracy of the emotion that a system names."
    )
    test = (
        f"Tests compare each system with **{system_title(baseline)}** on the same utterances."
        if baseline
        else "No baseline was named or found, so nothing is tested."
    )
    spread = (
        f"Seeds: {', '.join(map(str, seeds))}." if len(seeds) > 1 else "One seed: no spread over trainings is known."
    )
    blocks: list[Block] = [Paragraph(text), Paragraph(f"{test} {spread}")]
    if table.common:
        each = ((f"{m} on {corpus_title(c)}", *sizes) for (c, m), sizes in table.common.items())
        counts = "; ".join(f"{what}: {shared} of {every}" for what, shared, every in each)
        note = f"The systems were scored on different items. Compared are those that all of them have: {counts}. "
        blocks.append(Paragraph(note + "Truncation, audits and examples are of all replies.", aside=True))
    return blocks


def _main_rows(table: ScoreTable, metrics: Sequence[str], gains: Sequence[Gain]) -> list[Cells]:
    tests = {(gain.system, gain.corpus, gain.metric): gain for gain in gains}
    best = {(metric, corpus): table.best(corpus, metric) for metric in metrics for corpus in table.corpora}
    rows: list[Cells] = []
    for system in table.systems:
        row: Cells = [quote(system_title(system))]
        for metric in metrics:
            for corpus in table.corpora:
                cell = table.cell(system, corpus, metric)
                gain = tests.get((system, corpus, metric))
                p = _p(gain.test.p) if gain and gain.test.decides else ""
                row.append(show_cell(cell, best=system in best[metric, corpus], test=p) if cell else NONE)
        rows.append(row)
    return rows


def _metric_header(table: ScoreTable, metrics: Sequence[str]) -> list[str]:
    return ["system", *(quote(f"{METRIC_TITLES[m]} {corpus_title(c)}") for m in metrics for c in table.corpora)]


def table_one(table: ScoreTable, gains: Sequence[Gain], baseline: str | None) -> list[Block]:
    small = [
        f"{system_title(s)} on {corpus_title(c)}: {cell.items}"
        for c, s in table.groups_present
        if (cell := table.cell(s, c, "ER") or table.cell(s, c, "UA")) and cell.items < MIN_ITEMS
    ]
    tests = "p: Wilcoxon signed-rank (ER, Ex) and paired bootstrap (UA) against "
    against = f"{tests}{system_title(baseline)}; " if baseline else ""
    blocks: list[Block] = [
        Heading(2, "Table I"),
        Table(_metric_header(table, TABLE_I), _main_rows(table, TABLE_I, gains)),
        Paragraph(
            "Mean (standard deviation over the replies); the best of a column is marked. Brackets hold 95 % bootstrap "
            f"intervals of UA, ± is the standard deviation of the means of the seeds. {against}— not measured."
        ),
    ]
    if small:
        blocks.append(Paragraph(f"Fewer than {MIN_ITEMS} replies, hardly a measurement: " + "; ".join(small) + "."))
    if any(metric == "IP" for _, _, metric in table.items):
        blocks += [Heading(3, "Interpretations"), Table(_metric_header(table, ["IP"]), _main_rows(table, ["IP"], []))]
    return blocks


def gain_blocks(gains: Sequence[Gain], baseline: str | None) -> list[Block]:
    if not baseline or not gains:
        return []
    rows: list[Cells] = []
    for gain in gains:
        test = gain.test
        if isinstance(test, WilcoxonResult):
            detail, size = f"{test.nonzero} of {test.pairs} differ", f"r = {test.effect:+.2f}"
        else:
            detail, size = f"{test.pairs} pairs", f"[{test.interval[0]:+.3f}, {test.interval[1]:+.3f}]"
        # A bootstrap of a handful of pairs gives a small p to whatever has one sign.
        alone = _p(test.p) if test.decides or isinstance(test, WilcoxonResult) else NONE
        corrected, sure = "—", f"fewer than {MIN_PAIRS} pairs"
        if gain.holm_p is not None:
            corrected, sure = _p(gain.holm_p), "yes" if gain.holm_p < 0.05 else "no"
        over = gain.by_speaker
        speakers = f"[{over.interval[0]:+.3f}, {over.interval[1]:+.3f}] of {over.speakers}" if over else NONE
        rows.append([quote(corpus_title(gain.corpus)), METRIC_TITLES[gain.metric], quote(system_title(gain.system)),
                     f"{test.difference:+.3f}", size, detail, speakers, alone, corrected, sure])  # fmt: skip
    header = ["corpus", "metric", "system", "difference", "effect", "pairs", "over speakers", "one test",
              "Holm, all tests", "below .05"]  # fmt: skip
    return [
        Heading(2, "Gains and their baseline"),
        Paragraph(
            f"Every difference is **system minus {system_title(baseline)}**, absolute, on the same utterances; an "
            "utterance's seeds are averaged first, on either side."
        ),
        Table(header, rows, (0, 1, 2)),
        Paragraph(
            "ER and Ex: Wilcoxon signed-rank, two-sided; pairs without a difference are left out before ranking "
            f"(zero_method `wilcox`), the distribution is exact up to {EXACT_PAIRS} pairs that differ, the effect is "
            "the matched-pairs rank-biserial correlation. UA: paired bootstrap over utterances with its 95 % interval. "
            f"Fewer than {MIN_PAIRS} pairs decide nothing. Holm's correction covers all other rows of this table "
            "together. Over speakers: 95 % interval of the difference when whole speakers are drawn; the tests take "
            "utterances for independent, which those of one speaker are not, and with few speakers even this interval "
            "is too narrow."
        ),
    ]
