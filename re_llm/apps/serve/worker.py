"""One thread that owns the model, and the bounded queue in front of it."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from re_llm.apps.serve.metrics import Metrics
from re_llm.apps.serve.options import ServeOptions
from re_llm.apps.serve.protocol import ApiError, ChatRequest, Recording
from re_llm.audio import waveform
from re_llm.audio.speech import prepare
from re_llm.core.errors import RellmError
from re_llm.inference.conversation import ChatCompletion, Turn, reply
from re_llm.inference.engine import Engine
from re_llm.inference.reply import Estimate

log = logging.getLogger(__name__)
NAME = "the recording"  # in messages
JOIN_SECONDS = 10.0  # a cancelled answer ends after its next token


@dataclass(frozen=True)
class Started:
    """The answer starts: the request was valid.

    Attributes:
        estimate: of the last recording; None without any.
    """

    estimate: Estimate | None


Event = Started | str | ChatCompletion | ApiError


@dataclass
class Job:
    """A request in the queue.

    Attributes:
        emit: called from the worker's thread with `Started`, pieces of text, `ChatCompletion`; or an error.
    """

    request: ChatRequest
    emit: Callable[[Event], None]
    cancelled: threading.Event = field(default_factory=threading.Event)
    arrived: float = field(default_factory=time.monotonic)


class Worker:
    """Answers jobs one after another, in the order of their arrival.

    Args:
        engine: used by this thread alone.
    """

    def __init__(self, engine: Engine, options: ServeOptions):
        self.engine, self.options = engine, options
        self._jobs: queue.Queue[Job | None] = queue.Queue(options.queue_size)
        self.metrics = Metrics(self._jobs.qsize)
        self._thread = threading.Thread(target=self._work, name="re-llm-worker", daemon=True)
        self._closing = threading.Event()
        self._current: Job | None = None

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing.is_set()

    def start(self) -> None:
        self._thread.start()

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
        """Ends the running answer, refuses the waiting requests, and waits for the thread."""
        self._closing.set()
        if self._current:
            self._current.cancelled.set()
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job:
                job.emit(ApiError(503, "the server is stopping", code="stopping"))
        self._jobs.put(None)
        self._thread.join(JOIN_SECONDS)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._current = job
            if job.cancelled.is_set():
                self.metrics.cancelled.inc()
                continue
            try:
                self._answer(job)
            except ApiError as error:
                job.emit(error)
            except RellmError as error:
                job.emit(ApiError(400, str(error)))
            except Exception as error:
                # Its message might quote a user's text, so only its type and place are logged.
                where = "".join(traceback.format_tb(error.__traceback__))
                log.error("%s while answering\n%s", type(error).__name__, where)
                job.emit(ApiError(500, "the server failed to answer; its log says where", code="internal_error"))

    def _answer(self, job: Job) -> None:
        turns, estimate = self._encode(job.request)
        if job.cancelled.is_set():
            self.metrics.cancelled.inc()
            return
        started = False

        def start() -> None:
            nonlocal started
            if not started:
                started = True
                self.metrics.first_piece_seconds.observe(time.monotonic() - job.arrived)
                job.emit(Started(estimate))

        def on_text(piece: str) -> None:
            start()
            job.emit(piece)

        completion = reply(
            self.engine,
            turns,
            prompt=self.options.prompt,
            system=job.request.system,
            decoding=job.request.decoding,
            on_text=on_text,
            cancelled=job.cancelled.is_set,
        )
        self.metrics.prompt_tokens.inc(completion.prompt_tokens)
        self.metrics.answer_tokens.inc(completion.tokens)
        if job.cancelled.is_set():
            self.metrics.cancelled.inc()
            job.emit(ApiError(503, "the answer was cut off: the server is stopping", code="stopping"))
            return
        start()  # an answer may be empty
        self.metrics.answer_seconds.observe(time.monotonic() - job.arrived)
        job.emit(completion)

    def _encode(self, request: ChatRequest) -> tuple[list[Turn], Estimate | None]:
        """Turns with their recordings encoded, and the estimate of the last of them."""
        recordings = [part for _, parts in request.turns for part in parts if isinstance(part, Recording)]
        left, samples, room = self.options.max_audio_seconds, [], self.engine.max_seconds()
        for recording in recordings:
            try:
                loaded = waveform.load(recording.data, max_seconds=max(left, 0.0))
                samples.append(prepare(loaded, NAME, room))
            except RellmError as error:
                raise ApiError(400, self._explained(error), param=recording.where, code="unusable_audio") from None
            left -= len(loaded) / waveform.RATE
        encoded = self.engine.encode(samples) if samples else []
        self.metrics.audio_seconds.inc(self.options.max_audio_seconds - left)
        ready = iter(encoded)
        turns = [
            Turn(role, tuple(next(ready) if isinstance(part, Recording) else part for part in parts))
            for role, parts in request.turns
        ]
        return turns, encoded[-1].estimate if encoded else None

    def _explained(self, error: RellmError) -> str:
        """The message for a client, who cannot change the server's options."""
        if "is too long for" in error.what:
            return f"{error.what}. Allowed: {error.allowed}. Cut the recording."
        if "is too long:" not in error.what:
            return str(error)
        limit = f"{self.options.max_audio_seconds:g} s of audio in one request"
        return f"{error.what}. Allowed: {limit}. Cut the recording, or leave out earlier ones."
