"""Checks of a manifest: its rows, its recordings, recordings that occur twice, and leakage.

Rows are read one at a time, in one pass; about a hundred bytes of each are kept, to compare it with all others.
"""

from __future__ import annotations

import os
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np

from re_llm.audio import waveform
from re_llm.cluster.work import Cluster, run_rows
from re_llm.core.emotions import is_label
from re_llm.core.errors import RellmError
from re_llm.core.progress import progress_bar
from re_llm.core.records import DIMENSIONS, Utterance, read_numbered
from re_llm.data import fingerprint
from re_llm.data.audio_check import AudioCheck, AudioCheckWork, Numbered, sound_of
from re_llm.data.leakage import Leakage, compare, is_test
from re_llm.data.manifest import Problem, Summary
from re_llm.data.traces import Manifests, Traces, connected, groups_of, skip_broken

DURATION_TOLERANCE = 0.1  # s between the manifest and the file
PIECE = 1 << 16  # duplicates are read again in pieces of so many rows
_SPLIT = re.compile(rb'"split": ?"([^"\\]*)"')


@dataclass
class CheckReport:
    """Findings of `check`, `problems` in the order of the manifest.

    Attributes:
        decoded: whether the recordings were checked, too.
        duplicates: groups of keys of one recording, by the bytes of the file or the decoded samples.
        leakage: overlap of the training and the test rows of this manifest; None with one side only.
        against: overlap of the manifests that it was compared with and the test rows of this one.
    """

    manifest: str
    decoded: bool
    summary: Summary = field(default_factory=Summary)
    problems: list[Problem] = field(default_factory=list)
    duplicates: list[list[str]] = field(default_factory=list)
    leakage: Leakage | None = None
    against: Leakage | None = None

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


@dataclass(frozen=True)
class Options:
    """How recordings are checked.

    Attributes:
        decode: False looks at the rows alone.
        workers: threads that decode; without effect on a `cluster`.
    """

    decode: bool = True
    workers: int = 1
    max_seconds: float = waveform.MAX_SECONDS
    cluster: Cluster | None = None


def check(
    path: str | os.PathLike[str],
    *,
    decode: bool = True,
    workers: int = 1,
    emotions: Sequence[str] | None = None,
    max_seconds: float = waveform.MAX_SECONDS,
    cluster: Cluster | None = None,
    against: Sequence[str | os.PathLike[str]] = (),
) -> CheckReport:
    """Checks a manifest, and with `decode` every recording in it.

    Rows: readable, unique keys, known labels, complete V/A/D. Recordings: readable to the end, finite, neither silent
    nor clipped, of the length in the manifest. Then duplicates, recordings with two labels, and leakage.

    Args:
        workers: threads that decode; without effect on a `cluster`.
        emotions: labels that may occur; None allows those of each row's label set.
        against: training manifests (their test splits do not count) to compare the test rows of this one with, or all
            of its rows when none is for testing.

    Raises:
        RellmError: the manifest is missing or has no rows; a manifest of `against` is missing or broken, or holds no
            training rows. Anything else is a problem in the report.
    """
    path, options = Path(path), Options(decode, workers, max_seconds, cluster)
    report = CheckReport(str(path), decode)
    splits = _splits(path) if decode else set()
    sides = {is_test(split) for split in splits}
    prints = 0 if not (against or len(sides) == 2) else len(fingerprint.PHASES)
    seen = _Seen(path, report, all_are_tested=bool(against) and sides == {False})
    rows = _checked_rows(path, report, emotions)
    for number, utterance, checked in _recordings(rows, path.parent, options, prints, "check"):
        report.problems += [Problem(str(path), number, f"{utterance.key}: {what}") for what in checked.problems]
        report.summary.add(utterance)
        seen.add(number, utterance, checked)
    if not report.summary.rows:
        raise RellmError(f"{path} holds no utterance", todo="Prepare the corpus again")
    seen.finish(options)
    if against:
        report.against = seen.compare_with(list(against), options)
    report.problems.sort(key=lambda p: p.line or 0)
    return report


def _splits(path: Path) -> set[str]:
    """The splits of a manifest, without validating its rows."""
    try:
        with path.open("rb") as lines:
            found = {match[1] for line in lines if (match := _SPLIT.search(line))}
    except OSError as error:
        raise RellmError(f"cannot read {path}: {error.strerror or error}", todo="Check the path") from error
    return {split.decode("utf-8", "replace") for split in found}


def _checked_rows(path: Path, report: CheckReport, emotions: Sequence[str] | None) -> Iterator[tuple[int, Utterance]]:
    """(line number, utterance) of the readable rows; problems go into the report."""

    def on_error(number: int, error: RellmError) -> None:
        report.problems.append(Problem(str(path), number, error.what.partition(": ")[2]))

    for number, utterance in read_numbered(path, Utterance, on_error=on_error):
        for what in _row_problems(utterance, emotions):
            report.problems.append(Problem(str(path), number, f"{utterance.key}: {what}"))
        yield number, utterance


def _row_problems(utterance: Utterance, emotions: Sequence[str] | None) -> Iterator[str]:
    emotion = utterance.emotion
    if emotion is not None and not (
        is_label(emotion, utterance.label_set) if emotions is None else emotion in emotions
    ):
        yield f"unknown emotion {emotion!r}"
    known = [name for name in DIMENSIONS if getattr(utterance, name) is not None]
    # Listeners' valence alone is what OMG-Empathy has; for training a row needs all three.
    if known and len(known) < len(DIMENSIONS) and (known, utterance.vad_source) != (["valence"], "annotated"):
        yield f"only {', '.join(known)} of {', '.join(DIMENSIONS)}"
    if known and not utterance.vad_source:
        yield "dimensions without vad_source: annotated or pseudo:MODEL"
    if utterance.text is not None and not utterance.text.strip():
        yield "the text is blank"


def _recordings(
    rows: Iterable[Numbered], folder: Path, options: Options, phases: int, title: str
) -> Iterator[tuple[int, Utterance, AudioCheck]]:
    """Rows with the findings in their recordings; with none when they are not decoded."""
    if not options.decode:
        nothing = AudioCheck()
        yield from ((number, utterance, nothing) for number, utterance in rows)
        return
    work = AudioCheckWork(folder, options.max_seconds, phases)
    with progress_bar(title, None) as advance:
        for result in run_rows(work, rows, cluster=options.cluster, workers=options.workers):
            yield result
            advance()


class _Seen:
    """All rows of a manifest, as far as they are compared with each other and with those of others."""

    def __init__(self, path: Path, report: CheckReport, *, all_are_tested: bool):
        self.path, self.report, self.all_are_tested = path, report, all_are_tested
        self.train, self.test = Traces(), Traces()
        self._rows, self._folder = Manifests([path]), os.path.abspath(path.parent)
        self._lines, self._keys = array("q"), array("q")
        self._contents = {name: array("q") for name in ("bytes", "samples")}
        self._shorter: list[tuple[int, Utterance, float]] = []

    def add(self, number: int, utterance: Utterance, checked: AudioCheck) -> None:
        tested = self.all_are_tested or is_test(utterance.split)
        landmarks = checked.landmarks if tested or checked.landmarks is None else checked.landmarks[:1]
        side = self.test if tested else self.train
        side.add(self._rows.number(number), utterance, self._folder, checked.samples, landmarks)
        self._lines.append(number)
        self._keys.append(hash(utterance.key))
        self._contents["bytes"].append(hash((utterance.sha256, utterance.start)) or 1 if utterance.sha256 else 0)
        self._contents["samples"].append(checked.samples)
        given, held = utterance.duration, checked.seconds
        if not utterance.start and given is not None and held is not None and given < held - DURATION_TOLERANCE:
            self._shorter.append((number, utterance, held))

    def finish(self, options: Options) -> None:
        """Adds to the report what only all rows show."""
        self._repeated_keys()
        self._duplicates()
        self._too_short()
        if len(self.train) and len(self.test):
            self.report.leakage = _leakage(self.train, self.test, self._rows, self._rows, options)

    def compare_with(self, paths: Sequence[str | os.PathLike[str]], options: Options) -> Leakage:
        """Overlap of the training rows of other manifests and the test rows of this one."""
        test = self.test if len(self.test) else self.train
        train, manifests = Traces(), Manifests(paths)
        for place, path in enumerate(manifests.paths):
            rows = ((n, u) for n, u in read_numbered(path, Utterance) if not is_test(u.split))
            folder = os.path.abspath(path.parent)
            for number, utterance, checked in _recordings(rows, path.parent, options, 1, f"against {path.name}"):
                train.add(manifests.number(number, place), utterance, folder, checked.samples, checked.landmarks)
        if not len(train):
            what = f"nothing in {', '.join(map(str, paths))} can be trained on: all rows are of test splits"
            raise RellmError(what, todo="Check --against")
        return _leakage(train, test, manifests, self._rows, options)

    def _problem(self, number: int, what: str) -> None:
        self.report.problems.append(Problem(str(self.path), number, what))

    def _read(self, rows: Iterable[int]) -> Iterator[tuple[int, Utterance]]:
        """(line, utterance) of rows, read again."""
        lines = {self._lines[row] for row in rows}
        return read_numbered(self.path, Utterance, on_error=skip_broken, only=lines)

    def _repeated_keys(self) -> None:
        keys = np.frombuffer(self._keys, np.int64)
        first = np.unique(keys, return_index=True)[1]
        if len(first) < len(keys):
            for number, utterance in self._read(np.setdiff1d(np.arange(len(keys)), first).tolist()):
                self._problem(number, f"{utterance.key}: the key occurs twice")

    def _duplicates(self) -> None:
        """Groups of rows of one recording, and those of them that have different labels."""
        same = (rows for contents in self._contents.values() for rows in groups_of(np.frombuffer(contents, np.int64)))
        found = connected((rows[0], row) for rows in same for row in rows)
        for first in range(0, len(found), PIECE):
            piece = found[first : first + PIECE]
            read = dict(self._read(row for rows in piece for row in rows))
            for rows in piece:
                self._add_duplicates([(self._lines[row], read[self._lines[row]]) for row in rows])

    def _add_duplicates(self, rows: Sequence[Numbered]) -> None:
        self.report.duplicates.append([utterance.key for _, utterance in rows])
        labelled = [(number, utterance) for number, utterance in rows if utterance.emotion is not None]
        for number, utterance in labelled[1:]:
            first = labelled[0][1]
            if utterance.emotion != first.emotion:
                what = f"labelled {utterance.emotion}, the same recording as {first.key}, labelled {first.emotion}"
                self._problem(number, f"{utterance.key}: {what}")

    def _too_short(self) -> None:
        """Rows that are shorter than their recording, if no other row is a segment of it."""
        uses = Counter({utterance.audio: 0 for _, utterance, _ in self._shorter})
        if uses:
            uses.update(
                u.audio for _, u in read_numbered(self.path, Utterance, on_error=skip_broken) if u.audio in uses
            )
        for number, utterance, held in self._shorter:
            if uses[utterance.audio] == 1:
                what = f"the manifest says {utterance.duration:.2f} s, the file holds {held:.2f} s"
                self._problem(number, f"{utterance.key}: {what}")


def _leakage(train: Traces, test: Traces, train_rows: Manifests, test_rows: Manifests, options: Options) -> Leakage:
    """The overlap of two sides; recordings that were decoded are compared by their sound as well."""
    candidates = list(fingerprint.candidates(train.landmarks, test.landmarks))
    trained = train_rows(train.lines[i] for i, _, _ in candidates)
    tested = test_rows(test.lines[j] for _, j, _ in candidates)

    rows = {number: (utterance, train_rows) for number, utterance in trained.items()}
    rows |= {-number: (utterance, test_rows) for number, utterance in tested.items()}

    @lru_cache(maxsize=64)
    def load(number: int) -> waveform.Samples | None:
        utterance, manifests = rows[number]
        return sound_of(utterance, manifests.folder(abs(number)), options.max_seconds)

    sounds = []
    for i, j, offset in candidates:
        here, there = load(train.lines[i]), load(-test.lines[j])
        if here is not None and there is not None and fingerprint.is_same(here, there, offset):
            sounds.append((i, j))
    return compare(train, test, train_rows, test_rows, sounds=sounds, decoded=options.decode)
