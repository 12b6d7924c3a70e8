"""Records of recordings with their windows: emotion over time, and the words where a Whisper is given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from re_llm.audio import waveform
from re_llm.core.records import ReplyRecord, Utterance
from re_llm.inference.estimate import Estimate
from re_llm.inference.reply import Reply, ReplyOptions
from re_llm.inference.reply_records import to_record
from re_llm.llm.completion import Completion

if TYPE_CHECKING:
    from re_llm.inference.transcribe import Transcriber


class OverTime(Protocol):
    """An `Engine`, or an `EmotionRecognizer`."""

    def trajectory(self, item: str, *, window: float | None = None) -> Estimate: ...


def trajectory_records(
    system: OverTime,
    rows: Sequence[Utterance],
    options: ReplyOptions,
    *,
    window: float | None = None,
    transcriber: Transcriber | None = None,
) -> list[ReplyRecord]:
    """A record of each recording, whose `trajectory` lists its windows; the LLM is not asked.

    Args:
        options: without prompts.
        window: longest window in seconds; see `Engine.trajectory`.
        transcriber: gives each window its `text`, and the record its `transcript`.

    Raises:
        RellmError: a recording cannot be used.
    """
    assert options.prompt is None and options.recognize is None, options
    records = []
    for row in rows:
        estimate = system.trajectory(row.audio, window=window)
        record = to_record(row, Reply.of(estimate, Completion()), options)
        if transcriber:
            wave = waveform.load(row.audio)
            spans = [(round(m.start * waveform.RATE), round(m.end * waveform.RATE)) for m in estimate.trajectory]
            words = transcriber.transcribe([wave[first:last] for first, last in spans])
            moments = [
                moment.predictions() | {"text": text} for moment, text in zip(estimate.trajectory, words, strict=True)
            ]
            joined = " ".join(text for text in words if text)
            record = record.model_copy(update={"trajectory": moments, "transcript": joined})
        records.append(record)
    return records
