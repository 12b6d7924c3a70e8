"""Labelled utterances of several corpora, each with its own set of emotions, and how their speakers are divided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from re_llm.audio.source import moved
from re_llm.core.errors import RellmError
from re_llm.core.norms import with_norm
from re_llm.core.records import Utterance, read_numbered
from re_llm.recipe.emotion import EMOBOX_FOLDS, FoldOptions

SHOWN = 5  # names in a message
NO_EMOTION = -1


@dataclass(frozen=True)
class Labelled:
    """One utterance.

    Attributes:
        speaker: `CORPUS/SPEAKER`: corpora may number their speakers alike.
        audio: path (or archive member) from anywhere; start, duration: of the segment in it, seconds.
        emotion: index into the recipe's emotions; NO_EMOTION where nobody speaks.
        dimensions: (valence, arousal, dominance) on 0..1, or None; source: where they come from.
    """

    key: str
    corpus: str
    speaker: str
    split: str
    audio: str
    start: float
    duration: float | None
    emotion: int
    dimensions: tuple[float, float, float] | None
    source: str | None


@dataclass
class Corpora:
    """All utterances that can be trained or tested on.

    Attributes:
        label_sets: corpus -> indices of the emotions that occur in it. In training, no others are told apart in its
            recordings: what it does not name may be in them all the same.
        dropped: reason -> count.
        background: recordings that are no speech (re_llm.train.emotion.background).
    """

    emotions: tuple[str, ...]
    rows: list[Labelled] = field(default_factory=list)
    label_sets: dict[str, tuple[int, ...]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    background: list[Labelled] = field(default_factory=list)

    def counts(self, indices: Iterable[int]) -> dict[str, dict[str, int]]:
        """corpus -> emotion -> number of utterances."""
        found: dict[str, Counter[str]] = {}
        for i in indices:
            found.setdefault(self.rows[i].corpus, Counter())[self.emotions[self.rows[i].emotion]] += 1
        return {corpus: dict(counted) for corpus, counted in sorted(found.items())}

    def held_out(self, corpus: str, speakers: Sequence[str]) -> list[int]:
        """Utterances of some speakers.

        Raises:
            RellmError: the corpus has no such speaker.
        """
        known = {row.speaker.partition("/")[2] for row in self.rows if row.corpus == corpus}
        unknown = [speaker for speaker in speakers if speaker not in known]
        if unknown and known:
            raise RellmError(f"{corpus} has no speaker {unknown[0]!r}", allowed=", ".join(sorted(known)))
        return [
            i for i, row in enumerate(self.rows) if row.corpus == corpus and row.speaker.partition("/")[2] in speakers
        ]

    def speakers(self, indices: Iterable[int]) -> list[str]:
        return sorted({self.rows[i].speaker for i in indices})

    def masks(self, rows: Sequence[Labelled]) -> np.ndarray:
        """[B, E] true where the corpus of an utterance names the emotion; all of them where nobody speaks."""
        masks = np.zeros((len(rows), len(self.emotions)), bool)
        for mask, row in zip(masks, rows, strict=True):
            mask[list(self.label_sets.get(row.corpus, range(len(self.emotions))))] = True
        return masks


def read_corpora(manifests: Sequence[Path], emotions: Sequence[str]) -> Corpora:
    """Utterances of manifests. Those without one of `emotions` are dropped and counted.

    Raises:
        RellmError: a broken line, a row without speaker, a key that occurs twice, or nothing left; names file and line.
    """
    found, seen = Corpora(tuple(emotions)), set()
    for manifest in manifests:
        for number, row in read_numbered(manifest, Utterance):
            if row.emotion not in emotions:
                found.dropped[f"{row.corpus}: {row.emotion or 'no emotion'}"] += 1
                continue
            if not row.speaker:
                raise RellmError(
                    f"{manifest}:{number}: no speaker, and speakers may not be on both sides of a measurement",
                    todo="Prepare the corpus with its speakers, or give every recording one of its own",
                )
            key = f"{row.corpus}/{row.key}"
            if key in seen:
                raise RellmError(f"{manifest}:{number}: {key} occurs twice", todo="Name every manifest once")
            seen.add(key)
            found.rows.append(_labelled(row, key, manifest, found.emotions))
    if not found.rows:
        raise RellmError(
            f"no utterance of {', '.join(map(str, manifests))} has one of the emotions {', '.join(emotions)}",
            todo="Check `emotions` in the recipe",
        )
    corpora = sorted({row.corpus for row in found.rows})
    found.label_sets = {c: tuple(sorted({r.emotion for r in found.rows if r.corpus == c})) for c in corpora}
    return found


def _labelled(row: Utterance, key: str, manifest: Path, emotions: Sequence[str]) -> Labelled:
    told = with_norm(row)
    return Labelled(
        key=key,
        corpus=row.corpus,
        speaker=f"{row.corpus}/{row.speaker}",
        split=row.split,
        audio=moved(row.audio, manifest.parent, Path()),
        start=row.start,
        duration=row.duration,
        emotion=emotions.index(str(row.emotion)),
        dimensions=told.dimensions(),
        source=told.vad_source if told.dimensions() else None,
    )


@dataclass(frozen=True)
class Division:
    """Which utterances are trained and which tell when to stop; speakers are on one side only."""

    training: tuple[int, ...]
    validation: tuple[int, ...]


def divide(corpora: Corpora, indices: Sequence[int], fraction: float, seed: int) -> Division:
    """Divides utterances by speaker.

    A corpus whose manifest has a split `train` keeps its own; with `dev` as well, that is the validation. Of the
    others a fraction of the speakers is drawn, at least one where there are three.

    Raises:
        RellmError: a speaker is on both sides of a manifest's own splits, or no corpus has speakers to spare.
    """
    training: list[int] = []
    validation: list[int] = []
    for corpus in sorted({corpora.rows[i].corpus for i in indices}):
        own = [i for i in indices if corpora.rows[i].corpus == corpus]
        by_split = {split: [i for i in own if corpora.rows[i].split == split] for split in ("train", "dev")}
        if all(by_split.values()):
            training += by_split["train"]
            validation += by_split["dev"]
            continue
        own = by_split["train"] or own
        names = corpora.speakers(own)
        held = max(1, round(fraction * len(names))) if len(names) >= 3 else 0
        drawn = set(np.random.default_rng([seed, len(names)]).permutation(names)[:held])
        training += [i for i in own if corpora.rows[i].speaker not in drawn]
        validation += [i for i in own if corpora.rows[i].speaker in drawn]
    refuse_overlap(corpora, training, validation, "the validation")
    if not validation:
        raise RellmError(
            "there are no speakers to validate on: no corpus has three, or a split `dev`",
            todo="Add a corpus, or give its manifest the splits train and dev",
        )
    return Division(tuple(training), tuple(validation))


def refuse_overlap(corpora: Corpora, training: Sequence[int], other: Sequence[int], name: str) -> None:
    """No speaker is trained on and measured.

    Raises:
        RellmError: some are; names them.
    """
    both = sorted(set(corpora.speakers(training)) & set(corpora.speakers(other)))
    if both:
        more = f" and {len(both) - SHOWN} more" if len(both) > SHOWN else ""
        raise RellmError(
            f"speakers stand in the training and in {name}: {', '.join(both[:SHOWN])}{more}",
            todo="Divide the manifest by speaker",
        )


@dataclass(frozen=True)
class Fold:
    """Utterances that are tested on, and those that may be trained on then."""

    name: str
    test: tuple[int, ...]
    rest: tuple[int, ...]


def folds(corpora: Corpora, name: str, test: FoldOptions) -> tuple[list[Fold], list[str]]:
    """Folds of a test, and what is said about those that cannot be measured here.

    Raises:
        RellmError: the corpus is not among the data, a named speaker is not in it, or no fold is left.
    """
    own = [i for i, row in enumerate(corpora.rows) if row.corpus == test.corpus]
    if not own:
        known = ", ".join(corpora.label_sets)
        raise RellmError(f"test {name!r} is of the corpus {test.corpus!r}, which no manifest holds", allowed=known)
    wanted = [corpora.emotions.index(e) for e in test.emotions] if test.emotions else corpora.label_sets[test.corpus]
    absent = [corpora.emotions[e] for e in wanted if e not in corpora.label_sets[test.corpus]]
    if absent:
        raise RellmError(f"test {name!r}: {test.corpus} has no recording that is {absent[0]}")
    made, notes = [], []
    for number, left_out in enumerate(_left_out(corpora, own, test), start=1):
        tested = tuple(i for i in left_out if corpora.rows[i].emotion in wanted)
        if not tested:
            notes.append(f"{name}, fold {number}: none of its speakers is among the data")
            continue
        gone = set(left_out)
        if test.folds == "corpus":
            gone = set(own)
        rest = tuple(i for i in range(len(corpora.rows)) if i not in gone)
        refuse_overlap(corpora, rest, tested, f"fold {number} of test {name!r}")
        made.append(Fold(f"{name}-{number}", tested, rest))
    if not made:
        raise RellmError(f"test {name!r} has no fold whose speakers are among the data")
    return made, notes


def _left_out(corpora: Corpora, own: Sequence[int], test: FoldOptions) -> list[list[int]]:
    """Utterances that are left out by every fold."""
    if test.folds == "corpus":
        return [list(own)]
    if test.folds == "split":
        return [[i for i in own if corpora.rows[i].split == "test"]]
    groups = EMOBOX_FOLDS[test.corpus] if test.folds == "emobox" else test.folds
    if test.folds != "emobox":
        corpora.held_out(test.corpus, [speaker for group in groups for speaker in group])
    return [[i for i in own if corpora.rows[i].speaker.partition("/")[2] in group] for group in groups]
