"""`re-llm serve`: one model behind an OpenAI-compatible HTTP API and a page for the browser.

Audio and texts live in memory for the length of a request: nothing is kept, logged or fetched from elsewhere.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

from re_llm.errors import MissingExtra, RellmError
from re_llm.prompts import get_prompt

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHUTDOWN_SECONDS = 30  # for requests under way when the server is told to stop
CONNECTIONS = 64  # at once: bounds the memory that bodies on their way in can take


@dataclass(frozen=True)
class ServeOptions:
    """Limits and names of a server.

    Attributes:
        name: id of the model in the API; None = its hub id, or the name of its folder.
        prompt: id of the prompt whose system text is used when a request brings none.
        api_key: needed as `Authorization: Bearer KEY` for /v1; None = no key.
        max_body_mb: largest request, in MB (10^6 bytes; base64 takes a third more than the recording).
        max_audio_seconds: of all recordings of one request together.
        max_new_tokens: longest answer, whatever a request asks for.
        queue_size: requests that wait while one is answered; the next one gets 429.
        timeout_seconds: from the arrival of a request to the end of its answer.
    """

    name: str | None = None
    prompt: str = "chat-empathetic"
    api_key: str | None = None
    max_body_mb: float = 16.0
    max_audio_seconds: float = 60.0
    max_new_tokens: int = 256
    queue_size: int = 16
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        for field in ("max_body_mb", "max_audio_seconds", "max_new_tokens", "queue_size", "timeout_seconds"):
            if getattr(self, field) <= 0:
                raise RellmError(f"{field} is {getattr(self, field)}", allowed="more than 0")
        if self.api_key is not None and not self.api_key.isascii():
            raise RellmError("the API key holds letters that a header cannot carry", allowed="ASCII")
        if self.api_key == "":
            raise RellmError("the API key is empty", todo="Leave the option out for a server without a key")
        prompt = get_prompt(self.prompt)
        if prompt.before or prompt.after:
            raise RellmError(
                f"prompt {self.prompt!r} puts text around every recording", allowed="chat, chat-empathetic"
            )

    def model_id(self, loaded: str) -> str:
        """The name that clients see; of a local checkpoint never the path."""
        return self.name or (Path(loaded).resolve().name if Path(loaded).exists() else loaded)


def require() -> None:
    """Raises MissingExtra when a package of the extra is not there."""
    for package in ("fastapi", "uvicorn"):
        try:
            __import__(package)
        except ImportError:
            raise MissingExtra(package, "serve", "re-llm serve") from None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        RellmError: the address or port cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RellmError(
            f"cannot listen on {host}, port {port}: {reason}", todo="Name another one with --host or --port"
        ) from None


def run(
    model: str,
    options: ServeOptions,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str,
    dtype: str,
    quantize: str | None = None,
) -> None:
    """Loads the model and serves it until interrupted; requests under way are finished."""
    require()
    listener = listen(host, port)  # told before the model is loaded, which takes seconds
    with listener:
        import uvicorn

        from re_llm.engine import load
        from re_llm.serve.app import build

        app = build(load(model, device=device, dtype=dtype, quantize=quantize), options)
        config = uvicorn.Config(
            app,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            limit_concurrency=CONNECTIONS,
            server_header=False,
        )
        uvicorn.Server(config).run(sockets=[listener])
