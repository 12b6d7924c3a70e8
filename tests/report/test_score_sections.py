"""The report's section on truncation."""

from __future__ import annotations

from pathlib import Path

from reply_world import Keywords, write_replies
from test_scoring import LONG

from re_llm.core import page
from re_llm.core.records import ReplyRecord, Score, read_records, write_records
from re_llm.evaluate import score_file
from re_llm.report.score_files import read_scores
from re_llm.report.score_sections import truncation_blocks


def shown(replies: Path, **options: object) -> str:
    out = replies.with_suffix(".scores")
    score_file(replies, out, scorer=Keywords(), progress=False, **options)
    return page.markdown_page(truncation_blocks(read_scores([out])))


def test_both_scores_stand_side_by_side(tmp_path: Path):
    rows = [ReplyRecord(key="1", system="s", corpus="esd", text="Hi.", response=LONG),
            ReplyRecord(key="2", system="s", corpus="esd", text="Hi.", response="What?")]  # fmt: skip
    write_records(tmp_path / "r.jsonl", rows)
    text = shown(tmp_path / "r.jsonl", truncation="both")
    assert "| corpus | system | over 64 | ER at 64 | ER whole | ER change |" in text
    assert "| ESD | s | 50 % | 0.000 | 0.000 | +0.000 | 0.000 | 0.000 | +0.000 | 1.000 | 2.000 | +1.000 |" in text
    assert "of **the whole reply**" in text


def test_one_truncation_says_which_and_how_many_are_longer(tmp_path: Path):
    text = shown(write_replies(tmp_path / "r.jsonl", "re-llm", fraction=1.0), truncation="64")
    assert "of **the first 64 tokens of a reply**" in text
    assert "| corpus | system | over 64 |" in text
    assert "| ESD | RE-LLM | 0 % |" in text


def test_older_scores_say_nothing_of_truncation(tmp_path: Path):
    path = write_replies(tmp_path / "r.jsonl", "re-llm", fraction=1.0)
    shown(path)
    rows = list(read_records(path.with_suffix(".scores"), Score))
    for row in rows:
        for name in ("truncation", "over_64"):
            (row.model_extra or {}).pop(name, None)
    write_records(tmp_path / "old.jsonl", rows)
    assert truncation_blocks(read_scores([tmp_path / "old.jsonl"])) == []
