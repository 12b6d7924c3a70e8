"""Recordings that are no speech: noise, hum, chords, clicks. An emotion encoder learns to name no emotion in them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from re_llm.audio.disturb import coloured_noise
from re_llm.audio.waveform import RATE
from re_llm.train.emotion.rows import NO_EMOTION, Labelled

CORPUS = "background"
NUMBER = 240
VALIDATED = 40  # of them that are never trained on
SECONDS = (1.0, 6.0)
LEVEL_DB = (-55.0, -12.0)  # RMS of full scale
SCALE = (0, 2, 4, 5, 7, 9, 11)  # half tones


def _noise(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Of a drawn colour, steady or swelling."""
    swell = 1 + rng.uniform(0, 0.9) * np.sin(2 * np.pi * rng.uniform(0.1, 3) * time)
    return coloured_noise(len(time), rng) * swell


def _hum(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mains or a machine: harmonics of one low tone, with some noise."""
    tone = rng.uniform(45, 240)
    parts = [np.sin(2 * np.pi * n * tone * time + rng.uniform(0, 6.3)) / n ** rng.uniform(0.5, 2) for n in range(1, 12)]
    return np.sum(parts, axis=0) + rng.uniform(0, 0.5) * coloured_noise(len(time), rng)


def _music(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Chords and melodies of plucked or held tones."""
    found, beat = np.zeros(len(time)), rng.uniform(0.15, 0.7)
    root, decay, steps = rng.uniform(80, 330), rng.uniform(0.3, 8), int(time[-1] / beat) + 1
    for step in range(steps):
        since = time - step * beat
        envelope = np.where((since >= 0) & (since < 4 * beat), np.exp(-decay * np.maximum(since, 0)), 0)
        for note in rng.choice(SCALE, int(rng.integers(1, 4))):
            tone = root * 2 ** ((note + 12 * int(rng.integers(0, 3))) / 12)
            found += envelope * sum(np.sin(2 * np.pi * n * tone * since) / n**1.5 for n in range(1, 6))
    return found


def _clicks(time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keys, steps, knocks: short bursts over a quiet floor."""
    found = 0.02 * coloured_noise(len(time), rng)
    for start in rng.uniform(0, time[-1], int(rng.integers(2, 25))):
        since = np.maximum(time - start, 0)
        burst = np.exp(-since * rng.uniform(30, 400)) * (time >= start)
        found += burst * coloured_noise(len(time), rng)
    return found


KINDS: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...] = (_noise, _hum, _music, _clicks)


def background_wave(number: int) -> np.ndarray:
    """Samples [N] at 16 kHz of one recording; the same for the same number."""
    rng = np.random.default_rng([number, 7])
    time = np.arange(int(rng.uniform(*SECONDS) * RATE)) / RATE
    wave = KINDS[number % len(KINDS)](time, rng)
    wave = wave / np.sqrt(np.mean(wave**2)) * 10 ** (rng.uniform(*LEVEL_DB) / 20)
    return np.asarray(np.clip(wave, -1, 1), np.float32)


def background_rows(folder: Path, number: int = NUMBER) -> list[Labelled]:
    """Recordings in `folder`, written where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(number):
        path = folder / f"{i:03d}.flac"
        if not path.is_file():
            partial = path.with_suffix(".partial")
            soundfile.write(partial, background_wave(i), RATE, format="FLAC")
            partial.replace(path)
        rows.append(Labelled(f"{CORPUS}/{i}", CORPUS, CORPUS, "all", str(path), 0.0, None, NO_EMOTION, None, None))
    return rows
