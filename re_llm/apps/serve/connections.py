"""What keeps a stranger's connections from stopping the server: time to send a request, and names it is reached by."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from re_llm.apps.serve.protocol import ApiError

HEADER_SECONDS = 10.0  # from the opening of a connection, or the end of a response, to the end of a request's header
MAX_CONNECTIONS = 512  # open at once; one that has not sent a request costs a file descriptor and a few kilobytes
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANY = ("0.0.0.0", "::", "")


class Connection(H11Protocol):
    """An HTTP connection that is closed when no request arrives in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.close()
        else:
            self._await_request()

    def handle_events(self) -> None:
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._await_request()  # before the next request is read, which may be there already
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_request(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def hosts_of(bound: str, names: Collection[str] = ()) -> frozenset[str]:
    """Values of the header Host that a server bound to an address answers to, without ports.

    A page of another site can reach this machine under its own name (DNS rebinding), never under these.

    Args:
        bound: an address that stands for all of the machine's (0.0.0.0) allows every address, as `*`.
        names: further ones, a proxy's for instance.
    """
    found = {name.lower() for name in names} | set(LOOPBACK)
    if bound in ANY:
        return frozenset({*found, "*", socket.gethostname().lower()})
    return frozenset({*found, bound.lower()})


class CrossOrigin(CORSMiddleware):
    """ASGI middleware that lets pages of some other origins use the API."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]):
        super().__init__(app, origins, ["GET", "POST"], ["Authorization", "Content-Type"])


class HostCheck:
    """ASGI middleware that refuses requests to another host with 421.

    Args:
        hosts: see `hosts_of`; None answers to every name.
    """

    def __init__(self, app: ASGIApp, hosts: frozenset[str] | None):
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._hosts is not None:
            given = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
            if not self._known(given, self._hosts):
                message = f"this server does not answer to the name {given[:100]!r}; --host-name allows it"
                response = JSONResponse(ApiError(421, message, code="wrong_host").body(), 421)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)

    @staticmethod
    def _known(given: str, hosts: frozenset[str]) -> bool:
        host = given.lower()
        host = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
        if host in hosts:
            return True
        try:
            return "*" in hosts and ipaddress.ip_address(host) is not None
        except ValueError:
            return False
