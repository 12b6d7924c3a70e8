"""`re-llm chat`: a conversation in the terminal, turn by turn, of recordings and texts."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from re_llm.audio import waveform
from re_llm.audio.source import locate
from re_llm.core.errors import RellmError
from re_llm.core.terminal import dimensions

if TYPE_CHECKING:
    from rich.console import Console

    from re_llm.inference.conversation import Conversation, Turn
    from re_llm.inference.estimate import Estimate
    from re_llm.inference.reply import Reply

HELP = """\
Type the path of a recording (or drop the file here) to have it answered.
Anything else is a text turn, answered by the same LLM without speech.
  /why    what was heard in the last recording, and what its words alone would be answered
  /save FILE.jsonl   write the conversation, a turn a line
  /reset  forget the conversation    /help  this list    /quit  leave (so does Ctrl-D)
Ctrl-C ends an answer, not the conversation."""
MICROPHONE_HELP = "\nAn empty line records a turn; Enter ends it."
PROMPT = "you> "
LIKELY = 3  # emotions that are shown
BAR = 12  # characters


@dataclass
class Words:
    """Text that is shown as it comes, word by word, so that a terminal breaks its lines between words."""

    console: Console
    column: int = 0
    held: str = ""

    def put(self, text: str) -> None:
        *whole, self.held = re.split(r"(?<=\s)", self.held + text)
        for word in whole:
            self._write(word)

    def end(self) -> None:
        self._write(self.held)
        self.held = ""

    def _write(self, word: str) -> None:
        from rich.cells import cell_len

        if self.console.is_terminal and self.column and self.column + cell_len(word.rstrip()) >= self.console.width:
            self.console.print()
            self.column = 0
        self.column = 0 if word.endswith("\n") else self.column + cell_len(word)
        self.console.print(word, style="green", end="", markup=False, soft_wrap=True)


@dataclass
class Chat:
    """A conversation and the console it is shown on.

    Attributes:
        whisper: recognises the words of a recording for `/why`; None leaves them out.
        microphone: whether an empty line records a turn.
    """

    talk: Conversation
    console: Console
    whisper: str | None = None
    microphone: bool = False
    saved: list[dict[str, object]] = field(default_factory=list)
    last: Reply | None = None

    def take(self, line: str) -> bool:
        """Handles one line of the user's; False when it ends the chat."""
        line = line.strip()
        command, _, rest = line.partition(" ")
        if line in ("/quit", "/exit", "/q"):
            return False
        if line == "/reset":
            self.talk.reset()
            self.saved.clear()
            self.last = None
            self.console.print("[dim]The conversation starts again.[/]")
        elif line in ("/help", "/?"):
            self.console.print(HELP, markup=False)
        elif line == "/why":
            self._guarded(self._why)
        elif command == "/save":
            self._guarded(partial(self._save, rest.strip()))
        elif line.startswith("/") and not _file(line) and " " not in line and line.count("/") == 1:
            self.console.print(f"Unknown command {line}. /help lists the commands.", style="yellow", markup=False)
        elif line:
            self._guarded(partial(self._read, line))
        elif self.microphone:
            self._guarded(self._record)
        return True

    def _guarded(self, work: Callable[[], None]) -> None:
        """What cannot be done is reported, and does not become part of the conversation."""
        try:
            work()
        except RellmError as error:
            self.console.print(str(error), style="red", markup=False)
        except KeyboardInterrupt:
            self.console.print(" (ended)", style="yellow")

    def _read(self, line: str) -> None:
        """A line that is a recording or a text."""
        path = _file(line)
        if path is None and _looks_like_audio(line):
            raise RellmError(f"no such file: {line}", todo="Check the path")
        if path:
            self._answer(self.talk.turn(path), path)
        else:
            self._answer(self.talk.turn(text=line), line)

    def _record(self) -> None:
        """A turn that is spoken."""
        from re_llm.audio.microphone import record

        self.console.print("[dim]Speak; Enter ends it.[/]")
        self._answer(self.talk.turn(record(sys.stdin.readline)), "the microphone")

    def _answer(self, turn: Turn, given: str) -> None:
        for estimate in turn.estimates:
            self._show(estimate, LIKELY)
            for moment in estimate.trajectory:
                found = moment.estimate.predicted_emotion
                self.console.print(f"  [dim]{moment.start:5.1f} to {moment.end:.1f} s  {found}[/]")
        shown = Words(self.console)
        pieces = self.talk.stream_turn(turn)
        try:
            reply = self._shown(pieces, shown)
        finally:
            pieces.close()
            shown.end()
        self.console.print(" …" if reply.finish_reason == "length" else "", style="yellow")
        if reply.notice:
            self.console.print(f"  {reply.notice}.", style="yellow", markup=False)
        if reply.estimates:
            self.last = reply
        heard = {"recording": given, **reply.predictions()} if turn.estimates else {"text": given}
        self.saved += [{"role": "user", **heard}, {"role": "assistant", "text": reply.response}]

    def _shown(self, pieces: Generator[str, None, Reply], shown: Words) -> Reply:
        while True:
            try:
                shown.put(next(pieces))
            except StopIteration as end:
                reply: Reply = end.value
                return reply

    def _why(self) -> None:
        if self.last is None:
            raise RellmError("no recording has been answered yet", todo="Type the path of one")
        self._show(self.last, len(self.last.probabilities))
        if self.whisper is None:
            return
        from re_llm.inference.transcribe import Transcriber

        engine = self.talk.engine
        transcriber = Transcriber.load(self.whisper, device=str(engine.device))
        (words,) = transcriber.transcribe([self.last.recordings[-1]])
        if not words.strip():
            self.console.print("  words       none were recognised")
            return
        alone = engine.chat(prompt=self.talk.prompt, system=self.talk.system, **vars(self.talk.decoding))
        self.console.print(f"  words       “{words}”", markup=False)
        self.console.print(f"  words alone {alone.respond(text=words).response}", markup=False)

    def _save(self, name: str) -> None:
        if not name:
            raise RellmError("/save needs a file", allowed="/save FILE.jsonl")
        try:
            with Path(name).expanduser().open("x", encoding="utf-8") as file:
                file.writelines(json.dumps(turn, ensure_ascii=False) + "\n" for turn in self.saved)
        except OSError as error:
            raise RellmError(f"cannot write {name}: {error.strerror}", todo="Name another file") from None
        self.console.print(f"{len(self.saved)} turns in {name}", style="dim", markup=False)

    def _show(self, estimate: Estimate, count: int) -> None:
        ranked = sorted(estimate.probabilities.items(), key=lambda pair: -pair[1])[:count]
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
        except KeyboardInterrupt:  # it clears the line, as in a shell
            print()


def run(chat: Chat, lines: Iterable[str] | None = None) -> None:
    """Handles lines until they end or one of them is `/quit`."""
    for line in _lines() if lines is None else lines:
        if not chat.take(line):
            return
