"""Checks of the recordings of a manifest, as work for one process or many (re_llm.cluster.work)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from re_llm.audio import waveform
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance
from re_llm.data import fingerprint


@dataclass(frozen=True)
class AudioCheck:
    """Findings in a recording.

    Attributes:
        seconds: length of the whole file, None when it could not be read.
        samples: identity of the decoded samples; 0 when they are not known.
        landmarks: for the search by sound.
    """

    problems: list[str] = field(default_factory=list)
    seconds: float | None = None
    samples: int = 0
    landmarks: list[fingerprint.Landmarks] | None = None


Numbered = tuple[int, Utterance]


@dataclass(frozen=True)
class AudioCheckWork:
    """Checks the recordings of numbered manifest rows (re_llm.cluster.work).

    Attributes:
        phases: of landmarks (re_llm.data.fingerprint); 0 takes none.
    """

    folder: Path
    max_seconds: float
    phases: int = 0
    device: None = None

    def start(self) -> Callable[[list[Numbered]], list[tuple[int, Utterance, AudioCheck]]]:
        digest = lru_cache(maxsize=64)(partial(waveform.sha256, root=self.folder))
        return lambda rows: [(number, row, self._check(row, digest)) for number, row in rows]

    def _check(self, utterance: Utterance, digest: Callable[[str], str]) -> AudioCheck:
        """Decodes the recording of a row; adds the hash where the row has none."""
        try:
            header = waveform.info(utterance.audio, root=self.folder)
            samples = waveform.load(
                utterance.audio, start=utterance.start, duration=utterance.duration, rate=header.rate,
                max_seconds=self.max_seconds, root=self.folder,
            )  # fmt: skip
            actual = digest(utterance.audio)
        except RellmError as error:
            return AudioCheck([error.what])
        found = waveform.problems(samples)
        if utterance.sample_rate not in (None, header.rate):
            found.append(f"the manifest says {utterance.sample_rate} Hz, the file {header.rate} Hz")
        if utterance.sha256 not in (None, actual):
            found.append("the recording is not the one that was hashed")
        utterance.sha256 = actual
        landmarks = None
        if self.phases:
            landmarks = fingerprint.landmarks(
                waveform.resample(samples, header.rate, fingerprint.RATE), phases=self.phases
            )
        return AudioCheck(found, header.seconds, _samples_id(samples), landmarks)


def _samples_id(samples: waveform.Samples) -> int:
    """Identity of samples at 16 bits: that of a FLAC, of a 24-bit copy and of a file with another header."""
    pcm = np.round(samples * 32768.0).astype("<i4")
    return int.from_bytes(hashlib.blake2b(pcm.tobytes(), digest_size=8).digest(), signed=True) or 1


def sound_of(utterance: Utterance, folder: Path, max_seconds: float) -> waveform.Samples | None:
    """Samples of a row at the rate of the fingerprints; None when it cannot be read any more."""
    try:
        return waveform.load(
            utterance.audio, start=utterance.start, duration=utterance.duration, rate=fingerprint.RATE,
            max_seconds=max_seconds, root=folder,
        )  # fmt: skip
    except RellmError:
        return None
