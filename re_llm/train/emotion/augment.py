"""Disturbed copies of a recording: another speed, other silence around it, and what `audio.disturb` does to sound."""

from __future__ import annotations

import numpy as np

from re_llm.audio.disturb import disturb
from re_llm.audio.waveform import RATE, Samples, resample
from re_llm.recipe.emotion import AugmentOptions

BLOCK = RATE // 50  # 20 ms, in which the level is measured
TRIM_DB = (25.0, 40.0)  # below the loudest block: silence
FLOOR_DB = (-90.0, -60.0)  # level of added silence
LONGEST = 30 * RATE  # one window of Whisper
SHORTEST = RATE // 4


def augmented(wave: Samples, options: AugmentOptions, rng: np.random.Generator) -> Samples:
    """One disturbed copy of samples [N] at 16 kHz, at most 30 s long."""
    if rng.random() < options.speed_fraction:
        # Resampled and played at the old rate: pitch and formants move too.
        wave = resample(wave, round(RATE * rng.uniform(*options.speed)), RATE)
    if rng.random() < options.trim_fraction:
        wave = trimmed(wave, rng.uniform(*TRIM_DB))
    if rng.random() < options.silence_fraction:
        wave = surrounded(wave, options.silence, rng)
    return disturb(wave, rng, options.disturbance)[0][:LONGEST]


def trimmed(wave: Samples, below: float) -> Samples:
    """Without what is more than `below` dB quieter than the loudest 20 ms at both ends; 80 ms of it stay."""
    blocks = wave[: len(wave) // BLOCK * BLOCK].reshape(-1, BLOCK)
    if not len(blocks):
        return wave
    level = np.sqrt((blocks**2).mean(1))
    loud = np.flatnonzero(level > level.max() * 10 ** (-below / 20))
    if not len(loud):
        return wave
    kept = wave[max(0, loud[0] - 4) * BLOCK : (loud[-1] + 5) * BLOCK]
    return kept if len(kept) >= SHORTEST else wave


def surrounded(wave: Samples, longest: float, rng: np.random.Generator) -> Samples:
    """With near-silence of up to `longest` seconds in front, behind, or on both sides."""
    sides = (1, 0), (0, 1), (1, 1)
    chosen = np.asarray(sides[int(rng.integers(len(sides)))])
    padded = np.pad(wave, tuple((chosen * rng.uniform(0, longest, 2) * RATE).astype(int)))
    floor = 10 ** (rng.uniform(*FLOOR_DB) / 20) * rng.standard_normal(len(padded))
    return (padded + floor).astype(np.float32)
