"""Recordings as speech tokens and estimates: a batch of short ones, a long one window by window and then as one.

S speech tokens, D width of the LLM.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from re_llm.audio.speech import prepare, speech_bounds
from re_llm.audio.waveform import RATE, Samples, refuse_long
from re_llm.audio.windows import SHORTEST_SECONDS, Span, windows
from re_llm.core.errors import RellmError
from re_llm.inference.estimate import EncodedSpeech, Estimate, Moment, mean_of
from re_llm.llm.rows import batches_by_length

if TYPE_CHECKING:
    from re_llm.model.modeling import ReLlmForConditionalGeneration
    from re_llm.model.outputs import EncodedAudio, SpeechTokens
    from re_llm.model.processing import ReLlmProcessor

WINDOW_SECONDS = 30.0  # of Whisper, and the longest utterance of the paper's training
BATCH = 16  # windows encoded at once
PROCESSOR_BATCH = 4  # encoded at once without a GPU: more of them only outgrow its caches, and pad more
ROUNDED_SECONDS = 0.2  # a window's last speech token may stand for that much more
T = TypeVar("T")


@torch.inference_mode()
def encode_batch(
    model: ReLlmForConditionalGeneration,
    processor: ReLlmProcessor,
    samples: Sequence[np.ndarray],
    emotion_from: Sequence[np.ndarray] | None = None,
) -> list[EncodedSpeech]:
    """One batch of recordings (16 kHz mono), each as a whole; `emotion_from`: see `Engine.encode`."""
    if model.device.type == "cpu" and len(samples) > PROCESSOR_BATCH:
        made: dict[int, EncodedSpeech] = {}
        for few in batches_by_length([len(wave) for wave in samples], PROCESSOR_BATCH):
            others = emotion_from and [emotion_from[i] for i in few]
            encoded = encode_batch(model, processor, [samples[i] for i in few], others)
            made.update(zip(few, encoded, strict=True))
        return [made[i] for i in range(len(samples))]

    def states(waves: Sequence[np.ndarray]) -> EncodedAudio:
        inputs = processor.audio_inputs(list(waves)).items()
        return model.encode_audio(**{name: tensor.to(model.device) for name, tensor in inputs})

    audio = states(samples)
    if emotion_from is not None:
        audio = replace(audio, emotion_states=states(emotion_from).emotion_states)
    speech = model.encode_speech(audio)
    logits, dimensions = model.predict_emotion(speech)
    predicted = zip(logits.float().softmax(-1).tolist(), dimensions.float().tolist(), strict=True)
    names = model.config.emotions
    unsure: Sequence[bool | None] = model.unsure(audio) or [None] * len(samples)
    estimates = [
        Estimate(probabilities=dict(zip(names, p, strict=True)), valence=v, arousal=a, dominance=d, unsure=doubtful)
        for (p, (v, a, d)), doubtful in zip(predicted, unsure, strict=True)
    ]
    given, heard = _of_each(speech), [None] * len(samples) if speech.heard is None else _of_each(speech.heard)
    return [EncodedSpeech(*parts) for parts in zip(given, estimates, samples, heard, strict=True)]


def _of_each(speech: SpeechTokens) -> list[torch.Tensor]:
    """Tokens of each utterance, [S, D]."""
    return [tokens[:length] for tokens, length in zip(speech.embeddings, speech.lengths.tolist(), strict=True)]


def window_seconds(trained: float | None, room: float, asked: float | None = None) -> float:
    """Longest window in seconds; a longer recording is cut.

    Args:
        trained: longest utterance of the training; None when nobody wrote it down.
        room: seconds that the LLM has room for.
        asked: what the user wants at most.

    Raises:
        RellmError: less than a second is asked for.
    """
    if asked is not None and not SHORTEST_SECONDS <= asked <= WINDOW_SECONDS:
        raise RellmError(f"a window of {asked:g} s", allowed=f"{SHORTEST_SECONDS:g} to {WINDOW_SECONDS:g} s")
    wanted = min(WINDOW_SECONDS, trained or math.inf, room, asked or math.inf)
    return max(wanted, SHORTEST_SECONDS)


def prepared(wave: Samples, name: str, trained: float | None, room: float, asked: float | None = None) -> Samples:
    """Samples [T] of a person's recording as they are encoded: see `prepare` and `window_seconds`.

    Raises:
        RellmError: it is silent, or the LLM has no room for a window of a second.
    """
    samples = prepare(wave, name, window_seconds(trained, room, asked))
    return samples if room >= SHORTEST_SECONDS else refuse_long(samples, name, room)


def in_windows(
    waves: Sequence[np.ndarray], seconds: float, work: Callable[[list[np.ndarray]], Sequence[T]]
) -> list[list[tuple[Span, T]]]:
    """What `work` makes of every window of recordings [T] at 16 kHz, by recording; one window is the recording."""
    if all(len(wave) <= seconds * RATE for wave in waves):
        return [[((0, len(wave)), made)] for wave, made in zip(waves, work(list(waves)), strict=True)]
    spans = [windows(wave, seconds) if len(wave) > seconds * RATE else [(0, len(wave))] for wave in waves]
    pieces = [wave[first:last] for wave, each in zip(waves, spans, strict=True) for first, last in each]
    made: dict[int, T] = {}
    for batch in batches_by_length([len(piece) for piece in pieces], BATCH):
        made.update(zip(batch, work([pieces[i] for i in batch]), strict=True))
    ready = (made[i] for i in range(len(pieces)))
    return [[(span, next(ready)) for span in each] for each in spans]


def moments_of(found: Sequence[tuple[Span, Estimate]]) -> tuple[Moment, ...]:
    """Estimates of the windows of one recording, with their times."""
    return tuple(Moment(first / RATE, last / RATE, estimate) for (first, last), estimate in found)


def mean_with_trajectory(found: Sequence[tuple[Span, Estimate]], wave: np.ndarray) -> Estimate:
    """The estimate of a recording [T] of those of its windows; all of it as one window is no trajectory."""
    if [span for span, _ in found] == [(0, len(wave))]:
        return found[0][1]
    moments = moments_of(found)
    return replace(mean_of(moments), trajectory=moments)


def whole(
    found: Sequence[tuple[Span, EncodedSpeech]], wave: np.ndarray, trained: float | None, room: float
) -> EncodedSpeech:
    """One recording of its windows: their mean estimate, and the speech tokens that the LLM is given.

    An LLM that is given more speech than it was trained on writes nonsense. So it is given all of the windows only if
    they fit into that, and into its room; else successive windows that do, those in which the emotion of the whole is
    the most probable. The estimate's notice tells it.
    """
    estimate = mean_with_trajectory([(span, each.estimate) for span, each in found], wave)
    moments = estimate.trajectory
    if not moments:
        return found[0][1]
    limit = min(trained or math.inf, room)
    first, last = _stretch(moments, limit, estimate.predicted_emotion)
    notice = None
    if last - first < len(moments):
        why = (
            f"it was trained on utterances of up to {round(trained, 1):g} s"
            if trained and trained <= room
            else "it has no room for more"
        )
        given = f"{moments[first].start:.1f} to {moments[last - 1].end:.1f} s of {len(wave) / RATE:.1f} s"
        notice = (
            f"The LLM was given {given}: {why}. "
            f"Emotion, valence, arousal and dominance are the mean of all {len(moments)} windows"
        )
    elif trained is None and len(moments) > 1:
        notice = f"{len(moments)} windows are answered together: the model does not say what lengths it was trained on"
    tokens = [each.embeddings for _, each in found]
    about = replace(estimate, notice=notice)
    return EncodedSpeech(torch.cat(tokens[first:last]), about, wave, torch.cat([each.heard for _, each in found]))


def _stretch(moments: Sequence[Moment], limit: float, emotion: str | None) -> tuple[int, int]:
    """The successive windows [first, last) that last at most `limit` together: those that show an emotion most."""

    def end(first: int) -> int:
        seconds, last = moments[first].seconds, first + 1
        while last < len(moments) and (seconds := seconds + moments[last].seconds + ROUNDED_SECONDS) <= limit:
            last += 1
        return last

    def shown(stretch: tuple[int, int]) -> tuple[float, int]:
        mean = mean_of(moments[slice(*stretch)])
        return mean.probabilities.get(emotion or "", 0.0), stretch[1] - stretch[0]

    return max(((first, end(first)) for first in range(len(moments))), key=shown)


def with_trajectory(estimate: Estimate, wave: np.ndarray, samples: np.ndarray) -> Estimate:
    """The estimate of prepared `samples` of a recording `wave` with its trajectory, one window's too."""
    if estimate.trajectory:
        return estimate
    first, last = (0, len(wave)) if len(samples) == len(wave) else speech_bounds(wave)
    return replace(estimate, trajectory=moments_of([((first, last), estimate)]))
