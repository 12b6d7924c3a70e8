"""Who speaks: real voices of several synthesisers, moved in pitch, vocal tract and liveliness to make more of them.

A speaker of the pools `dev` and `test` speaks no training sentence, and neither is its base where it can be
avoided: Kokoro's style `jf_nezumi`, Flite's `awb` and espeak-ng's test variants occur there alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from re_llm.mini.voices import voices as espeak_voices

ENGINES = ("piper", "kokoro", "flite", "espeak")
FRACTIONS = {"piper": 0.42, "kokoro": 0.05, "flite": 0.37, "espeak": 0.16}
"""Of the sentences in training: a second of Kokoro costs as much as seven of Piper or seventy of Flite, and
Whisper understands some of espeak-ng's voices badly."""
SEEN = 1 / 3
"""Of the dev and test sentences: spoken by voices of the training."""
ESPEAK_TRAIN, ESPEAK_HELD_OUT = 16, 3


@dataclass(frozen=True)
class Speaker:
    """One voice."""

    name: str
    engine: str
    base: str
    """What the engine calls it; for Kokoro styles and their weights, `jf_alpha:0.5,jm_kumo:0.5`."""
    pool: str = "train"
    """`train`, `dev` or `test`."""
    formant: float = 1.0
    """Factor on all formants (length of the vocal tract)."""
    pitch: float = 0.0
    """Semitones."""
    range: float = 1.0
    """Factor on the pitch range."""


_PIPER = (
    Speaker("joe", "piper", "joe"),
    Speaker("joe-deep", "piper", "joe", formant=0.93, pitch=-2.5),
    Speaker("joe-light", "piper", "joe", formant=1.06, pitch=2.0),
    Speaker("joe-lively", "piper", "joe", formant=1.02, pitch=1.0, range=1.6),
    Speaker("joe-flat", "piper", "joe", formant=0.98, pitch=-0.5, range=0.6),
    Speaker("joe-alto", "piper", "joe", formant=1.14, pitch=6.0),
    Speaker("joe-soprano", "piper", "joe", formant=1.18, pitch=9.0, range=1.2),
    Speaker("joe-child", "piper", "joe", formant=1.26, pitch=11.0),
    Speaker("joe-dev", "piper", "joe", "dev", formant=1.10, pitch=4.0, range=1.3),
    Speaker("joe-test", "piper", "joe", "test", formant=0.89, pitch=-3.5, range=1.2),
)
_KOKORO = (
    Speaker("gongitsune", "kokoro", "jf_gongitsune:1"),
    Speaker("tebukuro", "kokoro", "jf_tebukuro:1"),
    Speaker("kumo", "kokoro", "jm_kumo:1"),
    Speaker("kumo-deep", "kokoro", "jm_kumo:1", formant=0.94, pitch=-2.0),
    Speaker("alpha-kumo", "kokoro", "jf_alpha:0.5,jm_kumo:0.5"),
    Speaker("gongitsune-kumo", "kokoro", "jf_gongitsune:0.5,jm_kumo:0.5"),
    Speaker("tebukuro-kumo", "kokoro", "jf_tebukuro:0.4,jm_kumo:0.6"),
    Speaker("alpha-gongitsune", "kokoro", "jf_alpha:0.4,jf_gongitsune:0.6"),
    Speaker("gongitsune-tebukuro", "kokoro", "jf_gongitsune:0.5,jf_tebukuro:0.5", "dev"),
    Speaker("nezumi", "kokoro", "jf_nezumi:1", "test"),
)
_FLITE = (
    Speaker("rms", "flite", "rms"),
    Speaker("rms-deep", "flite", "rms", formant=0.94, pitch=-2.0),
    Speaker("rms-high", "flite", "rms", formant=1.09, pitch=3.0, range=1.3),
    Speaker("slt", "flite", "slt"),
    Speaker("slt-low", "flite", "slt", formant=0.93, pitch=-3.0),
    Speaker("slt-high", "flite", "slt", formant=1.07, pitch=2.0, range=1.3),
    Speaker("kal16", "flite", "kal16"),
    Speaker("slt-man", "flite", "slt", "dev", formant=0.86, pitch=-8.0),
    Speaker("awb", "flite", "awb", "test"),
)


@cache
def speakers() -> tuple[Speaker, ...]:
    """Everyone, always in the same order."""
    unseen = espeak_voices("test")[: 2 * ESPEAK_HELD_OUT]
    pools = ["train"] * ESPEAK_TRAIN + ["dev"] * ESPEAK_HELD_OUT + ["test"] * ESPEAK_HELD_OUT
    robots = zip(pools, (*espeak_voices("train")[:ESPEAK_TRAIN], *unseen), strict=True)
    espeak = tuple(Speaker(f"espeak-{voice.name}", "espeak", voice.name, pool) for pool, voice in robots)
    return (*_PIPER, *_KOKORO, *_FLITE, *espeak)


def cast(split: str, engines: Sequence[str], rng: np.random.Generator) -> Speaker:
    """Draws who says a sentence of a split, among the engines at hand.

    An engine is drawn by its fraction, then one of its voices. Sentences of `dev` and `test` go to their own voices
    for two thirds, else to the voices of the training.
    """
    pool = split if split != "train" and rng.random() >= SEEN else "train"
    # As many sentences of each kind of unseen voice.
    weights = np.array([FRACTIONS[engine] if pool == "train" else 1.0 for engine in engines])
    engine = engines[int(rng.choice(len(engines), p=weights / weights.sum()))]
    among = [speaker for speaker in speakers() if (speaker.pool, speaker.engine) == (pool, engine)]
    return among[int(rng.integers(len(among)))]
