"""Manifests: reading them, counting what they hold, and the problems that readers and checks list."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

from re_llm.core.records import DIMENSIONS, Utterance, read_records

HISTOGRAM_SECONDS = 0.5  # width of a bar


@dataclass(frozen=True)
class Problem:
    """Something in a file that could not be used as it is, or is not as it should be."""

    file: str
    line: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"

    def to_line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def read_manifest(path: str | os.PathLike[str], *, splits: Iterable[str] | None = None) -> Iterator[Utterance]:
    """Utterances of a manifest, one at a time; `splits` keeps those of some splits.

    Raises:
        RellmError: the file is missing or holds a line that is no utterance.
    """
    wanted = None if splits is None else frozenset(splits)
    return (u for u in read_records(path, Utterance) if wanted is None or u.split in wanted)


@dataclass
class Summary:
    """Counts of a manifest. `seconds` is the length of all recordings.

    Attributes:
        shortest, longest: length of a recording in seconds; None when no row has one.
        emotions: rows by (split, emotion); `none` without a label.
        speakers: rows by (split, speaker).
        durations: rows by bar of the histogram; bar k holds k to k + 1 times `HISTOGRAM_SECONDS`.
        dimensions: rows by (name, tenth of the scale).
        sources: rows by where V/A/D come from; `none` without them.
    """

    rows: int = 0
    seconds: float = 0.0
    shortest: float | None = None
    longest: float | None = None
    splits: Counter[str] = field(default_factory=Counter)
    corpora: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    emotions: Counter[tuple[str, str]] = field(default_factory=Counter)
    speakers: Counter[tuple[str, str]] = field(default_factory=Counter)
    durations: Counter[int] = field(default_factory=Counter)
    dimensions: Counter[tuple[str, int]] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, utterance: Utterance) -> None:
        split = utterance.split
        self.rows += 1
        self.seconds += utterance.duration or 0.0
        self.splits[split] += 1
        self.corpora[utterance.corpus] += 1
        self.languages[utterance.language or "unknown"] += 1
        self.emotions[split, utterance.emotion or "none"] += 1
        self.speakers[split, utterance.speaker or "unknown"] += 1
        if (length := utterance.duration) is not None:
            self.durations[int(length / HISTOGRAM_SECONDS)] += 1
            self.shortest = length if self.shortest is None else min(self.shortest, length)
            self.longest = length if self.longest is None else max(self.longest, length)
        for name in DIMENSIONS:
            if (value := getattr(utterance, name)) is not None:
                self.dimensions[name, min(int(value * 10), 9)] += 1
        self.sources[utterance.vad_source or "none"] += 1

    def number_of_speakers(self, split: str | None = None) -> int:
        return len({name for side, name in self.speakers if name != "unknown" and split in (None, side)})


def summarize(path: str | os.PathLike[str]) -> Summary:
    """Counts of a manifest by split, emotion, speaker, language and length, in one pass."""
    summary = Summary()
    for utterance in read_manifest(path):
        summary.add(utterance)
    return summary
