"""A conversation of recordings and texts as one row of the LLM: what the terminal chat and the server answer with.

A recording keeps its place in the row as speech tokens, in earlier turns too, so the LLM still hears how something
was said a turn ago. A conversation of one recording gives the row of `Engine.respond`. Sampling can be asked for;
decoding is greedy by default.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

from re_llm.core.errors import RellmError
from re_llm.inference.engine import DEFAULT_PROMPT, EncodedSpeech, Engine
from re_llm.llm.completion import Completion, Trimmer
from re_llm.llm.prompts import PROMPTS, Prompt, get_prompt, split_chat

# Stands for a part while the chat template lays the turns out; what a user wrote never reaches the template.
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}{}\N{OBJECT REPLACEMENT CHARACTER}"
_MARKS = re.compile(_MARK.format("([0-9]+)"))


@dataclass(frozen=True)
class Turn:
    """What one side said: texts and recordings in their order."""

    role: Literal["user", "assistant"]
    parts: tuple[str | EncodedSpeech, ...]


@dataclass(frozen=True, kw_only=True)
class ChatCompletion(Completion):
    """An answer, and the length of the row it answers."""

    prompt_tokens: int


@dataclass(frozen=True)
class Decoding:
    """How an answer is decoded.

    Attributes:
        max_new_tokens: longest answer; less where the LLM's context ends before.
        temperature: 0 is greedy.
        top_p: the most probable tokens of this joint probability are sampled from.
        seed: makes sampling repeatable. It is the process's one generator: use it from one thread.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise RellmError(f"max_new_tokens is {self.max_new_tokens}", allowed="1 and more")
        if not 0 <= self.temperature <= 2:
            raise RellmError(f"temperature is {self.temperature}", allowed="0 (greedy) to 2")
        if not 0 < self.top_p <= 1:
            raise RellmError(f"top_p is {self.top_p}", allowed="above 0, up to 1")

    def options(self) -> dict[str, Any]:
        """What `generate` is told besides the length."""
        if not self.temperature:
            return {}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


def reply(
    engine: Engine,
    turns: Sequence[Turn],
    *,
    prompt: str | Prompt = DEFAULT_PROMPT,
    system: str | None = None,
    decoding: Decoding | None = None,
    on_text: Callable[[str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ChatCompletion:
    """Answers the last turn of a conversation.

    Args:
        turns: user and assistant in turn, the user last.
        system: replaces the system text of the prompt.
        on_text: called with the pieces of the answer as they are decoded; joined they are its text.
        cancelled: asked after every token; True ends the answer there.

    Raises:
        RellmError: no turn, the last one is not the user's or is empty, or the conversation fills the LLM's context.
    """
    decoding = decoding or Decoding()
    chosen = get_prompt(prompt) if isinstance(prompt, str) else prompt
    ids, spoken = row(engine, turns, chosen if system is None else replace(chosen, system=system))
    options = decoding.options()
    if on_text:
        options["streamer"] = _Pieces(engine.tokenizer, on_text)
    if cancelled:
        options["stopping_criteria"] = StoppingCriteriaList([_Cancelled(cancelled)])
    if decoding.seed is not None:
        torch.manual_seed(decoding.seed)
    encoded = None
    if spoken:
        encoded = [replace(spoken[-1], embeddings=torch.cat([h.embeddings for h in spoken]))]
    room = _room(engine, len(ids), decoding.max_new_tokens)
    (answer,) = engine.answer_rows([ids], encoded, max_new_tokens=room, **options)
    return ChatCompletion(**vars(answer), prompt_tokens=len(ids))


def _room(engine: Engine, tokens: int, wanted: int) -> int:
    """Tokens that the answer may have after a row of `tokens`."""
    limit = engine.context
    if limit is None or tokens + wanted <= limit:
        return wanted
    if tokens >= limit:
        raise RellmError(
            f"the conversation is {tokens} tokens long, and this LLM holds {limit} with the answer",
            todo="Leave out earlier turns, or shorten the recording",
        )
    return limit - tokens


def row(engine: Engine, turns: Sequence[Turn], prompt: Prompt) -> tuple[list[int], list[EncodedSpeech]]:
    """Token ids of a conversation up to where the assistant begins to speak, and its recordings in their order.

    Every part is tokenised on its own, as in training. Marks of the chat template in a user's text are read as
    letters: nobody can open a turn of another role.

    Raises:
        RellmError: see `reply`.
    """
    if not turns or turns[-1].role != "user" or not any(turns[-1].parts):
        raise RellmError("there is nothing to answer", todo="Let the last turn be the user's, with a recording or text")
    held: list[str | EncodedSpeech] = []

    def mark(parts: Sequence[str | EncodedSpeech]) -> str:
        held.extend(parts)
        first = len(held) - len(parts)
        return "".join(_MARK.format(first + i) for i in range(len(parts)))

    system = mark([prompt.system]) if _is_foreign(prompt) else prompt.system
    history = [{"role": turn.role, "content": mark(turn.parts)} for turn in turns[:-1]]
    prefix, suffix = split_chat(engine.tokenizer, replace(prompt, system=system), history)
    ids: list[int] = []
    spoken: list[EncodedSpeech] = []
    for i, piece in enumerate(_MARKS.split(prefix + mark(turns[-1].parts) + suffix)):
        part = held[int(piece)] if i % 2 else piece
        if isinstance(part, EncodedSpeech):
            spoken.append(part)
            ids += [engine.model.config.speech_token_id] * len(part.embeddings)
        elif part:
            ids += engine.tokenizer(part, add_special_tokens=False, split_special_tokens=bool(i % 2))["input_ids"]
    return ids, spoken


def _is_foreign(prompt: Prompt) -> bool:
    """Whether the system text is not one of ours: then it is data, as the turns are."""
    return prompt.system not in {known.system for known in PROMPTS.values()}


class _Pieces(TextStreamer):
    """Hands the text on as it is decoded, without white space at its ends."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._trim, self._on_text = Trimmer(), on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        shown = self._trim.feed(text)
        if shown:
            self._on_text(shown)


class _Cancelled(StoppingCriteria):
    def __init__(self, cancelled: Callable[[], bool]):
        self._cancelled = cancelled

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), self._cancelled(), dtype=torch.bool, device=input_ids.device)
