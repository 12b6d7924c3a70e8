"""One copy of the server's application in a process of a Ray cluster: a deployment of Ray Serve."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.types import Message, Scope

from re_llm.cluster.work import Home

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)
_HEALTH: Scope = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "GET",
    "scheme": "http",
    "path": "/healthz",
    "raw_path": b"/healthz",
    "query_string": b"",
    "root_path": "",
    "headers": [],
    "client": None,
    "server": None,
}
FIELDS = tuple(_HEALTH)  # of an ASGI scope, which are sent to a replica


class Replica:
    """Answers requests with an application of its own.

    Args:
        build: makes the application.
        home: where the command was given.
        folder: of the model, which this machine has to see; None = a name that is resolved here.
    """

    # Ray Serve awaits it. The application's end is that of the process, which comes when no request runs any more.
    async def __init__(self, build: Callable[[], FastAPI], home: Home, folder: Path | None) -> None:  # type: ignore[misc]
        home.enter(folder)
        self._app = build()
        self._lifespan = self._app.router.lifespan_context(self._app)
        await self._lifespan.__aenter__()

    async def check_health(self) -> None:
        """Raises RuntimeError, upon which Ray Serve replaces this replica, when its threads have ended."""
        async for message in self.answer(_HEALTH, b""):
            if message["type"] == "http.response.start" and message["status"] != 200:
                raise RuntimeError("the threads that own the model have ended")

    async def answer(self, scope: Scope, body: bytes) -> AsyncIterator[Message]:
        """Messages of the application's response, as they come; closing the iterator ends the request's work."""
        messages: asyncio.Queue[Message | None] = asyncio.Queue()
        request = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Message:
            for part in request:
                return part
            return await asyncio.Future()  # a client that goes away ends the task

        async def answered() -> None:
            try:
                await self._app({**scope}, receive, messages.put)
            except Exception as error:
                # Its message might quote a user's text, so only its type and place are logged.
                where = "".join(traceback.format_tb(error.__traceback__))
                log.error("%s while answering\n%s", type(error).__name__, where)
            finally:
                messages.put_nowait(None)

        task = asyncio.create_task(answered())
        try:
            while (message := await messages.get()) is not None:
                yield message
        finally:
            task.cancel()
