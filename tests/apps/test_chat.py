"""The terminal chat, without a terminal: lines in, what was heard and answered out."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from re_llm.apps import chat
from re_llm.cli import app
from re_llm.inference import engine
from re_llm.inference.conversation import Turn, reply
from re_llm.inference.reply import Decoding


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


@pytest.fixture
def talk(loaded: engine.Engine) -> chat.Chat:
    console = Console(file=io.StringIO(), width=400, highlight=False)
    return chat.Chat(loaded, console, Decoding(max_new_tokens=8))


def shown(talk: chat.Chat) -> str:
    return talk.console.file.getvalue()


def test_a_recording_is_heard_and_answered(talk: chat.Chat, loaded: engine.Engine, recording) -> None:
    path = recording()
    expected = loaded.respond(path, max_new_tokens=8)
    chat.run(talk, [f"{path}\n"])
    assert expected.response in shown(talk)
    assert expected.emotion in shown(talk)
    assert f"valence {expected.valence:.2f}, arousal {expected.arousal:.2f}" in shown(talk)
    assert [turn.role for turn in talk.turns] == ["user", "assistant"]
    assert talk.turns[1].parts == (expected.response,)


def test_a_text_is_answered_in_its_conversation(talk: chat.Chat, loaded: engine.Engine, recording) -> None:
    chat.run(talk, [str(recording()), "and you?"])
    before = [*talk.turns[:2], Turn("user", ("and you?",))]
    assert talk.turns[3].parts == (reply(loaded, before, decoding=Decoding(8)).text,)


def test_only_the_last_exchanges_are_remembered(talk: chat.Chat) -> None:
    talk.remember = 1
    chat.run(talk, ["one", "two", "three"])
    assert [turn.role for turn in talk.turns] == ["user", "assistant"]
    assert talk.turns[0].parts == ("three",)
    talk.remember = 0
    chat.run(talk, ["four"])
    assert talk.turns == []


def test_commands(talk: chat.Chat) -> None:
    chat.run(talk, ["hello", "/reset", "/help", "/nonsense", "", "/quit", "never read"])
    assert talk.turns == []
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
    assert len(talk.turns) == 2


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
