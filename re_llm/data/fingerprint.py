"""Acoustic fingerprints: the same recording is found again after lossy compression, resampling, gain and trimming.

Landmarks as Wang (An Industrial-Strength Audio Search Algorithm, ISMIR 2003) pairs them: peaks of the spectrogram up to
3.5 kHz, each with the next five, as (frequency, frequency, distance in time). Two recordings are candidates when many
landmarks agree in their offset; a candidate counts when the aligned waveforms correlate. Other takes of a sentence by
the same actor do not (benchmarks/fingerprint.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

RATE = 8_000  # Hz
WINDOW, HOP = 512, 128  # samples: 64 ms, 16 ms
BANDS = slice(8, 224)  # 125 to 3,500 Hz, what telephone speech keeps
NEIGHBOURS = (7, 15)  # frames and bands in which a peak is the largest value
FLOOR = 6.0  # a peak lies at most so far below the loudest (natural logarithm: 52 dB)
PHASES = (0, HOP // 2)  # samples before the first frame
PEAKS = 25  # a second
FAN, REACH = 5, 64  # peaks that each is paired with, and frames to the last of them
MIN_VOTES, MIN_FRACTION = 10, 0.05  # landmarks of a candidate; fraction of those of the shorter recording
MIN_CORRELATION = 0.6
LAG = HOP * 4  # samples that the offset of a candidate may be wrong by
MIN_OVERLAP = RATE // 4  # samples that are compared
_OFFSETS = 1 << 20

Samples = npt.NDArray[np.float32]


class Landmarks(NamedTuple):
    """Landmarks of a recording [N]: what they are, and the frame in which they begin."""

    names: npt.NDArray[np.uint32]
    frames: npt.NDArray[np.uint16]


class Candidate(NamedTuple):
    """A recording of an index that may be the one at hand: sample n here is sample n + `offset` there."""

    number: int
    offset: int


def landmarks(samples: Samples, *, phases: int = 1) -> list[Landmarks]:
    """Landmarks of a recording [T] at `RATE`.

    Args:
        phases: 2 adds those of frames that begin half a hop later: a trimmed recording has its frames in between.
    """
    return [_landmarks(samples[skipped:]) for skipped in PHASES[:phases]]


def _landmarks(samples: Samples) -> Landmarks:
    frames, bands = _peaks(samples)
    names, starts = [], []
    for step in range(1, min(FAN, len(frames) - 1) + 1):
        distance = frames[step:] - frames[:-step]
        near = (distance > 0) & (distance <= REACH)
        name = (bands[:-step] << 16) | (bands[step:] << 8) | distance
        names.append(name[near])
        starts.append(frames[:-step][near])
    if not names:
        return Landmarks(np.empty(0, np.uint32), np.empty(0, np.uint16))
    return Landmarks(np.concatenate(names).astype(np.uint32), np.concatenate(starts).astype(np.uint16))


def _peaks(samples: Samples) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(frames, bands) of the loudest peaks, in the order of time."""
    from scipy.ndimage import maximum_filter

    padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP]
    size = np.abs(np.fft.rfft(windows * np.hanning(WINDOW).astype(np.float32), axis=1))[:, BANDS]
    level = np.log(size + 1e-6 * size.max() + 1e-12)
    is_peak = (level == maximum_filter(level, size=NEIGHBOURS)) & (level > level.max() - FLOOR)
    frames, bands = np.nonzero(is_peak)
    loudest = np.argsort(-level[is_peak], kind="stable")[: max(8, PEAKS * len(samples) // RATE)]
    kept = np.sort(loudest)
    return frames[kept], bands[kept]


@dataclass(frozen=True)
class Index:
    """Landmarks of many recordings in both phases, sorted by what they are.

    Attributes:
        numbers: twice the number of the recording, plus one in the second phase.
        sizes: landmarks of each recording in the first phase.
    """

    names: npt.NDArray[np.uint32]
    numbers: npt.NDArray[np.uint32]
    frames: npt.NDArray[np.uint16]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, recordings: Sequence[Sequence[Landmarks]]) -> Index:
        """The index of recordings with landmarks in two phases, which are called by their numbers here."""
        phases = [phase for recording in recordings for phase in recording]
        sizes = np.array([len(phase.names) for phase in phases], np.int64)
        names = np.concatenate([np.empty(0, np.uint32), *(phase.names for phase in phases)])
        frames = np.concatenate([np.empty(0, np.uint16), *(phase.frames for phase in phases)])
        order = np.argsort(names, kind="stable")
        numbers = np.repeat(np.arange(len(phases), dtype=np.uint32), sizes)
        return cls(names[order], numbers[order], frames[order], sizes[:: len(PHASES)])

    def candidates(self, found: Landmarks) -> Iterator[Candidate]:
        """Recordings of the index whose landmarks agree with those of a recording."""
        best: dict[int, tuple[int, int]] = {}
        for phase, votes, frames in self._votes(found):
            number, skipped = phase // len(PHASES), PHASES[phase % len(PHASES)]
            if votes > best.get(number, (0, 0))[0]:
                best[number] = votes, frames * HOP + skipped
        for number, (votes, offset) in best.items():
            if votes >= max(MIN_VOTES, MIN_FRACTION * min(len(found.names), self.sizes[number])):
                yield Candidate(number, offset)

    def _votes(self, found: Landmarks) -> Iterator[tuple[int, int, int]]:
        """(phase of a recording, landmarks that agree, offset in frames) for every offset with enough of them."""
        first = np.searchsorted(self.names, found.names, "left")
        counts = np.searchsorted(self.names, found.names, "right") - first
        total = int(counts.sum())
        places = np.repeat(first - np.cumsum(counts) + counts, counts) + np.arange(total)
        offsets = self.frames[places].astype(np.int64) - np.repeat(found.frames.astype(np.int64), counts)
        pairs = self.numbers[places].astype(np.int64) * _OFFSETS + offsets + _OFFSETS // 2
        values, votes = np.unique(pairs, return_counts=True)
        votes[:-1] += np.where(values[1:] == values[:-1] + 1, votes[1:], 0)  # an offset between two frames
        enough = votes >= MIN_VOTES
        for value, count in zip(values[enough].tolist(), votes[enough].tolist(), strict=True):
            yield value // _OFFSETS, count, value % _OFFSETS - _OFFSETS // 2


def candidates(
    train: Mapping[int, Sequence[Landmarks]], test: Mapping[int, Sequence[Landmarks]]
) -> Iterator[tuple[int, int, int]]:
    """(training recording, test recording, offset) that may be the same; the test side in both phases."""
    places = list(test)
    index = Index.of([test[place] for place in places])
    for place, (landmarks, *_) in train.items():
        for found in index.candidates(landmarks):
            yield place, places[found.number], found.offset


def is_same(samples: Samples, other: Samples, offset: int) -> bool:
    """Whether the parts of two recordings [T] at `RATE` that overlap at `offset` are one recording."""
    first, last = max(0, -offset), min(len(samples), len(other) - offset)
    if last - first < MIN_OVERLAP:
        return False
    here, there = samples[first:last], other[first + offset : last + offset]
    size = 1 << (2 * len(here) - 1).bit_length()
    product = np.fft.irfft(np.fft.rfft(here, size).conj() * np.fft.rfft(there, size), size)
    largest = np.abs(np.concatenate([product[-LAG:], product[: LAG + 1]])).max()
    return bool(largest >= MIN_CORRELATION * np.sqrt(float(here @ here) * float(there @ there)) > 0)
