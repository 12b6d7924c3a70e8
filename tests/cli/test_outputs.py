"""Replies as text for other programs, and the inputs of `respond`: folders, standard input."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_world
from rich.console import Console
from typer.testing import CliRunner

from re_llm.audio import microphone, silero
from re_llm.cli import app
from re_llm.cli.outputs import FORMATS, formatted, show
from re_llm.core.errors import RellmError
from re_llm.core.records import ReplyRecord
from re_llm.inference.respond import rows_for
from re_llm.inference.transcribe import Transcriber


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


def test_a_notice_is_shown_where_there_is_one(replies: list[ReplyRecord]) -> None:
    console = Console(file=io.StringIO(), width=100)
    show([*replies, replies[0].model_copy(update={"notice": "a part"})], console)
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert [row for row in rows if row[:1] == ["notice"]] == [["notice", "a", "part"]]


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


def test_a_recording_comes_from_standard_input(
    tiny_checkpoint: Path, recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recording()
    common = ["--model", str(tiny_checkpoint), "--max-new-tokens", "6", "--format", "csv"]
    found = []
    for name, data in ((str(path), b""), ("-", path.read_bytes())):
        result = CliRunner().invoke(app, ["respond", name, *common], input=data)
        assert result.exit_code == 0, result.output
        (row,) = csv.DictReader(io.StringIO(result.stdout))
        found.append({name: value for name, value in row.items() if name != "recording"})
    assert found[0] == found[1] and found[0]["emotion"]
    result = CliRunner().invoke(app, ["respond", "-", *common], input=b"")
    assert result.exit_code == 2 and "standard input is empty" in result.output
    result = CliRunner().invoke(app, ["respond", "-", *common[:-1], "json"], input=path.read_bytes())
    (told,) = json.loads(result.stdout)
    assert told["key"] == "standard input" and "audio" not in told
    result = CliRunner().invoke(app, ["respond", "-", *common[:-1], "srt"], input=path.read_bytes())
    assert "00:00:00,000 --> 00:00:0" in result.stdout
    result = CliRunner().invoke(app, ["respond", "-", *common], input=b"no recording")
    assert result.exit_code == 2 and "standard input" in result.output and "/standard-input" not in result.output
    result = CliRunner().invoke(app, ["respond", "-", *common, "--out", "r.jsonl"], input=path.read_bytes())
    assert result.exit_code == 2 and "leaves no recording" in result.output
    monkeypatch.setattr("re_llm.cli.inputs.MAX_PIPED", 100)
    result = CliRunner().invoke(app, ["respond", "-", *common], input=bytes(101))
    assert result.exit_code == 2 and "standard input has more than" in result.output


def test_a_recording_that_cannot_be_used_is_left_out_of_several(
    tiny_checkpoint: Path, recording, tmp_path: Path
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    (folder / "b.wav").write_bytes(recording().read_bytes())
    soundfile.write(folder / "a_click.wav", np.r_[np.zeros(16_000), 1, np.zeros(16_000)], 16_000)
    soundfile.write(folder / "silent.wav", np.zeros(16_000), 16_000)
    arguments = ["--model", str(tiny_checkpoint), "--max-new-tokens", "4", "--format", "csv"]
    result = CliRunner().invoke(app, ["respond", str(folder), *arguments])
    assert result.exit_code == 1 and len(list(csv.DictReader(io.StringIO(result.stdout)))) == 1
    assert "left out" in result.stderr and "a_click.wav has 0.02 s of sound" in result.stderr
    assert "silent.wav is silent" in result.stderr
    out = tmp_path / "out.jsonl"
    result = CliRunner().invoke(app, ["respond", str(folder), *arguments, "--out", str(out)])
    assert (
        result.exit_code == 1 and "left out: 2 recordings" in result.stderr and len(out.read_text().splitlines()) == 1
    )
    alone = CliRunner().invoke(app, ["respond", str(folder / "a_click.wav"), *arguments])
    assert alone.exit_code == 2 and "which is no speech" in alone.output


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """Two sounds with a pause of a second between them."""
    parts = [tiny_world.wave(2.0, 1), np.zeros(16_000), tiny_world.wave(1.0, 2)]
    soundfile.write(tmp_path / "talk.wav", np.concatenate(parts), 16_000)
    return tmp_path / "talk.wav"


def run(*args: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in args])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_emotion_over_time(tiny_checkpoint: Path, talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silero, "weights", lambda: None)  # hums are no speech to silero-vad
    common = ("recognize", talk, "--model", tiny_checkpoint, "--trajectory", "--window", "2.8")
    (found,) = json.loads(run(*common, "--json"))
    weights = [each["end"] - each["start"] for each in found["trajectory"]]
    assert len(weights) == 2
    for name in ("valence", "arousal", "dominance"):
        mean = np.average([each[name] for each in found["trajectory"]], weights=weights)
        assert found[name] == pytest.approx(np.clip(mean, 0, 1), abs=1e-3)
    rows = list(csv.DictReader(io.StringIO(run(*common, "--format", "csv"))))
    assert [float(row["start"]) for row in rows] == [each["start"] for each in found["trajectory"]]
    assert [row["emotion"] for row in rows] == [each["predicted_emotion"] for each in found["trajectory"]]
    assert run(*common, "--format", "vtt").count("-->") == 2
    assert "windows" in run(*common)


def test_the_words_of_each_window(tiny_checkpoint: Path, talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Words:
        def transcribe(self, waves: list[np.ndarray]) -> list[str]:
            return [f"{len(wave) / 16_000:.0f} seconds" for wave in waves]

    monkeypatch.setattr(silero, "weights", lambda: None)
    monkeypatch.setattr(Transcriber, "load", lambda name, **options: Words())
    common = ("recognize", talk, "--model", tiny_checkpoint, "--whisper", "some", "--window", "2.8", "--format")
    assert run(*common, "txt") == "2 seconds 1 seconds\n"
    first, second = run(*common, "srt").strip().split("\n\n")
    assert first.startswith("1\n00:00:00,000 --> 00:00:02,350\n[") and first.endswith("] 2 seconds")
    assert second.endswith("] 1 seconds")
    (record,) = json.loads(run(*common, "json"))
    assert record["transcript"] == "2 seconds 1 seconds" and record["trajectory"][0]["text"] == "2 seconds"


def test_quiet_prints_the_answer_alone(tiny_checkpoint: Path, recording) -> None:
    common = ("respond", recording(), "--model", tiny_checkpoint, "--max-new-tokens", "6")
    result = CliRunner().invoke(app, [str(each) for each in (*common, "--quiet")])
    assert result.output == run(*common, "--format", "txt") and not result.stderr


def test_the_microphone_is_a_recording(tiny_checkpoint: Path, recording, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recording(rate=48_000)
    monkeypatch.setattr(microphone, "require", lambda: None)
    monkeypatch.setattr(microphone, "record", lambda stop: soundfile.read(path, dtype="float32"))
    common = ("--model", tiny_checkpoint, "--max-new-tokens", "6", "--quiet")
    assert run("respond", "--microphone", *common) == run("respond", path, *common)
    result = CliRunner().invoke(app, ["respond", "--model", str(tiny_checkpoint)])
    assert result.exit_code != 0 and isinstance(result.exception, SystemExit | RellmError)
