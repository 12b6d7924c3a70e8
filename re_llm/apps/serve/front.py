"""What listens before the replicas of `re-llm serve --engine ray`: gives requests to them, and answers to clients.

A request is read whole, within the limits of a server of its own, so that it can be given to a second replica when the
first one dies before it has answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from fastapi import Request
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.types import Message, Receive, Scope, Send

from re_llm.apps.serve.options import ServeOptions
from re_llm.apps.serve.protocol import ApiError, timed_out
from re_llm.apps.serve.replica import FIELDS
from re_llm.apps.serve.requests import Bodies, refusal
from re_llm.apps.serve.responses import failure

log = logging.getLogger(__name__)
TRIES = 2  # replicas that a request is given to; one that kills replicas shall not end them all


class Messages(Protocol):
    """ASGI messages of a replica's response, as they come; what Ray calls a DeploymentResponseGenerator."""

    def __aiter__(self) -> AsyncIterator[Message]: ...

    def cancel(self) -> None: ...


Ask = Callable[[Scope, bytes], Messages]  # gives a request to one of the replicas


class Front:
    """ASGI application that has its requests answered by replicas (`re_llm.apps.serve.replica`)."""

    def __init__(self, ask: Ask, options: ServeOptions):
        self._ask, self._options, self._bodies = ask, options, Bodies(options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http", scope["type"]
        response = _Response(send)
        try:
            async with self._bodies.read(Request(scope, receive), kind=None) as body:
                await self._answered(scope, body, receive, response)
        except ApiError as error:
            if not await response.fail(error):
                await refusal(error)(scope, receive, send)

    async def _answered(self, scope: Scope, body: bytes, receive: Receive, response: _Response) -> None:
        """Returns when the response is complete, or the client gone."""
        answered = asyncio.create_task(
            self._passed_on({name: scope[name] for name in FIELDS if name in scope}, body, response)
        )
        gone = asyncio.create_task(_gone(receive))
        try:
            seconds = self._options.timeout_seconds
            await asyncio.wait({answered, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                answered.result()
            elif not gone.done():
                raise timed_out(seconds)
        finally:
            for task in (answered, gone):
                task.cancel()
            await asyncio.wait({answered, gone})

    async def _passed_on(self, scope: Scope, body: bytes, response: _Response) -> None:
        for left in reversed(range(TRIES)):
            messages = self._ask(scope, body)
            try:
                async for message in messages:
                    await response.send(message)
                return
            except RayActorError:
                if not left or response.started:
                    lost = "the replica that was answering has died; ask again"
                    raise ApiError(503, lost, code="replica_lost") from None
            except BackPressureError:
                many = "too many requests are waiting already; try again in a moment"
                raise ApiError(429, many, code="queue_full") from None
            except (RayError, RayServeException) as error:
                log.error("%s while a replica was asked", type(error).__name__)
                raise ApiError(503, "no replica can answer; try again in a moment", code="no_replica") from None
            finally:
                messages.cancel()


class _Response:
    """A response on its way to a client. Nothing of it is sent before the first piece of its body is there."""

    def __init__(self, send: Send):
        self._send = send
        self._head: Message | None = None
        self._events = self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
            return
        if self._head is not None:
            head, self._head, self.started = self._head, None, True
            self._events = dict(head["headers"]).get(b"content-type", b"").startswith(b"text/event-stream")
            await self._send(head)
        await self._send(message)

    async def fail(self, error: ApiError) -> bool:
        """Tells the error in the middle of a response; False when it has not started, and can still be another one.

        A stream gets an event of the error; what else was begun is broken off.
        """
        if self._events:
            with contextlib.suppress(OSError):
                await self._send({"type": "http.response.body", "body": failure(error).encode(), "more_body": False})
        return self.started


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
