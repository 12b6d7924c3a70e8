"""What a text LLM answers, and the interface of one, in this process or behind a server. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from re_llm.llm.prompts import Prompt


@dataclass(frozen=True)
class Completion:
    """An answer of an LLM; without arguments that of an LLM that was not called.

    Attributes:
        finish_reason: "stop", or "length" when it ended at the token limit.
        refused: why there is no answer to this row (a server's context length, its content filter); else None.
        detail: what the server wrote about that.
        prompt_tokens: tokens of the row it answers; 0 where a server does not count them.
        model: name of the model that a server gives with its answer, which may be more precise than the one asked for.
    """

    text: str = ""
    tokens: int = 0
    finish_reason: str = "stop"
    refused: str | None = None
    detail: str | None = None
    model: str | None = None
    prompt_tokens: int = 0


class TextLlm(Protocol):
    """Answers rows of text: `local.ChatLlm` in this process, `server.ChatServer` behind an address."""

    name: str

    def answer(
        self,
        rows: Sequence[tuple[Prompt, str]],
        *,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Answers to (prompt, content) rows, in their order; `on_batch` is called with the number of new ones."""
        ...
