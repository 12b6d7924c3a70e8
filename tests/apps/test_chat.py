"""The terminal chat, without a terminal: lines in, what was heard and answered out."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from rich.console import Console
from typer.testing import CliRunner

from re_llm.apps import chat
from re_llm.audio import microphone
from re_llm.cli import app
from re_llm.inference import engine
from re_llm.inference.conversation import Turn, reply
from re_llm.inference.decoding import Decoding
from re_llm.inference.transcribe import Transcriber


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


@pytest.fixture
def talk(loaded: engine.Engine) -> chat.Chat:
    console = Console(file=io.StringIO(), width=400, highlight=False)
    return chat.Chat(loaded.chat(max_new_tokens=8), console)


def shown(talk: chat.Chat) -> str:
    return talk.console.file.getvalue()


def test_a_recording_is_heard_and_answered(talk: chat.Chat, loaded: engine.Engine, recording) -> None:
    path = recording()
    expected = loaded.respond(path, max_new_tokens=8)
    chat.run(talk, [f"{path}\n"])
    assert expected.response in shown(talk)
    assert expected.emotion in shown(talk)
    assert f"valence {expected.valence:.2f}, arousal {expected.arousal:.2f}" in shown(talk)
    assert [turn.role for turn in talk.talk.turns] == ["user", "assistant"]
    assert talk.talk.turns[1].parts == (expected.response,)


def test_a_text_is_answered_in_its_conversation(talk: chat.Chat, loaded: engine.Engine, recording) -> None:
    chat.run(talk, [str(recording()), "and you?"])
    before = [*talk.talk.turns[:2], Turn("user", ("and you?",))]
    assert talk.talk.turns[3].parts == (reply(loaded, before, decoding=Decoding(8)).text,)


def test_only_the_last_exchanges_are_remembered(talk: chat.Chat) -> None:
    talk.talk.remember = 1
    chat.run(talk, ["one", "two", "three"])
    assert [turn.role for turn in talk.talk.turns] == ["user", "assistant"]
    assert talk.talk.turns[0].parts == ("three",)
    talk.talk.remember = 0
    chat.run(talk, ["four"])
    assert talk.talk.turns == []


def test_commands(talk: chat.Chat) -> None:
    chat.run(talk, ["hello", "/reset", "/help", "/nonsense", "", "/quit", "never read"])
    assert talk.talk.turns == []
    assert "starts again" in shown(talk)
    assert "/reset  forget" in shown(talk)
    assert "Unknown command /nonsense" in shown(talk)


@pytest.mark.parametrize(("name", "message"), [("gone.wav", "no such file: gone.wav"), ("broken.wav", "not audio")])
def test_what_cannot_be_heard_is_told_and_forgotten(
    talk: chat.Chat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.wav").write_bytes(b"not a recording")
    chat.run(talk, ["hello", name])
    assert message in shown(talk)
    assert len(talk.talk.turns) == 2


def test_a_dropped_file_is_found_however_the_terminal_quotes_it(recording) -> None:
    path = recording("a recording of mine.wav")
    for line in (str(path), shlex.quote(str(path)), str(path).replace(" ", "\\ ")):
        assert chat._file(line) == str(path)
    for said in ("I don't know", "long " * 1000, "~nobody-of-that-name/x", "a\0b"):
        assert chat._file(said) is None
    assert chat._file(".") is None


def test_the_command_reads_lines(tiny_checkpoint: Path, recording) -> None:
    options = ["chat", "--model", str(tiny_checkpoint), "--max-new-tokens", "6"]
    result = CliRunner().invoke(app, options, input=f"{recording()}\nwhat?\n/quit\n")
    assert result.exit_code == 0, result.output
    assert "valence" in result.stdout


def test_why_tells_all_that_was_heard(
    talk: chat.Chat, loaded: engine.Engine, recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = ["hello there"]
    fake = SimpleNamespace(transcribe=lambda samples: heard)
    monkeypatch.setattr(Transcriber, "load", lambda name, device: fake)
    chat.run(talk, ["/why"])
    assert "no recording has been answered yet" in shown(talk)
    talk.whisper = "a-whisper"
    chat.run(talk, [str(recording()), "and you?", "/why"])
    all_shown, _, alone = shown(talk).rpartition("words alone")
    assert all(name in all_shown for name in loaded.emotions)
    assert "“hello there”" in all_shown
    assert loaded.chat(max_new_tokens=8).respond(text="hello there").response in alone
    heard[0] = " "
    chat.run(talk, ["/why"])
    assert "none were recognised" in shown(talk)


def test_save_writes_a_turn_a_line(talk: chat.Chat, recording, tmp_path: Path) -> None:
    path, out = str(recording()), tmp_path / "talk.jsonl"
    chat.run(talk, [path, "and you?", f"/save {out}", f"/save {out}", "/save"])
    turns = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2
    assert turns[0]["recording"] == path and turns[0]["predicted_emotion"] and turns[2]["text"] == "and you?"
    assert "cannot write" in shown(talk) and "/save needs a file" in shown(talk)


def test_ctrl_c_ends_the_answer_and_not_the_conversation(talk: chat.Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    chat.run(talk, ["hello"])

    def interrupt(pieces: object, shown: object) -> None:
        next(pieces)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(talk, "_shown", interrupt)
        chat.run(talk, ["more"])
    assert "(ended)" in shown(talk) and len(talk.talk.turns) == 2
    chat.run(talk, ["again"])
    assert len(talk.talk.turns) == 4


def test_ctrl_c_ends_whatever_runs(talk: chat.Chat, recording, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(talk.talk, "turn", interrupt)  # while a recording is encoded
        patch.setattr(talk, "_why", interrupt)
        chat.run(talk, [str(recording()), "/why"])
    assert shown(talk).count("(ended)") == 2 and not talk.talk.turns
    typed = iter([KeyboardInterrupt(), "/quit", EOFError()])

    def read(prompt: str) -> str:
        given = next(typed)
        if isinstance(given, BaseException):
            raise given
        return given

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    chat.run(talk)  # at the prompt it clears the line


def test_a_terminal_breaks_lines_between_words() -> None:
    console = Console(file=io.StringIO(), width=12, force_terminal=True, color_system=None, highlight=False)
    shown = chat.Words(console)
    text = "several words of an answer"
    for i in range(0, len(text), 3):
        shown.put(text[i : i + 3])
    shown.end()
    lines = console.file.getvalue().split("\n")
    assert "".join(lines) == text and len(lines) > 2
    assert all(len(line.rstrip()) < 12 for line in lines)
    plain = chat.Words(Console(file=io.StringIO(), width=12))
    plain.put(text)
    plain.end()
    assert plain.console.file.getvalue() == text


def test_an_empty_line_records_a_turn(talk: chat.Chat, recording, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = soundfile.read(recording(), dtype="float32")
    monkeypatch.setattr(microphone, "record", lambda stop: spoken)
    chat.run(talk, [""])
    assert not talk.saved
    talk.microphone = True
    chat.run(talk, [""])
    assert talk.saved[0]["recording"] == "the microphone" and talk.last.recordings
    monkeypatch.setattr(microphone, "record", lambda stop: (np.zeros(16_000, np.float32), 16_000))
    chat.run(talk, [""])
    assert "is silent" in shown(talk) and len(talk.saved) == 2


def test_the_windows_of_a_long_recording_are_shown(
    talk: chat.Chat, loaded: engine.Engine, recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "trained_seconds", 2.0)
    chat.run(talk, [str(recording(seconds=5.0))])
    assert "0.0 to" in shown(talk) and "trained on utterances of up to 2 s" in shown(talk)
