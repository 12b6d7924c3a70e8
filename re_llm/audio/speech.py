"""What becomes of a person's recording before a model hears it: silence at its ends is cut, its level is kept.

The rule is the same for files, HTTP and Python. The recordings of a manifest are left as their corpus has them.

The level is not changed: how loud somebody speaks belongs to how they speak, and a model trained on levels hears it.
One that must not depend on the microphone has to be trained with random gain (`re_llm.audio.disturb`).
"""

from __future__ import annotations

import numpy as np

from re_llm.audio.waveform import RATE, Samples, refuse_long, refuse_silence

FRAME = RATE // 50  # 20 ms
BELOW_SPEECH = 10 ** (-40 / 20)  # of the loudest frames: what is softer is silence, in any recording
ABOVE_NOISE = 10 ** (8 / 20)  # of the softest frames: what is less is background
NOISE_AT_MOST = 10 ** (-25 / 20)  # of the loudest frames: softer speech is not taken for background
LEAD_SECONDS, TAIL_SECONDS = (
    0.25,
    0.35,
)  # kept in front of the speech and behind it: onsets and the room's decay are soft
LOUDEST, SOFTEST = 95, 10  # percentiles of the frames


def prepare(samples: Samples, name: str, max_seconds: float) -> Samples:
    """Samples [T] of a person's recording as a model hears it.

    Args:
        name: for messages.
        max_seconds: what the LLM has room for.

    Raises:
        RellmError: it is silent, or too long without the silence at its ends.
    """
    return refuse_long(cut_silence(refuse_silence(samples, name)), name, max_seconds)


def cut_silence(samples: Samples) -> Samples:
    """Samples [T] without the silence at both ends, up to 0.25 s in front of the speech and 0.35 s behind it.

    Silence is what stays 40 dB below the loudest frames of 20 ms, or within 8 dB of the softest: a room's background.
    A recording without a louder part stays as it is.
    """
    frames = len(samples) // FRAME
    if frames < 2:
        return samples
    levels = np.sqrt((samples[: frames * FRAME].reshape(frames, FRAME).astype(np.float64) ** 2).mean(axis=1))
    loud = np.percentile(levels[levels > levels.max() * BELOW_SPEECH], LOUDEST)
    background = min(np.percentile(levels, SOFTEST) * ABOVE_NOISE, loud * NOISE_AT_MOST)
    (speech,) = np.nonzero(levels > max(loud * BELOW_SPEECH, background))
    first = speech[0] * FRAME - round(LEAD_SECONDS * RATE)
    last = (speech[-1] + 1) * FRAME + round(TAIL_SECONDS * RATE)
    return samples[max(first, 0) : last]
