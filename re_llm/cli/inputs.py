"""Recordings that are named on the command line, piped into it, or spoken."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import typer

from re_llm.core.errors import RellmError

MAX_PIPED = 1 << 28  # bytes of standard input, which are held in memory; ten minutes at 48 kHz in stereo are 115 MB


@dataclass(frozen=True)
class Inputs:
    """What was named, as files.

    Attributes:
        called: names of those that last as long as the command.
    """

    files: list[str]
    called: Mapping[str, str]


@contextmanager
def named_files(inputs: list[str], microphone: bool, out: Path | None) -> Iterator[Inputs]:
    """The inputs as files, for as long as the context lasts: standard input (`-`) and the microphone, too.

    Args:
        out: file of the records, which name their recordings: it takes none that does not last.
    """
    if not inputs and not microphone:
        raise RellmError("no recording is named", allowed="recordings, folders, - or a manifest; or --microphone")
    if out is not None and (microphone or "-" in inputs):
        what = "the microphone" if microphone else "standard input"
        raise RellmError(f"{what} leaves no recording that the records in {out} could name", todo="Name a file")
    with TemporaryDirectory() as folder:
        names, called = list(inputs), dict[str, str]()
        if "-" in inputs:
            file, given = Path(folder) / "standard-input", sys.stdin.buffer.read(MAX_PIPED + 1)
            called[str(file)] = "standard input"
            if len(given) > MAX_PIPED:
                raise RellmError(
                    f"standard input has more than {MAX_PIPED >> 20} MB", todo="Give a recording as a file, or cut it"
                )
            if not given:
                raise RellmError("standard input is empty", todo="Pipe a recording into the command")
            file.write_bytes(given)
            names = [str(file) if name == "-" else name for name in inputs]
        if microphone:
            names.append(str(_recorded(Path(folder) / "microphone.wav")))
            called[names[-1]] = "microphone"
        try:
            yield Inputs(names, called)
        except RellmError as error:
            for path, name in called.items():
                RellmError.__init__(error, error.what.replace(path, name), allowed=error.allowed, todo=error.todo)
            raise


def _recorded(file: Path) -> Path:
    """A recording of the microphone until Enter is pressed, written to a file."""
    import soundfile

    from re_llm.audio.microphone import record, require

    require()
    typer.echo("Speak; Enter ends it.", err=True)
    samples, rate = record(sys.stdin.readline)
    soundfile.write(file, samples, rate, subtype="FLOAT")
    return file
