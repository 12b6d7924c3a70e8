"""What listens before the replicas of a server: a request reaches one of them, or another one when that one dies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("ray.serve", reason="the extra `serve-ray` is not installed", exc_type=ImportError)

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from re_llm.apps.serve.front import TRIES, Front
from re_llm.apps.serve.options import ServeOptions
from re_llm.apps.serve.replica import Replica
from re_llm.cluster.work import Home
from re_llm.core.errors import RellmError

OPTIONS = ServeOptions(max_body_mb=0.01, timeout_seconds=2.0)


class Messages:
    """Of a replica that dies after some of them."""

    def __init__(self, messages: AsyncIterator[dict[str, Any]], die_after: int | None, error: Exception):
        self._messages, self._left, self._error = messages, die_after, error
        self.cancelled = False

    def __aiter__(self) -> Messages:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._left == 0:
            raise self._error
        self._left = None if self._left is None else self._left - 1
        return await anext(self._messages)

    def cancel(self) -> None:
        self.cancelled = True


class Cluster:
    """Replicas of one application in this process; `deaths` says after how many messages each request's one dies."""

    def __init__(self, *deaths: int | None, error: Exception | None = None):
        self._deaths: Iterator[int | None] = iter(deaths)
        self._error = error or RayActorError()
        self.asked: list[Messages] = []
        self.running = asyncio.Event()

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/echo")
        async def echo(request: Request) -> dict[str, str]:
            return {"body": (await request.body()).decode(), "key": request.headers.get("authorization", "")}

        @app.get("/words")
        async def words() -> StreamingResponse:
            async def written() -> AsyncIterator[str]:
                for word in ("one", "two", "three"):
                    yield f"data: {word}\n\n"

            return StreamingResponse(written(), media_type="text/event-stream")

        @app.get("/never")
        async def never() -> None:
            self.running.set()
            await asyncio.Event().wait()

        @app.get("/healthz")
        async def healthz() -> dict[str, str]:
            return {}

        return app

    async def _answer(self, scope: dict[str, Any], body: bytes) -> AsyncIterator[dict[str, Any]]:
        async for message in (await replica(self.app)).answer(scope, body):
            yield message

    def ask(self, scope: dict[str, Any], body: bytes) -> Messages:
        self.asked.append(Messages(self._answer(scope, body), next(self._deaths, None), self._error))
        return self.asked[-1]


async def replica(build: Callable[[], FastAPI], folder: Path | None = None) -> Replica:
    made = Replica.__new__(Replica)
    started: Awaitable[None] = made.__init__(build, Home(), folder)  # type: ignore[misc, func-returns-value, assignment]
    await started
    return made


def client(cluster: Cluster) -> TestClient:
    return TestClient(Front(cluster.ask, OPTIONS))


def test_a_replica_answers_as_its_application_does() -> None:
    cluster = Cluster()
    front, alone = client(cluster), TestClient(cluster.app())
    for ask in (
        lambda to: to.post("/echo?a=b", content=b"text", headers={"Authorization": "Bearer key"}),
        lambda to: to.get("/echo"),
        lambda to: to.get("/nothing"),
        lambda to: to.get("/words"),
    ):
        found, expected = ask(front), ask(alone)
        assert (found.status_code, found.content) == (expected.status_code, expected.content)
        assert dict(found.headers) == dict(expected.headers)
    assert all(messages.cancelled for messages in cluster.asked)  # and nothing goes on


@pytest.mark.parametrize("died_after", [0, 1])  # 1: the head of a response, which nobody has seen
def test_another_replica_answers_when_the_first_one_dies(died_after: int) -> None:
    cluster = Cluster(died_after)
    assert client(cluster).post("/echo", content=b"text").json()["body"] == "text"
    assert len(cluster.asked) == 2


def test_a_request_that_kills_replicas_is_not_given_to_all_of_them() -> None:
    cluster = Cluster(*[0] * 10)
    response = client(cluster).post("/echo", content=b"text")
    assert response.status_code == 503
    assert response.headers["retry-after"]
    assert response.json()["error"] == {
        "message": "the replica that was answering has died; ask again",
        "type": "server_error",
        "param": None,
        "code": "replica_lost",
    }
    assert len(cluster.asked) == TRIES


def test_a_stream_that_breaks_ends_in_an_error() -> None:
    cluster = Cluster(3)  # the head and two words
    *words, error = client(cluster).get("/words").text.removesuffix("\n\n").split("\n\n")
    assert words == ["data: one", "data: two"]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "replica_lost"
    assert len(cluster.asked) == 1  # the words have been said


def test_a_full_queue_is_told_as_a_servers_own() -> None:
    full = BackPressureError(num_queued_requests=1, max_queued_requests=1)
    response = client(Cluster(0, error=full)).post("/echo", content=b"text")
    assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
    assert response.headers["retry-after"]


def test_a_request_that_is_too_large_reaches_no_replica() -> None:
    cluster = Cluster()
    response = client(cluster).post("/echo", content=b"x" * 20_000)
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")
    assert not cluster.asked


def test_a_request_that_takes_too_long_is_given_up() -> None:
    cluster = Cluster()
    response = client(cluster).get("/never")
    assert (response.status_code, response.json()["error"]["code"]) == (504, "timeout")
    assert [messages.cancelled for messages in cluster.asked] == [True]


SCOPE = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
    "path": "/never", "raw_path": b"/never", "query_string": b"", "root_path": "", "headers": [], "client": None,
    "server": None,
}  # fmt: skip


def received(then: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[dict[str, Any]]]:
    """What a client sends: a request, and the end of its connection when `then` ends."""
    request = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> dict[str, Any]:
        for part in request:
            return part
        await then()
        return {"type": "http.disconnect"}

    return receive


def test_the_work_ends_when_the_client_goes() -> None:
    cluster, sent = Cluster(), []

    async def run() -> None:
        cluster.running = asyncio.Event()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        receive = received(cluster.running.wait)
        await asyncio.wait_for(Front(cluster.ask, OPTIONS)(dict(SCOPE), receive, send), 1.5)

    asyncio.run(run())
    assert not sent
    assert [messages.cancelled for messages in cluster.asked] == [True]


def test_a_piece_is_sent_before_the_next_one_is_written() -> None:
    """Streams stay streams, through a replica and what listens before it."""
    seen: list[bytes] = []

    async def run() -> None:
        heard = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
            await asyncio.wait_for(heard.wait(), 1.5)
            await send({"type": "http.response.body", "body": b"second", "more_body": False})

        async def send(message: dict[str, Any]) -> None:
            if body := message.get("body"):
                seen.append(body)
                heard.set()

        one = await replica(lambda: FastAPI())
        one._app = app  # type: ignore[assignment]
        front = Front(lambda scope, body: Messages(one.answer(scope, body), None, RuntimeError()), OPTIONS)
        await front(dict(SCOPE), received(asyncio.Event().wait), send)

    asyncio.run(run())
    assert seen == [b"first", b"second"]


def test_a_replica_without_its_threads_is_ill() -> None:
    status = 200

    def build() -> FastAPI:
        app = FastAPI()

        @app.get("/healthz")
        async def healthz() -> Any:
            from fastapi import Response

            return Response(status_code=status)

        return app

    async def run() -> None:
        nonlocal status
        one = await replica(build)
        await one.check_health()
        status = 503
        with pytest.raises(RuntimeError, match="threads"):
            await one.check_health()

    asyncio.run(run())


def test_a_machine_without_the_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(RellmError, match=r"does not see .*missing"):
        asyncio.run(replica(FastAPI, tmp_path / "missing"))
