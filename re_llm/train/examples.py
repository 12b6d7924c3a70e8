"""Examples of a training. Of those in files, memory holds keys, recordings and a few numbers: about 300 bytes each.

Texts and answers are read again from their lines when they are needed, so the files may be larger than the memory.
"""

from __future__ import annotations

import hashlib
import marshal
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, overload

import numpy as np

from re_llm.cluster.work import batched

Role = Literal["row", "exchanged", "donor"]
ROLES: tuple[Role, ...] = ("row", "exchanged", "donor")
RECENT = 2**14  # keys that an index keeps unsorted, and an eighth of those it has


@dataclass(frozen=True)
class EarlierTurn:
    """What the user said before, and the answer to it.

    Attributes:
        asked: the text with the prompt around it that the LLM read it in.
        key: of the example whose recording it is, if it is one.
    """

    text: str
    answer: str
    asked: str
    key: str | None = None


@dataclass(frozen=True)
class Target:
    """What the LLM answered to a transcript, after the turns of `history`. `early_stop`: cut, so no end is trained."""

    output: str
    early_stop: bool
    history: tuple[EarlierTurn, ...] = ()


@dataclass(frozen=True)
class Example:
    """One utterance with everything that does not depend on the task.

    Attributes:
        audio: absolute path (or zip member) of the recording.
        targets: the LLM's answers by the id of the prompt that they answer.
        emotion: index into the recipe's emotions, or IGNORE_INDEX.
        dimensions: (valence, arousal, dominance) on 0..1, or None.
        role: `row`; `exchanged`, a row that takes the emotion of a donor; `donor`, which is no row.
        answered: whether `targets` has what the tasks of the stage train; else it takes those that need no answer.
        speaker: with the name of the corpus, or None.
    """

    key: str
    audio: str
    start: float
    duration: float | None
    text: str
    targets: Mapping[str, Target]
    emotion_name: str | None
    emotion: int
    dimensions: tuple[float, float, float] | None
    role: Role = "row"
    speaker: str | None = None
    split: str | None = None
    answered: bool = True


class Source(NamedTuple):
    """Where an utterance is heard."""

    key: str
    audio: str
    start: float
    duration: float | None


class Columns:
    """What is held of every example; filled one by one.

    Attributes:
        names: speakers and splits; `speakers` and `splits` are places in it.
        talks: whether an answer has earlier turns.
    """

    def __init__(self) -> None:
        self._heads, self._ends = bytearray(), array("Q", [0])
        self.roles, self.unnamed, self.wordless, self.talks = array("b"), array("b"), array("b"), array("b")
        self.answered = array("b")
        self.emotions, self.speakers, self.splits = array("i"), array("i"), array("i")
        self.durations = array("d")
        self.names: dict[str | None, int] = {}

    def __len__(self) -> int:
        return len(self.roles)

    def add(self, example: Example) -> None:
        """One more; its targets are looked at, but not held."""
        names = self.names
        self._heads += marshal.dumps((example.key, example.audio, example.start))
        self._ends.append(len(self._heads))
        self.roles.append(ROLES.index(example.role))
        self.unnamed.append(example.emotion_name is None)
        self.wordless.append(not example.text or example.text.isspace())
        self.answered.append(example.answered)
        self.talks.append(any(target.history for target in example.targets.values()))
        self.emotions.append(example.emotion)
        self.speakers.append(names.setdefault(example.speaker, len(names)))
        self.splits.append(names.setdefault(example.split, len(names)))
        self.durations.append(float("nan") if example.duration is None else example.duration)

    def source(self, index: int) -> Source:
        """Where an utterance is heard."""
        key, audio, start = marshal.loads(self._heads[self._ends[index] : self._ends[index + 1]])
        seconds = self.durations[index]
        return Source(key, audio, start, None if seconds != seconds else seconds)


class Examples(Sequence[Example]):
    """Examples, and what is known of all of them without reading a line.

    Args:
        read: makes the example of a place in the columns.
        places: in the columns, in the order of the examples.

    Attributes:
        roles: places in ROLES. emotions: as in `Example`. durations: seconds, NaN where unknown.
        unnamed, wordless, talks: whether it has no name of an emotion, no transcript, an answer with earlier turns.
        answered: as in `Example`.
            Each [N].
    """

    def __init__(self, columns: Columns, read: Callable[[int], Example], places: np.ndarray):
        self._columns, self._read, self.places = columns, read, places
        self.roles = self._column(columns.roles)
        self.unnamed = self._column(columns.unnamed).astype(bool)
        self.wordless = self._column(columns.wordless).astype(bool)
        self.talks = self._column(columns.talks).astype(bool)
        self.answered = self._column(columns.answered).astype(bool)
        self.emotions = self._column(columns.emotions)
        self.durations = self._column(columns.durations)

    def _column(self, of_all: array[int] | array[float]) -> np.ndarray:
        return np.frombuffer(of_all, dtype=of_all.typecode)[self.places]

    @classmethod
    def of(cls, examples: Sequence[Example]) -> Examples:
        """Of a list, which is kept; these as they are."""
        if isinstance(examples, Examples):
            return examples
        columns = Columns()
        for example in examples:
            columns.add(example)
        return cls(columns, examples.__getitem__, np.arange(len(examples)))

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Examples: ...
    def __getitem__(self, index: int | slice) -> Example | Examples:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        return self._read(int(self.places[index]))

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """Some of them, in this order."""
        return Examples(self._columns, self._read, self.places[np.asarray(indices, dtype=np.int64)])

    def then(self, others: Examples) -> Examples:
        """These and others of the same columns."""
        return Examples(self._columns, self._read, np.concatenate([self.places, others.places]))

    def key(self, index: int) -> str:
        """Of one of them."""
        return self._columns.source(int(self.places[index])).key

    def sources(self) -> Iterator[Source]:
        """Where each is heard, in their order."""
        return map(self._columns.source, self.places.tolist())

    def named(self, column: Literal["speakers", "splits"]) -> tuple[np.ndarray, list[str | None]]:
        """Speakers or splits: places in a list of names, and the list."""
        return self._column(getattr(self._columns, column)), list(self._columns.names)

    def make_index(self) -> None:
        """Makes ready to `find` keys; processes that are forked later share what it takes."""
        self._keys.find("")

    def find(self, key: str | None) -> int | None:
        """The place of an utterance; the last one of several."""
        return None if key is None else self._keys.find(key)

    def seconds(self, key: str | None) -> float | None:
        """Of an utterance; None where there is none, or its length is not known."""
        index = self.find(key)
        return None if index is None or np.isnan(self.durations[index]) else float(self.durations[index])

    @cached_property
    def _keys(self) -> KeyIndex:
        return KeyIndex(source.key for source in self.sources())


class KeyIndex:
    """Places of keys in the order in which they come, in 24 bytes each. Keys are compared by a hash of 128 bits."""

    def __init__(self, keys: Iterable[str] = ()):
        self._first, self._second = np.empty(0, dtype="<u8"), np.empty(0, dtype="<u8")  # halves of the hashes, sorted
        self._places = np.empty(0, dtype=np.int64)
        self._recent: dict[bytes, int] = {}  # what is not sorted yet
        self._count = 0
        for key in keys:
            self.add(key)

    def __len__(self) -> int:
        return self._count

    def add(self, key: str) -> None:
        """One more."""
        self._recent[key_digest(key)] = self._count
        self._count += 1
        if len(self._recent) > RECENT + len(self._places) // 8:
            self._sort()

    def _sort(self) -> None:
        words = np.frombuffer(b"".join(self._recent), dtype="<u8").reshape(-1, 2)
        first, second = np.concatenate([self._first, words[:, 0]]), np.concatenate([self._second, words[:, 1]])
        places = np.concatenate([self._places, np.fromiter(self._recent.values(), dtype=np.int64)])
        order = np.argsort(first, kind="stable")
        self._first, self._second, self._places = first[order], second[order], places[order]
        self._recent.clear()

    def find(self, key: str) -> int | None:
        """The last place of a key."""
        digest = key_digest(key)
        if digest in self._recent:
            return self._recent[digest]
        first, second = np.frombuffer(digest, dtype="<u8")
        place = int(np.searchsorted(self._first, first, side="right")) - 1
        while place >= 0 and self._first[place] == first:
            if self._second[place] == second:
                return int(self._places[place])
            place -= 1
        return None

    def find_all(self, keys: Iterable[str]) -> np.ndarray:
        """As `find`, of many keys at once, -1 where there is none. [N]"""
        self._sort()
        found = array("q")
        for some in batched(keys, RECENT):
            found.extend(self._find_some(some))
        return np.frombuffer(found, dtype=np.int64) if found else np.empty(0, dtype=np.int64)

    def _find_some(self, keys: Sequence[str]) -> list[int]:
        if not len(self._first):
            return [-1] * len(keys)
        words = np.frombuffer(b"".join(map(key_digest, keys)), dtype="<u8").reshape(-1, 2)
        at = np.searchsorted(self._first, words[:, 0], side="right") - 1
        close = self._first[at] == words[:, 0]
        same = close & (self._second[at] == words[:, 1])
        places = np.where(same, self._places[at], -1).tolist()
        for i in np.flatnonzero(close & ~same).tolist():  # half of the hash is that of another key
            place = self.find(keys[i])
            places[i] = -1 if place is None else place
        return places


def key_digest(key: str) -> bytes:
    """128 bits that stand for a key."""
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).digest()
