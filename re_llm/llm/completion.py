"""What a text LLM answers, and what it must be able to do, whether it runs in this process or behind a server.

No torch here: the client of a server does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from re_llm.llm.prompts import Prompt


@dataclass(frozen=True)
class Completion:
    """What an LLM said. `finish_reason` is "stop" when it ended by itself, "length" when it was cut.

    `refused` names why there is no answer to this row (a server's limit of context, its content filter); else None.
    """

    text: str
    tokens: int
    finish_reason: str
    refused: str | None = None


class TextLlm(Protocol):
    """Answers rows of text: `chat_llm.ChatLlm` here, `chat_server.ChatServer` elsewhere."""

    name: str

    def answer(
        self,
        rows: Sequence[tuple[Prompt, str]],
        *,
        max_new_tokens: int = 128,
        batch_size: int = 16,
        on_batch: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """Answers to (prompt, content) rows, in their order; `on_batch` hears how many more are done."""
        ...


class Trimmer:
    """Takes white space off the ends of a text that comes in pieces: what `read_answers` cuts off as well."""

    def __init__(self) -> None:
        self._begun, self._held = False, ""

    def feed(self, piece: str) -> str:
        """The text that may be shown now; white space is held back until something follows it."""
        text = self._held + piece if self._begun else piece.lstrip()
        shown = text.rstrip()
        self._held = text[len(shown) :]
        self._begun = self._begun or bool(shown)
        return shown
