"""How a response is decoded: plain values, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from re_llm.core.errors import RellmError
from re_llm.llm.length import QUESTION_TOKENS, Length


@dataclass(frozen=True)
class Decoding:
    """How a response is decoded.

    Attributes:
        max_new_tokens: most tokens of a response; fewer where the LLM's context ends before.
        temperature: 0 is greedy.
        top_p: sampling keeps the most probable tokens up to this cumulative probability.
        seed: makes sampling repeatable. It seeds torch's global generator: sample from one thread.
        repetition_penalty: divides the logits of tokens that the response holds already; 1 is none. None takes that of
            the checkpoint's generation_config.json, as the released code does.
        max_words, end_with_question: length control, see `re_llm.llm.length`.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    repetition_penalty: float | None = None
    max_words: int | None = None
    end_with_question: bool = False

    @property
    def length(self) -> Length:
        return Length(self.max_words, self.end_with_question)

    @property
    def most_tokens(self) -> int:
        """Tokens that a response may have, an added question included."""
        return self.max_new_tokens + (QUESTION_TOKENS + 1 if self.end_with_question else 0)

    def __post_init__(self) -> None:
        Length(self.max_words)  # refuses what is no number of words
        if self.max_new_tokens < 1:
            raise RellmError(f"max_new_tokens is {self.max_new_tokens}", allowed="1 and more")
        if not 0 <= self.temperature <= 2:
            raise RellmError(f"temperature is {self.temperature}", allowed="0 (greedy) to 2")
        if not 0 < self.top_p <= 1:
            raise RellmError(f"top_p is {self.top_p}", allowed="above 0, up to 1")
        if self.repetition_penalty is not None and not self.repetition_penalty > 0:
            raise RellmError(f"repetition_penalty is {self.repetition_penalty}", allowed="above 0; 1 is none")

    def generation_options(self) -> dict[str, bool | float]:
        """Arguments of `generate` besides the length."""
        if not self.temperature:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


class DecodingOptions(TypedDict, total=False):
    """Keyword arguments of `Decoding`, for the signatures that take them one by one."""

    max_new_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    repetition_penalty: float | None
    max_words: int | None
    end_with_question: bool
