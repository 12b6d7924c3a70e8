"""Subtitles: texts with times as SubRip or WebVTT."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Cue(NamedTuple):
    """A text from `start` to `end` seconds."""

    start: float
    end: float
    text: str


def srt(cues: Iterable[Cue]) -> str:
    """SubRip."""
    return "".join(f"{number}\n{_times(cue, ',')}\n{_line(cue)}\n\n" for number, cue in enumerate(cues, 1))


def vtt(cues: Iterable[Cue]) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "".join(f"{_times(cue, '.')}\n{_line(cue)}\n\n" for cue in cues)


def _line(cue: Cue) -> str:
    """Its text without what would end or begin a cue."""
    return " ".join(cue.text.split()).replace("-->", "->")


def _times(cue: Cue, point: str) -> str:
    return f"{_clock(cue.start, point)} --> {_clock(cue.end, point)}"


def _clock(seconds: float, point: str) -> str:
    """`00:01:02,345`."""
    minutes, rest = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}{point}{rest % 1000:03}"
