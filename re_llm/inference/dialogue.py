"""Replies within a dialogue: what was said before stands in the LLM's row, as text or as speech that is heard again.

BLSP-Emo gives the earlier turns as reference transcripts (section 4.1); as `speech` the user's earlier turns are speech
tokens, in which the LLM still has their emotion. S speech tokens, N samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from re_llm.audio import waveform
from re_llm.core.dialogues import Role, turns, words
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.inference.decoding import Decoding
from re_llm.inference.reply import History, OnBatch, Reply, ReplyOptions
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Prompt, get_prompt
from re_llm.llm.rows import batches_by_length

if TYPE_CHECKING:
    from re_llm.inference.careful import Said
    from re_llm.inference.conversation import Turn
    from re_llm.inference.engine import Engine

PAUSE = np.zeros(waveform.RATE // 4, dtype=np.float32)  # between the recordings of one turn


def history_of(row: Utterance, root: Path, kind: Literal["text", "speech"]) -> History:
    """The turns before a row: user and assistant in turn, the user's as text or as samples [N].

    Raises:
        RellmError: the last turn is not the assistant's; or (speech) a recording is missing or cannot be used.
    """
    before = turns(row.history or [])
    if before and (before[0][0] != "user" or before[-1][0] != "assistant"):
        raise RellmError(f"the history of {row.key!r} does not begin with the user and end with the assistant")
    found: list[tuple[Role, str | np.ndarray]] = []
    for role, said in before:
        if kind == "text" or role == "assistant":
            found.append((role, words(said)))
            continue
        waves: list[np.ndarray] = []
        for each in said:
            if each.audio is None:
                raise RellmError(f"the history of {row.key!r} has a turn without a recording", todo="--history text")
            wave = waveform.load(each.audio, start=each.start, duration=each.duration, root=root)
            waves += [PAUSE, waveform.refuse_silence(wave, each.audio)]
        found.append((role, np.concatenate(waves[1:])))
    return tuple(found)


def in_text(history: History) -> tuple[tuple[Role, str], ...]:
    """A history of text, as a prompt holds it."""
    assert all(isinstance(said, str) for _, said in history), "text is answered by a text LLM"
    return tuple((role, str(said)) for role, said in history)


def respond_dialogues(
    engine: Engine,
    samples: Sequence[np.ndarray],
    histories: Sequence[History],
    options: ReplyOptions,
    on_batch: OnBatch | None = None,
) -> list[Reply]:
    """Replies to recordings that have histories; the recognition prompt is about the last recording alone.

    A dialogue that the LLM has no room for is marked `refused`.
    """
    replies: dict[int, Reply] = {}
    for batch in batches_by_length([len(each) for each in samples], options.batch_size):
        encoded = engine.encode([samples[i] for i in batch])
        estimates = [each.estimate for each in encoded]
        if options.recognize:
            estimates = engine.named(encoded, options.recognize, options.recognize_tokens, options.repetition_penalty)
        completions = [Completion()] * len(batch)
        if options.prompt:
            dialogues = [
                (*_encoded(engine, histories[i]), _turn("user", last)) for i, last in zip(batch, encoded, strict=True)
            ]
            decoding = Decoding(**options.decoding())
            completions = answer_dialogues(engine, dialogues, get_prompt(options.prompt), decoding)
        done = list(map(Reply.of, estimates, completions))
        replies.update(zip(batch, done, strict=True))
        if on_batch:
            on_batch(batch, done)
    return [replies[i] for i in range(len(samples))]


def _turn(role: Role, part: object) -> Turn:
    from re_llm.inference.conversation import Turn

    return Turn(role, (part,))  # type: ignore[arg-type]


def _encoded(engine: Engine, history: History) -> list[Turn]:
    """Turns of a history, the recordings encoded."""
    spoken = [said for _, said in history if not isinstance(said, str)]
    heard = iter(engine.encode(spoken) if spoken else [])
    return [_turn(role, said if isinstance(said, str) else next(heard)) for role, said in history]


def answer_dialogues(
    engine: Engine, dialogues: Sequence[Sequence[Turn]], prompt: Prompt, decoding: Decoding
) -> list[Completion]:
    """Answers to the last turns of dialogues with a recording each, together where as many tokens have room."""
    import torch

    from re_llm.inference.conversation import ContextFull, lay_out, said

    found: dict[int, Completion] = {}
    rows: dict[Decoding, list[tuple[int, list[int], torch.Tensor, Said]]] = {}
    for i, dialogue in enumerate(dialogues):
        try:
            ids, heard, fitting = lay_out(engine, dialogue, prompt, None, decoding)
        except ContextFull as full:
            found[i] = Completion(refused="context-length", detail=full.what)
            continue
        speech = torch.cat([each.embeddings for each in heard])
        rows.setdefault(fitting, []).append((i, ids, speech, said(engine, dialogue[-1], heard)))
    for fitting, each in rows.items():
        numbers, ids_of, speech_of, spoken = zip(*each, strict=True)
        answers = engine.generate(list(ids_of), list(speech_of), fitting, said=spoken)
        found.update(zip(numbers, answers, strict=True))
    return [found[i] for i in range(len(dialogues))]
