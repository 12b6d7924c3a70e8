"""Headers and hashes of the recordings of a corpus, and estimates of valence, arousal and dominance.

Both run in one process or in many (re_llm.cluster.work), on batches of utterances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from re_llm.audio import waveform
from re_llm.audio.source import locate
from re_llm.core.errors import RellmError
from re_llm.core.records import DIMENSIONS, Utterance
from re_llm.data.corpora.files import any_format

BATCH = 16  # recordings given to the estimator of pseudo labels at once
DIGITS = 6  # of durations: microseconds

Checked = tuple[Utterance, RellmError | None]


class VadEstimator(Protocol):
    """Estimates dimensions of recordings: `name` goes into `vad_source`.

    Called with recordings [T] at 16 kHz; returns (valence, arousal, dominance) of each, on 0..1.
    """

    name: str

    def __call__(self, waves: Sequence[waveform.Samples]) -> Sequence[tuple[float, float, float]]: ...


def estimator_name(estimate: VadEstimator) -> str:
    """What `vad_source` calls an estimator; also any function may be one."""
    return str(getattr(estimate, "name", getattr(estimate, "__name__", "unnamed")))


@dataclass(frozen=True)
class HeaderWork:
    """Adds length, rate and hash of their recordings to utterances (re_llm.cluster.work).

    Attributes:
        known: hashes that an interrupted run has left, by recording.
    """

    folder: Path
    hashed: bool
    known: Mapping[str, str] = field(default_factory=dict)
    device: None = None

    def start(self) -> Callable[[list[Utterance]], list[Checked]]:
        recordings = _Recordings(self.known, hashed=self.hashed)
        return lambda batch: [recordings.add_to(utterance) for utterance in batch]


class _Recordings:
    """Headers and hashes of one run, cached: consecutive utterances can be segments of one long file."""

    def __init__(self, known: Mapping[str, str], *, hashed: bool):
        self.known, self.hashed = known, hashed
        self.header = lru_cache(maxsize=64)(waveform.info)
        self.hash = lru_cache(maxsize=64)(waveform.sha256)

    def add_to(self, utterance: Utterance) -> Checked:
        """Adds length, rate and hash; or returns the error: missing, unreadable, or the segment is not in it."""
        try:
            self._add_to(utterance)
        except RellmError as error:
            return utterance, error
        return utterance, None

    def _add_to(self, utterance: Utterance) -> None:
        if locate(utterance.audio).length is None:
            utterance.audio = str(any_format(Path(utterance.audio)))
        header = self.header(utterance.audio)
        left = header.seconds - utterance.start
        if utterance.duration is None and left > 0:
            utterance.duration = round(left, DIGITS)
        elif utterance.duration is None or utterance.duration - left > waveform.END_TOLERANCE:
            raise RellmError(
                f"{utterance.audio} is {header.seconds:.2f} s long, but the segment goes to "
                f"{utterance.start + (utterance.duration or 0):.2f} s"
            )
        if utterance.duration < waveform.MIN_SECONDS:
            raise RellmError(f"{utterance.audio} is too short: {utterance.duration:.3f} s")
        utterance.sample_rate = header.rate
        if self.hashed:
            utterance.sha256 = self.known.get(utterance.audio) or self.hash(utterance.audio)


@dataclass(frozen=True)
class PseudoLabelWork:
    """Adds estimated dimensions to utterances without them (re_llm.cluster.work)."""

    estimate: VadEstimator
    folder: None = None

    @property
    def device(self) -> str:
        return getattr(self.estimate, "device", "auto")

    def start(self) -> Callable[[list[Utterance]], list[Checked]]:
        return self.label

    def label(self, batch: list[Utterance]) -> list[Checked]:
        """The batch, each with its error when the recording cannot be read."""
        waves: dict[str, waveform.Samples] = {}
        unreadable: dict[str, RellmError] = {}
        for utterance in batch:
            if utterance.dimensions() is None:
                try:
                    wave = waveform.load(utterance.audio, start=utterance.start, duration=utterance.duration)
                    waves[utterance.key] = wave
                except RellmError as error:
                    unreadable[utterance.key] = error
        source = f"pseudo:{estimator_name(self.estimate)}"
        estimated = dict(zip(waves, self.estimate(list(waves.values())), strict=True)) if waves else {}
        for utterance in batch:
            if utterance.key in estimated:
                for name, value in zip(DIMENSIONS, estimated[utterance.key], strict=True):
                    # A regression head is not bounded; the scale is.
                    setattr(utterance, name, min(max(float(value), 0.0), 1.0))
                utterance.vad_source = source
        return [(utterance, unreadable.get(utterance.key)) for utterance in batch]
