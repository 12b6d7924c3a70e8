"""`POST /v1/audio/emotions` and `/v1/audio/transcriptions`: what is heard in one recording, sent as a form."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from re_llm.apps.serve.jobs import unusable
from re_llm.apps.serve.options import ServeOptions
from re_llm.apps.serve.protocol import ApiError, timed_out
from re_llm.apps.serve.requests import Bodies, authorise, refuse_foreign_page
from re_llm.audio import waveform
from re_llm.audio.windows import windows
from re_llm.core.errors import RellmError
from re_llm.core.subtitles import Cue, srt, vtt
from re_llm.inference.encoding import WINDOW_SECONDS
from re_llm.inference.engine import Engine
from re_llm.inference.transcribe import Transcriber

if TYPE_CHECKING:
    from re_llm.apps.serve.worker import Worker

NAME = "the recording"  # in messages
TEXT_FORMATS = ("json", "verbose_json", "text", "srt", "vtt")
EMOTION_FIELDS = ("file", "model", "trajectory", "window")
TRANSCRIPTION_FIELDS = ("file", "model", "response_format", "temperature", "stream", "timestamp_granularities[]")
T = TypeVar("T")
MAX_FIELDS = 16
_BOUNDARY = re.compile(r'boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
_NAME = re.compile(rb'content-disposition:[^\r\n]*\bname="([^"\r\n]{1,100})"', re.IGNORECASE)


def form_fields(body: bytes, content_type: str) -> dict[str, bytes]:
    """The fields of a multipart/form-data body.

    Raises:
        ApiError: 400, it is none.
    """
    boundary = _BOUNDARY.search(content_type)
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary[1].encode()) if boundary else []
    fields: dict[str, bytes] = {}
    for part in parts[1 : MAX_FIELDS + 1]:
        head, found, value = part.partition(b"\r\n\r\n")
        name = _NAME.search(head)
        if found and name:
            key = name[1].decode("utf-8", "replace")
            if key in fields and not key.endswith("[]"):  # a list comes as a field for each of its values
                raise ApiError(400, f"the form has two fields {key[:64]}", param=key[:64], code="invalid_form")
            fields[key] = fields[key] + b"," + value if key in fields else value
    if not fields:
        raise ApiError(400, "the body is no multipart/form-data with named fields", code="invalid_form")
    return fields


@dataclass
class _Work:
    """Work on single recordings, one after another; what may wait for it is bounded.

    Attributes:
        transcriber: loaded at the first request for a transcript.
    """

    engine: Engine
    options: ServeOptions
    waiting: int = 0
    transcriber: Transcriber | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    async def run(self, work: Callable[[], T]) -> T:
        """What `work` returns, in a thread.

        Raises:
            ApiError: 429 when as many wait as may, 504 when it takes too long.
        """
        if self.waiting >= self.options.queue_size:
            raise ApiError(429, f"{self.waiting} recordings are waiting already", code="queue_full")
        self.waiting += 1
        given_up = threading.Event()
        task = asyncio.create_task(asyncio.to_thread(self._alone, work, given_up))
        task.add_done_callback(self._done)
        seconds = self.options.timeout_seconds
        try:
            return await asyncio.wait_for(asyncio.shield(task), seconds)
        except TimeoutError:
            raise timed_out(seconds) from None
        finally:
            given_up.set()

    def _done(self, task: asyncio.Task[object]) -> None:
        self.waiting -= 1
        if not task.cancelled():
            task.exception()  # nobody may be left who asks for it

    def _alone(self, work: Callable[[], T], given_up: threading.Event) -> T:
        with self.lock:
            if given_up.is_set():
                raise timed_out(self.options.timeout_seconds)
            return work()

    def load(self) -> Transcriber:
        """The Whisper that transcribes.

        Raises:
            ApiError: 501, there is none.
        """
        if self.transcriber is None:
            source = self.options.whisper or self.engine.model.component_sources["speech_encoder"]
            try:
                if source is None:
                    raise RellmError("the checkpoint holds an encoder of Whisper alone")
                self.transcriber = Transcriber.load(source, device=str(self.engine.device))
            except RellmError as error:
                message = f"this server cannot transcribe: {error.what}. Its option --whisper names a complete Whisper"
                raise ApiError(501, message, code="not_available") from None
        return self.transcriber


def add(app: FastAPI, worker: Worker, name: str, bodies: Bodies) -> None:
    """Adds both routes."""
    work = _Work(worker.engine, worker.options)

    async def fields_of(request: Request, known: tuple[str, ...]) -> dict[str, bytes]:
        authorise(request, work.options.api_key)
        refuse_foreign_page(request, work.options.cors_origins)
        async with bodies.read(request, "multipart/form-data") as body:
            fields = form_fields(body, request.headers["content-type"])
        _check(fields, known, name)
        return fields

    @app.post("/v1/audio/emotions")
    async def audio_emotions(request: Request) -> Response:
        fields = await fields_of(request, EMOTION_FIELDS)
        return JSONResponse(await work.run(lambda: emotion(work.engine, fields, work.options.max_audio_seconds)))

    @app.post("/v1/audio/transcriptions")
    async def audio_transcriptions(request: Request) -> Response:
        fields = await fields_of(request, TRANSCRIPTION_FIELDS)
        form = _chosen(fields, "response_format", TEXT_FORMATS)
        wave = await asyncio.to_thread(_loaded, fields["file"], work.options.max_audio_seconds)
        cues = await work.run(lambda: transcript(work.load(), wave))
        return _written(form, cues, len(wave) / waveform.RATE)


def _check(fields: Mapping[str, bytes], known: tuple[str, ...], name: str) -> None:
    """Refuses a form without a recording, of another model, or with a field that would change the answer."""
    if "file" not in fields:
        raise ApiError(400, "the form has no field `file`, the recording", param="file")
    for field_name, value in fields.items():
        if field_name not in known and value:
            message = f"{field_name[:64]} is not supported here"
            raise ApiError(400, message, param=field_name[:64], code="unsupported_parameter")
    wanted = _text(fields, "model")
    if wanted not in ("", name):
        message = f"there is no model {wanted!r} here, only {name!r}"
        raise ApiError(404, message, param="model", code="model_not_found")
    if _text(fields, "temperature") not in ("", "0", "0.0"):
        raise ApiError(400, "temperature may be 0: transcripts are greedy", param="temperature")
    if _text(fields, "stream") not in ("", "false", "False"):
        raise ApiError(400, "stream is not supported here", param="stream", code="unsupported_parameter")

    times = _text(fields, "timestamp_granularities[]")
    if not set(times.split(",")) <= {"", "segment"}:
        message = f"timestamp_granularities is {times[:64]!r}; it may be segment: words have no times here"
        raise ApiError(400, message, param="timestamp_granularities", code="unsupported_parameter")


def _text(fields: Mapping[str, bytes], name: str) -> str:
    return fields.get(name, b"").decode("utf-8", "replace").strip()


def _chosen(fields: Mapping[str, bytes], name: str, allowed: tuple[str, ...]) -> str:
    given = _text(fields, name) or allowed[0]
    if given not in allowed:
        raise ApiError(400, f"{name} is {given!r}; it may be {', '.join(allowed)}", param=name)
    return given


def _loaded(data: bytes, max_seconds: float) -> waveform.Samples:
    """Samples of an encoded file.

    Raises:
        ApiError: 400, it cannot be used.
    """
    try:
        return waveform.refuse_silence(waveform.load(data, max_seconds=max_seconds), NAME)
    except RellmError as error:
        raise unusable(error, str(error), "file") from None


def emotion(engine: Engine, fields: Mapping[str, bytes], max_seconds: float) -> dict[str, Any]:
    """The emotion of an encoded file, its length, and the windows of a long one, or those that were asked for.

    Raises:
        ApiError: 400, it cannot be used.
    """
    wave = _loaded(fields["file"], max_seconds)
    asked = _chosen(fields, "trajectory", ("false", "true", "False", "True")).lower() == "true"
    window = _text(fields, "window")
    try:
        seconds = float(window) if window else None
    except ValueError:
        raise ApiError(400, f"window is {window[:64]!r}; it may be a number of seconds", param="window") from None
    try:
        estimate = engine.trajectory(wave, window=seconds)
    except RellmError as error:
        raise ApiError(400, str(error), param="window" if window else "file") from None
    found = {"duration": round(len(wave) / waveform.RATE, 3), **estimate.predictions()}
    if asked or len(estimate.trajectory) > 1:
        found["trajectory"] = [moment.predictions() for moment in estimate.trajectory]
    return found


def transcript(transcriber: Transcriber, wave: waveform.Samples) -> list[Cue]:
    """The words of a recording, window by window."""
    spans = windows(wave, WINDOW_SECONDS)
    texts = transcriber.transcribe([wave[first:last] for first, last in spans])
    rate = waveform.RATE
    return [Cue(first / rate, last / rate, text) for (first, last), text in zip(spans, texts, strict=True) if text]


def _written(form: str, cues: list[Cue], seconds: float) -> Response:
    if form in ("srt", "vtt"):
        return PlainTextResponse((srt if form == "srt" else vtt)(cues))
    text = " ".join(cue.text for cue in cues)
    if form == "text":
        return PlainTextResponse(text + "\n")
    if form == "json":
        return JSONResponse({"text": text})
    segments = [
        {"id": i, "start": round(cue.start, 3), "end": round(cue.end, 3), "text": cue.text}
        for i, cue in enumerate(cues)
    ]
    about = {"task": "transcribe", "language": "und", "duration": round(seconds, 3)}  # und: not determined
    return JSONResponse({**about, "text": text, "segments": segments})
