"""The records that the stages exchange, and the JSON-lines files that hold them.

One record a line, UTF-8. A file is either written whole (temporary name, then renamed) or appended to line by line;
a torn last line, left by a process that died while writing, is repaired on resume. Unknown fields survive a round trip.
"""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from re_llm.core import files
from re_llm.core.dialogues import Earlier
from re_llm.core.errors import RellmError

DIMENSIONS = ("valence", "arousal", "dominance")
# A record is a few hundred bytes; a line of this size is not one of ours (and would fill the memory).
MAX_LINE_BYTES = 4 * 2**20

TRAIN = "train"  # the split that stages train on

BEGINNING = b'{"key":'  # of every line that `Record.to_line` writes

Unit = Field(default=None, ge=0.0, le=1.0)


def _is_finite(value: object) -> bool:
    """Whether a JSON value holds neither NaN nor an infinity (which `1e400` is)."""
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


class Record(BaseModel):
    """Base of all records: unknown fields are kept."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    key: str = Field(min_length=1)

    @model_validator(mode="after")
    def _finite(self) -> Self:
        # JSON has no such numbers: they would be lost when the record is written.
        for name, value in (self.model_extra or {}).items():
            if not _is_finite(value):
                raise ValueError(f"{name} is not finite")
        return self

    def to_line(self) -> str:
        # Unset optional fields are left out: a manifest of 100,000 rows is read by people with `head`.
        return self.model_dump_json(exclude_none=True) + "\n"


class Dimensional(Record):
    """Valence, arousal and dominance on 0..1, by name, never by position."""

    valence: float | None = Unit
    arousal: float | None = Unit
    dominance: float | None = Unit

    def dimensions(self) -> tuple[float, float, float] | None:
        """(valence, arousal, dominance), or None unless all three are known."""
        values = (self.valence, self.arousal, self.dominance)
        return None if any(v is None for v in values) else values  # type: ignore[return-value]


class Utterance(Dimensional):
    """One row of `manifest.jsonl`.

    `audio` is a path relative to the manifest, or `file.zip:offset:length`; `start` and `duration` are in seconds.
    `emotion` is a label of `label_set` (re_llm.core.emotions; without one, a canonical name) or None; `emotion_raw` is
    the label of the corpus. `history`: what was said before, in a row of a file of dialogues (re_llm.data.dialogues).
    `reference`: the reply, or the letter of the right choice, that a benchmark gives.
    `words_emotion`: that of the words alone, in a corpus that tells it apart from the voice's.
    """

    corpus: str
    split: str
    audio: str
    start: float = Field(default=0.0, ge=0.0)
    duration: float | None = Field(default=None, gt=0.0)
    sample_rate: int | None = Field(default=None, gt=0)
    text: str | None = None
    language: str | None = None
    speaker: str | None = None
    dialogue: str | None = None
    turn: int | None = None
    emotion: str | None = None
    emotion_raw: str | None = None
    label_set: str | None = None
    vad_source: str | None = None
    sha256: str | None = None
    reference: str | None = None
    words_emotion: str | None = None
    history: list[Earlier] | None = None


class Continuation(Dimensional):
    """One row of `continuations.jsonl`: what the LLM answered to the transcript, the target of training.

    The fields of the utterance that training needs (split, speaker, start, duration, text, history) travel along.
    `served_model` is the model that a server named in its answer, when it is not `llm`.
    """

    audio: str
    text: str
    emotion: str | None = None
    label_set: str | None = None
    instruction: str
    output: str
    early_stop: bool
    llm: str
    served_model: str | None = None
    prompt: str | None = None
    corpus: str | None = None
    speaker: str | None = None
    split: str | None = None
    start: float = Field(default=0.0, ge=0.0)
    duration: float | None = Field(default=None, gt=0.0)
    history: list[Earlier] | None = None


class ReplyRecord(Dimensional):
    """One row of `replies.jsonl`.

    `emotion` is the reference, and so are `reference_valence`, `reference_arousal`, `reference_dominance`;
    `reference` is that of the response.
    `predicted_emotion` is the choice of the categorical head, and `valence`, `arousal`, `dominance` are the estimate of
    the dimensional one. `answer` is the raw answer to the recognition prompt and
    `named_emotion` the emotion read out of it (None when it names none). `unsure`: the categorical head is, see
    `re_llm.inference.reply.Estimate`. `source` is a hash of the row that was
    replied to and of its recording. `history`: what was said before, without its recordings.
    replied to and of its recording. `variant_of` is the system that this one is a variant of, `variant` its settings
    (`re_llm.inference.variant`), `exchanged_with` the utterance whose emotion information was taken, and `asked` says
    whether the reply asks how the person feels.
    """

    system: str
    response: str
    text: str | None = None
    audio: str | None = None
    corpus: str | None = None
    speaker: str | None = None
    gender: str | None = None
    language: str | None = None
    start: float | None = Field(default=None, ge=0.0)
    duration: float | None = Field(default=None, gt=0.0)
    emotion: str | None = None
    label_set: str | None = None
    reference_valence: float | None = Unit
    reference_arousal: float | None = Unit
    reference_dominance: float | None = Unit
    reference: str | None = None
    words_emotion: str | None = None
    predicted_emotion: str | None = None
    probabilities: dict[str, float] | None = None
    answer: str | None = None
    named_emotion: str | None = None
    unsure: bool | None = None
    transcript: str | None = None
    prompt: str | None = None
    tokens: int | None = None
    finish_reason: str | None = None
    seed: int | None = None
    source: str | None = None
    history: list[Earlier] | None = None
    variant_of: str | None = None
    variant: dict[str, Any] | None = None
    exchanged_with: str | None = None
    asked: bool | None = None

    def dimension(self, name: str) -> tuple[float | None, float | None]:
        """(estimate, reference) of one of `DIMENSIONS`."""
        return getattr(self, name), getattr(self, f"reference_{name}")


class Score(Record):
    """One row of `scores.jsonl`: one metric of one reply, or of a whole group (key `*`); without a value: undefined."""

    system: str
    metric: str
    value: float | None = None
    corpus: str | None = None
    seed: int | None = None


R = TypeVar("R", bound=Record)
OnError = Callable[[int, RellmError], None]


def problem_of(error: ValidationError) -> str:
    """What is wrong with a record, in one line."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(p) for p in first["loc"])
    return f"field {field!r}: {first['msg']}" if field else str(first["msg"])


def read_records(path: str | os.PathLike[str], model: type[R], *, on_error: OnError | None = None) -> Iterator[R]:
    """Records of a JSON-lines file, one at a time; see `read_numbered`."""
    for _, record in read_numbered(path, model, on_error=on_error):
        yield record


def read_numbered(
    path: str | os.PathLike[str],
    model: type[R],
    *,
    on_error: OnError | None = None,
    only: Collection[int] | None = None,
) -> Iterator[tuple[int, R]]:
    """(line number, record) of a JSON-lines file, one at a time (memory stays flat in the number of rows).

    Args:
        on_error: called with the line number for every broken line, which is then passed over; without it the
            first broken line raises.
        only: numbers of the lines that are wanted; None takes all.

    Raises:
        RellmError: the file is missing, or a line is not a valid record; names file and line.
    """
    for line, record in read_placed(path, model, on_error=on_error, only=only):
        yield line.number, record


class Line(NamedTuple):
    """A line of a file: its number, the byte where it begins, and what it holds."""

    number: int
    offset: int
    data: bytes


def read_placed(
    path: str | os.PathLike[str],
    model: type[R],
    *,
    on_error: OnError | None = None,
    only: Collection[int] | None = None,
) -> Iterator[tuple[Line, R]]:
    """As `read_numbered`, with the lines themselves."""
    path = files.existing(path)
    with path.open("rb") as lines:
        number = end = 0
        while data := lines.readline(MAX_LINE_BYTES + 1):
            end += len(data)
            if not number:
                data = data.removeprefix(codecs.BOM_UTF8)  # some editors of other people begin a file with it
            line = Line(number := number + 1, end - len(data), data)
            if not data.strip() or (only is not None and number not in only):
                continue
            try:
                if len(data) > MAX_LINE_BYTES:
                    raise RellmError(f"{path}:{number}: the line is longer than {MAX_LINE_BYTES} bytes")
                yield line, model.model_validate_json(data)
            except (ValidationError, RellmError) as error:
                why = problem_of(error) if isinstance(error, ValidationError) else error.what
                problem = RellmError(f"{path}:{number}: not a valid {model.__name__} record: {why}")
                if on_error is None:
                    raise problem from None
                on_error(number, problem)


def write_records(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Writes a file whole: under a temporary name, renamed when complete. Returns the number of records."""
    count = 0
    with files.writing(Path(path)) as out:
        for count, record in enumerate(records, 1):  # noqa: B007
            out.write(record.to_line().encode())
    return count
