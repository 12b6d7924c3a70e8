"""Sections of the report that come from the replies."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from reply_world import EMOTIONS, SENTENCES, write_replies

from re_llm.core.errors import RellmError
from re_llm.core.page import Table
from re_llm.core.records import ReplyRecord, write_records
from re_llm.report.reply_sections import example_blocks, read_replies
from re_llm.report.tables import ScoreTable


def cells(blocks: list, number: int = 0) -> list[list[str]]:
    table = [block for block in blocks if isinstance(block, Table)][number]
    return [[cell if isinstance(cell, str) else cell.markdown() for cell in row] for row in table.rows]


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


def test_a_reply_counts_once(tmp_path: Path):
    """The same file twice would double every audit."""
    path = write_replies(tmp_path / "r.jsonl", "re-llm", fraction=1.0)
    with pytest.raises(RellmError, match=r"r\.jsonl:1: the reply of 're-llm' to .* is in .*r\.jsonl:1 already"):
        read_replies([path, path])
    seeds = [write_replies(tmp_path / f"{seed}.jsonl", "re-llm", fraction=1.0, seed=seed) for seed in (0, 1)]
    assert len(read_replies(seeds)["re-llm", "esd"]) == 160


def test_passages_that_carry_a_level_are_marked():
    text = "I'm so  sorry. What <b>happened?  "
    reply = ReplyRecord(
        key="1", system="re-llm", response=text + "Go on. " * 80, text="Hi.", corpus="esd", emotion="sad"
    )
    table = ScoreTable()
    table.rationales["re-llm", "esd", "ER"] = {("1", None): [(0, 14)]}
    table.rationales["re-llm", "esd", "EX"] = {("1", None): [(8, 32)]}
    (block,) = [b for b in example_blocks(table, {("re-llm", "esd"): [reply]}, None) if isinstance(b, Table)]
    page = block.html()
    assert '<mark class="er">I&#x27;m so </mark><mark class="both">sorry.</mark><mark class="ex"> What &lt;b' in page
    assert page.count("Go on.") < 80 and " …</td>" in page
    assert r"**I'm so** **sorry.** **What \<b\>happened?**" in block.markdown()


def test_recordings_are_held_by_the_page_and_lost_ones_counted(tmp_path: Path):
    (tmp_path / "wav").mkdir()
    soundfile.write(tmp_path / "wav" / "a.wav", np.sin(np.arange(32000) / 10), 16000)
    about = {"system": "s", "response": "Oh.", "text": "Hi.", "corpus": "esd"}
    rows = [
        ReplyRecord(key="1", emotion="sad", audio="wav/a.wav", start=0.5, duration=1.0, **about),
        ReplyRecord(key="2", emotion="happy", audio="wav/b.wav", **about),
    ]
    write_records(tmp_path / "r.jsonl", rows)
    blocks = example_blocks(ScoreTable(), read_replies([tmp_path / "r.jsonl"]), None)
    (table,) = [block for block in blocks if isinstance(block, Table)]
    (data,) = re.findall(r'<audio controls preload="none" src="data:audio/flac;base64,([^"]+)"', table.html())
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert (len(samples), rate) == (16000, 16000)
    assert samples == pytest.approx(np.sin(np.arange(8000, 24000) / 10), abs=1e-3)
    assert "1 recordings could not be read here" in blocks[1].text
    assert "audio" not in table.markdown()


def test_nothing_to_show():
    assert example_blocks(ScoreTable(), {("s", "c"): [ReplyRecord(key="1", system="s", response="Hi.")]}, None) == []


def test_broken_replies_name_the_line(tmp_path: Path):
    (tmp_path / "r.jsonl").write_text('{"key": "1"}\n')
    with pytest.raises(RellmError, match=r"r\.jsonl:1"):
        read_replies([tmp_path / "r.jsonl"])
