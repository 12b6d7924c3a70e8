"""Replies on a screen or as text: for people, one line a recording, subtitles, a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.core.records import DIMENSIONS, ReplyRecord
from re_llm.core.terminal import dimensions, likely, print_pairs

if TYPE_CHECKING:
    from rich.console import Console


def emotion_of(reply: ReplyRecord) -> str:
    """The named emotion where it was asked for, else the predicted one."""
    return (reply.predicted_emotion if reply.answer is None else reply.named_emotion) or "unknown"


def as_text(replies: Sequence[ReplyRecord]) -> str:
    """A line for each recording: the response, or the emotion where nothing was responded."""
    return "".join(f"{' '.join(reply.response.split()) if reply.prompt else emotion_of(reply)}\n" for reply in replies)


def as_table(replies: Sequence[ReplyRecord]) -> str:
    """Comma-separated values with a header; a column for the probability of each emotion."""
    emotions = sorted({name for reply in replies for name in reply.probabilities or {}})
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["recording", "emotion", *DIMENSIONS, *(f"p_{name}" for name in emotions), "response"])
    for reply in replies:
        found = reply.probabilities or {}
        values = [getattr(reply, name) for name in DIMENSIONS] + [found.get(name) for name in emotions]
        writer.writerow([reply.key, emotion_of(reply), *values, reply.response])
    return file.getvalue()


def as_srt(replies: Sequence[ReplyRecord]) -> str:
    """SubRip: each recording is one cue, behind the one before."""
    cues = [f"{i}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n\n" for i, start, end, text in _cues(replies)]
    return "".join(cues)


def as_vtt(replies: Sequence[ReplyRecord]) -> str:
    """WebVTT: as `as_srt`."""
    cues = [f"{_clock(start, '.')} --> {_clock(end, '.')}\n{text}\n\n" for _, start, end, text in _cues(replies)]
    return "WEBVTT\n\n" + "".join(cues)


FORMATS: dict[str, Callable[[Sequence[ReplyRecord]], str]] = {
    "txt": as_text,
    "csv": as_table,
    "srt": as_srt,
    "vtt": as_vtt,
}


def formatted(replies: Sequence[ReplyRecord], form: str) -> str:
    """Replies in one of `FORMATS`.

    Raises:
        RellmError: there is no such format.
    """
    if form not in FORMATS:
        raise RellmError(f"unknown format {form!r}", allowed=f"{', '.join(FORMATS)}; --json for records")
    return FORMATS[form](replies)


def _cues(replies: Sequence[ReplyRecord]) -> list[tuple[int, float, float, str]]:
    """(number, start and end in seconds, text) of every recording."""
    cues, at = [], 0.0
    for number, reply in enumerate(replies, 1):
        end = at + waveform.info(reply.audio).seconds if reply.audio else at
        text = f"[{emotion_of(reply)}]" + (f" {' '.join(reply.response.split())}" if reply.response else "")
        cues.append((number, at, end, text))
        at = end
    return cues


def _clock(seconds: float, point: str) -> str:
    """`00:01:02,345`."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def show(replies: Sequence[ReplyRecord], console: Console) -> None:
    """For people: what was heard and answered, recording by recording."""
    from rich.markup import escape

    for reply in replies:
        named = f"{reply.named_emotion or 'no emotion'}  [dim]“{escape(reply.answer or '')}”[/]"
        cut = " [yellow](cut at the token limit)[/]" if reply.finish_reason == "length" else ""
        unsure = "  [yellow](unsure: is this speech?)[/]" if reply.unsure else ""
        console.print(f"[bold]{escape(reply.key)}[/]", soft_wrap=True)
        print_pairs(
            console,
            ("named", named if reply.answer is not None else ""),
            ("predicted", likely(reply.probabilities) + unsure),
            ("", f"[dim]{dimensions(reply)}[/]" if reply.dimensions() else ""),
            ("reply", f"[green]{escape(reply.response)}[/]{cut}" if reply.prompt else ""),
            width=11,
        )
