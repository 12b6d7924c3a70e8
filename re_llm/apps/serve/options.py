"""Limits and names of a server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.llm.prompts import get_prompt

_ORIGIN = re.compile(r"https?://[^/\s*]+")


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
        rows: answers that are decoded together.
        queue_size: requests that wait for one of these to be complete; the next one gets 429.
        timeout_seconds: from the arrival of a request to the end of its answer.
        cors_origins: origins whose pages may use the API (`https://example.org`); no others may.
        whisper: what transcribes: folder, hub id or part; None = the Whisper that the checkpoint was made of.
    """

    name: str | None = None
    prompt: str = "chat-empathetic"
    api_key: str | None = None
    max_body_mb: float = 16.0
    max_audio_seconds: float = 60.0
    max_new_tokens: int = 256
    queue_size: int = 16
    rows: int = 16
    timeout_seconds: float = 120.0
    cors_origins: tuple[str, ...] = ()
    whisper: str | None = None

    def __post_init__(self) -> None:
        for field in ("max_body_mb", "max_audio_seconds", "max_new_tokens", "queue_size", "rows", "timeout_seconds"):
            if getattr(self, field) <= 0:
                raise RellmError(f"{field} is {getattr(self, field)}", allowed="more than 0")
        for origin in self.cors_origins:
            if not _ORIGIN.fullmatch(origin):
                raise RellmError(f"{origin!r} is no origin", allowed="https://HOST or http://HOST:PORT, without a path")
        if self.api_key is not None and not self.api_key.isascii():
            raise RellmError("the API key holds characters that a header cannot carry", allowed="ASCII")
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
