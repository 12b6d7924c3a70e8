"""A conversation of recordings and texts as one row of the LLM: what Python, the terminal and the server answer with.

A recording keeps its place in the row as speech tokens, in earlier turns too, so the LLM still has the emotion of an
earlier turn. A conversation of one recording gives the row of `Engine.respond`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, Unpack

import torch

from re_llm.audio.given import Audio
from re_llm.core.errors import RellmError
from re_llm.inference.careful import Said
from re_llm.inference.decoding import Decoding, DecodingOptions
from re_llm.inference.estimate import EncodedSpeech, Estimate
from re_llm.inference.reply import DEFAULT_PROMPT, Reply
from re_llm.inference.streaming import text_pieces
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import PROMPTS, Prompt, get_prompt, split_chat

if TYPE_CHECKING:
    from re_llm.inference.engine import Engine

# Stands for a part while the chat template lays the turns out; what a user wrote never reaches the template.
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}{}\N{OBJECT REPLACEMENT CHARACTER}"
_MARKS = re.compile(_MARK.format("([0-9]+)"))
_SYSTEMS = {prompt.system for prompt in PROMPTS.values()}

Part = str | EncodedSpeech


class ContextFull(RellmError):
    """The LLM has no room for a conversation and its answer."""


@dataclass(frozen=True)
class Turn:
    """Texts and recordings of one side, in their order."""

    role: Literal["user", "assistant"]
    parts: tuple[Part, ...]

    @property
    def recordings(self) -> tuple[EncodedSpeech, ...]:
        return tuple(part for part in self.parts if isinstance(part, EncodedSpeech))

    @property
    def estimates(self) -> tuple[Estimate, ...]:
        """Of every recording; none for a turn of text."""
        return tuple(part.estimate for part in self.recordings)


@dataclass(frozen=True, kw_only=True)
class ChatCompletion(Completion):
    """An answer in a conversation; `prompt_tokens` is the length of the row it answers."""


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
    ids, encoded, fitting = lay_out(engine, turns, prompt, system, decoding or Decoding())
    (completion,) = engine.generate(
        [ids],
        [torch.cat([each.embeddings for each in encoded])] if encoded else [],
        fitting,
        said=[said(engine, turns[-1], encoded)],
        on_text=on_text,
        cancelled=cancelled,
    )
    return ChatCompletion(**vars(replace(completion, prompt_tokens=len(ids))))


def said(engine: Engine, turn: Turn, encoded: Sequence[EncodedSpeech]) -> Said:
    """What rules look at in a turn, of which `encoded` ends with the recordings; see `Engine.said`.

    A turn is in doubt where all of it is.
    """
    recordings = iter(encoded[len(encoded) - sum(not isinstance(part, str) for part in turn.parts) :])
    typed = [Said(part if engine.careful else "") if isinstance(part, str) else None for part in turn.parts]
    parts = [engine.said(next(recordings)) if each is None else each for each in typed]
    doubts = [each.doubt for each in parts]
    return Said(" ".join(each.text for each in parts), doubts[-1] if doubts and all(doubts) else None)


def lay_out(
    engine: Engine, turns: Sequence[Turn], prompt: str | Prompt, system: str | None, decoding: Decoding
) -> tuple[list[int], list[EncodedSpeech], Decoding]:
    """The row of a conversation, its recordings, and how it can be answered in the context that is left.

    Raises:
        RellmError: see `reply`.
    """
    chosen = get_prompt(prompt)
    _refuse_long_text(engine, turns, system or "")
    ids, encoded = row(engine, turns, chosen if system is None else replace(chosen, system=system))
    return ids, encoded, replace(decoding, max_new_tokens=_room(engine, len(ids), decoding.max_new_tokens))


def _refuse_long_text(engine: Engine, turns: Sequence[Turn], system: str) -> None:
    """Text that no tokenisation could fit into the context is not tokenised, which takes minutes for megabytes."""
    size = len(system.encode()) + sum(len(p.encode()) for turn in turns for p in turn.parts if isinstance(p, str))
    if engine.context is not None and size > engine.context * engine.longest_token:
        raise ContextFull(
            f"the conversation is too long: {size} bytes of text, and this LLM holds {engine.context} tokens",
            todo="Leave out earlier turns, or shorten the text",
        )


def _room(engine: Engine, tokens: int, wanted: int) -> int:
    """Tokens that the answer may have after a row of `tokens`."""
    limit = engine.context
    if limit is None:
        return wanted
    if tokens >= limit:
        raise ContextFull(
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


def opening(engine: Engine, prompt: str | Prompt) -> list[int]:
    """Token ids that every conversation with a prompt begins with."""
    prefix, _ = split_chat(engine.tokenizer, get_prompt(prompt), [])
    return list(engine.tokenizer(prefix, add_special_tokens=False)["input_ids"])


class ChatOptions(DecodingOptions, total=False):
    """Keyword arguments of `Engine.chat`: the fields of a `Conversation` and of its `Decoding`."""

    prompt: str | Prompt
    system: str | None
    remember: int


class Conversation:
    """Several turns of speech and text with one engine.

        talk = engine.chat()
        talk.respond("first.wav").response
        talk.respond(text="And how did I sound before?")
        talk.emotions                               # of every turn of the user's: one for each recording

    Attributes:
        remember: earlier exchanges that stay in the LLM's row; 0 makes every turn the first.
        turns: what is in the row, user and assistant in turn.
        emotions: predicted emotions of all turns of the user's since the start, forgotten ones too.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        prompt: str | Prompt = DEFAULT_PROMPT,
        system: str | None = None,
        remember: int = 4,
        **decoding: Unpack[DecodingOptions],
    ):
        if remember < 0:
            raise RellmError(f"remember is {remember}", allowed="0 and more")
        self.engine, self.prompt, self.system, self.remember = engine, prompt, system, remember
        self.decoding = Decoding(**decoding)
        self.turns: list[Turn] = []
        self.emotions: list[tuple[str | None, ...]] = []

    def __repr__(self) -> str:
        return f"<Conversation with {self.engine.name!r}: {len(self.emotions)} turns, {self.emotions}>"

    def reset(self) -> None:
        """Forgets all turns."""
        self.turns.clear()
        self.emotions.clear()

    def turn(self, *recordings: Audio, text: str | None = None) -> Turn:
        """A turn of the user's: recordings, which are encoded, then text.

        Raises:
            RellmError: there is neither, or a recording cannot be used.
        """
        samples = [self.engine.samples(each, (self.prompt, 1)) for each in recordings]
        room = self.engine.max_seconds((self.prompt, 1))
        parts: list[Part] = list(self.engine.encode(samples, room=room)) if samples else []
        if text is not None and not (isinstance(text, str) and text.strip()):
            raise RellmError(f"the text of the turn is {text!r}", allowed="a text that is not empty")
        return Turn("user", (*parts, text) if text is not None else tuple(parts))

    def respond(self, *recordings: Audio, text: str | None = None) -> Reply:
        """Answers a turn of recordings, text or both; the turn becomes part of the conversation once it is answered."""
        turn = self.turn(*recordings, text=text)
        return self.finish(turn, self.answer(turn))

    def stream(self, *recordings: Audio, text: str | None = None) -> Generator[str, None, Reply]:
        """Pieces of the response as they are decoded; the reply is the generator's return value.

        Closing it ends the answer at the next token; the turn is not part of the conversation then.
        """
        return (yield from self.stream_turn(self.turn(*recordings, text=text)))

    def stream_turn(self, turn: Turn) -> Generator[str, None, Reply]:
        """As `stream`, of a turn whose recordings are encoded."""
        completion = yield from text_pieces(partial(self.answer, turn))
        return self.finish(turn, completion)

    def answer(
        self,
        turn: Turn,
        *,
        on_text: Callable[[str], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> ChatCompletion:
        """The answer to a turn after those that are there and fit, which stay as they are; see `reply`."""
        return reply(
            self.engine,
            [*self._fitting(turn), turn],
            prompt=self.prompt,
            system=self.system,
            decoding=self.decoding,
            on_text=on_text,
            cancelled=cancelled,
        )

    def _fitting(self, turn: Turn) -> list[Turn]:
        """The turns without the oldest exchanges that leave no room for a new turn and its whole answer."""
        turns, wanted = list(self.turns), self.decoding.max_new_tokens
        while turns:
            try:
                _, _, fitting = lay_out(self.engine, [*turns, turn], self.prompt, self.system, self.decoding)
            except ContextFull:
                pass
            else:
                if fitting.max_new_tokens == wanted:
                    break
            turns = turns[2:]
        return turns

    def finish(self, turn: Turn, completion: Completion) -> Reply:
        """Adds a turn and its answer to the conversation; only the last `remember` exchanges stay in the row.

        The reply's notice tells how many of them did not fit into the LLM's context.
        """
        fitting = self._fitting(turn)
        dropped = (len(self.turns) - len(fitting)) // 2
        full = (
            f"{dropped} of the earlier turns no longer fit into the LLM's context and are forgotten"
            if dropped
            else None
        )
        turns = [*fitting, turn, Turn("assistant", (completion.text,))]
        self.turns = turns[max(len(turns) - 2 * self.remember, 0) :]
        self.emotions.append(tuple(each.predicted_emotion for each in turn.estimates))
        last = turn.estimates[-1] if turn.estimates else Estimate()
        return replace(
            Reply.of(last, completion),
            notice=". ".join(filter(None, (full, last.notice))) or None,
            estimates=turn.estimates,
            recordings=tuple(each.samples for each in turn.recordings),
        )
