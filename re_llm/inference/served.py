"""A speech LLM behind an OpenAI-compatible server that takes audio, as a system to evaluate.

Every recording is sent as `input_audio` (wav, 16 kHz) in place of the transcript. Answers are kept in a file as they
come (`re_llm.llm.answers`), so a run that ends before its time loses none that was paid.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from re_llm.audio.given import Audio, describe, read
from re_llm.audio.speech import prepare
from re_llm.audio.waveform import wav_bytes
from re_llm.core.answer_parser import parse_answer
from re_llm.core.dialogues import Role
from re_llm.core.emotions import PROMPT_EMOTIONS
from re_llm.core.records import Utterance
from re_llm.inference.estimate import Estimate
from re_llm.inference.reply import History, OnBatch, Reply, ReplyOptions
from re_llm.llm.answers import AnswerStore, Question, hash_of_content
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Content, Prompt, get_prompt
from re_llm.llm.server import ChatServer


@dataclass
class ServedSystem:
    """SALMONN, Qwen-Omni, OpenS2S, a `re-llm serve`, ... behind its server; see `System`."""

    answers: AnswerStore
    needs_audio = True
    quantized: None = None
    dtype = "server"

    @classmethod
    def of(cls, server: ChatServer, out: Path) -> ServedSystem:
        """The system whose replies go to `out`, and its answers to the file beside that."""
        return cls(AnswerStore(answers_file(out), server))

    @property
    def names(self) -> tuple[str, ...]:
        return (served_name(self.answers.server.name),)

    def max_seconds(self, *prompts: tuple[str | Prompt | None, int]) -> float:
        """No limit: the server knows what its model has room for, and refuses the rest."""
        return math.inf

    def samples(self, item: Audio, *prompts: object) -> np.ndarray:
        """Samples [N] of a recording of any kind, without the silence at its ends; see `Engine.samples`."""
        return self.prepared(read(item), describe(item))

    def prepared(self, wave: np.ndarray, name: str, *prompts: object) -> np.ndarray:
        """See `Engine.prepared`."""
        return prepare(wave, name, math.inf)

    def respond_rows(
        self,
        rows: Sequence[Utterance],
        samples: Sequence[np.ndarray] | None,
        options: ReplyOptions,
        on_batch: OnBatch | None = None,
        histories: Sequence[History] | None = None,
    ) -> list[Reply]:
        """Replies to the recordings of manifest rows; see `System`. One that the server refuses is marked `refused`.

        Raises:
            RellmError: the server gives no answers any more; what it has given is kept.
        """
        assert samples is not None, "a speech LLM takes recordings"
        hashes = [hash_of_content(np.ascontiguousarray(wave, dtype=np.float32).tobytes()) for wave in samples]
        estimates = [Estimate()] * len(rows)
        refused: dict[int, Completion] = {}
        if options.recognize:
            prompt = get_prompt(options.recognize)
            for i, got in self._ask(prompt, samples, hashes, options.recognize_tokens):
                if got.refused:
                    refused[i] = got
                else:
                    estimates[i] = Estimate(named_emotion=parse_answer(got.text, PROMPT_EMOTIONS), answer=got.text)
        replies = [Reply.of(each, refused.get(i, Completion())) for i, each in enumerate(estimates)]
        if options.prompt:
            prompt = get_prompt(options.prompt)
            for i, got in self._ask(prompt, samples, hashes, options.max_new_tokens, histories):
                replies[i] = Reply.of(estimates[i], refused.get(i, got))
                if on_batch:
                    on_batch([i], [replies[i]])
        elif on_batch:
            on_batch(list(range(len(rows))), replies)
        return replies

    def _ask(
        self,
        prompt: Prompt,
        samples: Sequence[np.ndarray],
        hashes: Sequence[str],
        tokens: int,
        histories: Sequence[History] | None = None,
    ) -> Iterator[tuple[int, Completion]]:
        questions = [
            Question(
                replace(prompt, history=_sent(histories[i])) if histories else prompt, partial(wav_bytes, wave), about
            )
            for i, (wave, about) in enumerate(zip(samples, hashes, strict=True))
        ]
        return self.answers.ask(questions, tokens)


def _sent(history: History) -> tuple[tuple[Role, Content], ...]:
    """A history as it is sent: recordings as WAV files."""
    return tuple((role, said if isinstance(said, str) else wav_bytes(said)) for role, said in history)


def served_name(model: str) -> str:
    """Name of the model among those of a system, where it stands for no folder of this machine."""
    return f"server {model}"


def answers_file(out: Path) -> Path:
    """File of a server's answers, beside the replies."""
    return out.with_suffix(".answers.jsonl")
