"""What identifies the rows of one or more manifests: eight bytes each, so that millions of rows can be compared."""

from __future__ import annotations

import functools
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_numbered
from re_llm.data.fingerprint import Landmarks
from re_llm.data.identity import sentence, speaker_identity

Rows = npt.NDArray[np.int64]


class Traces:
    """What identifies the rows of one side: eight bytes each for the file, the samples, the speaker, the sentence.

    Attributes:
        lines: number of each row, by which its utterance can be read again.
        landmarks: of the recordings that were decoded, by place in `lines`.
    """

    def __init__(self) -> None:
        self.lines = array("q")
        self.ids = {name: array("q") for name in ("hash", "path", "samples", "speaker", "sentence")}
        self.start, self.end = array("d"), array("d")
        self.landmarks: dict[int, list[Landmarks]] = {}

    def add(
        self, line: int, utterance: Utterance, folder: str, samples: int = 0, landmarks: list[Landmarks] | None = None
    ) -> None:
        """Adds a row.

        Args:
            folder: folder that the audio path is relative to.
            samples: identity of the decoded samples, 0 when they are not known.
        """
        speaker, words = utterance.speaker, sentence(utterance.text)
        if landmarks is not None:
            self.landmarks[len(self.lines)] = landmarks
        self.lines.append(line)
        self.ids["hash"].append(_id(utterance.sha256))
        inner, slash, name = utterance.audio.rpartition("/")
        self.ids["path"].append(_id(_normal(f"{folder}/{inner}") + slash + name))
        self.ids["samples"].append(samples)
        self.ids["speaker"].append(_id(speaker and speaker_identity(utterance.corpus, speaker)))
        self.ids["sentence"].append(_id(words))
        self.start.append(utterance.start)
        self.end.append(utterance.start + (utterance.duration or math.inf))

    def __len__(self) -> int:
        return len(self.lines)

    def of(self, name: str) -> Rows:
        """Identities of all rows [N]; 0 where one is not known."""
        return np.frombuffer(self.ids[name], np.int64) if len(self) else np.empty(0, np.int64)

    def unknown(self, kind: str) -> int:
        """Rows that cannot be compared by recording, speaker or sentence."""
        if kind == "audio":
            return int(((self.of("hash") == 0) & (self.of("samples") == 0)).sum())
        return int((self.of(kind) == 0).sum())


@functools.lru_cache(maxsize=1 << 12)
def _normal(folder: str) -> str:
    return os.path.normpath(folder)


def _id(value: str | None) -> int:
    # The hash of this process: enough to compare, and much faster than a digest.
    return hash(value) or 1 if value else 0


def rows_by_id(values: Rows, common: Rows) -> dict[int, Rows]:
    """Rows by value, of the values that both sides have."""
    rows = np.flatnonzero(np.isin(values, common))
    rows = rows[np.argsort(values[rows], kind="stable")]
    bounds = np.flatnonzero(np.diff(values[rows])) + 1
    return {int(values[part[0]]): part for part in np.split(rows, bounds) if len(part)}


class Manifests:
    """Rows of several manifests, which are read again by number."""

    MAX = 1 << 12

    def __init__(self, paths: Sequence[str | os.PathLike[str]]):
        self.paths = [Path(path) for path in paths]

    def number(self, line: int, place: int = 0) -> int:
        """The number of a row, from its line and the place of its manifest."""
        return line * self.MAX + place

    def folder(self, number: int) -> Path:
        """Folder that the audio path of a row is relative to."""
        return self.paths[number % self.MAX].parent

    def __call__(self, numbers: Iterable[int]) -> dict[int, Utterance]:
        wanted = set(numbers)
        found: dict[int, Utterance] = {}
        for place in sorted({number % self.MAX for number in wanted}):
            lines = {number // self.MAX for number in wanted if number % self.MAX == place}
            for line, utterance in read_numbered(self.paths[place], Utterance, on_error=skip_broken, only=lines):
                found[self.number(line, place)] = utterance
        return found


def skip_broken(_line: int, _error: RellmError) -> None:
    """For lines that a check has listed already."""


def connected(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Numbers that pairs connect with each other, in ascending order, by their first."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    numbers, ends = np.unique(np.array([*pairs], np.int64).reshape(-1, 2), return_inverse=True)
    graph = csr_array((np.ones(ends.size // 2), ends.reshape(-1, 2).T), (len(numbers), len(numbers)))
    groups: dict[int, list[int]] = {}
    for number, label in zip(numbers.tolist(), connected_components(graph, directed=False)[1].tolist(), strict=True):
        groups.setdefault(label, []).append(number)
    return list(groups.values())


def groups_of(ids: Rows) -> Iterator[list[int]]:
    """Rows that share an identity, which is known and not that of one row alone."""
    values, counts = np.unique(ids, return_counts=True)
    for rows in rows_by_id(ids, values[(counts > 1) & (values != 0)]).values():
        yield rows.tolist()
