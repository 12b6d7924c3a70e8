"""The text systems of Table I: transcript, Whisper + LLM cascade, transcript + emotion label, given or classified.

They answer manifest rows, as the `Engine` (a speech system) does; see `re_llm.inference.reply.System`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from re_llm.core.answer_parser import parse_answer
from re_llm.core.emotions import CANONICAL, PROMPT_EMOTIONS, is_label
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.inference.dialogue import in_text
from re_llm.inference.estimate import Estimate
from re_llm.inference.recognizer import EmotionRecognizer
from re_llm.inference.reply import History, OnBatch, Reply, ReplyOptions
from re_llm.inference.transcribe import Transcriber
from re_llm.llm.completion import Completion
from re_llm.llm.length import FREE, Length
from re_llm.llm.local import ChatLlm
from re_llm.llm.prompts import Prompt, get_prompt

if TYPE_CHECKING:
    import torch

KINDS = ("text", "cascade", "text-label")


@dataclass
class TextSystem:
    """Systems 1 to 3: the LLM answers text.

    Attributes:
        transcriber: recognises the words (system 2); without it the rows' own transcripts are answered.
        classifier: recognises the emotion; without it a prompt that names one names the row's label.
    """

    llm: ChatLlm
    transcriber: Transcriber | None = None
    classifier: EmotionRecognizer | None = None
    quantized: None = None

    @property
    def names(self) -> tuple[str, ...]:
        words = (self.transcriber.name,) if self.transcriber else ()
        return (self.llm.name, *words, *(self.classifier.names if self.classifier else ()))

    @property
    def needs_audio(self) -> bool:
        return self.transcriber is not None or self.classifier is not None

    @property
    def dtype(self) -> torch.dtype:
        return self.llm.model.dtype

    def max_seconds(self, *prompts: tuple[str | Prompt | None, int]) -> float:
        """No limit: no speech stands in the LLM's row."""
        return math.inf

    def respond_rows(
        self,
        rows: Sequence[Utterance],
        samples: Sequence[np.ndarray] | None,
        options: ReplyOptions,
        on_batch: OnBatch | None = None,
        histories: Sequence[History] | None = None,
    ) -> list[Reply]:
        """Replies to manifest rows; see `System`.

        A prompt with an emotion takes the classifier's, or the row's label, and then the recognition prompt is left
        out: its answer would stand in the question.

        Raises:
            RellmError: a row has no text, or no emotion that the prompt needs; names the row.
        """
        texts = self._texts(rows, samples, options.batch_size)
        prompt = get_prompt(options.prompt) if options.prompt else None
        completions = [Completion()] * len(rows)
        estimates = [Estimate()] * len(rows)
        if self.classifier:
            assert samples is not None, "a classifier takes recordings"
            estimates = self.classifier.recognize(samples, batch_size=options.batch_size)
            rows = [row.model_copy(update=_labelled(each)) for row, each in zip(rows, estimates, strict=True)]
        if prompt:
            labelled = [_with_label(prompt, row) for row in rows]
            if histories:
                labelled = [replace(p, history=in_text(before)) for p, before in zip(labelled, histories, strict=True)]
            pairs = list(zip(labelled, texts, strict=True))
            length = Length(options.variant.max_words, options.variant.end_with_question)
            completions = self._answer(pairs, options.max_new_tokens, options, length)
        if options.recognize and not (prompt and prompt.needs_emotion):
            question = get_prompt(options.recognize)
            named = self._answer([(question, text) for text in texts], options.recognize_tokens, options)
            estimates = [
                replace(estimate, named_emotion=parse_answer(each.text, PROMPT_EMOTIONS), answer=each.text)
                for estimate, each in zip(estimates, named, strict=True)
            ]
        transcripts = texts if self.transcriber else [None] * len(rows)
        replies = list(map(Reply.of, estimates, completions, transcripts))
        if on_batch:
            on_batch(list(range(len(rows))), replies)
        return replies

    def _answer(
        self, pairs: Sequence[tuple[Prompt, str]], tokens: int, options: ReplyOptions, length: Length = FREE
    ) -> list[Completion]:
        answer: Callable[..., list[Completion]] = self.llm.answer
        if length:
            answer = partial(answer, length=length)
        return answer(
            pairs,
            max_new_tokens=tokens,
            batch_size=options.batch_size,
            repetition_penalty=options.repetition_penalty,
        )

    def _texts(self, rows: Sequence[Utterance], samples: Sequence[np.ndarray] | None, batch_size: int) -> list[str]:
        if self.transcriber:
            assert samples is not None, "a cascade transcribes recordings"
            return self.transcriber.transcribe(samples, batch_size=batch_size)
        for row in rows:
            if not row.text:
                raise RellmError(
                    f"utterance {row.key!r} has no text, which a text system answers",
                    todo="Use the cascade, or a manifest with transcripts",
                )
        return [row.text or "" for row in rows]


def _labelled(estimate: Estimate) -> dict[str, str | None]:
    """The label that a classifier gives a row."""
    return {"emotion": estimate.predicted_emotion, "label_set": None}


def _with_label(prompt: Prompt, row: Utterance) -> Prompt:
    """The prompt with the row's emotion, where it names one."""
    if prompt.needs_emotion and not is_label(row.emotion, row.label_set):
        raise RellmError(
            f"utterance {row.key!r} has the emotion {row.emotion!r}, and prompt {prompt.id!r} needs one",
            allowed=", ".join(CANONICAL),
        )
    return prompt.with_emotion(row.emotion)


def text_system(
    kind: str,
    *,
    llm: str,
    whisper: str | None,
    classifier: str | None = None,
    emotions: Sequence[str] | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> TextSystem:
    """A text system from folders, hub ids or `mini:NAME`.

    Args:
        classifier: emotion encoder whose label a prompt names (`re-llm train emotion`).
        emotions: among which it chooses; None = all that it knows.

    Raises:
        RellmError: an unknown kind, or a component that cannot be loaded.
    """
    if kind not in KINDS:
        raise RellmError(f"unknown kind of text system {kind!r}", allowed=", ".join(KINDS))
    transcriber = None
    if kind == "cascade":
        if whisper is None:
            raise RellmError("a cascade needs a Whisper model")
        transcriber = Transcriber.load(whisper, device=device, dtype=dtype)
    recognizer = EmotionRecognizer.load(classifier, device=device, dtype=dtype, only=emotions) if classifier else None
    return TextSystem(ChatLlm.load(llm, device=device, dtype=dtype), transcriber, recognizer)
