"""Options of the commands that ask a model behind an OpenAI-compatible server."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from re_llm.llm.server import ChatServer

_remote = partial(typer.Option, rich_help_panel="More: a server")

Server = Annotated[str | None, _remote(metavar="URL", help="OpenAI-compatible server: http://HOST:PORT/v1.")]
ServerModel = Annotated[str | None, _remote("--model", help="Name of the model at the server.")]
Concurrency = Annotated[int, _remote(min=1, help="Requests at once.")]
Rate = Annotated[float | None, _remote(help="Requests a minute, at most.")]
Timeout = Annotated[float, _remote(help="Seconds for one request.")]
Tries = Annotated[int, _remote(min=1, help="Tries of a row before it is dropped, or the run stops.")]
KeyEnv = Annotated[str | None, _remote(metavar="NAME", help="Environment variable with the key: OPENAI_API_KEY, ...")]


def chat_server(
    url: str, model: str, concurrency: int, rate: float | None, timeout: float, tries: int, key_env: str | None
) -> ChatServer:
    """The server that these options name.

    Raises:
        RellmError: an option is wrong, or the variable of the key is not set.
    """
    from re_llm.llm.server import ChatServer
    from re_llm.llm.server_options import ServerOptions, key_from

    return ChatServer(ServerOptions(url, model, concurrency, rate, timeout, tries, key=key_from(key_env)))
