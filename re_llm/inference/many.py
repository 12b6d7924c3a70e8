"""Many recordings through one engine: batches by length, every recording encoded once for both prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Unpack

import numpy as np

from re_llm.inference.decoding import Decoding, DecodingOptions
from re_llm.inference.estimate import EncodedSpeech
from re_llm.inference.reply import OnBatch, Reply
from re_llm.llm.completion import Completion
from re_llm.llm.prompts import Prompt
from re_llm.llm.rows import batches_by_length

if TYPE_CHECKING:
    from re_llm.inference.engine import Engine


def answer_many(
    engine: Engine,
    samples: Sequence[np.ndarray],
    prompt: str | Prompt | None,
    recognition: tuple[str | None, int],
    batch_size: int,
    on_batch: OnBatch | None,
    encode: Callable[[list[int]], list[EncodedSpeech]] | None = None,
    **decoding: Unpack[DecodingOptions],
) -> list[Reply]:
    """Replies to samples that are used as they are.

    Args:
        prompt, recognition: None to leave it out; with the recognition prompt, the most tokens of its answer.
        encode: encodes a batch of `samples`, given by its indices; None = as the engine does.
    """
    replies: dict[int, Reply] = {}
    question, tokens = recognition
    room = engine.max_seconds((prompt, Decoding(**decoding).most_tokens), recognition)
    for batch in batches_by_length([len(each) for each in samples], batch_size):
        encoded = encode(batch) if encode else engine.encode([samples[i] for i in batch], room=room)
        estimates = [speech.estimate for speech in encoded]
        if question:
            estimates = engine.named(encoded, question, tokens, decoding.get("repetition_penalty"))
        completions = engine.answer(encoded, prompt, **decoding) if prompt else [Completion()] * len(encoded)
        done = list(map(Reply.of, estimates, completions))
        replies.update(zip(batch, done, strict=True))
        if on_batch:
            on_batch(batch, done)
    return [replies[i] for i in range(len(samples))]
