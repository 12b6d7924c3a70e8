"""Routes of the server: the API, health and metrics, and the page."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from re_llm.apps import web
from re_llm.apps.demo import listing, scenes
from re_llm.apps.serve import audio, openapi, protocol
from re_llm.apps.serve.connections import CrossOrigin, HostCheck
from re_llm.apps.serve.jobs import Done, Event, Job, Piece, Started
from re_llm.apps.serve.metrics import Metrics
from re_llm.apps.serve.options import ServeOptions
from re_llm.apps.serve.protocol import ApiError, timed_out
from re_llm.apps.serve.requests import Bodies, authorise, refusal
from re_llm.apps.serve.responses import Writer, failure
from re_llm.apps.serve.worker import Worker
from re_llm.core.errors import RellmError
from re_llm.inference.choice import TokenChoice
from re_llm.inference.conversation import ChatCompletion
from re_llm.inference.engine import Engine

POLL_SECONDS = 1.0  # between checks whether the client is still connected
PIECE_SECONDS = 0.04  # pieces of a stream that follow sooner are sent together: each costs the event loop a way through


def build(engine: Engine, options: ServeOptions, hosts: frozenset[str] | None = None) -> FastAPI:
    """The application over a loaded model. Its worker runs between startup and shutdown of the application.

    Args:
        hosts: names that it answers to (`connections.hosts_of`); None for all.
    """
    worker = Worker(engine, options)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.close)

    # FastAPI's pages of the schema would load scripts from other hosts; ours is `openapi`.
    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    name = options.model_id(engine.name)
    _add_errors(app)
    bodies = Bodies(options)
    _add_api(app, worker, name, bodies)
    audio.add(app, worker, name, bodies)
    openapi.add(app, name, options)
    _add_health(app, worker, name)
    _add_page(app, engine)
    if options.cors_origins:
        app.add_middleware(CrossOrigin, origins=options.cors_origins)
    app.add_middleware(HostCheck, hosts=hosts)
    app.add_middleware(_Counted, metrics=worker.metrics)
    return app


def _add_api(app: FastAPI, worker: Worker, name: str, bodies: Bodies) -> None:
    options, started = worker.options, int(time.time())

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        authorise(request, options.api_key)
        model = {"id": name, "object": "model", "created": started, "owned_by": "re-llm"}
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{wanted:path}")
    async def model(request: Request, wanted: str) -> dict[str, Any]:
        (found,) = (await models(request))["data"]
        if wanted != name:
            message = f"there is no model {wanted!r} here, only {name!r}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return dict(found)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        authorise(request, options.api_key)
        deadline = asyncio.get_running_loop().time() + options.timeout_seconds
        async with bodies.read(request) as body:
            # Decoding megabytes of base64 would block the event loop.
            chat = await asyncio.to_thread(protocol.parse, body, model=name, max_new_tokens=options.max_new_tokens)
        call = _Call(request, chat, deadline, options.timeout_seconds)
        worker.submit(call.job)
        writer = Writer(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), name, worker.engine.tokenizer.decode)
        with call.watched():
            first = await call.next()  # an unusable recording gives an error status, in streams too
        assert isinstance(first, Started), first
        if chat.stream:
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(_stream(call, writer, first), media_type="text/event-stream", headers=headers)
        answers: list[Done] = []
        tokens: list[list[TokenChoice]] = [[] for _ in range(chat.n)]
        with call.watched():
            while len(answers) < chat.n:
                event = await call.next()
                assert isinstance(event, Piece | Done), event
                tokens[event.index] += event.choices
                if isinstance(event, Done):
                    answers.append(event)
        answers.sort(key=lambda done: done.index)
        kept = [tokens[done.index][: done.kept] for done in answers]
        return JSONResponse(writer.completion(answers, kept, first))


async def _stream(call: _Call, writer: Writer, first: Started) -> AsyncIterator[str]:
    request = call.job.request
    done: list[ChatCompletion] = []
    try:
        yield writer.opening(first, request.n)
        while len(done) < request.n:
            chunks = []
            for event in [await call.next(), *call.ready()]:
                if isinstance(event, Piece):
                    chunks.append(writer.piece(event))
                elif isinstance(event, Done):
                    done.append(event.completion)
                    chunks.append(writer.end(event))
            if len(done) == request.n:
                chunks += writer.closing(done, request.usage)
            yield "".join(chunks)
    except ApiError as error:
        yield failure(error)
    finally:  # also when the client has gone
        call.job.cancelled.set()


class _Call:
    """A job and its events in the event loop."""

    def __init__(self, request: Request, chat: protocol.ChatRequest, deadline: float, timeout: float):
        self._request, self._deadline, self._timeout = request, deadline, timeout
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._more = asyncio.Event()
        self._told = float("-inf")  # when the loop was woken for a piece
        self.job = Job(chat, self._emit)

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        if isinstance(event, Piece):
            now = time.monotonic()
            if now - self._told < PIECE_SECONDS:
                return  # told with the next one, or with the end
            self._told = now
        try:
            self._loop.call_soon_threadsafe(self._more.set)
        except RuntimeError:  # the loop was closed in the middle of an answer
            self.job.cancelled.set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Cancels the job when the body raises, or its task is cancelled."""
        try:
            yield
        except BaseException:
            self.job.cancelled.set()
            raise

    async def next(self) -> Event:
        """The next event.

        Raises:
            ApiError: the job failed, it took too long (504), or the client is gone (499).
        """
        while not self._events:
            self._more.clear()
            left = self._deadline - self._loop.time()
            if left <= 0:
                raise timed_out(self._timeout)
            try:
                async with asyncio.timeout(min(left, POLL_SECONDS)):
                    await self._more.wait()
            except TimeoutError:
                if await self._request.is_disconnected():
                    raise ApiError(499, "the client closed the connection", code="client_gone") from None
        event = self._events.popleft()
        if isinstance(event, ApiError):
            raise event
        return event

    def ready(self) -> Iterator[Event]:
        """Further events that are there, up to an error, which `next` raises."""
        while self._events and not isinstance(self._events[0], ApiError):
            yield self._events.popleft()


def _add_errors(app: FastAPI) -> None:
    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return refusal(error)

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse(ApiError(error.status_code, str(error.detail)).body(), error.status_code, error.headers)

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)


def _add_health(app: FastAPI, worker: Worker, name: str) -> None:
    @app.api_route("/healthz", methods=["GET", "HEAD"])  # balancers ask for the head alone
    async def healthz() -> Response:
        status = {"status": "ok" if worker.alive else "stopping", "model": name}
        return JSONResponse(status, 200 if worker.alive else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        return Response(worker.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI, engine: Engine) -> None:
    examples = _examples(engine)

    @app.api_route("/", methods=["GET", "HEAD"])
    async def page() -> Response:
        return HTMLResponse(
            web.page(), headers={"Content-Security-Policy": web.POLICY, "Referrer-Policy": "no-referrer"}
        )

    @app.get("/examples")
    async def list_examples() -> list[dict[str, str | None]]:
        """Recordings to try: those of the demo, for the models that ship. `reference` is null where nobody knows it."""
        return [{"name": file.name, **about} for file, about in examples.values()]

    @app.get("/examples/{name}")
    async def example(name: str) -> Response:
        if name not in examples:
            raise ApiError(404, "there is no such example")
        return FileResponse(examples[name][0], media_type="audio/flac")


def _examples(engine: Engine) -> dict[str, tuple[Path, dict[str, str | None]]]:
    try:
        (scene,) = scenes(str(engine.name))
        entries = listing(scene)
    except RellmError:  # a model of somebody's own, or a custom miniature that was built without them
        return {}
    files = {str(entry["recording"]): entry for entry in entries}
    return {
        name: (scene.folder / name, {field: entry[field] for field in ("sentence", "reference", "speaker")})
        for name, entry in files.items()
        if (scene.folder / name).is_file()
    }


class _Counted:
    """ASGI middleware that counts responses by route and status; paths without a route share one name."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def count(status: int) -> None:
            # The router leaves the route in the scope: its path is a template, without what a client wrote.
            self._metrics.requests.labels(getattr(scope.get("route"), "path", "other"), status).inc()

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception:
            count(500)
            raise
