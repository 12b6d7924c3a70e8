"""Address and limits of an OpenAI-compatible server."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from re_llm.core.errors import RellmError


@dataclass(frozen=True)
class ServerOptions:
    """Address and limits of a server.

    Attributes:
        url: base address, up to and with `/v1`.
        model: name of the model, as the server calls it.
        concurrency: requests under way at once.
        rate: requests a minute, retries included; None for no limit.
        timeout: seconds for one request, from sending it to the last byte of its answer.
        tries: tries of one row before the run stops.
        pause: seconds before the second try; doubled for each further one, up to a minute.
        key: sent as bearer token; see `key_from`. Never shown or written.
    """

    url: str
    model: str
    concurrency: int = 32
    rate: float | None = None
    timeout: float = 120.0
    tries: int = 8
    pause: float = 0.5
    key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        at = urlsplit(self.url)
        if at.scheme not in ("http", "https") or not at.hostname or at.query or at.fragment:
            raise RellmError(
                f"{self.url!r} is not the address of a server", allowed="http://HOST:PORT/v1 or https://HOST/v1"
            )
        if at.username or at.password:
            raise RellmError("the address of the server holds a password", todo="Give the key with --key-env NAME")
        for name in ("concurrency", "timeout", "tries", "pause"):
            if not getattr(self, name) > 0:
                raise RellmError(f"{name} is {getattr(self, name)}", allowed="more than 0")
        if self.rate is not None and not self.rate > 0:
            raise RellmError(f"rate is {self.rate}", allowed="more than 0 requests a minute")


def key_from(variable: str | None) -> str | None:
    """The key that an environment variable holds; None when no variable is named.

    Raises:
        RellmError: it is not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise RellmError(f"the environment variable {variable} is not set", todo=f"Run: export {variable}=...")
    if not (key.isascii() and key.isprintable()):
        raise RellmError(f"the environment variable {variable} holds characters that a header cannot carry")
    return key
