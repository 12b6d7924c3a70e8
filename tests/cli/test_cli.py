"""The command line: help, exit codes, messages, and the commands that answer, on a checkpoint with random weights."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.main import get_command
from typer.testing import CliRunner, Result

from re_llm.apps import doctor
from re_llm.cli import app
from re_llm.core.records import ReplyRecord, Utterance, read_records, write_records
from re_llm.core.version import __version__

COMMANDS = get_command(app).commands
GROUPS = [name for name, command in COMMANDS.items() if hasattr(command, "commands")]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="re-llm")


def _leaves() -> list[tuple[str, ...]]:
    nested = [(name, inner) for name in GROUPS for inner in COMMANDS[name].commands]
    return [(name,) for name in COMMANDS if name not in GROUPS] + nested


@pytest.mark.parametrize("path", _leaves(), ids=" ".join)
def test_help_shows_an_example_and_documents_every_option(path: tuple[str, ...]) -> None:
    result = call(*path, "--help")
    assert result.exit_code == 0
    assert f"    re-llm {' '.join(path)}" in result.stdout
    command = COMMANDS[path[0]]
    for name in path[1:]:
        command = command.commands[name]
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []


def _options(text: str) -> dict[str, list[str]]:
    """Options in a help text, by the panel they stand in."""
    panels = re.split(r"^(\w[^\n]*):$", text, flags=re.MULTILINE)[1:]
    pairs = zip(panels[::2], panels[1::2], strict=True)
    return {title: re.findall(r"^  (?:-\w, )?(--[\w-]+)", body, re.MULTILINE) for title, body in pairs}


@pytest.mark.parametrize("path", _leaves(), ids=" ".join)
def test_the_first_panel_of_options_is_short(path: tuple[str, ...]) -> None:
    """At most a dozen main options; the others stand behind them in panels of their own, and none is lost."""
    panels = _options(call(*path, "--help").stdout)
    assert len(panels["Options"]) <= 12
    assert [title for title in panels if title not in ("Arguments", "Options") and not title.startswith("More: ")] == []
    command = COMMANDS[path[0]]
    for name in path[1:]:
        command = command.commands[name]
    declared = {max(p.opts, key=len) for p in command.params if p.param_type_name == "option"}
    assert declared - {name for names in panels.values() for name in names} == set()


def test_help_lists_every_command_with_a_whole_sentence() -> None:
    text = call("--help").stdout
    for name, command in COMMANDS.items():
        line = next(line for line in text.splitlines() if line.strip().startswith(name + " "))
        assert line.endswith("."), line
        assert command.get_short_help_str(200) in line


def test_version() -> None:
    assert call("--version").stdout.strip() == f"re-llm {__version__}"


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["respnd", "x.wav"], "respond"),
        (["respond", "--bach-size", "2", "x.wav"], "--batch-size"),
        (["mini", "buidl"], "build"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_right_one(arguments: list[str], suggestion: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert suggestion in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["respond", "missing.wav"], "no such file: missing.wav"),
        (["respond", "."], "is a folder without recordings"),
        (["respond", "missing.jsonl", "--out", "r.jsonl"], "no such file: missing.jsonl"),
        (["respond", "a.jsonl", "b.wav", "--out", "r.jsonl"], "stands beside other inputs"),
        (["respond", "x.wav", "--prompt", "nonsense"], "unknown prompt 'nonsense'"),
        (["respond", "x.wav", "--prompt", "cascade"], "names the emotion that the model has to recognise"),
        (["recognize", "x.wav", "--prompt", "nonsense"], "Allowed: chat, "),
        (["chat", "--prompt", "nonsense"], "unknown prompt 'nonsense'"),
        (["chat", "--temperature", "9"], "temperature is 9"),
        (["serve", "--prompt", "recognize"], "puts text around"),
        (["serve", "--max-body-mb", "0"], "max_body_mb is 0"),
        (["doctor", "nonsense"], "no such recipe"),
        (["doctor", "re_llm", "--set", "modle.fusion=none"], "unknown key 'modle'"),
        (["prepare"], "prepare --list"),
        (["prepare", "ravdes", "--root", ".", "--out", "m.jsonl"], "unknown corpus 'ravdes'"),
        (["prepare", "esd", "--out", "m.jsonl"], "--root is missing"),
        (["prepare", "check"], "Missing argument 'manifest'"),
        (["prepare", "export", "m.jsonl", "--out", "x"], "Missing option '--to'"),
        (["prepare", "esd", "--root", ".", "--out", "m.jsonl", "--option", "limit"], "KEY=VALUE"),
        (["train", "mini", "--stage", "nonsense", "--data", "c.jsonl", "--out", "o"], "has no stage 'nonsense'"),
        (["train", "mini", "--stage", "finetune", "--data", "c.jsonl", "--out", "o"], "no such file: c.jsonl"),
        (["report", "s.jsonl", "--out", "o"], "no such file: s.jsonl"),
        (["train", "mini_components", "--stage", "emotion", "--data", "c.jsonl", "--out", "o"], "--start FOLDER"),
        (["continue", "missing.jsonl", "--out", "c.jsonl", "--llm", "missing"], "no such file: missing.jsonl"),
    ],
)
def test_wrong_input_is_told_in_words(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert expected in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_a_bug_is_short_and_debug_shows_where(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("seven by nothing")

    monkeypatch.setattr(doctor, "examine_machine", broken)
    short, long = call("doctor"), call("--debug", "doctor")
    assert (short.exit_code, long.exit_code) == (1, 1)
    assert "ZeroDivisionError: seven by nothing" in short.stderr
    assert "Traceback" not in short.stderr
    assert "in broken" in long.stderr


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "examine_machine", interrupt)
    assert call("doctor").exit_code == 130


def test_full_memory_says_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry() -> None:
        raise MemoryError

    monkeypatch.setattr(doctor, "examine_machine", hungry)
    result = call("doctor")
    assert result.exit_code == 1
    assert "--batch-size" in result.stderr


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m re_llm prepare --list --json | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "["
    assert "Traceback" not in done.stderr


def test_prepare_list() -> None:
    listed = json.loads(call("prepare", "--list", "--json").stdout)
    assert {"esd", "iemocap", "msp_podcast"} <= {each["name"] for each in listed}
    assert "--protocol" in call("prepare", "iemocap", "--list").stdout
    lines = call("prepare", "--list").stdout
    for word in ("RAVDESS (speech), en, 1,440 utterances, 1.5 h", "CC BY-NC-SA 4.0; https://zenodo.org", "calm, happy"):
        assert word in lines


def test_prepare_check_fails_on_a_broken_manifest(tmp_path: Path, recording) -> None:
    good, broken = recording("a.wav"), tmp_path / "b.wav"
    broken.write_bytes(b"not audio")
    rows = [Utterance(key=p.stem, corpus="files", split="test", audio=p.name) for p in (good, broken)]
    write_records(tmp_path / "m.jsonl", rows)
    result = call("prepare", "check", tmp_path / "m.jsonl")
    assert result.exit_code == 1
    assert "b.wav" in result.stdout
    write_records(tmp_path / "m.jsonl", rows[:1])
    assert call("prepare", "check", tmp_path / "m.jsonl").exit_code == 0


def test_prepare_check_finds_what_is_also_in_the_training_data(tmp_path: Path, recording) -> None:
    recording("a.wav")
    text = "the train was late again today"
    for split in ("train", "test"):
        row = Utterance(key=split, corpus="c", split=split, audio="a.wav", speaker="s1", text=text)
        write_records(tmp_path / f"{split}.jsonl", [row])
    options = ("prepare", "check", tmp_path / "test.jsonl", "--against", tmp_path / "train.jsonl")
    result = call(*options)
    shown = result.stdout
    assert result.exit_code == 1 and "train and test: c:s1" in shown
    assert "1 x speaker shared with the training data of the others" in shown
    assert "1 x sentence shared" in shown
    assert json.loads(call(*options, "--json").stdout)["against"]["overlaps"]["speaker"]["shared"] == 1


def test_prepare_writes_checks_and_exports_a_manifest(tmp_path: Path, recording) -> None:
    recording("corpus/a.wav")
    (tmp_path / "corpus" / "table.csv").write_text("audio,text,emotion,split\na.wav,hello there,sad,test\n")
    manifest, page, cuts = tmp_path / "m.jsonl", tmp_path / "page.html", tmp_path / "cuts.jsonl"
    result = call("prepare", "table", "--root", tmp_path / "corpus" / "table.csv", "--out", manifest)
    assert result.exit_code == 0, result.output
    assert "emotions  sad 1" in result.stdout
    assert call("prepare", "check", manifest, "--page", page).exit_code == 0
    before = manifest.read_bytes()
    refused = call("prepare", "check", manifest, "--page", manifest)
    assert refused.exit_code == 2 and "is a manifest that is checked" in refused.output
    assert manifest.read_bytes() == before
    shown = call("prepare", "check", manifest, "--no-audio", "--strict")
    assert shown.exit_code == 0 and "test      1 utterances, 0 speakers: sad 1" in shown.stdout
    assert "<html" in page.read_text()
    assert (
        json.loads(call("prepare", "export", manifest, "--to", "lhotse", "--out", cuts, "--json").stdout)["rows"] == 1
    )
    assert cuts.read_text().count("\n") == 1
    refused = call("prepare", "export", manifest, "--to", "nonsense", "--out", cuts)
    assert refused.exit_code == 2
    assert "lhotse" in refused.stderr


def test_score_and_report_of_foreign_replies(tmp_path: Path) -> None:
    replies, scores, out = tmp_path / "r.jsonl", tmp_path / "s.jsonl", tmp_path / "report"
    said = {"kind": "That sounds hard. What happened then?", "plain": "Okay."}
    rows = [ReplyRecord(key=f"{i}", system=s, text="I lost my job.", response=said[s]) for i in range(6) for s in said]
    write_records(replies, rows)
    scored = call("score", replies, "--out", scores)
    assert scored.exit_code == 0, scored.output
    assert "kind: 6 replies" in scored.stdout
    page = call("report", scores, "--replies", replies, "--out", out, "--baseline", "plain", "--title", "Two systems")
    assert page.exit_code == 0, page.output
    assert "Two systems" in (out / "report.html").read_text()
    assert call("report", scores, "--out", out, "--baseline", "nobody").exit_code == 2


def test_respond_prints_what_was_heard_and_said(tiny_checkpoint: Path, recording) -> None:
    files = [recording("one.wav", 1.0), recording("two.wav", 1.5, seed=1)]
    options = ("--model", tiny_checkpoint, "--max-new-tokens", 5)
    replies = [
        ReplyRecord.model_validate(each) for each in json.loads(call("respond", *files, *options, "--json").stdout)
    ]
    assert [reply.key for reply in replies] == [str(file) for file in files]
    assert all(reply.probabilities and abs(sum(reply.probabilities.values()) - 1) < 0.01 for reply in replies)
    shown = call("respond", *files, *options).stdout
    assert "predicted" in shown and "reply" in shown
    assert "valence" in shown


def test_respond_takes_a_manifest_and_goes_on(tiny_checkpoint: Path, tmp_path: Path, recording) -> None:
    for name in ("a", "b"):
        recording(f"audio/{name}.wav")
    rows = [Utterance(key=n, corpus="c", split=s, audio=f"audio/{n}.wav") for n, s in (("a", "train"), ("b", "test"))]
    manifest, out = tmp_path / "m.jsonl", tmp_path / "replies" / "r.jsonl"
    write_records(manifest, rows)
    options = ("--model", tiny_checkpoint, "--max-new-tokens", 5, "--out", out, "--json")
    assert json.loads(call("respond", manifest, "--split", "test", *options).stdout)["rows"] == 1
    second = json.loads(call("respond", manifest, *options).stdout)
    assert (second["rows"], second["resumed"]) == (2, 1)
    assert [reply.audio for reply in read_records(out, ReplyRecord)] == ["../audio/b.wav", "../audio/a.wav"]


def test_recognize_asks_and_does_not_answer(tiny_checkpoint: Path, recording) -> None:
    (reply,) = json.loads(call("recognize", recording(), "--model", tiny_checkpoint, "--json").stdout)
    assert reply["response"] == ""
    assert "answer" in reply


def test_a_broken_recording_is_wrong_input(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    result = call("respond", tmp_path / "x.wav", "--model", tiny_checkpoint)
    assert result.exit_code == 2
    assert "x.wav" in result.stderr


def test_doctor_says_what_a_recipe_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    result = call("doctor", "re_llm", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["machine"]["packages"]["torch"]
    lacking = " ".join(found["recipe"]["missing"])
    assert all(name in lacking for name in ("Qwen/Qwen-7B-Chat", "corpus iemocap", "checkpoints/blsp-emo"))
