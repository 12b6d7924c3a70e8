"""Jobs that wait are answered together, and none for the fault of another."""

from __future__ import annotations

import io
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny_world

pytest.importorskip("prometheus_client")

from re_llm.apps.serve import worker as worker_module
from re_llm.apps.serve.jobs import Done, Event, Job, Piece, Started
from re_llm.apps.serve.options import ServeOptions
from re_llm.apps.serve.protocol import ApiError, ChatRequest, Recording
from re_llm.apps.serve.worker import Worker
from re_llm.inference import engine
from re_llm.inference.decoding import Decoding
from re_llm.inference.estimate import EncodedSpeech

WAVES = [tiny_world.wave(seconds, seed) for seed, seconds in enumerate((1.2, 1.0, 3.5, 1.1))]
TOKENS = 8
SHORT = Decoding(TOKENS)


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> engine.Engine:
    return engine.load(tiny_checkpoint, device="cpu")


class Asked:
    """A job and its events."""

    def __init__(self, part: str | np.ndarray | bytes, decoding: Decoding = SHORT, n: int = 1):
        self._events: queue.Queue[Event] = queue.Queue()
        if isinstance(part, np.ndarray):
            file = io.BytesIO()
            soundfile.write(file, part, 16_000, format="WAV", subtype="FLOAT")
            part = file.getvalue()
        given = part if isinstance(part, str) else Recording(part, "messages.0.content.0.input_audio.data")
        turns = (("user", (given,)),)
        self.job = Job(ChatRequest(turns, None, decoding, stream=False, usage=False, n=n), self._events.put)

    def results(self) -> list[str]:
        """The answers of a job that has several."""
        found: dict[int, str] = {}
        while len(found) < self.job.request.n:
            event = self._events.get(timeout=60)
            assert isinstance(event, Started | Piece | Done), event
            if isinstance(event, Done):
                found[event.index] = event.completion.text
        return [found[i] for i in sorted(found)]

    def result(self) -> str | ApiError:
        pieces = []
        while not isinstance(event := self._events.get(timeout=60), Done | ApiError):
            assert isinstance(event, Started | Piece)
            if isinstance(event, Piece):
                pieces.append(event.text)
        if isinstance(event, Done):
            assert "".join(pieces) == event.completion.text
            return event.completion.text
        return event


@contextmanager
def working(loaded: engine.Engine, asked: Sequence[Asked], **options: int) -> Iterator[Worker]:
    """A worker that starts when all jobs wait."""
    worker = Worker(loaded, ServeOptions(**options))
    for each in asked:
        worker._jobs.put(each.job)
    worker.start()
    try:
        yield worker
    finally:
        worker.close()


Encode = Callable[..., list[EncodedSpeech]]


@pytest.fixture
def passes(loaded: engine.Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of recordings in each pass of the encoders."""
    found: list[int] = []
    original: Encode = loaded.encode

    def encode(samples: Sequence[np.ndarray], **options: float) -> list[EncodedSpeech]:
        found.append(len(samples))
        return original(samples, **options)

    monkeypatch.setattr(loaded, "encode", encode)
    return found


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_recordings_that_wait_are_encoded_together(
    loaded: engine.Engine, passes: list[int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "ON_A_PROCESSOR", 2)
    monkeypatch.setattr(Worker, "_help", lambda self: False)  # one thread encodes: the passes come in one order
    expected = [loaded.respond(wave, prompt="chat-empathetic", max_new_tokens=TOKENS).response for wave in WAVES]
    passes.clear()
    asked = [Asked(wave) for wave in WAVES]
    with working(loaded, asked, rows=rows):
        assert [each.result() for each in asked] == expected
    # The long one goes alone: the others would be padded to three times their length.
    assert passes == {1: [1, 1, 1, 1], 3: [2, 1, 1], 16: [2, 1, 1]}[rows]


@pytest.mark.parametrize("rows", [2, 16])
def test_the_thread_that_decodes_encodes_while_requests_wait(
    loaded: engine.Engine, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never waits for a place in the batch, which nobody else would free, and owes those it takes beyond."""
    helped = set()
    original = Worker._encode_all

    def encode_all(self: Worker, jobs: Sequence[Job], *, wait: bool = True) -> None:
        helped.update([(wait, threading.current_thread().name)] if jobs else [])
        original(self, jobs, wait=wait)

    monkeypatch.setattr(Worker, "_encode_all", encode_all)
    expected = [loaded.respond(wave, prompt="chat-empathetic", max_new_tokens=TOKENS).response for wave in WAVES]
    asked = [Asked(wave, n=3) for wave in [*WAVES, *WAVES, *WAVES]]
    with working(loaded, asked, rows=rows) as worker:
        found = [each.results() for each in asked]
        assert found == [[text] * 3 for text in expected * 3]
        worker.close()
        assert worker._owed == 0 and worker._free._value == rows
    assert helped == {(True, "re-llm-encode"), (False, "re-llm-decode")}


def test_nobody_fails_for_the_recording_of_somebody_else(
    loaded: engine.Engine, passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [Asked(WAVES[0]), Asked(b"no recording"), Asked("hello"), Asked(WAVES[1]), Asked(WAVES[3])]
    counted: Encode = loaded.encode
    spoiled = len(loaded.samples(WAVES[1]))

    def encode(samples: Sequence[np.ndarray], **options: float) -> list[EncodedSpeech]:
        if any(len(each) == spoiled for each in samples):
            raise RuntimeError("out of memory")
        return counted(samples, **options)

    monkeypatch.setattr(loaded, "encode", encode)
    with working(loaded, asked):
        first, unusable, text, broken, last = (each.result() for each in asked)
    assert isinstance(unusable, ApiError) and unusable.status == 400
    assert isinstance(broken, ApiError) and broken.status == 500
    assert all(isinstance(each, str) and each for each in (first, text, last))


def test_a_job_that_was_given_up_does_not_take_a_place(loaded: engine.Engine) -> None:
    gone, asked = Asked("hello"), Asked("hello")
    gone.job.cancelled.set()
    with working(loaded, [gone, asked], rows=1):
        assert isinstance(asked.result(), str)
    assert isinstance(gone.result(), ApiError)


def test_a_stream_that_nobody_reads_ends_at_the_next_token(loaded: engine.Engine) -> None:
    passes: list[int] = []
    at: list[int] = []
    asked = Asked("hello", Decoding(200, temperature=2.0, seed=1))
    emit = asked.job.emit

    def leave(event: Event) -> None:
        if isinstance(event, Piece) and not at:
            asked.job.cancelled.set()
            at.append(len(passes))
        emit(event)

    asked.job.emit = leave
    hook = loaded.model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        with working(loaded, [asked]):
            assert isinstance(asked.result(), ApiError)
    finally:
        hook.remove()
    assert at == [len(passes)]
