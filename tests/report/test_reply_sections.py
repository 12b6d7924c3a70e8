"""Sections of the report that come from the replies."""

from __future__ import annotations

from pathlib import Path

import pytest
from reply_world import EMOTIONS, SENTENCES, write_replies

from re_llm.core.errors import RellmError
from re_llm.core.page import Table, Value
from re_llm.core.records import ReplyRecord
from re_llm.report.reply_sections import audit_blocks, example_blocks, read_replies
from re_llm.report.tables import ScoreTable


def cells(blocks: list, number: int = 0) -> list[list[str]]:
    table = [block for block in blocks if isinstance(block, Table)][number]
    return [[cell.text if isinstance(cell, Value) else cell for cell in row] for row in table.rows]


def test_truncation_costs_what_stands_behind_it():
    long = "You could go for a walk and drink some water. " * 7
    replies = [
        ReplyRecord(key="1", system="s", response=long + "Why do you feel that nobody cares about you?"),
        ReplyRecord(key="2", system="s", response="Take a walk."),
    ]
    (row,) = cells(audit_blocks({("s", "calls"): replies}))
    assert row[:2] == ["calls", "s"]
    assert row[6] == "50 %"
    assert float(row[7]) < 0
    (row,) = cells(audit_blocks({("s", "calls"): replies[1:]}))
    assert row[6:8] == ["0 %", "0"]


def test_examples_show_every_corpus_and_every_emotion(tmp_path: Path):
    paths = [write_replies(tmp_path / f"{c}.jsonl", "re-llm", fraction=1.0, corpus=c) for c in ("esd", "iemocap")]
    spoken = read_replies(paths)
    blocks = example_blocks(ScoreTable(), spoken, None)
    titles = [block.text for block in blocks if getattr(block, "level", 0) == 3]
    assert len(titles) == 3
    assert {title.split(":")[0] for title in titles} == {"ESD", "IEMOCAP"}
    assert any(sentence in titles[0] for sentence in SENTENCES)
    assert {row[0] for row in cells(blocks)} == set(EMOTIONS)
    assert titles == [b.text for b in example_blocks(ScoreTable(), spoken, None) if getattr(b, "level", 0) == 3]


def test_nothing_to_show():
    assert audit_blocks({}) == []
    assert example_blocks(ScoreTable(), {("s", "c"): [ReplyRecord(key="1", system="s", response="Hi.")]}, None) == []


def test_broken_replies_name_the_line(tmp_path: Path):
    (tmp_path / "r.jsonl").write_text('{"key": "1"}\n')
    with pytest.raises(RellmError, match=r"r\.jsonl:1"):
        read_replies([tmp_path / "r.jsonl"])
