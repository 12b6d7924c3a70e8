"""`re-llm chat`: a conversation in the terminal, turn by turn, of recordings and texts."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from re_llm.audio import waveform
from re_llm.audio.source import locate
from re_llm.core.errors import RellmError
from re_llm.core.terminal import dimensions

if TYPE_CHECKING:
    from rich.console import Console

    from re_llm.inference.conversation import Part, Turn
    from re_llm.inference.engine import Engine
    from re_llm.inference.reply import Decoding, Estimate

HELP = """\
Type the path of a recording (or drop the file here) to have it answered.
Anything else is a text turn, answered by the same LLM without speech.
  /reset  forget the conversation    /help  this list    /quit  leave (so does Ctrl-D)"""
PROMPT = "you> "
LIKELY = 3  # emotions that are shown
BAR = 12  # characters


@dataclass
class Chat:
    """A conversation and the console it is shown on.

    Attributes:
        remember: earlier exchanges that stay in the LLM's row; 0 makes every turn the first.
    """

    engine: Engine
    console: Console
    decoding: Decoding
    prompt: str = "chat-empathetic"
    remember: int = 4
    turns: list[Turn] = field(default_factory=list)

    def take(self, line: str) -> bool:
        """Handles one line of the user's; False when it ends the chat."""
        line = line.strip()
        if line in ("/quit", "/exit", "/q"):
            return False
        if line == "/reset":
            self.turns.clear()
            self.console.print("[dim]The conversation starts again.[/]")
        elif line in ("/help", "/?"):
            self.console.print(HELP, markup=False)
        elif line.startswith("/") and not _file(line) and " " not in line and line.count("/") == 1:
            self.console.print(f"Unknown command {line}. /help lists the commands.", style="yellow", markup=False)
        elif line:
            self._answer(line)
        return True

    def _answer(self, line: str) -> None:
        """Answers a turn. One that cannot be used is reported, and does not become part of the conversation."""
        from re_llm.inference.conversation import Turn, reply

        try:
            part: Part = line
            if path := _file(line):
                (encoded,) = self.engine.encode([self.engine.samples(path, (self.prompt, 1))])
                self._show(encoded.estimate)
                part = encoded
            elif _looks_like_audio(line):
                raise RellmError(f"no such file: {line}", todo="Check the path")
            turns = [*self.turns, Turn("user", (part,))]
            answer = reply(self.engine, turns, prompt=self.prompt, decoding=self.decoding, on_text=self._piece)
        except RellmError as error:
            self.console.print(str(error), style="red", markup=False)
            return
        self.console.print(" …" if answer.finish_reason == "length" else "", style="yellow")
        self.turns = [*turns, Turn("assistant", (answer.text,))]
        self.turns = self.turns[max(len(self.turns) - 2 * self.remember, 0) :]

    def _piece(self, text: str) -> None:
        self.console.print(text, style="green", end="", markup=False, soft_wrap=True)

    def _show(self, estimate: Estimate) -> None:
        ranked = sorted(estimate.probabilities.items(), key=lambda pair: -pair[1])[:LIKELY]
        for name, value in ranked:
            self.console.print(f"  [dim]{name:10}[/] [cyan]{'█' * round(BAR * value):{BAR}}[/] {value:4.0%}")
        if shown := dimensions(estimate):
            self.console.print(f"  [dim]{shown}[/]")


def _file(line: str) -> str | None:
    """The file that a line names: as it is, or quoted as terminals paste dropped files."""
    try:
        if locate(line).path.is_file():
            return line
        words = shlex.split(line)
        path = Path(words[0]).expanduser() if len(words) == 1 else None
        return str(path) if path and path.is_file() else None
    except (ValueError, OSError, RuntimeError):  # an apostrophe, too long for a name, ~nobody: a text turn
        return None


def _looks_like_audio(line: str) -> bool:
    """Whether a line is a misspelt path rather than a text turn."""
    return Path(line).suffix.lower() in waveform.SUFFIXES and (" " not in line or "/" in line)


def _lines() -> Iterator[str]:
    """Lines typed at the prompt, or of standard input; bytes that are not UTF-8 become replacement characters."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):  # not on every system
        import readline  # noqa: F401  (gives `input` its history and editing)
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            return


def run(chat: Chat, lines: Iterable[str] | None = None) -> None:
    """Handles lines until they end or one of them is `/quit`."""
    for line in _lines() if lines is None else lines:
        if not chat.take(line):
            return
