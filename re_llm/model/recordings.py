"""Recordings as callers give them: paths, arrays, chat messages.

Shapes: N samples (16 kHz).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from re_llm.core.errors import RellmError
from re_llm.model.configuration import SPEECH_TOKEN

SAMPLE_RATE = 16_000
MIN_SAMPLES = 400  # 25 ms: one analysis window of Whisper and of wav2vec2
Samples = np.ndarray[Any, np.dtype[np.float32]]
Recording = Samples | str | os.PathLike[str] | bytes  # samples [N] at 16 kHz, a path, or the bytes of a file
Message = Mapping[str, Any]  # of a conversation: role, and content as text or as parts


def flatten_messages(messages: Sequence[Message]) -> tuple[list[dict[str, Any]], list[Recording]]:
    """Messages whose contents are plain text with placeholders, and the recordings in order."""
    plain, recordings = [], []
    for message in messages:
        message = dict(message)
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            parts = []
            for part in content:
                if part.get("type") == "text":
                    parts.append(part["text"])
                    continue
                source = next((part[k] for k in ("audio", "path", "url") if part.get(k) is not None), None)
                if part.get("type") != "audio" or source is None:
                    raise RellmError(
                        f"message content {sorted(part)} of type {part.get('type')!r}",
                        allowed='{"type": "text", "text": ...} and {"type": "audio", "audio": samples or path}',
                    )
                recordings.append(source)
                parts.append(SPEECH_TOKEN)
            message["content"] = "".join(parts)
        plain.append(message)
    return plain, recordings


def normalized(wave: Samples) -> Samples:
    """Zero mean and unit variance over the utterance, as Wav2Vec2FeatureExtractor does it (population variance)."""
    return ((wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)).astype(np.float32)


def as_list(audio: Recording | Sequence[Recording] | None) -> list[Recording]:
    """One recording or several, as a list."""
    if audio is None:
        return []
    if isinstance(audio, str | os.PathLike | bytes) or getattr(audio, "ndim", 0) == 1:
        return [audio]  # type: ignore[list-item]
    return list(audio)


def samples(item: Recording) -> Samples:
    """Samples [N] of a recording."""
    if isinstance(item, str | os.PathLike | bytes):
        from re_llm.audio.waveform import load

        return load(item, rate=SAMPLE_RATE)
    return np.asarray(copy.copy(item))


def checked(wave: Samples, index: int) -> Samples:
    """A recording as float32 samples [N].

    Raises:
        RellmError: it is not mono float samples, or shorter than 25 ms; names its `index`.
    """
    wave = np.asarray(wave)
    if wave.ndim != 1 or not np.issubdtype(wave.dtype, np.floating):
        raise RellmError(
            f"recording {index} is an array of shape {wave.shape} and type {wave.dtype}",
            allowed="mono float samples, shape [N]",
        )
    if len(wave) < MIN_SAMPLES:
        raise RellmError(f"recording {index} has {len(wave)} samples, less than 25 ms", allowed="25 ms and more")
    return wave.astype(np.float32, copy=False)


def stack(arrays: Sequence[Samples]) -> Samples:
    """Arrays that differ in their last axis, padded with zeros to the longest."""
    longest = max(array.shape[-1] for array in arrays)
    pads = [[(0, 0)] * (array.ndim - 1) + [(0, longest - array.shape[-1])] for array in arrays]
    return np.stack([np.pad(array, pad) for array, pad in zip(arrays, pads, strict=True)])
