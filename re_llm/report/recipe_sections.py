"""Sections that a recipe asks for: its own tables, comparisons by pairs, and whole replies to chosen utterances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from re_llm.core.page import NONE, Block, Cell, Cells, Heading, Paragraph, Table, Value, quote
from re_llm.core.records import ReplyRecord, Score, read_records
from re_llm.recipe.tables import CaseOptions, ColumnOptions, ShownOptions, TableOptions, WinOptions
from re_llm.report.plots import level_plot
from re_llm.report.reply_sections import Replies, marked, rationales
from re_llm.report.score_sections import corpus_plot
from re_llm.report.tables import GROUP_KEY, ScoreTable, system_title

PERCENT = ("UA", "WA", "HEAD_UA", "HEAD_WA")  # metrics that the papers print in %


@dataclass(frozen=True)
class Wins:
    """Pairs won, tied and lost by one system against another; `by` says who compared them."""

    system: str
    against: str
    corpus: str
    by: str
    won: int
    tied: int
    lost: int

    @property
    def pairs(self) -> int:
        return self.won + self.tied + self.lost


def read_wins(judged: Sequence[Path]) -> list[Wins]:
    """What a judge found, from files of `re-llm judge --criterion PAIRWISE`."""
    found = []
    for path in judged:
        for row in read_records(path, Score):
            extra = row.model_extra or {}
            if row.key == GROUP_KEY and row.metric == "JUDGE_PAIRWISE":
                counts = (extra["wins"], extra["ties"], extra["losses"])
                found.append(Wins(row.system, extra["against"], row.corpus or "", f"judge {extra['judge']}", *counts))
    return found


def _by_er(table: ScoreTable, options: WinOptions, against: str) -> Wins:
    """Where no judge compared: the higher ER wins."""
    ours, theirs = (table.means(name, options.corpus, "ER") for name in (options.system, against))
    pairs = [(ours[key], theirs[key]) for key in ours if key in theirs]
    won, lost = sum(a > b for a, b in pairs), sum(a < b for a, b in pairs)
    return Wins(options.system, against, options.corpus, "ER", won, len(pairs) - won - lost, lost)


def all_wins(table: ScoreTable, shown: ShownOptions, judged: Sequence[Path]) -> list[Wins]:
    """Every comparison that the recipe asks for, in its order: the judge's, else by ER."""
    known = {(each.system, each.against, each.corpus): each for each in read_wins(judged)}
    return [
        known.get((options.system, against, options.corpus)) or _by_er(table, options, against)
        for options in shown.wins
        for against in options.against
    ]


def recipe_blocks(
    table: ScoreTable, spoken: Replies, shown: ShownOptions, wins: Sequence[Wins], out: Path
) -> list[Block]:
    """The sections, in the recipe's order; `out` is the folder of the report."""
    blocks: list[Block] = []
    for each in shown.tables:
        blocks += _table(table, each)
    for options in shown.wins:
        blocks += _wins(options, wins, out)
    for case in shown.cases:
        blocks += _cases(table, spoken, case)
    return blocks


def _value(table: ScoreTable, system: str, column: ColumnOptions) -> tuple[str, float] | None:
    """The first metric of a column that a system has, and its mean."""
    for metric in column.metrics:
        if cell := table.cell(system, column.corpus, metric):
            return metric, cell.mean
    return None


def _shown(metric: str, value: float) -> str:
    return f"{100 * value:.1f}" if metric in PERCENT else f"{value:.2f}"


def _table(table: ScoreTable, options: TableOptions) -> list[Block]:
    values = {(s, n): _value(table, s, c) for s in options.systems for n, c in enumerate(options.columns)}
    best = [
        max((found[1] for s in options.systems if (found := values[s, n])), default=None)
        for n in range(len(options.columns))
    ]
    rows: list[Cells] = []
    for system in options.systems:
        row: list[Cell] = [quote(system_title(system))]
        paper = options.published.get(system, (None,) * len(options.columns))
        for n, (column, given) in enumerate(zip(options.columns, paper, strict=True)):
            note = f"paper {given:g}" if given is not None else ""
            found = values[system, n]
            if found is None:
                row.append(Value("—", note))
                continue
            other = f"{found[0]}; " if found[0] != column.metrics[0] else ""
            row.append(Value(_shown(*found), other + note, best=found[1] == best[n]))
        rows.append(row)
    note = " ".join(filter(None, (options.note, "Beneath: another metric where the first is not measured; the paper.")))
    header = ["system", *(quote(column.title) for column in options.columns)]
    return [Heading(2, quote(options.title)), Table(header, rows), Paragraph(note)]


def _wins(options: WinOptions, wins: Sequence[Wins], out: Path) -> list[Block]:
    rows: list[Cells] = []
    bars: dict[str, list[float]] = {}
    for each in wins:
        if (each.system, each.corpus) == (options.system, options.corpus) and each.against in options.against:
            counts = [
                Value(f"{100 * count / each.pairs:.0f} %", str(count)) if each.pairs else NONE
                for count in (each.won, each.tied, each.lost)
            ]
            rows.append([quote(system_title(each.against)), str(each.pairs), *counts, quote(each.by)])
            if each.pairs:
                bars[system_title(each.against)] = [n / each.pairs for n in (each.lost, each.tied, each.won)]
    title = quote(f"{options.title}: {system_title(options.system)} against others")
    note = (
        "Replies to the same dialogues, by a judge LLM in both orders (a win needs both), or, where none was named, by "
        "their ER: the higher level wins, which is no judgement of quality."
    )
    header = ["against", "pairs", "won", "tied", "lost", "by"]
    draw = partial(level_plot, parts=("lost", "tied", "won"))
    what = f"{system_title(options.system)} against"
    plots = [corpus_plot(out, "wins", options.corpus, what, draw, {what: bars})] if bars else []
    return [Heading(2, title), *plots, Table(header, rows, (0, 5)), Paragraph(note)]


def _cases(table: ScoreTable, spoken: Replies, options: CaseOptions) -> list[Block]:
    replies = {s: {r.key: r for r in spoken.get((s, options.corpus), ())} for s in options.systems}
    keys = options.keys or _chosen(replies, options.number)
    blocks: list[Block] = [Heading(2, quote(options.title))]
    missing = [key for key in keys if not any(key in own for own in replies.values())]
    for key in keys:
        rows: list[Cells] = []
        about: ReplyRecord | None = None
        for system, own in replies.items():
            if reply := own.get(key):
                about = about or reply
                levels = [
                    "—" if level is None else f"{level:.0f}"
                    for m in ("ER", "EX")
                    for level in [table.items.get((system, options.corpus, m), {}).get((key, reply.seed))]
                ]
                text = marked(reply.response, rationales(table, system, options.corpus, reply))
                rows.append([quote(system_title(system)), text, *levels])
        if about is not None:
            said = quote(f"“{about.text or about.transcript or ''}”")
            told = f"{said}, spoken {quote(about.emotion or 'without a label')} ({quote(key)})"
            blocks += [Paragraph(told), Table(["system", "whole reply", "ER", "Ex"], rows, (0, 1))]
    chosen = "chosen by key" if options.keys else "chosen by rule: answered by all, most different replies first"
    note = f"Utterances {chosen}. Marked: the sentences that carry ER (tinted) and Ex (underlined)."
    if missing:
        note += f" No system has replied to: {', '.join(map(quote, missing))}."
    return [*blocks, Paragraph(note)]


def _chosen(replies: Mapping[str, Mapping[str, ReplyRecord]], number: int) -> list[str]:
    """Utterances that all systems answered, those with the most different replies first, ties by key."""
    common = set.intersection(*(set(own) for own in replies.values())) if replies else set()
    return sorted(common, key=lambda key: (-len({own[key].response for own in replies.values()}), key))[:number]
