"""Two threads that own the model, and the bounded queue in front of them: one encodes, one decodes.

What is encoded joins the rows that are decoded as soon as there is room: `re_llm.inference.batch`. While requests wait
for the thread that encodes, the one that decodes encodes as well: more rows in a step cost little, and a first word is
worth more than the next one.
"""

from __future__ import annotations

import logging
import queue
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from re_llm.apps.serve.jobs import TOO_LONG, Answers, Job, Started, unusable
from re_llm.apps.serve.metrics import Metrics
from re_llm.apps.serve.options import ServeOptions
from re_llm.apps.serve.protocol import ApiError, Recording
from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.inference.batch import Prefilled, Row, RunningBatch
from re_llm.inference.careful import rule
from re_llm.inference.conversation import ContextFull, Turn, lay_out, opening, said
from re_llm.inference.decoding import Decoding
from re_llm.inference.engine import Engine
from re_llm.inference.estimate import EncodedSpeech, Estimate
from re_llm.inference.generation import controlled
from re_llm.inference.variant import Unsure
from re_llm.inference.varied import feeling_questions
from re_llm.llm.completion import Completion
from re_llm.llm.rows import batches_by_length

log = logging.getLogger(__name__)
NAME = "the recording"  # in messages
JOIN_SECONDS = 10.0  # a cancelled answer ends after its next token
# Requests in one pass of the encoders. A processor gains nothing by more than one, and their first words would wait.
ON_A_PROCESSOR, ON_A_GPU = 1, 8
SPREAD, SECONDS_TOGETHER = 1.5, 60.0
_Loaded = tuple[Job, list[np.ndarray]]  # with its recordings


def _together(jobs: Sequence[_Loaded], most: int) -> Iterator[list[_Loaded]]:
    """Jobs whose recordings go through the encoders in one pass; the shortest, which are ready first, in front."""
    lengths = [max(map(len, samples), default=0) for _, samples in jobs]
    for batch in reversed(list(batches_by_length(lengths, most, SPREAD))):
        if sum(len(each) for i in batch for each in jobs[i][1]) <= SECONDS_TOGETHER * waveform.RATE:
            yield [jobs[i] for i in batch]
        else:
            yield from ([jobs[i]] for i in batch)


def _count(new: Sequence[Row | Prefilled]) -> int:
    return sum(len(each.rows) if isinstance(each, Prefilled) else 1 for each in new)


class Worker:
    """Answers jobs, in the order of their arrival, up to `rows` at once.

    Args:
        engine: used by the worker's threads alone.
    """

    def __init__(self, engine: Engine, options: ServeOptions):
        self.engine, self.options = engine, options
        self._jobs: queue.Queue[Job | None] = queue.Queue(options.queue_size)
        self._ready: queue.Queue[Row | Prefilled | None] = queue.Queue()
        self._encoded_together = ON_A_PROCESSOR if engine.device.type == "cpu" else ON_A_GPU
        self._batch = self._new_batch()
        self._free = threading.Semaphore(self._batch.capacity)
        self._owed = 0  # places that the thread that decodes took when there was none
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

    def _new_batch(self) -> RunningBatch:
        return RunningBatch(self.engine, self.options.rows, opening(self.engine, self.options.prompt))

    def _encode_jobs(self) -> None:
        """Turns jobs into rows, once there is room in the batch; a job of several answers waits for each of them."""
        stopped = False
        while not stopped:
            jobs, stopped = self._waiting(block=True)
            self._encode_all(jobs)
        self._ready.put(None)

    def _help(self) -> bool:
        """Encodes in the thread that decodes; false when no job has a place in the batch."""
        jobs, stopped = self._waiting(block=False)
        if stopped:
            self._jobs.put(None)  # for the thread that waits for it
        self._encode_all(jobs, wait=False)
        return bool(jobs)

    def _encode_all(self, jobs: Sequence[Job], *, wait: bool = True) -> None:
        """Gives the rows of jobs to the thread that decodes.

        Args:
            wait: for places in the batch; the thread that decodes cannot, and owes them.
        """
        loaded = [(job, samples) for job in jobs if (samples := self._samples(job)) is not None]
        for batch in _together(loaded, self._encoded_together):
            self._encode(batch, wait)

    def _waiting(self, *, block: bool) -> tuple[list[Job], bool]:
        """Jobs that wait, each with a place in the batch (one at least if it may block); whether no more will come."""
        jobs: list[Job] = []
        while len(jobs) < self._encoded_together and self._free.acquire(blocking=block and not jobs):
            try:
                job = self._jobs.get(block=block and not jobs)
            except queue.Empty:
                self._free.release()
                break
            if job is None:
                self._free.release()
                return jobs, True
            self._current.add(job)
            jobs.append(job)
        return jobs, False

    def _encode(self, batch: Sequence[_Loaded], wait: bool) -> None:
        """Encodes the recordings of jobs in one pass; see `_encode_all`."""
        samples = [each for _, those in batch for each in those]
        try:
            room = self.engine.max_seconds((self.options.prompt, 1))
            encoded = iter(self.engine.encode(samples, room=room) if samples else [])
        except Exception as error:
            if len(batch) == 1:
                self._failed(batch[0][0], error)
                self._free.release()
            else:  # nobody's answer fails for the recording of somebody else
                for each in batch:
                    self._encode([each], wait)
            return
        alone: list[tuple[Job, Row]] = []
        for job, those in batch:
            own = [next(encoded) for _ in those]
            try:
                rows = self._rows(job, own)
            except Exception as error:
                self._failed(job, error)
                self._free.release()
                continue
            if len(rows) == 1 and rows[0].ruled is None:
                alone.append((job, rows[0]))
                continue
            for i, row in enumerate(rows):
                if i and not self._free.acquire(blocking=wait):  # the first one has its place
                    self._owed += 1
                self._ready.put(row)
        self._prefill(alone)

    def _prefill(self, alone: Sequence[tuple[Job, Row]]) -> None:
        """Rows of jobs of one answer, ready to join: the thread that decodes goes on meanwhile."""
        if not alone:
            return
        try:
            for each in self._batch.prefill(*(row for _, row in alone)):
                self._ready.put(each)
        except Exception as error:
            if len(alone) == 1:
                self._failed(alone[0][0], error)
                self._free.release()
            else:
                for one in alone:
                    self._prefill([one])

    def _decode_rows(self) -> None:
        while True:
            # Prefill goes before decoding: the first word of a new answer is worth more than the next of the others.
            new: list[Row | Prefilled] = []
            while len(self._batch) + _count(new) < self._batch.capacity:
                try:
                    row = self._ready.get(block=not len(self._batch) and not new)
                except queue.Empty:
                    break
                if row is None:
                    self._join(new)
                    self._finish()
                    return
                new.append(row)
            self._join(new)
            if new or self._jobs.empty() or not self._help():
                self._step()

    def _join(self, new: Sequence[Row | Prefilled]) -> None:
        before, rows = len(self._batch), []
        for each in new:
            if isinstance(each, Row):
                if each.cancelled():
                    each.on_done(Completion())
                else:
                    rows.append(each)
        try:
            for each in new:
                if isinstance(each, Prefilled):
                    self._batch.add(each)
            self._batch.join(*rows)
        except Exception as error:
            self._broken(error)
        self._release(before + _count(new) - len(self._batch))

    def _step(self) -> None:
        before = len(self._batch)
        try:
            self._batch.step()
        except Exception as error:
            self._broken(error)
        self._release(before - len(self._batch))

    def _release(self, places: int) -> None:
        paid = min(places, self._owed)
        self._owed -= paid
        for _ in range(places - paid):
            self._free.release()

    def _finish(self) -> None:
        while len(self._batch):  # cancelled by `close`, so that one step ends them
            self._step()

    def _broken(self, error: Exception) -> None:
        """The batch cannot go on: its rows are lost."""
        for job in list(self._current):
            self._failed(job, error)
        self._batch = self._new_batch()

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

    def _refuse_cancelled(self, job: Job) -> None:
        if job.cancelled.is_set():
            self.metrics.cancelled.inc()
            raise ApiError(503, "the server is stopping", code="stopping")  # unless the client has gone

    def _samples(self, job: Job) -> list[np.ndarray] | None:
        """The recordings of a job; None when it ends here, with an error."""
        recordings = [part for _, parts in job.request.turns for part in parts if isinstance(part, Recording)]
        left, samples = self.options.max_audio_seconds, []
        try:
            self._refuse_cancelled(job)
            for recording in recordings:
                try:
                    loaded = waveform.load(recording.data, max_seconds=max(left, 0.0))
                    samples.append(self.engine.prepared(loaded, NAME, (self.options.prompt, 1)))
                except RellmError as error:
                    raise unusable(error, self._explained(error), recording.where) from None
                left -= len(loaded) / waveform.RATE
        except Exception as error:
            self._failed(job, error)
            self._free.release()
            return None
        self.metrics.audio_seconds.inc(self.options.max_audio_seconds - left)
        return samples

    def _rows(self, job: Job, recordings: list[EncodedSpeech]) -> list[Row]:
        """A row for each answer that a job wants."""
        self._refuse_cancelled(job)  # it may have been given up meanwhile
        request, ready = job.request, iter(recordings)
        turns = [
            Turn(role, tuple(next(ready) if isinstance(part, Recording) else part for part in parts))
            for role, parts in request.turns
        ]
        parts = enumerate(turns[-1].parts)
        estimates = {i: part.estimate for i, part in parts if isinstance(part, EncodedSpeech)}
        ids, encoded, decoding = lay_out(self.engine, turns, self.options.prompt, request.system, request.decoding)
        self.metrics.prompt_tokens.inc(len(ids))
        by_rule = rule(said(self.engine, turns[-1], encoded))
        asked = self._unsure(request.unsure, estimates) and by_rule is None if request.unsure else None
        ruled = Completion(by_rule) if by_rule else self._question(ids, encoded) if asked else None
        about = Started(estimates, asked)
        answers = Answers(job, about, self.metrics, partial(self._current.discard, job))
        for index in range(request.n):
            seed = None if decoding.seed is None else decoding.seed + index
            own = replace(decoding, seed=seed)
            shape = partial(self._controlled, ids, encoded, own) if decoding.length else None
            answers.add(ids, encoded, own, index, shape).ruled = ruled
        return answers.rows

    @staticmethod
    def _unsure(unsure: Unsure, estimates: Mapping[int, Estimate]) -> bool:
        """Whether the model is unsure about the last recording of the turn."""
        probabilities = estimates[max(estimates)].probabilities
        if not probabilities:
            message = "ask_when_unsure needs a model with a categorical head, and this one has none"
            raise ApiError(400, message, param="ask_when_unsure", code="unsupported_parameter")
        return unsure.of(probabilities)

    def _question(self, ids: list[int], encoded: Sequence[EncodedSpeech]) -> Completion:
        """How the person feels about what was said; its tokens are decoded at once, while the other answers wait."""
        (question,) = feeling_questions(self.engine, [ids], [torch.cat([each.embeddings for each in encoded])])
        return question

    def _controlled(
        self, ids: list[int], encoded: Sequence[EncodedSpeech], decoding: Decoding, answer: Completion
    ) -> Completion:
        """An answer under length control; the other ones wait while a question is added."""
        engine, speech = self.engine, [torch.cat([each.embeddings for each in encoded])] if encoded else []
        with engine.lock:
            (found,) = controlled(engine.model, engine.processor, engine.stops, [ids], speech, decoding, [answer])
        return found

    def _explained(self, error: RellmError) -> str:
        """The message for a client, who cannot change the server's options."""
        if "is too long for" in error.what:
            return f"{error.what}. Allowed: {error.allowed}. Cut the recording."
        if TOO_LONG not in error.what:
            return str(error)
        limit = f"{self.options.max_audio_seconds:g} s of audio in one request"
        return f"{error.what}. Allowed: {limit}. Cut the recording, or leave out earlier ones."
