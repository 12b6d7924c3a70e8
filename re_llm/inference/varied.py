"""A system whose emotion information is exchanged between utterances, or that asks when it is unsure; see `Variant`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.inference.careful import rule
from re_llm.inference.decoding import Decoding
from re_llm.inference.engine import Engine
from re_llm.inference.estimate import EncodedSpeech
from re_llm.inference.generation import ask_behind
from re_llm.inference.many import answer_many
from re_llm.inference.reply import History, OnBatch, Reply, ReplyOptions, System
from re_llm.inference.systems import TextSystem
from re_llm.llm.completion import Completion
from re_llm.llm.length import FEELING
from re_llm.llm.prompts import Prompt, get_prompt, split_chat


def varied(system: System, options: ReplyOptions, root: Path) -> System:
    """The system that answers with `options.variant`; itself where that changes nothing but the length.

    Args:
        root: folder that the paths of the variant's donors are relative to.

    Raises:
        RellmError: the system has no emotion information to exchange, or nothing that says how sure it is.
    """
    variant = options.variant
    if not isinstance(system, Engine | TextSystem):
        raise RellmError(
            f"the replies of a {type(system).__name__} cannot be varied", allowed="a speech LLM in this process"
        )
    if variant.corrupt_emotion:
        prompt = get_prompt(options.prompt or "")
        if isinstance(system, Engine) and system.model.config.fusion != "pooled":
            raise RellmError(
                f"the model's fusion is {system.model.config.fusion!r}: no embedding of an utterance can be exchanged",
                allowed="a model with the fusion `pooled`, or a text system whose prompt names the emotion",
            )
        if isinstance(system, TextSystem) and not prompt.needs_emotion:
            raise RellmError(f"prompt {prompt.id!r} names no emotion: there is no label to exchange")
    if variant.unsure and not isinstance(system, Engine):
        raise RellmError("only a speech system with a categorical head can ask when it is unsure")
    return VariedSystem(system, root) if variant.corrupt_emotion or variant.unsure else system


@dataclass
class VariedSystem:
    """See `varied`."""

    system: Engine | TextSystem
    root: Path

    @property
    def names(self) -> tuple[str, ...]:
        return self.system.names

    @property
    def dtype(self) -> object:
        return self.system.dtype

    @property
    def quantized(self) -> str | None:
        return self.system.quantized

    @property
    def needs_audio(self) -> bool:
        return self.system.needs_audio

    def max_seconds(self, *prompts: tuple[str | Prompt | None, int]) -> float:
        """See `System`."""
        return self.system.max_seconds(*prompts)

    def respond_rows(
        self,
        rows: Sequence[Utterance],
        samples: Sequence[np.ndarray] | None,
        options: ReplyOptions,
        on_batch: OnBatch | None = None,
        histories: Sequence[History] | None = None,
    ) -> list[Reply]:
        """Replies to manifest rows; see `System`. All of them are one batch for `on_batch`.

        Raises:
            RellmError: they are turns of dialogues, whose earlier turns hold emotion information as well.
        """
        if histories and any(histories):
            raise RellmError(f"{rows[0].key!r} is a turn of a dialogue", todo="Vary the replies to utterances alone")
        if isinstance(self.system, TextSystem):
            replies = self._with_other_labels(self.system, rows, samples, options)
        else:
            assert samples is not None, "an engine needs recordings"
            replies = self._with_other_embeddings(self.system, rows, samples, options)
            if options.variant.unsure:
                replies = _asking(self.system, samples, options, replies)
        if on_batch:
            on_batch(list(range(len(rows))), replies)
        return replies

    def _felt(
        self, rows: Sequence[Utterance], samples: Sequence[np.ndarray], options: ReplyOptions
    ) -> list[np.ndarray]:
        """The recordings that the emotion information of the rows is taken from."""
        donors = options.variant.donors
        return [
            waveform.load(donor.audio, start=donor.start, duration=donor.duration, root=self.root) if donor else own
            for donor, own in ((donors.get(row.key), own) for row, own in zip(rows, samples, strict=True))
        ]

    def _with_other_embeddings(
        self, engine: Engine, rows: Sequence[Utterance], samples: Sequence[np.ndarray], options: ReplyOptions
    ) -> list[Reply]:
        def encode(batch: list[int]) -> list[EncodedSpeech]:
            own = [samples[i] for i in batch]
            felt = self._felt([rows[i] for i in batch], own, options) if options.variant.donors else None
            return engine.encode(own, felt)

        recognition = options.recognize, options.recognize_tokens
        return answer_many(
            engine, samples, options.prompt, recognition, options.batch_size, None, encode, **options.decoding()
        )

    def _with_other_labels(
        self, system: TextSystem, rows: Sequence[Utterance], samples: Sequence[np.ndarray] | None, options: ReplyOptions
    ) -> list[Reply]:
        donors = options.variant.donors
        if not system.classifier:
            given = [donors.get(row.key, row) for row in rows]
            labelled = [_labelled(row, other.emotion, other.label_set) for row, other in zip(rows, given, strict=True)]
            return system.respond_rows(labelled, samples, options)
        assert samples is not None, "a classifier takes recordings"
        estimates = system.classifier.recognize(self._felt(rows, samples, options), batch_size=options.batch_size)
        labelled = [_labelled(row, each.predicted_emotion, None) for row, each in zip(rows, estimates, strict=True)]
        replies = replace(system, classifier=None).respond_rows(labelled, samples, options)
        return [replace(reply, **vars(each)) for reply, each in zip(replies, estimates, strict=True)]


def _labelled(row: Utterance, emotion: str | None, label_set: str | None) -> Utterance:
    return row.model_copy(update={"emotion": emotion, "label_set": label_set})


def _asking(
    engine: Engine, samples: Sequence[np.ndarray], options: ReplyOptions, replies: Sequence[Reply]
) -> list[Reply]:
    """The replies, with a question about the feeling in the place of those whose head is unsure."""
    unsure = options.variant.unsure
    assert unsure is not None, options
    which = [i for i, reply in enumerate(replies) if unsure.of(reply.probabilities)]
    questions = _questions(engine, [samples[i] for i in which], options)
    answers = {i: each for i, each in zip(which, questions, strict=True) if each}
    return [
        replace(reply, response=each.text, tokens=each.tokens, finish_reason=each.finish_reason, asked=True)
        if (each := answers.get(i))
        else replace(reply, asked=False)
        for i, reply in enumerate(replies)
    ]


def _questions(engine: Engine, samples: Sequence[np.ndarray], options: ReplyOptions) -> Iterator[Completion | None]:
    """Questions how the person feels about what was said; the LLM says about what.

    None where the reply is one by rule, which stays.
    """
    before, after = split_chat(engine.tokenizer, get_prompt(options.prompt or ""))
    for first in range(0, len(samples), options.batch_size):
        encoded = engine.encode(samples[first : first + options.batch_size])
        rows = [engine.processor.row([before, len(each.embeddings), after]) for each in encoded]
        questions = feeling_questions(engine, rows, [each.embeddings for each in encoded])
        for speech, each in zip(encoded, questions, strict=True):
            ruled = rule(engine.said(speech)) is not None
            yield None if ruled else each


def feeling_questions(engine: Engine, rows: Sequence[list[int]], speech: Sequence[torch.Tensor]) -> list[Completion]:
    """Answers to rows of token ids and their speech tokens that ask how the person feels about what was said."""
    with engine.lock:
        found = ask_behind(
            engine.model, engine.processor, engine.stops, rows, speech, [FEELING] * len(rows), Decoding(), begun=True
        )
    return [replace(each, text=f"{FEELING} {each.text}", finish_reason="stop") for each in found]
