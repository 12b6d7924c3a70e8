"""The same recording under conditions that change nothing about its emotion: how stable is what is heard in it?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from re_llm.audio.disturb import coded, coloured_noise, narrow
from re_llm.audio.waveform import RATE, Samples

SILENCE = 2 * RATE
NOISE_DB = 15.0  # below the recording
OPUS_LEVEL = 0.96  # of libsndfile: 12 to 19 kbit/s for speech


def _noisy(wave: Samples, rng: np.random.Generator) -> np.ndarray:
    level = np.sqrt(np.mean(wave**2)) * 10 ** (-NOISE_DB / 20)
    return np.asarray(wave + level * coloured_noise(len(wave), rng))


CONDITIONS: dict[str, Callable[[Samples, np.random.Generator], np.ndarray]] = {
    "x0.3": lambda wave, rng: 0.3 * wave,
    "x3": lambda wave, rng: np.clip(3 * wave, -1, 1),
    "2 s silence in front": lambda wave, rng: np.pad(wave, (SILENCE, 0)),
    "2 s silence behind": lambda wave, rng: np.pad(wave, (0, SILENCE)),
    "8 kHz": lambda wave, rng: narrow(wave),
    "Opus 16 kbit/s": lambda wave, rng: coded(wave, "OGG", "OPUS", OPUS_LEVEL),
    "noise 15 dB": _noisy,
}


def under(condition: str, wave: Samples, rng: np.random.Generator) -> Samples:
    """A recording under one of CONDITIONS."""
    return CONDITIONS[condition](wave, rng).astype(np.float32)
