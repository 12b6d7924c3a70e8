"""A conversation of recordings and texts as one row of the LLM: what the terminal chat and the server answer with.

A recording keeps its place in the row as speech tokens, in earlier turns too, so the LLM still has the emotion of an
earlier turn. A conversation of one recording gives the row of `Engine.respond`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import StoppingCriteriaList

from re_llm.core.errors import RellmError
from re_llm.inference.engine import Engine
from re_llm.inference.reply import DEFAULT_PROMPT, Decoding, EncodedSpeech
from re_llm.inference.streaming import Cancelled, TextPieces
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import PROMPTS, Prompt, get_prompt, split_chat

# Stands for a part while the chat template lays the turns out; what a user wrote never reaches the template.
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}{}\N{OBJECT REPLACEMENT CHARACTER}"
_MARKS = re.compile(_MARK.format("([0-9]+)"))
_SYSTEMS = {prompt.system for prompt in PROMPTS.values()}

Part = str | EncodedSpeech


@dataclass(frozen=True)
class Turn:
    """Texts and recordings of one side, in their order."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class ChatCompletion(Completion):
    """An answer, and the length of the row it answers."""

    prompt_tokens: int


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
        cancelled: called after every token; True ends the answer there.

    Raises:
        RellmError: no turn, the last one is not the user's or is empty, or the conversation fills the LLM's context.
    """
    decoding = decoding or Decoding()
    chosen = get_prompt(prompt)
    ids, encoded = row(engine, turns, chosen if system is None else replace(chosen, system=system))
    (completion,) = engine.generate(
        [ids],
        [torch.cat([each.embeddings for each in encoded])] if encoded else [],
        replace(decoding, max_new_tokens=_room(engine, len(ids), decoding.max_new_tokens)),
        streamer=TextPieces(engine.tokenizer, on_text) if on_text else None,
        stopping=StoppingCriteriaList([Cancelled(cancelled)] if cancelled else []),
    )
    return ChatCompletion(**vars(completion), prompt_tokens=len(ids))


def _room(engine: Engine, tokens: int, wanted: int) -> int:
    """Tokens that the answer may have after a row of `tokens`."""
    limit = engine.context
    if limit is None:
        return wanted
    if tokens >= limit:
        raise RellmError(
            f"the conversation is {tokens} tokens long, and this LLM holds {limit} with the answer",
            todo="Leave out earlier turns, or shorten the recording",
        )
    return min(wanted, limit - tokens)


def row(engine: Engine, turns: Sequence[Turn], prompt: Prompt) -> tuple[list[int], list[EncodedSpeech]]:
    """Token ids of a conversation up to the start of the assistant's turn, and its recordings in their order.

    Every part is tokenised on its own, as in training. Special tokens of the chat template in a user's text are
    tokenised as plain text: nobody can open a turn of another role.

    Raises:
        RellmError: see `reply`.
    """
    if not turns or turns[-1].role != "user" or not any(turns[-1].parts):
        raise RellmError("there is nothing to answer", todo="Let the last turn be the user's, with a recording or text")
    parts: list[Part] = []

    def marks(added: Sequence[Part]) -> str:
        parts.extend(added)
        return "".join(_MARK.format(number) for number in range(len(parts) - len(added), len(parts)))

    # A system text that is not one of ours is data, as the turns are.
    system = prompt.system if prompt.system in _SYSTEMS else marks([prompt.system])
    history = [{"role": turn.role, "content": marks(turn.parts)} for turn in turns[:-1]]
    prefix, suffix = split_chat(engine.tokenizer, replace(prompt, system=system), history)
    ids: list[int] = []
    encoded: list[EncodedSpeech] = []
    for i, piece in enumerate(_MARKS.split(prefix + marks(turns[-1].parts) + suffix)):
        part = parts[int(piece)] if i % 2 else piece
        if isinstance(part, EncodedSpeech):
            encoded.append(part)
            ids += engine.processor.row([len(part.embeddings)])
        elif part:
            ids += engine.tokenizer(part, add_special_tokens=False, split_special_tokens=bool(i % 2))["input_ids"]
    return ids, encoded
