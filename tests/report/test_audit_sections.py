"""Audits of a report: habits, wrong emotions, trivial rules, cuts, leakage; values by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reply_world import Keywords, reply
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.core.page import markdown_page
from re_llm.core.records import Continuation, ReplyRecord, Utterance, write_records
from re_llm.evaluate import score_file
from re_llm.report.audit_sections import audit_blocks, audited, leaked
from re_llm.report.reply_sections import read_replies
from re_llm.report.score_files import read_scores
from re_llm.report.tables import ScoreTable

LONG = "You could go for a walk and drink some water. " * 7


def of(rows: list[ReplyRecord], folder: Path):
    """The audit of one group, with its scores by keywords."""
    write_records(folder / "r.jsonl", rows)
    score_file(folder / "r.jsonl", folder / "s.jsonl", scorer=Keywords(), progress=False)
    (found,) = audited(read_scores([folder / "s.jsonl"]), read_replies([folder / "r.jsonl"]))
    return found


def test_cuts_hide_what_stands_behind_them():
    question = "Why do you feel that nobody cares about you?"
    replies = [
        ReplyRecord(key="1", system="s", response=LONG + question),
        ReplyRecord(key="2", system="s", response="Take a walk."),
        ReplyRecord(key="3", system="s", response=LONG * 2 + question),
    ]
    (found,) = audited(ScoreTable(), {("s", "calls"): replies})
    assert found.audit.over_64 == pytest.approx(2 / 3)
    assert found.ex["64"] == 0 < found.ex["128"] < found.ex["whole"]
    assert found.er is found.majority is None and found.rules == {}


def test_a_wrong_emotion_takes_the_er_away(tmp_path: Path):
    rows = [
        reply("s", "1", "sad", hears=True),  # sorry, sad: right
        reply("s", "2", "happy", hears=True, response="I'm sorry, you sound sad."),
        reply("s", "3", "angry", hears=True, response="I'm sorry."),  # names none
        reply("s", "4", "neutral", hears=True),
    ]
    found = of(rows, tmp_path)
    assert (found.er, found.er_right) == (1.5, 1.0)
    assert (found.audit.named, found.audit.named_right, found.audit.named_wrong) == (0.5, 0.5, 0.25)


def test_replies_whose_levels_mean_nothing_are_told():
    responses = ("", "I see. Tell me more.", "Das tut mir sehr leid.")
    replies = [ReplyRecord(key=str(n), system="s", response=response) for n, response in enumerate(responses)]
    page = markdown_page(audit_blocks(audited(ScoreTable(), {("s", "calls"): replies})))
    assert "Empty replies, whose levels are 0: s on calls: 1 of 3." in page
    assert "do not look English, the scorers' only language: s on calls: 1 of 3." in page
    assert "Empty replies" not in markdown_page(audit_blocks(audited(ScoreTable(), {("s", "calls"): replies[1:]})))


def test_rules_and_majority(tmp_path: Path):
    rows = [reply("s", str(n), "sad" if n < 3 else "happy", hears=n != 0) for n in range(4)]
    rows[2].response = "So sorry!"
    found = of(rows, tmp_path)
    # Keywords finds EX by the question mark: the rule explains all of it. ER by `sorry`: without `I'm` the rule fails.
    assert found.rules == {"EX": 1.0, "ER": 0.75}
    assert (found.majority, found.wa) == (0.75, 0.75)


def test_distinct_words_and_repetition():
    replies = [ReplyRecord(key=str(n), system="s", response=text) for n, text in enumerate(["a b a b a b", "a b c"])]
    (found,) = audited(ScoreTable(), {("s", "calls"): replies})
    assert found.audit.distinct_1 == pytest.approx(3 / 9)  # a b c, of nine words
    assert found.audit.distinct_2 == pytest.approx(3 / 7)  # ab ba bc, of five and two pairs
    assert found.audit.repetition == pytest.approx(1 / 3)  # abab baba abab; the second reply has no run of four


def test_leakage_by_recording_speaker_and_words(tmp_path: Path):
    words = "The meeting was moved to Friday."
    spoken = [
        ReplyRecord(key="1", system="s", response="x", corpus="esd", text=words, speaker="0011"),
        ReplyRecord(key="2", system="s", response="x", corpus="esd", text="Nobody told me about it.", speaker="0012"),
        ReplyRecord(key="3", system="s", response="x", corpus="esd", text="Yes."),
    ]
    common = {"corpus": "esd", "audio": "a.wav", "text": "Something else entirely was said."}
    trained = [Utterance(key="1", split="train", **common), Utterance(key="9", split="train", **common, speaker="12"),
               Utterance(key="2", split="test", **common)]  # fmt: skip
    write_records(tmp_path / "m.jsonl", trained)
    told = {**common, "text": "the meeting was moved to friday", "instruction": "", "output": "", "early_stop": False}
    write_records(tmp_path / "c.jsonl", [Continuation(key="7", llm="x", **told)])
    (found,) = leaked({("s", "esd"): spoken}, [tmp_path / "m.jsonl", tmp_path / "c.jsonl"])
    assert (found.items, found.recordings, found.speakers, found.sentences, found.unknown) == (3, 1, 1, 1, (1, 1))


def test_the_report_says_what_was_checked(tmp_path: Path):
    found = of([reply("s", str(n), "sad", hears=True) for n in range(8)], tmp_path)
    assert found.audit.count == 8
    files = [str(tmp_path / "s.jsonl"), "--replies", str(tmp_path / "r.jsonl")]
    done = CliRunner().invoke(app, ["report", *files, "--out", str(tmp_path / "a")])
    assert done.exit_code == 0, done.output
    assert "Not checked: no training data was named" in (tmp_path / "a" / "report.md").read_text()
    write_records(tmp_path / "m.jsonl", [Utterance(key="3", corpus="esd", split="train", audio="a.wav")])
    done = CliRunner().invoke(
        app, ["report", *files, "--training", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "b")]
    )
    assert done.exit_code == 0, done.output
    numbers = json.loads((tmp_path / "b" / "results.json").read_text())
    assert numbers["leakage"][0]["recordings"] == 1 and numbers["audits"][0]["er_right"] == 2
    page = (tmp_path / "b" / "report.md").read_text()
    assert "Does the reply name the right emotion?" in page and "What trivial rules explain" in page
