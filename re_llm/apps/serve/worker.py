"""Two threads that own the model, and the bounded queue in front of them: one encodes, one decodes.

Requests that wait join the rows that are being decoded as soon as one of them is complete: `re_llm.inference.batch`.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from re_llm.apps.serve.metrics import Metrics
from re_llm.apps.serve.options import ServeOptions
from re_llm.apps.serve.protocol import ApiError, ChatRequest, Recording
from re_llm.audio import waveform
from re_llm.audio.speech import prepare
from re_llm.core.errors import RellmError
from re_llm.inference.batch import Row, RunningBatch, TokenChoice
from re_llm.inference.careful import rule
from re_llm.inference.conversation import ChatCompletion, ContextFull, Turn, lay_out, said
from re_llm.inference.engine import Engine
from re_llm.inference.reply import Decoding, EncodedSpeech, Estimate
from re_llm.llm.completion import Completion

log = logging.getLogger(__name__)
NAME = "the recording"  # in messages
T = TypeVar("T")
JOIN_SECONDS = 10.0  # a cancelled answer ends after its next token


@dataclass(frozen=True)
class Started:
    """The answer starts: the request was valid.

    Attributes:
        estimates: of every recording of the last turn, by its place in the turn's content.
    """

    estimates: dict[int, Estimate]


@dataclass(frozen=True)
class Piece:
    """More of the answer number `index`, and the tokens chosen since the last piece (if they were asked for)."""

    index: int
    text: str
    choices: tuple[TokenChoice, ...] = ()


@dataclass(frozen=True)
class Done:
    """The answer number `index` is complete; `choices` as of the last piece, in streams."""

    index: int
    completion: ChatCompletion
    choices: tuple[TokenChoice, ...] = ()


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
class _Answers:
    """The answers to one job: their rows, and what of them has been emitted."""

    job: Job
    estimates: dict[int, Estimate]
    metrics: Metrics
    on_end: Callable[[], None]
    started: bool = False
    left: int = 0
    rows: list[Row] = field(default_factory=list)

    def start(self) -> None:
        if not self.started:
            self.started = True
            self.metrics.first_piece_seconds.observe(time.monotonic() - self.job.arrived)
            self.job.emit(Started(self.estimates))

    def add(self, ids: list[int], encoded: list[EncodedSpeech], decoding: Decoding, index: int) -> Row:
        """The row of the answer number `index`."""
        shown = 0

        def new_choices() -> tuple[TokenChoice, ...]:
            nonlocal shown
            before, shown = shown, len(row.choices)
            return tuple(row.choices[before:])

        def on_text(text: str) -> None:
            self.start()
            self.job.emit(Piece(index, text, new_choices()))

        def on_done(completion: Completion) -> None:
            self.left -= 1
            self.metrics.answer_tokens.inc(completion.tokens)
            gone = self.job.cancelled.is_set()  # a stream sets it, too, once its last event is sent
            if not self.left:
                self._count(gone)
            if not gone:
                self.start()  # an answer may be empty
                self.job.emit(Done(index, _completed(completion, len(ids)), new_choices()))
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


class Worker:
    """Answers jobs, in the order of their arrival, up to `rows` at once.

    Args:
        engine: used by the worker's threads alone.
    """

    def __init__(self, engine: Engine, options: ServeOptions):
        self.engine, self.options = engine, options
        self._jobs: queue.Queue[Job | None] = queue.Queue(options.queue_size)
        self._ready: queue.Queue[tuple[Job, Row] | None] = queue.Queue()
        self._batch = RunningBatch(engine, options.rows)
        self._free = threading.Semaphore(self._batch.capacity)
        self.metrics = Metrics(self._jobs.qsize)
        self._threads = [
            threading.Thread(target=work, name=f"re-llm-{name}", daemon=True)
            for name, work in (("encode", self._encode_jobs), ("decode", self._decode_rows))
        ]
        self._closing = threading.Event()
        self._current: set[Job] = set()

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads) and not self._closing.is_set()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Puts a job into the queue.

        Raises:
            ApiError: 429 when it is full, 503 when the server is stopping.
        """
        if not self.alive:
            raise ApiError(503, "the server is stopping", code="stopping")
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            message = f"{self.options.queue_size} requests are waiting already; try again in a moment"
            raise ApiError(429, message, code="queue_full") from None

    def close(self) -> None:
        """Ends the running answers, refuses the waiting requests, and waits for the threads."""
        self._closing.set()
        for job in list(self._current):
            job.cancelled.set()
        while True:
            try:
                waiting = self._jobs.get_nowait()
            except queue.Empty:
                break
            if waiting:
                waiting.emit(ApiError(503, "the server is stopping", code="stopping"))
        self._jobs.put(None)
        for thread in self._threads:
            thread.join(JOIN_SECONDS)

    def _encode_jobs(self) -> None:
        """Turns jobs into rows, once there is room in the batch; a job of several answers waits for each of them."""
        while True:
            self._free.acquire()
            job = self._jobs.get()
            if job is None:
                self._ready.put(None)
                return
            self._current.add(job)
            rows: list[Row] = []
            if job.cancelled.is_set():
                self.metrics.cancelled.inc()
            else:
                rows = self._guarded(job, partial(self._rows, job)) or []
            if not rows:
                self._current.discard(job)
                self._free.release()
            for i, row in enumerate(rows):
                if i:
                    self._free.acquire()
                self._ready.put((job, row))

    def _decode_rows(self) -> None:
        while True:
            # Prefill goes before decoding: the first word of a new answer is worth more than the next of the others.
            while len(self._batch) < self._batch.capacity:
                try:
                    item = self._ready.get(block=not len(self._batch))
                except queue.Empty:
                    break
                if item is None:
                    self._finish()
                    return
                self._join(*item)
            self._step()

    def _join(self, job: Job, row: Row) -> None:
        before = len(self._batch)
        if row.cancelled():
            row.on_done(Completion())
        else:
            self._guarded(job, partial(self._batch.join, row))
        for _ in range(before + 1 - len(self._batch)):
            self._free.release()

    def _step(self) -> None:
        before = len(self._batch)
        try:
            self._batch.step()
        except Exception as error:
            for job in list(self._current):
                self._failed(job, error)
            self._batch = RunningBatch(self.engine, self.options.rows)
        for _ in range(before - len(self._batch)):
            self._free.release()

    def _finish(self) -> None:
        while len(self._batch):  # cancelled by `close`, so that one step ends them
            self._step()

    def _guarded(self, job: Job, work: Callable[[], T]) -> T | None:
        """What `work` returns; None after an error, which the job is told."""
        try:
            return work()
        except Exception as error:
            self._failed(job, error)
            return None

    def _failed(self, job: Job, error: Exception) -> None:
        self._current.discard(job)
        if isinstance(error, ApiError):
            job.emit(error)
        elif isinstance(error, ContextFull):
            job.emit(ApiError(400, str(error), param="messages", code="context_length_exceeded"))
        elif isinstance(error, RellmError):
            job.emit(ApiError(400, str(error), param="messages"))
        else:
            # Its message might quote a user's text, so only its type and place are logged.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s while answering\n%s", type(error).__name__, where)
            job.emit(ApiError(500, "the server failed to answer; its log says where", code="internal_error"))

    def _rows(self, job: Job) -> list[Row]:
        """A row for each answer that a job wants; none when it was given up meanwhile."""
        request = job.request
        turns = self._encode(request)
        if job.cancelled.is_set():
            self.metrics.cancelled.inc()
            return []
        parts = enumerate(turns[-1].parts)
        estimates = {i: part.estimate for i, part in parts if isinstance(part, EncodedSpeech)}
        answers = _Answers(job, estimates, self.metrics, partial(self._current.discard, job))
        ids, encoded, decoding = lay_out(self.engine, turns, self.options.prompt, request.system, request.decoding)
        self.metrics.prompt_tokens.inc(len(ids))
        ruled = rule(said(self.engine, turns[-1], encoded)) if self.engine.careful else None
        for index in range(request.n):
            seed = None if decoding.seed is None else decoding.seed + index
            answers.add(ids, encoded, replace(decoding, seed=seed), index).ruled = ruled
        return answers.rows

    def _encode(self, request: ChatRequest) -> list[Turn]:
        """Turns with their recordings encoded."""
        recordings = [part for _, parts in request.turns for part in parts if isinstance(part, Recording)]
        left, samples, room = self.options.max_audio_seconds, [], self.engine.max_seconds()
        for recording in recordings:
            try:
                loaded = waveform.load(recording.data, max_seconds=max(left, 0.0))
                samples.append(prepare(loaded, NAME, room))
            except RellmError as error:
                raise ApiError(400, self._explained(error), param=recording.where, code="unusable_audio") from None
            left -= len(loaded) / waveform.RATE
        ready = iter(self.engine.encode(samples) if samples else [])
        self.metrics.audio_seconds.inc(self.options.max_audio_seconds - left)
        return [
            Turn(role, tuple(next(ready) if isinstance(part, Recording) else part for part in parts))
            for role, parts in request.turns
        ]

    def _explained(self, error: RellmError) -> str:
        """The message for a client, who cannot change the server's options."""
        if "is too long for" in error.what:
            return f"{error.what}. Allowed: {error.allowed}. Cut the recording."
        if "is too long:" not in error.what:
            return str(error)
        limit = f"{self.options.max_audio_seconds:g} s of audio in one request"
        return f"{error.what}. Allowed: {limit}. Cut the recording, or leave out earlier ones."
