"""Manifests: reading, summaries, checks (the search for leakage is in re_llm.data.leakage).

Everything streams: what is kept in memory grows with the number of different speakers, sentences and hashes only.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from re_llm.audio import waveform
from re_llm.cluster.work import Cluster, ordered_map, run_rows
from re_llm.core.emotions import is_label
from re_llm.core.errors import RellmError
from re_llm.core.progress import progress_bar
from re_llm.core.records import DIMENSIONS, Utterance, read_numbered, read_records
from re_llm.data.leakage import Leakage, Overlap, find_leakage, leakage, own_leakage

HISTOGRAM_SECONDS = 0.5  # width of a bar
DURATION_TOLERANCE = 0.1  # s between what a manifest says and what the file holds

__all__ = [
    "CheckReport", "Leakage", "Overlap", "Problem", "Summary", "check", "find_leakage", "leakage", "ordered_map",
    "read_manifest", "summarize",
]  # fmt: skip


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
        shortest, longest: length of a recording in seconds; None when no row says it.
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


@dataclass
class CheckReport:
    """Findings of `check`, `problems` in the order of the manifest.

    Attributes:
        decoded: whether the recordings were checked, too.
        duplicates: groups of keys whose recordings are the same, byte for byte.
        leakage: what the training and the test rows of this manifest have in common; None with one side only.
    """

    manifest: str
    decoded: bool
    summary: Summary = field(default_factory=Summary)
    problems: list[Problem] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    leakage: Leakage | None = None

    @property
    def ok(self) -> bool:
        """Whether no row has a problem and no recording is in training and test rows.

        Other duplicates, and shared speakers and sentences, can be intended by a protocol.
        """
        return not self.problems and not (self.leakage and self.leakage.overlaps["audio"].shared)

    @property
    def spotless(self) -> bool:
        """Whether it is `ok`, has no duplicates, and training and test rows share no speaker and no sentence."""
        return self.ok and not self.duplicates and not (self.leakage and self.leakage.any)


def check(
    path: str | os.PathLike[str],
    *,
    decode: bool = True,
    workers: int = 1,
    emotions: Sequence[str] | None = None,
    max_seconds: float = waveform.MAX_SECONDS,
    cluster: Cluster | None = None,
) -> CheckReport:
    """Checks a manifest, and with `decode` every recording in it.

    Rows: readable, unique keys, known labels, complete V/A/D. Recordings: readable to the end, finite, neither silent
    nor clipped, of the length in the manifest. Then duplicates by content, and the overlap of training and test rows.

    Args:
        workers: threads that decode; without effect on a `cluster`.
        emotions: labels that may occur; None allows those of each row's label set.

    Raises:
        RellmError: the manifest is missing or has no rows. Anything else is a problem in the report.
    """
    path = Path(path)
    report = CheckReport(str(path), decode)
    rows = _checked_rows(path, report, emotions)
    work = AudioCheckWork(path.parent, max_seconds, decode=decode)
    seen = _Seen()
    with progress_bar("check", None, show=decode) as advance:
        for number, utterance, checked in run_rows(work, rows, cluster=cluster if decode else None, workers=workers):
            report.problems += [Problem(str(path), number, f"{utterance.key}: {what}") for what in checked.problems]
            report.summary.add(utterance)
            seen.add(number, utterance, checked)
            advance()
    if not report.summary.rows:
        raise RellmError(f"{path} holds no utterance", todo="Prepare the corpus again")
    report.problems += [Problem(str(path), number, what) for number, what in seen.too_short()]
    report.problems.sort(key=lambda p: p.line or 0)
    report.duplicates = seen.duplicates()
    report.leakage = own_leakage(path, report.summary.splits, seen.hashes)
    return report


@dataclass(frozen=True)
class AudioCheck:
    """Problems of a recording; `seconds` is the length of the whole file, None when it could not be read."""

    problems: list[str] = field(default_factory=list)
    seconds: float | None = None


class _Seen:
    """What is compared across rows: hashes, and how many rows use a recording."""

    def __init__(self) -> None:
        self.hashes: dict[str, str] = {}  # by key: also of rows that are without
        self._keys: dict[str, list[str]] = {}  # by content
        self._uses: Counter[str] = Counter()
        self._shorter: list[tuple[int, Utterance, float]] = []

    def add(self, number: int, utterance: Utterance, checked: AudioCheck) -> None:
        self._uses[utterance.audio] += 1
        if utterance.sha256:
            self.hashes[utterance.key] = utterance.sha256
            self._keys.setdefault(f"{utterance.sha256}@{utterance.start:.3f}", []).append(utterance.key)
        said, held = utterance.duration, checked.seconds
        if not utterance.start and said is not None and held is not None and said < held - DURATION_TOLERANCE:
            self._shorter.append((number, utterance, held))

    def duplicates(self) -> list[list[str]]:
        """Groups of keys of the same recording."""
        return [keys for keys in self._keys.values() if len(keys) > 1]

    def too_short(self) -> Iterator[tuple[int, str]]:
        """(line, problem) of rows shorter than their recording, if no other row is a segment of it."""
        for number, utterance, held in self._shorter:
            if self._uses[utterance.audio] == 1:
                what = f"the manifest says {utterance.duration:.2f} s, the file holds {held:.2f} s"
                yield number, f"{utterance.key}: {what}"


def _checked_rows(path: Path, report: CheckReport, emotions: Sequence[str] | None) -> Iterator[tuple[int, Utterance]]:
    """(line number, utterance) of the readable rows; problems go into the report."""

    def on_error(number: int, error: RellmError) -> None:
        report.problems.append(Problem(str(path), number, error.what.partition(": ")[2]))

    keys: set[str] = set()
    for number, utterance in read_numbered(path, Utterance, on_error=on_error):
        for what in _row_problems(utterance, keys, emotions):
            report.problems.append(Problem(str(path), number, f"{utterance.key}: {what}"))
        keys.add(utterance.key)
        yield number, utterance


def _row_problems(utterance: Utterance, keys: set[str], emotions: Sequence[str] | None) -> Iterator[str]:
    if utterance.key in keys:
        yield "the key occurs twice"
    emotion = utterance.emotion
    if emotion is not None and not (
        is_label(emotion, utterance.label_set) if emotions is None else emotion in emotions
    ):
        yield f"unknown emotion {emotion!r}"
    known = [name for name in DIMENSIONS if getattr(utterance, name) is not None]
    if known and len(known) < len(DIMENSIONS):
        yield f"only {', '.join(known)} of {', '.join(DIMENSIONS)}"
    if known and not utterance.vad_source:
        yield "dimensions without vad_source: annotated or pseudo:MODEL"
    if utterance.text is not None and not utterance.text.strip():
        yield "the text is blank"


@dataclass(frozen=True)
class AudioCheckWork:
    """Checks the recordings of numbered manifest rows (re_llm.cluster.work)."""

    folder: Path
    max_seconds: float
    decode: bool = True
    device: None = None

    def start(self) -> Callable[[list[tuple[int, Utterance]]], list[tuple[int, Utterance, AudioCheck]]]:
        digest = lru_cache(maxsize=64)(partial(waveform.sha256, root=self.folder))

        def check(rows: list[tuple[int, Utterance]]) -> list[tuple[int, Utterance, AudioCheck]]:
            checked = (
                _check_audio(row, self.folder, self.max_seconds, digest) if self.decode else AudioCheck()
                for _, row in rows
            )
            return [(*row, found) for row, found in zip(rows, checked, strict=True)]

        return check


def _check_audio(utterance: Utterance, folder: Path, max_seconds: float, digest: Callable[[str], str]) -> AudioCheck:
    """Decodes the recording of a row; adds the hash where the row has none."""
    try:
        header = waveform.info(utterance.audio, root=folder)
        samples = waveform.load(
            utterance.audio,
            start=utterance.start,
            duration=utterance.duration,
            rate=header.rate,
            max_seconds=max_seconds,
            root=folder,
        )
        actual = digest(utterance.audio)
    except RellmError as error:
        return AudioCheck([error.what])
    found = waveform.problems(samples)
    if utterance.sample_rate not in (None, header.rate):
        found.append(f"the manifest says {utterance.sample_rate} Hz, the file {header.rate} Hz")
    if utterance.sha256 not in (None, actual):
        found.append("the recording is not the one that was hashed")
    utterance.sha256 = actual
    return AudioCheck(found, header.seconds)
