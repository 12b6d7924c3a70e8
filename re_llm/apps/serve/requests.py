"""Requests on their way in: who may send them, and their bodies, whose memory is bounded."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from fastapi import Request
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from re_llm.apps.serve.options import ServeOptions
from re_llm.apps.serve.protocol import ApiError

PAUSE_SECONDS = 10.0  # between two pieces of a request
LARGEST_AT_ONCE = 8  # requests of the largest size whose bodies may be in memory together


def refusal(error: ApiError) -> JSONResponse:
    """The response that an error is told with."""
    headers = {429: {"Retry-After": "1"}, 503: {"Retry-After": "5"}, 401: {"WWW-Authenticate": "Bearer"}}
    return JSONResponse(error.body(), error.status, headers.get(error.status))


def authorise(request: Request, key: str | None) -> None:
    if key is None:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), key.encode()):
        raise ApiError(401, "this server needs its key: Authorization: Bearer KEY", code="invalid_api_key")


def refuse_foreign_page(request: Request, allowed: Collection[str]) -> None:
    """A browser sends a form of another site without asking; it names the site."""
    origin = request.headers.get("origin")
    if origin is not None and origin not in allowed and origin.partition("//")[2] != request.headers.get("host"):
        raise ApiError(403, "forms of other sites are not taken", code="foreign_origin")


class Bodies:
    """Bodies on their way in: the memory that all of them together may take is bounded."""

    def __init__(self, options: ServeOptions):
        self._limit, self._seconds = int(options.max_body_mb * 1e6), options.timeout_seconds
        self._held, self._most = 0, LARGEST_AT_ONCE * self._limit

    @asynccontextmanager
    async def read(self, request: Request, kind: str | None = "application/json") -> AsyncIterator[bytes]:
        """The body, read no further than the limit.

        Args:
            kind: its content type; None for any. A page of another site may send forms without asking, but not JSON.

        Raises:
            ApiError: 413 too large, 415 another content type, 408 too slow, 503 others take the memory.
        """
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind is not None and given != kind:
            raise ApiError(415, f"the body has to be declared as Content-Type: {kind}", code="unsupported_media_type")
        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                await self._fill(body, request)
            yield bytes(body)
        except ClientDisconnect:
            raise ApiError(499, "the client closed the connection", code="client_gone") from None
        except TimeoutError:
            raise ApiError(408, f"the request did not arrive within {self._seconds:g} s", code="timeout") from None
        finally:
            self._held -= len(body)

    async def _fill(self, body: bytearray, request: Request) -> None:
        too_large = ApiError(413, f"the request is larger than {self._limit / 1e6:g} MB", code="body_too_large")
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limit:
            raise too_large
        pieces = aiter(request.stream())
        while True:
            try:
                piece = await asyncio.wait_for(anext(pieces), min(PAUSE_SECONDS, self._seconds))
            except StopAsyncIteration:
                return
            except TimeoutError:
                message = f"nothing of the request arrived for {PAUSE_SECONDS:g} s"
                raise ApiError(408, message, code="timeout") from None
            body += piece
            self._held += len(piece)
            if len(body) > self._limit:
                raise too_large
            if self._held > self._most:
                raise ApiError(503, "too many large requests at once; try again in a moment", code="busy")
