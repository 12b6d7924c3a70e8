"""Replies of a report, and the section that shows the same words spoken differently."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

from re_llm.audio.source import moved
from re_llm.core.errors import RellmError
from re_llm.core.page import NONE, Block, Cell, Cells, Clip, Heading, Marked, Paragraph, Table, quote
from re_llm.core.records import ReplyRecord, read_numbered
from re_llm.report.tables import CORPORA, NO_CORPUS, SYSTEMS, ScoreTable, corpus_title, in_table_order, system_title

EXAMPLE_SENTENCES, EXAMPLE_SYSTEMS, REPLY_CHARACTERS = 3, 4, 400

Replies = dict[tuple[str, str], list[ReplyRecord]]


def read_replies(paths: Sequence[Path]) -> Replies:
    """Replies of some files, by system and corpus.

    Raises:
        RellmError: a line is broken, or is a second reply of a system, with one seed, to one utterance.
    """
    found: Replies = {}
    lines: dict[tuple[str, str | None, int | None, str], str] = {}
    for path in paths:
        for number, reply in read_numbered(path, ReplyRecord):
            place = reply.system, reply.corpus, reply.seed, reply.key
            if place in lines:
                raise RellmError(
                    f"{path}:{number}: the reply of {reply.system!r} to {reply.key!r} is in {lines[place]} already",
                    todo="Give every file of replies once; replies of other trainings need their `seed`",
                )
            lines[place] = f"{path}:{number}"
            if reply.audio:  # relative to the file of replies
                reply.audio = moved(reply.audio, path.parent, Path())
            found.setdefault((reply.system, reply.corpus or NO_CORPUS), []).append(reply)
    return found


def in_order(keys: Mapping[tuple[str, str], Any]) -> list[tuple[str, str]]:
    """By corpus, then by system, in the order of Table I."""
    corpora = in_table_order({corpus for _, corpus in keys}, list(CORPORA))
    systems = in_table_order({system for system, _ in keys}, list(SYSTEMS))
    return [(system, corpus) for corpus in corpora for system in systems if (system, corpus) in keys]


def _shorten(text: str) -> str:
    flat = " ".join(text.split())
    return quote(flat if len(flat) <= REPLY_CHARACTERS else flat[:REPLY_CHARACTERS].rstrip() + " …")


def rationales(table: ScoreTable, system: str, corpus: str, reply: ReplyRecord) -> dict[str, Sequence[tuple[int, int]]]:
    """The passages of a reply that carry ER and Ex."""
    item = reply.key, reply.seed
    return {m.lower(): table.rationales.get((system, corpus, m), {}).get(item, []) for m in ("ER", "EX")}


def marked(response: str, spans: Mapping[str, Sequence[tuple[int, int]]], most: int | None = None) -> Marked:
    """A reply, or its first `most` characters, with the passages that carry ER and Ex."""
    shown = response[:most]
    marks = [""] * len(response)
    for name, each in spans.items():
        for first, last in each:
            marks[first:last] = ["both" if mark not in ("", name) else name for mark in marks[first:last]]
    pieces = [
        (" ".join(f"|{''.join(c for c, _ in run)}|".split())[1:-1], name)
        for name, run in groupby(zip(shown, marks, strict=False), key=lambda pair: pair[1])
    ]
    return Marked([*pieces, *([(" …", "")] if len(response) > len(shown) else [])])


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
    present = list(dict.fromkeys(system for system, _ in in_order(spoken)))
    wanted = [name for name in ("text", baseline, "re-llm") if name in present]
    return [*wanted, *(name for name in present if name not in wanted)][:EXAMPLE_SYSTEMS]


def _clip(reply: ReplyRecord) -> bytes | None:
    """The recording as a FLAC file; None when it cannot be read here."""
    from re_llm.audio import waveform

    try:
        samples = waveform.load(reply.audio or "", start=reply.start or 0.0, duration=reply.duration)
    except RellmError:
        return None
    import soundfile

    out = BytesIO()
    soundfile.write(out, samples, waveform.RATE, format="FLAC", subtype="PCM_16")
    return out.getvalue()


def example_blocks(table: ScoreTable, spoken: Replies, baseline: str | None) -> list[Block]:
    systems = _example_systems(spoken, baseline)
    blocks: list[Block] = []
    lost = 0
    for corpus, text in _chosen_sentences(spoken, systems):
        rows: list[Cells] = []
        heard: set[str] = set()
        seen: set[tuple[str, str | None]] = set()
        matching = [(s, r) for s in systems for r in spoken.get((s, corpus), ()) if r.text == text]
        for system, reply in sorted(matching, key=lambda pair: (pair[1].emotion or "", systems.index(pair[0]))):
            if (system, reply.emotion) in seen:
                continue
            seen.add((system, reply.emotion))
            item = reply.key, reply.seed
            levels = [table.items.get((system, corpus, m), {}).get(item) for m in ("ER", "EX")]
            shown = [NONE if level is None else f"{level:.0f}" for level in levels]
            spans = rationales(table, system, corpus, reply)
            emotion: Cell = quote(reply.emotion or "—")
            if reply.audio and reply.key not in heard:
                heard.add(reply.key)
                clip = _clip(reply)
                lost += clip is None
                emotion = Clip(quote(reply.emotion or "—"), flac=clip) if clip else emotion
            rows.append([emotion, quote(system_title(system)), marked(reply.response, spans, REPLY_CHARACTERS), *shown])
        blocks += [Heading(3, quote(f"{corpus_title(corpus)}: “{_shorten(text)}”")),
                   Table(["spoken as", "system", "reply", "ER", "Ex"], rows, (0, 1, 2))]  # fmt: skip
    if not blocks:
        return []
    note = (
        "The same words, spoken in several emotions where the corpus has them; chosen by rule, not by hand. Marked: "
        "the sentences that carry ER (tinted) and Ex (underlined), as the scorer found them."
    )
    if lost:
        note += f" {lost} recordings could not be read here."
    return [Heading(2, "Examples"), Paragraph(note), *blocks]
