"""Section of a report: scores by speaker, gender, emotion, duration and language, with the largest gap of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from re_llm.core.page import Block, Cells, Heading, Paragraph, Table, Value, quote
from re_llm.core.records import ReplyRecord
from re_llm.evaluate.significance import MIN_PAIRS
from re_llm.evaluate.slices import ATTRIBUTES, Slice, Slices, attribute_of, slice_scores
from re_llm.report.reply_sections import Replies
from re_llm.report.tables import METRIC_TITLES, ScoreTable, corpus_title, system_title

SLICED = ("ER", "EX", "UA")
Items = Mapping[tuple[str, str], ReplyRecord]  # by (corpus, key)


@dataclass(frozen=True)
class Sliced:
    """A metric of one system on one corpus by one attribute."""

    system: str
    corpus: str
    metric: str
    slices: Slices


def about_items(spoken: Replies) -> dict[tuple[str, str], ReplyRecord]:
    """One reply to every utterance, for what it tells of the utterance."""
    return {(corpus, reply.key): reply for (_, corpus), replies in spoken.items() for reply in replies}


def slices(table: ScoreTable, about: Items) -> list[Sliced]:
    """Every system and metric by every attribute that the replies tell, where two slices have enough items."""
    found = []
    for corpus, system in table.groups_present:
        references = table.references(system, corpus)
        for attribute in ATTRIBUTES:
            own = {key: value for (c, key), r in about.items() if c == corpus and (value := attribute_of(r, attribute))}
            for metric in SLICED if own else ():
                emotions = references if metric == "UA" else None
                values = table.means(system, corpus, "SER" if metric == "UA" else metric)
                if each := slice_scores(attribute, values, own, emotions):
                    found.append(Sliced(system, corpus, metric, each))
    return found


def _shown(each: Slice) -> Value:
    return Value(f"{each.value:.3f}", quote(f"{each.name}, {each.count}"))


def slice_blocks(found: list[Sliced]) -> list[Block]:
    rows: list[Cells] = []
    for each in found:
        of = each.slices
        names = [quote(corpus_title(each.corpus)), quote(system_title(each.system)), of.attribute]
        gap = Value(f"{of.gap:.3f}", f"[{of.interval[0]:+.3f}, {of.interval[1]:+.3f}]")
        ends = [_shown(of.lowest), _shown(of.highest), gap]
        rows.append([*names, METRIC_TITLES[each.metric], str(len(of.slices)), *ends])
    if not rows:
        return []
    note = (
        "The lowest and the highest slice by each attribute, with their items; the gap has a 95 % bootstrap interval "
        f"over the items of these two. Slices of fewer than {MIN_PAIRS} items are counted and left out. UA of an "
        "emotion is its recall. The two ends of many slices differ by chance as well: an interval off zero is a reason "
        "to look, no proof. Every slice: `results.json`."
    )
    header = ["corpus", "system", "by", "metric", "slices", "lowest", "highest", "gap"]
    return [Heading(2, "Slices"), Table(header, rows, (0, 1, 2, 3)), Paragraph(note)]
