"""The text systems of Table I behind the interface of the engine: text, Whisper + LLM cascade, text + label.

A speech system is the `Engine` itself. Both answer manifest rows through `re_llm.inference.respond`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from re_llm.core.emotions import CANONICAL, PROMPT_EMOTIONS, parse_answer
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.inference.engine import Reply
from re_llm.inference.transcribe import Transcriber
from re_llm.llm.completion import Completion
from re_llm.llm.local import ChatLlm
from re_llm.llm.prompts import Prompt, get_prompt

KINDS = ("text", "cascade", "text-label")


@dataclass(frozen=True)
class TextReply(Reply):
    """A text system's reply. `transcript`: the words it answered, when it had to recognise them first."""

    transcript: str | None = None


@dataclass
class TextSystem:
    """Systems 1 to 3: the LLM reads words.

    Attributes:
        transcriber: recognises them (system 2); without it the rows' own transcripts are read.
    """

    llm: ChatLlm
    emotions: Sequence[str] = PROMPT_EMOTIONS
    transcriber: Transcriber | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Folders or ids of what answers: the LLM, and who tells it the words."""
        return (self.llm.name, self.transcriber.name) if self.transcriber else (self.llm.name,)

    @property
    def dtype(self) -> Any:
        return self.llm.model.dtype

    @property
    def needs_audio(self) -> bool:
        return self.transcriber is not None

    def _texts(self, rows: Sequence[Utterance], samples: Sequence[np.ndarray] | None, batch_size: int) -> list[str]:
        if self.transcriber:
            assert samples is not None, "a cascade recognises recordings"
            return self.transcriber.transcribe(samples, batch_size=batch_size)
        for row in rows:
            if not row.text:
                raise RellmError(
                    f"utterance {row.key!r} has no text, which a text system answers",
                    todo="Use the cascade, or a manifest with transcripts",
                )
        return [row.text or "" for row in rows]

    def respond_rows(
        self,
        rows: Sequence[Utterance],
        samples: Sequence[np.ndarray] | None,
        *,
        prompt: str | None,
        recognize: str | None = None,
        batch_size: int = 16,
        max_new_tokens: int = 128,
        on_batch: Callable[[list[int], list[Reply]], None] | None = None,
    ) -> list[Reply]:
        """Replies to manifest rows, in their order.

        Args:
            samples: their recordings (16 kHz mono) for a cascade; unused otherwise.
            prompt, recognize: prompt ids; None to leave one out. A prompt with an emotion takes the row's label, and
                then the recognition prompt is not asked: the answer is in the question.

        Raises:
            RellmError: a row has no text, or no emotion that the prompt needs; names the row.
        """
        texts = self._texts(rows, samples, batch_size)
        none = [Completion("", 0, "stop")] * len(rows)
        answers = none
        told = False
        if prompt:
            asked = get_prompt(prompt)
            told = asked.needs_emotion
            pairs = [(_told(asked, row), text) for row, text in zip(rows, texts, strict=True)]
            answers = self.llm.answer(pairs, max_new_tokens=max_new_tokens, batch_size=batch_size)
        named: list[Completion | None] = [None] * len(rows)
        if recognize and not told:
            question = get_prompt(recognize)
            named = [*self.llm.answer([(question, t) for t in texts], max_new_tokens=16, batch_size=batch_size)]
        replies: list[Reply] = [
            TextReply(
                emotion=parse_answer(name.text, self.emotions) if name else None,
                answer=name.text if name else None,
                response=answer.text,
                tokens=answer.tokens,
                finish_reason=answer.finish_reason,
                transcript=text if self.transcriber else None,
            )
            for answer, name, text in zip(answers, named, texts, strict=True)
        ]
        if on_batch:
            on_batch(list(range(len(rows))), replies)
        return replies


def _told(prompt: Prompt, row: Utterance) -> Prompt:
    """The prompt with the row's emotion, where it names one."""
    if prompt.needs_emotion and row.emotion not in CANONICAL:
        raise RellmError(
            f"utterance {row.key!r} has the emotion {row.emotion!r}, and prompt {prompt.id!r} tells it to the LLM",
            allowed=", ".join(CANONICAL),
        )
    return prompt.with_emotion(row.emotion)


def text_system(kind: str, *, llm: str, whisper: str | None, device: str = "auto", dtype: str = "auto") -> TextSystem:
    """A text system from folders, hub ids or `mini:NAME`.

    Raises:
        RellmError: an unknown kind, or a component that cannot be loaded.
    """
    if kind not in KINDS:
        raise RellmError(f"unknown kind of text system {kind!r}", allowed=", ".join(KINDS))
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    transcriber = None
    if kind == "cascade":
        if whisper is None:
            raise RellmError("a cascade needs a Whisper model")
        transcriber = Transcriber.load(whisper, **options)
    return TextSystem(ChatLlm.load(llm, **options), transcriber=transcriber)
