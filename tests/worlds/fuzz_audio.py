"""Damaged recordings of every kind, read in every way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mutations import mutated
from sounds import originals

from re_llm.audio import waveform
from re_llm.core.errors import RellmError

KINDS = (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".webm")


def read_broken(suffix: str, folder: Path, seed: int, count: int) -> int:
    """Reads damaged recordings as files and as bytes; returns how often that is refused.

    Every fourth has the name of another format. An error that is not a RellmError escapes.
    """
    refused = 0
    for number, data in enumerate(mutated(originals()[suffix], seed, count)):
        path = folder / f"a{suffix if number % 4 else '.wav'}"
        path.write_bytes(data)
        source = path if number % 2 else data
        for read in (
            lambda source: waveform.info(source),
            lambda source: waveform.load(source),
            lambda source: waveform.load(source, start=0.1, duration=0.1),
        ):
            try:
                found = read(source)
            except RellmError:
                refused += 1
                continue
            if isinstance(found, np.ndarray):
                assert found.dtype == np.float32 and np.isfinite(found).all()
    return refused
