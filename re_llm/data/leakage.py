"""Leakage: recordings, speakers and sentences that training and test data share.

BLSP-Emo trains on ESD and RE-LLM is tested on it: a result on ESD by a model that was trained on ESD says little, and
so does one where the same sentence is on both sides. The overlap is counted and reported, not forbidden; so is what
could not be compared.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_numbered
from re_llm.data.identity import sentence, speaker_identity
from re_llm.data.traces import Manifests, Rows, Traces, connected, rows_by_id

KINDS = ("audio", "speaker", "sentence")
EXAMPLES = 5
MIN_SHARED = 0.05  # s that two segments of one file have in common
# How a recording is found on both sides, the surest first.
FILE, SAMPLES, SOUND = "the same file", "the same samples", "the same sound"

Fetch = Callable[[Iterable[int]], Mapping[int, Utterance]]


def is_test(split: str) -> bool:
    """Whether a split is for testing by its name: test, test1, test-clean, evaluation; all others are for training."""
    return split.lower().startswith(("test", "eval"))


@dataclass
class Overlap:
    """Overlap of training and test data of one kind: `audio`, `speaker` or `sentence`.

    Attributes:
        shared: number of different recordings, speakers or sentences on both sides.
        train_rows, test_rows: rows that hold one of them.
        unknown, train_unknown: test and training rows that could not be compared (no hash and no samples, no speaker,
            no text or a very short one).
        examples: up to five of them, as (value, key of a training row, key of a test row); the value of a recording
            is how it was found.
    """

    kind: str
    shared: int = 0
    train_rows: int = 0
    test_rows: int = 0
    unknown: int = 0
    train_unknown: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Leakage:
    """Overlap by kind; `test_rows` and `train_rows` are the sizes of the two sides.

    Attributes:
        decoded: whether recordings were compared by their samples as well, not by their hashes alone.
    """

    test_rows: int
    train_rows: int
    overlaps: dict[str, Overlap]
    decoded: bool = False

    @property
    def any(self) -> bool:
        return any(overlap.shared for overlap in self.overlaps.values())

    def not_compared(self) -> list[str]:
        """What says nothing about leakage, one sentence each; an empty list when all was compared."""
        found = []
        for overlap in self.overlaps.values():
            sides = ((overlap.unknown, self.test_rows, "test"), (overlap.train_unknown, self.train_rows, "training"))
            missing = [f"{n} of {rows} {side} rows" for n, rows, side in sides if n]
            if missing:
                found.append(f"{overlap.kind}: {' and '.join(missing)} could not be compared")
        if not self.decoded:
            found.append("audio: compared by hashes alone; copies in another format are not found")
        return found


def compare(
    train: Traces,
    test: Traces,
    train_rows: Fetch,
    test_rows: Fetch,
    *,
    sounds: Iterable[tuple[int, int]] = (),
    decoded: bool = False,
) -> Leakage:
    """The overlap of two sides.

    Args:
        train_rows, test_rows: give utterances by their numbers, for the examples.
        sounds: (place in `train`, place in `test`) of recordings with the same sound (re_llm.data.fingerprint).
    """
    overlaps = {"audio": _shared_audio(train, test, list(sounds))}
    overlaps |= {kind: _shared_ids(kind, train.of(kind), test.of(kind)) for kind in ("speaker", "sentence")}
    found = {}
    for kind, (overlap, examples) in overlaps.items():
        overlap.unknown, overlap.train_unknown = test.unknown(kind), train.unknown(kind)
        pairs = [(how, train.lines[i], test.lines[j]) for how, i, j in examples]
        trained, tested = train_rows(i for _, i, _ in pairs), test_rows(j for _, _, j in pairs)
        for how, i, j in pairs:
            value = how or _value(kind, tested[j])
            overlap.examples.append((value, trained[i].key, tested[j].key))
        found[kind] = overlap
    return Leakage(len(test), len(train), found, decoded)


def _value(kind: str, utterance: Utterance) -> str:
    if kind == "sentence":
        return sentence(utterance.text) or ""
    return speaker_identity(utterance.corpus, utterance.speaker or "")


Example = tuple[str, int, int]  # how it was found, place of a training row, place of a test row


def _shared_ids(kind: str, train: Rows, test: Rows) -> tuple[Overlap, list[Example]]:
    common = np.intersect1d(train[train != 0], test[test != 0])
    if not len(common):
        return Overlap(kind), []
    trained, tested = (int(np.isin(side, common).sum()) for side in (train, test))
    examples = _first_of(common, train, test)
    return Overlap(kind, len(common), trained, tested), [("", i, j) for i, j in examples]


def _first_of(common: Rows, train: Rows, test: Rows) -> list[tuple[int, int]]:
    """First rows of some common identities, in the order of the test rows."""
    first = []
    for side in (train, test):
        values, places = np.unique(side, return_index=True)
        first.append(places[np.searchsorted(values, common)])
    order = np.argsort(first[1], kind="stable")[:EXAMPLES]
    return list(zip(first[0][order].tolist(), first[1][order].tolist(), strict=True))


def _shared_audio(train: Traces, test: Traces, sounds: Sequence[tuple[int, int]]) -> tuple[Overlap, list[Example]]:
    """Recordings on both sides: segments of one file that overlap, the same samples, the same sound."""
    files = (pair for name in ("hash", "path") for pair in _overlapping(train, test, train.of(name), test.of(name)))
    ways = ((FILE, files), (SAMPLES, _equal(train.of("samples"), test.of("samples"))), (SOUND, sounds))
    found = [(how, i, j) for how, pairs in ways for i, j in pairs]
    groups = connected((~i, j) for _, i, j in found)  # training rows below zero
    first = sorted(min(j for j in group if j >= 0) for group in groups)[:EXAMPLES]
    examples = {example[2]: example for example in reversed(found)}
    trained, tested = len({i for _, i, _ in found}), len(examples)
    return Overlap("audio", len(groups), trained, tested), [examples[j] for j in first]


def _equal(train: Rows, test: Rows) -> Iterator[tuple[int, int]]:
    """Pairs of rows that join all rows of one value."""
    common = np.intersect1d(train[train != 0], test[test != 0])
    trained, tested = rows_by_id(train, common), rows_by_id(test, common)
    for value, rows in tested.items():
        yield from ((int(trained[value][0]), int(j)) for j in rows)
        yield from ((int(i), int(rows[0])) for i in trained[value][1:])


def _overlapping(train: Traces, test: Traces, trained: Rows, tested: Rows) -> Iterator[tuple[int, int]]:
    """Pairs of rows of one file whose segments overlap."""
    common = np.intersect1d(trained[trained != 0], tested[tested != 0])
    starts, ends = np.frombuffer(train.start), np.frombuffer(train.end)
    by_file = rows_by_id(trained, common)
    for value, rows in rows_by_id(tested, common).items():
        others = by_file[value]
        for j in rows.tolist():
            shared = np.minimum(ends[others], test.end[j]) - np.maximum(starts[others], test.start[j])
            yield from ((int(i), j) for i in others[shared > MIN_SHARED])


def find_leakage(train: Iterable[Utterance], test: Iterable[Utterance]) -> Leakage:
    """Recordings (by hash), speakers and sentences that two sets of utterances share."""
    (trained, train_rows), (tested, test_rows) = (_in_memory(side) for side in (train, test))
    return compare(trained, tested, train_rows, test_rows)


def _in_memory(utterances: Iterable[Utterance]) -> tuple[Traces, Fetch]:
    rows, traces = list(utterances), Traces()
    for number, utterance in enumerate(rows):
        traces.add(number, utterance, "")
    return traces, lambda numbers: {number: rows[number] for number in numbers}


def leakage(
    train: Sequence[str | os.PathLike[str]],
    test: str | os.PathLike[str],
    *,
    train_splits: Iterable[str] | None = None,
    test_splits: Iterable[str] | None = None,
) -> Leakage:
    """Overlap of training manifests and a test manifest, by their rows; `check` compares the recordings as well.

    Args:
        train_splits, test_splits: which splits of the manifests count; None takes every row, so for one manifest
            with both sides give `train_splits=["train"], test_splits=["test"]`.

    Raises:
        RellmError: a manifest is missing or broken, or a side is empty.
    """
    sides = []
    for name, paths, splits in (("training", list(train), train_splits), ("test", [test], test_splits)):
        wanted = None if splits is None else frozenset(splits)
        traces, manifests = Traces(), Manifests(paths)
        for place, path in enumerate(paths):
            folder = os.path.abspath(Path(path).parent)
            for line, utterance in read_numbered(path, Utterance):
                if wanted is None or utterance.split in wanted:
                    traces.add(manifests.number(line, place), utterance, folder)
        if not len(traces):
            of = f" of split {', '.join(sorted(wanted))}" if wanted else ""
            what = f"the {name} side of the leakage check has no rows{of}"
            raise RellmError(what, todo="Check the manifests and the names of their splits")
        sides.append((traces, manifests))
    (trained, train_rows), (tested, test_rows) = sides
    return compare(trained, tested, train_rows, test_rows)
