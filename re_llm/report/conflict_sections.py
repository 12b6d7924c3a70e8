"""The conflict test as a section of a report, and as a page of its own (`re-llm conflict`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Table, Value, quote, write_page
from re_llm.evaluate.conflict import FACTORS, MIN_ITEMS, Conflict, conflict, words_emotions
from re_llm.report.plots import factor_plot
from re_llm.report.reply_sections import Replies, in_order, read_replies
from re_llm.report.score_sections import corpus_plot
from re_llm.report.tables import corpus_title, system_title

TEXT_SYSTEM = "text"  # a system of Table I that reads the words alone


def conflicts(spoken: Replies, words: Mapping[str, str] | None = None) -> list[Conflict]:
    """The conflict test of every system and corpus that has the same words in several emotions.

    Args:
        words: emotion of the words alone; None for what the system `text` names, where it was asked.
    """
    found = []
    for system, corpus in in_order(spoken):
        own = words if words is not None else words_emotions(spoken.get((TEXT_SYSTEM, corpus), []))
        if result := conflict(system, corpus, spoken[system, corpus], own):
            found.append(result)
    return found


def _with_interval(value: float, interval: tuple[float, float]) -> Value:
    return Value(f"{value:.2f}", f"[{interval[0]:.2f}, {interval[1]:.2f}]")


def conflict_blocks(found: Sequence[Conflict], out: Path) -> list[Block]:
    """What explains the replies, and what is named where words and voice contradict; a plot for each corpus."""
    if not found:
        return []
    explained: list[Cells] = []
    against: list[Cells] = []
    for each in found:
        names: Cells = [quote(corpus_title(each.corpus)), quote(system_title(each.system))]
        for outcome in each.explained:
            cells = [
                _with_interval(outcome.explained[f], outcome.intervals[f]) if f in outcome.explained else NONE
                for f in FACTORS
            ]
            explained.append([*names, outcome.outcome, f"{each.items} / {each.sentences}", *cells])
        for row in each.contradictions:
            gap = _with_interval(row.voice - row.words, row.interval)
            fractions = [f"{value:.2f}" for value in (row.voice, row.words, row.other)]
            against.append([*names, row.outcome, str(row.items), *fractions, gap])
    blocks: list[Block] = [
        Heading(2, "Voice or words"),
        Paragraph(
            "The same words spoken in several emotions. How much of the emotion that is named, and of the reply, is "
            "explained by the emotion of the voice, by the words, by the speaker: adjusted R squared, 0 to 1, each "
            "factor alone, with 95 % bootstrap intervals over the sentences. A system that reads the words alone has 0 "
            "for the voice."
        ),
        Table(["corpus", "system", "of", "utterances / sentences", *FACTORS], explained, (0, 1, 2)),
    ]
    if not explained:
        blocks = blocks[:1]
    if against:
        blocks += [
            Heading(3, "Words against voice"),
            Table(["corpus", "system", "of", "utterances", "voice", "words", "other or none", "voice - words"], against,
                  (0, 1, 2)),
            Paragraph(
                "Utterances whose words, by the corpus or read alone, have another emotion than the voice (neutral "
                "words contradict nothing): the fractions in which the one or the other is named."
            ),
        ]  # fmt: skip
    for corpus in dict.fromkeys(each.corpus for each in found):
        panels: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
        for each in (one for one in found if one.corpus == corpus):
            for outcome in each.explained:
                bars = {name: (outcome.explained[name], *outcome.intervals[name]) for name in outcome.explained}
                panels.setdefault(outcome.outcome, {})[system_title(each.system)] = bars
        if not panels:
            continue
        what = "what explains the named emotion and the reply"
        blocks.append(corpus_plot(out, "conflict", corpus, what, factor_plot, panels))
    return blocks


def write_conflict(replies: Sequence[Path], out: Path, words: Path | None = None) -> list[Conflict]:
    """Writes the conflict test of some replies as `report.html`, `report.md` and `results.json`.

    Args:
        words: replies of a system that reads the words alone and was asked for their emotion.

    Raises:
        RellmError: a file is broken, no words are spoken in two emotions, or the files cannot be written.
    """
    told = None
    if words:
        told = words_emotions([reply for each in read_replies([words]).values() for reply in each])
        if not told:
            raise RellmError(f"{words} names no emotion of words", todo="Ask for it: re-llm respond --recognize")
    found = conflicts(read_replies(replies), told)
    if not found:
        raise RellmError(
            "no system has the same words in several emotions",
            allowed=f"replies to {MIN_ITEMS} utterances with `text` and `emotion`, their words spoken in two emotions, "
            "or with another `words_emotion`",
        )
    numbers = [asdict(each) for each in found]
    write_page(out, "Voice or words", numbers, lambda: [Heading(1, "Voice or words"), *conflict_blocks(found, out)])
    return found
