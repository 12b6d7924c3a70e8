"""`re-llm serve`: one model behind an OpenAI-compatible HTTP API and a page for the browser.

Audio and texts live in memory for the length of a request: nothing is kept, logged or fetched from elsewhere.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from re_llm.apps.serve.options import ServeOptions
from re_llm.core.errors import MissingExtra, RellmError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

SHUTDOWN_SECONDS = 30  # for running requests when the server is stopped


def require() -> None:
    """Raises MissingExtra when a package of the extra is not installed."""
    for package in ("fastapi", "prometheus_client", "uvicorn"):
        with MissingExtra.unless(package, "serve", "re-llm serve"):
            __import__(package)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        RellmError: the address or port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RellmError(
            f"cannot listen on {host}, port {port}: {reason}", todo="Name another one with --host or --port"
        ) from None


def _share_cores() -> None:
    """Encoding and decoding run at once, each in a thread of its own, and share the cores."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // 2))


def make_app(
    model: str,
    options: ServeOptions,
    hosts: frozenset[str] | None,
    *,
    device: str,
    dtype: str,
    quantize: str | None = None,
) -> FastAPI:
    """Loads the model and makes the application over it; see `re_llm.apps.serve.app.build`."""
    from re_llm.apps.serve.app import build
    from re_llm.inference.engine import load

    _share_cores()
    return build(load(model, device=device, dtype=dtype, quantize=quantize), options, hosts)


def answer(app: ASGIApp, listener: socket.socket, lifespan: Literal["on", "off"] = "on") -> None:
    """Answers the connections of a socket until interrupted; running requests are finished.

    Args:
        lifespan: whether the app has one, in ASGI's sense.
    """
    import uvicorn

    from re_llm.apps.serve.connections import Connection

    config = uvicorn.Config(
        app,
        lifespan=lifespan,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        http=Connection,
        ws="none",
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


def run(
    model: str,
    options: ServeOptions,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str,
    dtype: str,
    quantize: str | None = None,
    names: Sequence[str] = (),
) -> None:
    """Loads the model and serves it until interrupted; running requests are finished.

    Args:
        names: host names it answers to beside its address.
    """
    require()
    listener = listen(host, port)  # a port in use is reported before the model is loaded, which takes seconds
    with listener:
        from re_llm.apps.serve.connections import hosts_of

        app = make_app(model, options, hosts_of(host, names), device=device, dtype=dtype, quantize=quantize)
        answer(app, listener)
