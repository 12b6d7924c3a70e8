"""Replies as text for other programs, and the inputs of `respond`: folders, standard input."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from typer.testing import CliRunner

from re_llm.cli import app
from re_llm.cli.outputs import FORMATS, formatted
from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord
from re_llm.inference.respond import rows_for


@pytest.fixture
def replies(recording) -> list[ReplyRecord]:
    one, two = (str(recording(f"{name}.wav", seconds)) for name, seconds in (("a", 1.5), ("b", 61.25)))
    told = {"probabilities": {"sad": 0.75, "happy": 0.25}, "predicted_emotion": "sad", "valence": 0.5}
    return [
        ReplyRecord(key=one, system="s", audio=one, response="I am\nsorry, really.", prompt="chat", **told),
        ReplyRecord(key=two, system="s", audio=two, response="", named_emotion="happy", answer="It is happy.", **told),
    ]


def test_a_line_a_recording(replies: list[ReplyRecord]) -> None:
    assert formatted(replies, "txt") == "I am sorry, really.\nhappy\n"


def test_subtitles(replies: list[ReplyRecord]) -> None:
    assert formatted(replies, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\n[sad] I am sorry, really.\n\n2\n00:00:01,500 --> 00:01:02,750\n[happy]\n\n"
    )
    assert formatted(replies, "vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n[sad] I am sorry, really.\n\n"
        "00:00:01.500 --> 00:01:02.750\n[happy]\n\n"
    )


def test_a_table(replies: list[ReplyRecord]) -> None:
    first, second = csv.DictReader(io.StringIO(formatted(replies, "csv")))
    assert (first["emotion"], first["p_sad"], first["valence"], first["arousal"]) == ("sad", "0.75", "0.5", "")
    assert first["response"] == "I am\nsorry, really." and second["emotion"] == "happy"


def test_an_unknown_format_is_told() -> None:
    with pytest.raises(RellmError, match="unknown format 'doc'"):
        formatted([], "doc")
    assert all(formatted([], form) is not None for form in FORMATS)


def test_a_folder_is_its_recordings(recording, tmp_path: Path) -> None:
    paths = [recording("set/b.wav"), recording("set/deep/a.flac")]
    (tmp_path / "set" / "notes.txt").write_text("no recording")
    assert [row.audio for row in rows_for([tmp_path / "set"])] == sorted(map(str, paths))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RellmError, match="a folder without recordings"):
        rows_for([tmp_path / "empty"])
    with pytest.raises(RellmError, match="named twice"):
        rows_for([tmp_path / "set", paths[0]])


def test_a_recording_comes_from_standard_input(tiny_checkpoint: Path, recording) -> None:
    path = recording()
    common = ["--model", str(tiny_checkpoint), "--max-new-tokens", "6", "--format", "csv"]
    found = []
    for name, data in ((str(path), b""), ("-", path.read_bytes())):
        result = CliRunner().invoke(app, ["respond", name, *common], input=data)
        assert result.exit_code == 0, result.output
        (row,) = csv.DictReader(io.StringIO(result.stdout))
        found.append({name: value for name, value in row.items() if name != "recording"})
    assert found[0] == found[1] and found[0]["emotion"]
