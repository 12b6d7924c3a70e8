"""Leakage: recordings (by content), speakers and sentences that training and test data share.

BLSP-Emo trains on ESD and RE-LLM is tested on it: a result on ESD by a model that was trained on ESD says little, and
so does one where the same sentence is on both sides. The overlap is counted and reported, not forbidden.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_records

KINDS = ("audio", "speaker", "sentence")
MIN_WORDS = 4  # shorter sentences ("yes", "I don't know") are common to all corpora
EXAMPLES = 5


def is_test(split: str) -> bool:
    """Whether a split is for testing by its name: test, test1, test-clean, evaluation; all others are for training."""
    return split.lower().startswith(("test", "eval"))


@dataclass
class Overlap:
    """Overlap of training and test data of one kind: `audio`, `speaker` or `sentence`.

    Attributes:
        shared: number of different recordings, speakers or sentences on both sides.
        train_rows, test_rows: rows that hold one of them.
        unknown: test rows that could not be compared (no hash, no speaker, no text or a very short one).
        examples: up to five of them, as (value, key of a training row, key of a test row).
    """

    kind: str
    shared: int = 0
    train_rows: int = 0
    test_rows: int = 0
    unknown: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Leakage:
    """Overlap by kind; `test_rows` is the size of the test set."""

    test_rows: int
    train_rows: int
    overlaps: dict[str, Overlap]

    @property
    def any(self) -> bool:
        return any(overlap.shared for overlap in self.overlaps.values())


def _traces(utterance: Utterance) -> dict[str, str | None]:
    """Identifiers of the recording, the speaker and the sentence of an utterance; None if unknown."""
    hashed = utterance.sha256 and f"{utterance.sha256}@{utterance.start:.3f}"
    speaker = utterance.speaker and f"{utterance.corpus}:{utterance.speaker}"
    return {"audio": hashed or None, "speaker": speaker or None, "sentence": sentence(utterance.text)}


def sentence(text: str | None) -> str | None:
    """The words of a transcript without case and punctuation; None when there are too few to show a leak.

    Chinese, Japanese and Thai have no blanks: there the number of letters counts.
    """
    words = ["".join(c for c in word if c.isalnum()) for word in (text or "").casefold().split()]
    words = [word for word in words if word]
    plain = " ".join(words)
    unspaced = sum(c > "\u0e00" for c in plain) > len(plain) // 2
    return plain if (len(plain) if unspaced else len(words)) >= MIN_WORDS else None


@dataclass
class _Seen:
    """An identifier in the training data: number of rows, key of the first, and whether a test row has it, too."""

    rows: int
    key: str
    met: bool = False


def find_leakage(train: Iterable[Utterance], test: Iterable[Utterance]) -> Leakage:
    """Recordings (by content), speakers and sentences that two sets of utterances share."""
    seen: dict[str, dict[bytes, _Seen]] = {kind: {} for kind in KINDS}
    train_rows = 0
    for utterance in train:
        train_rows += 1
        for kind, value in _traces(utterance).items():
            if value is not None:
                seen[kind].setdefault(_digest(value), _Seen(0, utterance.key)).rows += 1
    overlaps = {kind: Overlap(kind) for kind in KINDS}
    test_rows = 0
    for utterance in test:
        test_rows += 1
        for kind, value in _traces(utterance).items():
            if value is None:
                overlaps[kind].unknown += 1
            elif (trace := seen[kind].get(_digest(value))) is not None:
                _count(overlaps[kind], trace, value, utterance.key)
    return Leakage(test_rows, train_rows, overlaps)


def _count(overlap: Overlap, trace: _Seen, value: str, key: str) -> None:
    overlap.test_rows += 1
    if not trace.met:
        trace.met = True
        overlap.shared += 1
        overlap.train_rows += trace.rows
        if len(overlap.examples) < EXAMPLES:
            overlap.examples.append((value, trace.key, key))


def _digest(value: str) -> bytes:
    # 16 bytes in place of a sentence keep millions of rows in memory.
    return hashlib.blake2b(value.encode(), digest_size=16).digest()


def leakage(
    train: Sequence[str | os.PathLike[str]],
    test: str | os.PathLike[str],
    *,
    train_splits: Iterable[str] | None = None,
    test_splits: Iterable[str] | None = None,
) -> Leakage:
    """Overlap of training manifests and a test manifest.

    Args:
        train_splits, test_splits: which splits of the manifests count; None takes every row, so for one manifest
            with both sides give `train_splits=["train"], test_splits=["test"]`.

    Raises:
        RellmError: a manifest is missing or broken, or a side is empty.
    """
    train_splits, test_splits = (None if s is None else tuple(s) for s in (train_splits, test_splits))
    rows = (u for path in train for u in _rows(path, _among(train_splits)))
    found = find_leakage(rows, _rows(test, _among(test_splits)))
    for side, count, splits in (("training", found.train_rows, train_splits), ("test", found.test_rows, test_splits)):
        if not count:
            raise RellmError(
                f"the {side} side of the leakage check has no rows"
                + (f" of split {', '.join(splits)}" if splits else ""),
                todo="Check the manifests and the names of their splits",
            )
    return found


def _among(splits: tuple[str, ...] | None) -> Callable[[str], bool]:
    return lambda split: splits is None or split in splits


def _rows(path: str | os.PathLike[str], wanted: Callable[[str], bool]) -> Iterator[Utterance]:
    """Rows of the wanted splits; broken lines raise."""
    return (u for u in read_records(path, Utterance) if wanted(u.split))


def leakage_against(
    train: Sequence[str | os.PathLike[str]], test: str | os.PathLike[str], splits: Iterable[str]
) -> Leakage:
    """Overlap of other manifests, without their test splits, with the test rows of this one.

    Args:
        splits: the splits of `test`; when none of them is for testing, all of its rows are compared.

    Raises:
        RellmError: a manifest is missing or broken, or there is nothing to train on in the others.
    """
    any_test = any(is_test(split) for split in splits)
    rows = (u for path in train for u in _rows(path, lambda split: not is_test(split)))
    found = find_leakage(rows, (u for u in _readable(test) if is_test(u.split) or not any_test))
    if not found.train_rows:
        names = ", ".join(str(path) for path in train)
        raise RellmError(f"nothing in {names} can be trained on: all rows are of test splits", todo="Check --against")
    return found


def own_leakage(path: Path, splits: Iterable[str], hashes: Mapping[str, str]) -> Leakage | None:
    """Overlap of training and test rows of one manifest; None with one side only. Broken lines are skipped.

    Args:
        hashes: of recordings by key, for rows without one.
    """
    if len({is_test(split) for split in splits}) < 2:
        return None

    def rows() -> Iterator[Utterance]:
        for utterance in _readable(path):
            utterance.sha256 = utterance.sha256 or hashes.get(utterance.key)
            yield utterance

    return find_leakage((u for u in rows() if not is_test(u.split)), (u for u in rows() if is_test(u.split)))


def _readable(path: str | os.PathLike[str]) -> Iterator[Utterance]:
    """All valid rows: a check has listed the others."""
    return read_records(path, Utterance, on_error=lambda _n, _e: None)
