"""What becomes of a person's recording before a model hears it: silence at its ends is cut, its level is the model's.

The rule is the same for files, HTTP and Python. The recordings of a manifest are left as their corpus has them.

A recording keeps its level, since how loud somebody speaks belongs to how they speak, until a processor with
`speech_level` brings it to the level that its model was trained on: then no microphone's gain changes anything.
"""

from __future__ import annotations

import numpy as np

from re_llm.audio.waveform import RATE, Samples, refuse_silence
from re_llm.core.errors import RellmError

FRAME = RATE // 50  # 20 ms
BELOW_SPEECH = 10 ** (-40 / 20)  # of the loudest frames: what is softer is silence, in any recording
ABOVE_NOISE = 10 ** (8 / 20)  # of the softest frames: what is less is background
NOISE_AT_MOST = 10 ** (-25 / 20)  # of the loudest frames: softer speech is not taken for background
# Kept in front of the speech and behind it: onsets and the room's decay are soft.
LEAD_SECONDS, TAIL_SECONDS = 0.25, 0.35
NO_SOUND = 10 ** (-70 / 20)  # of the loudest frames: softer than the background of any recording, so nothing recorded
SHORTEST_SECONDS = 0.05  # less is a click; the shortest words take more
LOUDEST, SOFTEST = 95, 10  # percentiles of the frames


def prepare(samples: Samples, name: str, window: float) -> Samples:
    """Samples [T] of a person's recording as a model hears it.

    Args:
        name: for messages.
        window: seconds of one window. A recording that is longer without the silence at its ends keeps it: it is cut
            into windows, whose times are those of the recording (`re_llm.audio.windows`).

    Raises:
        RellmError: it is silent, or has less sound than a syllable.
    """
    cut = cut_silence(refuse_silence(samples, name))
    if len(cut) < SHORTEST_SECONDS * RATE:
        raise RellmError(
            f"{name} has {len(cut) / RATE:.2f} s of sound, which is no speech",
            allowed=f"{SHORTEST_SECONDS:g} s or more",
        )
    return cut if len(cut) <= window * RATE else samples


def cut_silence(samples: Samples) -> Samples:
    """Samples [T] without the silence at both ends; see `speech_bounds`."""
    first, last = speech_bounds(samples)
    return samples[first:last]


def speech_bounds(samples: Samples) -> tuple[int, int]:
    """Where the speech of samples [T] begins and ends, with up to 0.25 s in front of it and 0.35 s behind it.

    These margins hold the recording's background only. Digital silence (a padded file, a microphone or a codec that
    starts late) ends them: models are trained on recordings, which have none.
    """
    levels = frame_levels(samples)
    (speech,) = np.nonzero(_is_speech(levels))
    if not len(speech):
        return 0, len(samples)
    first = speech[0] * FRAME - round(LEAD_SECONDS * RATE)
    last = (speech[-1] + 1) * FRAME + round(TAIL_SECONDS * RATE)
    (nothing,) = np.nonzero(levels <= levels.max() * NO_SOUND)
    before, behind = nothing[nothing < speech[0]], nothing[nothing > speech[-1]]
    first = max(first, (before[-1] + 1) * FRAME if len(before) else 0)
    last = min(last, behind[0] * FRAME if len(behind) else len(samples))
    return int(first), int(last)


def speech_frames(samples: Samples) -> np.ndarray:
    """Whether each 20 ms of samples [T] are louder than silence, bool [F].

    Silence is what stays 40 dB below the loudest frames, or within 8 dB of the softest: a room's background. A
    recording without a louder part is speech as a whole.
    """
    return _is_speech(frame_levels(samples))


def _is_speech(levels: np.ndarray) -> np.ndarray:
    """`speech_frames` of the levels [F] of a recording's frames."""
    if len(levels) < 2:
        return np.ones(len(levels), dtype=bool)
    loud = np.percentile(levels[levels > levels.max() * BELOW_SPEECH], LOUDEST)
    sounding = levels[levels > levels.max() * NO_SOUND]
    background = min(np.percentile(sounding, SOFTEST) * ABOVE_NOISE, loud * NOISE_AT_MOST)
    return np.asarray(levels > max(loud * BELOW_SPEECH, background))


def at_level(samples: Samples, level: float) -> Samples:
    """Samples [T] scaled so that their speech has a level of `level` dB of full scale (RMS over its frames).

    Pauses and silence at the ends do not count, as in ITU-T P.56. Digital silence stays as it is.
    """
    levels = frame_levels(samples)
    speech = levels[_is_speech(levels)] if np.any(samples) else levels[:0]
    rms = np.sqrt(np.mean(speech**2)) if len(speech) else 0.0
    return (samples * (10 ** (level / 20) / rms)).astype(np.float32) if rms else samples


def frame_levels(samples: Samples) -> np.ndarray:
    """RMS of each whole 20 ms of samples [T], float64 [F]."""
    frames = len(samples) // FRAME
    whole = samples[: frames * FRAME].reshape(frames, FRAME)
    # Cast piece by piece: ten minutes in float64, and their squares, would be 150 MB.
    return np.asarray(np.sqrt(np.einsum("ft,ft->f", whole, whole, dtype=np.float64) / FRAME))
