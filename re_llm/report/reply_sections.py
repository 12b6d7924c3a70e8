"""Sections of a report that come from the replies themselves: audits, and the same words spoken differently."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from re_llm.core.page import NONE, Block, Cells, Heading, Paragraph, Table, Value, percent, quote
from re_llm.core.records import ReplyRecord, read_records
from re_llm.evaluate.audits import Audit, audit
from re_llm.evaluate.empathy.loading import load_scorer
from re_llm.evaluate.empathy.truncation import truncate
from re_llm.report.tables import CORPORA, NO_CORPUS, SYSTEMS, ScoreTable, corpus_title, system_title

EXAMPLE_SENTENCES, EXAMPLE_SYSTEMS, REPLY_CHARACTERS = 3, 4, 400

Replies = dict[tuple[str, str], list[ReplyRecord]]


def read_replies(paths: Sequence[Path]) -> Replies:
    found: Replies = {}
    for path in paths:
        for reply in read_records(path, ReplyRecord):
            found.setdefault((reply.system, reply.corpus or NO_CORPUS), []).append(reply)
    return found


def _sorted(keys: Mapping[tuple[str, str], Any]) -> list[tuple[str, str]]:
    """By corpus, then by system, in the order of Table I."""

    def rank(names: Mapping[str, str], name: str) -> tuple[int, str]:
        return (list(names).index(name) if name in names else len(names), name)

    return sorted(keys, key=lambda key: (rank(CORPORA, key[1]), rank(SYSTEMS, key[0])))


def _truncation_effect(replies: Sequence[ReplyRecord]) -> str:
    """Change of mean Ex when only the first 64 tokens of the replies are scored."""
    long = [reply for reply in replies if truncate(reply.response) != reply.response]
    if not long:
        return "0"
    scorer = load_scorer("small")
    seekers = [reply.text or "" for reply in long]
    whole = scorer.score(seekers, [reply.response for reply in long])
    heads = scorer.score(seekers, [truncate(reply.response) for reply in long])
    change = sum(h["EX"].level - w["EX"].level for h, w in zip(heads, whole, strict=True)) / len(replies)
    return f"{change:+.3f}"


def _audit_row(corpus: str, system: str, found: Audit, replies: Sequence[ReplyRecord]) -> Cells:
    named = (
        NONE if found.named is None else Value(percent(found.named_right), f"of {percent(found.named)} that name one")
    )
    common = Value(quote(found.most_common_opening[0] + " …"), percent(found.most_common_opening[1]))
    names = [quote(corpus_title(corpus)), quote(system_title(system))]
    return [
        *names, str(found.count), percent(found.asks), percent(found.ends_asking),
        f"{found.words:.1f}", percent(found.over_64), _truncation_effect(replies), percent(found.distinct), common,
        named,
    ]  # fmt: skip


def audit_blocks(spoken: Replies) -> list[Block]:
    rows = []
    for system, corpus in _sorted(spoken):
        replies = spoken[system, corpus]
        found = audit([reply.response for reply in replies], [reply.emotion for reply in replies])
        rows.append(_audit_row(corpus, system, found, replies))
    if not rows:
        return []
    header = ["corpus", "system", "replies", "ask", "end asking", "words", "over 64", "Ex by truncation", "distinct",
              "commonest opening", "named emotion right"]  # fmt: skip
    return [
        Heading(2, "Audits"),
        Table(header, rows, (0, 1, 9)),
        Paragraph(
            "ask: with a question mark; end asking: last sign is one. over 64: longer than the 64 tokens (about 48 "
            "words) that the original scorer sees; Ex by truncation: change of mean Ex when only those are scored. "
            "distinct: different replies. named emotion right: of the replies that ascribe an emotion to the speaker "
            "(`you sound angry`), how many name the reference emotion."
        ),
    ]


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return quote(flat if len(flat) <= REPLY_CHARACTERS else flat[:REPLY_CHARACTERS].rstrip() + " …")


def _chosen_sentences(spoken: Replies, systems: Sequence[str]) -> list[tuple[str, str]]:
    """(corpus, text) to show: first those spoken in most emotions and answered by most systems; ties fall by a hash."""
    emotions: dict[tuple[str, str], set[str]] = {}
    answered: dict[tuple[str, str], set[str]] = {}
    for (system, corpus), replies in spoken.items():
        for reply in replies:
            if reply.text and system in systems:
                emotions.setdefault((corpus, reply.text), set()).add(reply.emotion or "")
                answered.setdefault((corpus, reply.text), set()).add(system)
    ranked = sorted(emotions, key=lambda k: (-len(emotions[k]), -len(answered[k]), zlib.crc32(k[1].encode())))
    # One sentence of every corpus before a second one of any.
    first = [next(k for k in ranked if k[0] == corpus) for corpus in dict.fromkeys(k[0] for k in ranked)]
    return (first + [k for k in ranked if k not in first])[:EXAMPLE_SENTENCES]


def _example_systems(spoken: Replies, baseline: str | None) -> list[str]:
    present = list(dict.fromkeys(system for system, _ in _sorted(spoken)))
    wanted = [name for name in ("text", baseline, "re-llm") if name in present]
    return [*wanted, *(name for name in present if name not in wanted)][:EXAMPLE_SYSTEMS]


def example_blocks(table: ScoreTable, spoken: Replies, baseline: str | None) -> list[Block]:
    systems = _example_systems(spoken, baseline)
    blocks: list[Block] = []
    for corpus, text in _chosen_sentences(spoken, systems):
        rows: list[Cells] = []
        seen: set[tuple[str, str | None]] = set()
        matching = [(s, r) for s in systems for r in spoken.get((s, corpus), ()) if r.text == text]
        for system, reply in sorted(matching, key=lambda pair: (pair[1].emotion or "", systems.index(pair[0]))):
            if (system, reply.emotion) in seen:
                continue
            seen.add((system, reply.emotion))
            marks = [table.items.get((system, corpus, m), {}).get((reply.key, reply.seed)) for m in ("ER", "EX")]
            shown = [NONE if mark is None else f"{mark:.0f}" for mark in marks]
            rows.append([quote(reply.emotion or "—"), quote(system_title(system)), _shorten(reply.response), *shown])
        blocks += [Heading(3, quote(f"{corpus_title(corpus)}: “{_shorten(text)}”")),
                   Table(["spoken as", "system", "reply", "ER", "Ex"], rows, (0, 1, 2))]  # fmt: skip
    if not blocks:
        return []
    note = "The same words, spoken in several emotions where the corpus has them; chosen by rule, not by hand."
    return [Heading(2, "Examples"), Paragraph(note), *blocks]
