"""Requests on their way through the worker, and the events of their answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from re_llm.apps.serve.metrics import Metrics
from re_llm.apps.serve.protocol import ApiError, ChatRequest
from re_llm.core.errors import RellmError
from re_llm.inference.batch import Row
from re_llm.inference.choice import TokenChoice
from re_llm.inference.conversation import ChatCompletion
from re_llm.inference.decoding import Decoding
from re_llm.inference.estimate import EncodedSpeech, Estimate
from re_llm.llm.completion import Completion

TOO_LONG = "is too long:"  # in the message of a recording beyond the audio of one request


def unusable(error: RellmError, message: str, param: str) -> ApiError:
    """The refusal of a recording."""
    code = "audio_too_long" if TOO_LONG in error.what else "unusable_audio"
    return ApiError(400, message, param=param, code=code)


@dataclass(frozen=True)
class Started:
    """The answer starts: the request was valid.

    Attributes:
        estimates: of every recording of the last turn, by its place in the turn's content.
        asked: whether the answer asks how the person feels; None where that was not wanted.
    """

    estimates: dict[int, Estimate]
    asked: bool | None = None


@dataclass(frozen=True)
class Piece:
    """More of the answer number `index`, and the tokens chosen since the last piece (if they were asked for)."""

    index: int
    text: str
    choices: tuple[TokenChoice, ...] = ()


@dataclass(frozen=True)
class Done:
    """The answer number `index` is complete.

    Attributes:
        choices: as of the last piece.
        kept: how many tokens the answer has; pieces may have told further ones, of a stop text.
    """

    index: int
    completion: ChatCompletion
    choices: tuple[TokenChoice, ...] = ()
    kept: int = 0


Event = Started | Piece | Done | ApiError


@dataclass(eq=False)
class Job:
    """A request in the queue.

    Attributes:
        emit: called from the worker's threads with `Started`, `Piece`s, a `Done` for each answer; or an error.
    """

    request: ChatRequest
    emit: Callable[[Event], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    arrived: float = field(default_factory=time.monotonic)


@dataclass(eq=False)
class Answers:
    """The answers to one job: their rows, and what of them has been emitted.

    Attributes:
        about: what is told first.
    """

    job: Job
    about: Started
    metrics: Metrics
    on_end: Callable[[], None]
    started: bool = False
    left: int = 0
    rows: list[Row] = field(default_factory=list)

    def start(self) -> None:
        if not self.started:
            self.started = True
            self.metrics.first_piece_seconds.observe(time.monotonic() - self.job.arrived)
            self.job.emit(self.about)

    def add(
        self,
        ids: list[int],
        encoded: list[EncodedSpeech],
        decoding: Decoding,
        index: int,
        shape: Callable[[Completion], Completion] | None = None,
    ) -> Row:
        """The row of the answer number `index`.

        Args:
            shape: what is made of the decoded answer, which is then emitted in one piece.
        """
        shown = 0

        def new_choices() -> tuple[TokenChoice, ...]:
            nonlocal shown
            before, shown = shown, len(row.choices)
            return tuple(row.choices[before:])

        def on_text(text: str) -> None:
            if shape is None or row.ruled is not None:
                emit(text)

        def emit(text: str) -> None:
            self.start()
            self.job.emit(Piece(index, text, new_choices()))

        def on_done(completion: Completion) -> None:
            gone = self.job.cancelled.is_set()  # a stream sets it, too, once its last event is sent
            if shape is not None and row.ruled is None and not gone:
                completion = shape(completion)
                emit(completion.text)
            self.left -= 1
            self.metrics.answer_tokens.inc(completion.tokens)
            if not self.left:
                self._count(gone)
            if not gone:
                self.start()  # an answer may be empty
                self.job.emit(Done(index, _completed(completion, len(ids)), new_choices(), len(row.choices)))
            if not self.left:
                self.on_end()

        request = self.job.request
        row = Row(ids, encoded, decoding, on_text, on_done, self.job.cancelled.is_set, request.stop, request.logprobs)
        self.left += 1
        self.rows.append(row)
        return row

    def _count(self, gone: bool) -> None:
        if gone:
            self.metrics.cancelled.inc()
            self.job.emit(ApiError(503, "the answer was cut off: the server is stopping", code="stopping"))
        else:
            self.metrics.answer_seconds.observe(time.monotonic() - self.job.arrived)


def _completed(completion: Completion, prompt_tokens: int) -> ChatCompletion:
    return ChatCompletion(**vars(replace(completion, prompt_tokens=prompt_tokens)))
