"""Section of a report about dialogues: whether the last reply knows how the first turn was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Table, quote
from re_llm.evaluate.dialogues import Memory, memory
from re_llm.report.reply_sections import Replies, in_order
from re_llm.report.tables import corpus_title, system_title


@dataclass(frozen=True)
class Remembered:
    """What one system remembers in one corpus."""

    system: str
    corpus: str
    memory: Memory


def remembered(spoken: Replies) -> list[Remembered]:
    """Of every system and corpus with dialogues."""
    pairs = [(system, corpus, memory(spoken[system, corpus])) for system, corpus in in_order(spoken)]
    return [Remembered(system, corpus, found) for system, corpus, found in pairs if found]


def dialogue_blocks(found: Sequence[Remembered]) -> list[Block]:
    if not found:
        return []
    rows: list[Cells] = []
    for each in found:
        own = each.memory
        shares = (own.named, own.named_last, own.named_first, own.chance)
        p = NONE if own.p is None else "< .001" if own.p < 0.001 else f"{own.p:.3f}".removeprefix("0")
        rows.append([
            quote(corpus_title(each.corpus)), quote(system_title(each.system)), str(own.dialogues), str(own.differing),
            *(NONE if share is None else f"{100 * share:.0f} %" for share in shares), p,
        ])  # fmt: skip
    header = ["corpus", "system", "dialogues", "first differs", "name one", "the last", "the first", "by chance", "p"]
    note = (
        "Does the last reply know how the first turn was said? Of the dialogues whose first turn has another emotion "
        "than the last one: replies that name an emotion, that of the last turn, that of the first. By chance: when "
        "replies are exchanged among dialogues of the same last emotion; p: one-sided, of so many by an exchange."
    )
    return [Heading(2, "Dialogues"), Table(header, rows, (0, 1)), Paragraph(note)]
