"""Replies on a screen or as text: for people, one line a recording, subtitles, a table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from re_llm.audio import waveform
from re_llm.cli.common import print_json
from re_llm.core.errors import RellmError
from re_llm.core.records import DIMENSIONS, ReplyRecord
from re_llm.core.subtitles import Cue, srt, vtt
from re_llm.core.terminal import dimensions, likely, print_pairs

if TYPE_CHECKING:
    from rich.console import Console


def emotion_of(reply: ReplyRecord) -> str:
    """The named emotion where it was asked for, else the predicted one."""
    return (reply.predicted_emotion if reply.answer is None else reply.named_emotion) or "unknown"


def moments_of(reply: ReplyRecord) -> list[dict[str, Any]]:
    """Windows of the recording; none where it is one."""
    return (reply.model_extra or {}).get("trajectory", [])


def as_text(replies: Sequence[ReplyRecord]) -> str:
    """A line for each recording: the response, else what was said, else the emotion."""

    def line(reply: ReplyRecord) -> str:
        return reply.response if reply.prompt else reply.transcript or emotion_of(reply)

    return "".join(f"{' '.join(line(reply).split())}\n" for reply in replies)


def as_table(replies: Sequence[ReplyRecord]) -> str:
    """Comma-separated values with a header; a column for the probability of each emotion."""
    rows = [
        {
            "recording": reply.key,
            "emotion": emotion_of(reply),
            **{n: getattr(reply, n) for n in DIMENSIONS},
            **_columns(reply.probabilities),
        }
        for reply in replies
    ]
    return _csv([{**row, "response": reply.response} for row, reply in zip(rows, replies, strict=True)], "response")


def as_trajectory(replies: Sequence[ReplyRecord]) -> str:
    """Comma-separated values with a header: a row for each window of each recording."""
    rows = []
    for reply in replies:
        for moment in moments_of(reply):
            about = {name: moment[name] for name in ("start", "end")} | {"emotion": moment["predicted_emotion"]}
            values = {name: moment[name] for name in DIMENSIONS} | _columns(moment["probabilities"])
            rows.append({"recording": reply.key, **about, **values, "text": moment.get("text")})
    return _csv(rows, "text")


def _columns(probabilities: Mapping[str, float] | None) -> dict[str, float]:
    return {f"p_{name}": value for name, value in sorted((probabilities or {}).items())}


def _csv(rows: Sequence[Mapping[str, object]], last: str) -> str:
    """Rows with the columns of all of them, `last` behind the others."""
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name != last]
    file = io.StringIO()
    writer = csv.DictWriter(file, [*names, last], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def as_json(replies: Sequence[ReplyRecord]) -> str:
    """The records, as with --json."""
    return json.dumps([reply.model_dump(exclude_none=True) for reply in replies], ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Callable[[Sequence[ReplyRecord]], str]] = {
    "txt": as_text,
    "csv": as_table,
    "json": as_json,
    "srt": lambda replies: srt(_cues(replies)),
    "vtt": lambda replies: vtt(_cues(replies)),
}


def formatted(replies: Sequence[ReplyRecord], form: str, *, trajectory: bool = False) -> str:
    """Replies in one of `FORMATS`.

    Args:
        trajectory: csv has a row for each window instead of each recording.

    Raises:
        RellmError: there is no such format.
    """
    if form not in FORMATS:
        raise RellmError(f"unknown format {form!r}", allowed=", ".join(FORMATS))
    return as_trajectory(replies) if trajectory and form == "csv" else FORMATS[form](replies)


def _cues(replies: Sequence[ReplyRecord]) -> Iterator[Cue]:
    """A cue for each recording, behind the one before; for each window of one that has several."""
    at = 0.0
    for reply in replies:
        end = at + waveform.info(reply.audio).seconds if reply.audio else at
        said = reply.response or reply.transcript or ""
        if not (moments := moments_of(reply)) or reply.response:
            yield Cue(at, end, f"[{emotion_of(reply)}] {said}")
        else:
            for each in moments:
                text = f"[{each['predicted_emotion']}] {each.get('text', '')}"
                yield Cue(at + each["start"], at + each["end"], text)
        at = end


@dataclass(frozen=True)
class Shown:
    """How replies are printed.

    Attributes:
        called: names of recordings whose files will not last, by file.
    """

    as_json: bool
    form: str | None
    quiet: bool
    trajectory: bool = False
    called: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Tells a wrong name before the model is loaded."""
        if self.form:
            formatted([], self.form)

    def print(self, replies: Sequence[ReplyRecord]) -> None:
        form = self.form or ("txt" if self.quiet else None)
        lasting = form in ("srt", "vtt")  # subtitles need the lengths of the recordings, and name none
        replies = [reply if lasting else self._called(reply) for reply in replies]
        if self.as_json:
            print_json(replies)
        elif form:
            typer.echo(formatted(replies, form, trajectory=self.trajectory), nl=False)
        else:
            from rich.console import Console

            show(replies, Console(highlight=False))

    def _called(self, reply: ReplyRecord) -> ReplyRecord:
        name = self.called.get(reply.key)
        return reply if name is None else reply.model_copy(update={"key": name, "audio": None})


def show(replies: Sequence[ReplyRecord], console: Console) -> None:
    """For people: what was heard and answered, recording by recording."""
    from rich.markup import escape

    for reply in replies:
        named = f"{reply.named_emotion or 'no emotion'}  [dim]“{escape(reply.answer or '')}”[/]"
        cut = " [yellow](cut at the token limit)[/]" if reply.finish_reason == "length" else ""
        unsure = "  [yellow](unsure: is this speech?)[/]" if reply.unsure else ""
        notice = escape((reply.model_extra or {}).get("notice") or "")
        console.print(f"[bold]{escape(reply.key)}[/]", soft_wrap=True)
        print_pairs(
            console,
            ("named", named if reply.answer is not None else ""),
            ("predicted", likely(reply.probabilities) + unsure),
            ("", f"[dim]{dimensions(reply)}[/]" if reply.dimensions() else ""),
            ("notice", f"[yellow]{notice}[/]" if notice else ""),
            *(("" if i else "windows", escape(_moment(each))) for i, each in enumerate(moments_of(reply))),
            ("reply", f"[green]{escape(reply.response)}[/]{cut}" if reply.prompt else ""),
            width=11,
        )


def _moment(moment: Mapping[str, Any]) -> str:
    """`3.1 to 5.8 s  happy 99 %  valence 0.51, ...` of a window."""
    values = ", ".join(f"{name} {moment[name]:.2f}" for name in DIMENSIONS if moment[name] is not None)
    told = f"{moment['start']:5.1f} to {moment['end']:.1f} s  {likely(moment['probabilities'], 1)}  {values}"
    return f"{told}  “{moment['text']}”" if moment.get("text") else told
