"""Rows held out of training: which they are, the loss on them, and when a training ends because of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from re_llm.core.errors import RellmError
from re_llm.recipe.stages import ValidationOptions
from re_llm.train.collate import Collator
from re_llm.train.examples import ROLES, Example, Examples
from re_llm.train.rows import Row, TrainingRows

BEST = "best.safetensors"  # beside the checkpoints: the weights with the smallest loss so far
EPOCH = -1  # tasks of held-out rows are drawn once


@dataclass(frozen=True)
class Validation:
    """Held-out rows in batches of similar length, and when the loss on them is computed.

    Attributes:
        collate: rows -> a batch.
        folder: where the best weights are kept.
    """

    options: ValidationOptions
    batches: Sequence[Sequence[Row]]
    collate: Collator
    folder: Path

    @property
    def best(self) -> Path:
        return self.folder / BEST


def held_out(examples: Sequence[Example], options: ValidationOptions, seed: int) -> tuple[Examples, Examples]:
    """(rows to train on, rows to validate on), each in their order.

    Speakers, or rows, are ranked by a hash of the seed, so the choice does not depend on their order.

    Raises:
        RellmError: one side would be empty, or a row has no speaker to go by.
    """
    every = Examples.of(examples)
    chosen = _of_split(every, options.split) if options.split else _drawn(every, options, seed)
    train, kept = (every.take(np.flatnonzero(chosen == side)) for side in (False, True))
    for side, rows in (("training", train), ("validation", kept)):
        if (rows.roles == ROLES.index("donor")).all():
            raise RellmError(f"validation leaves no row for {side}", todo="Change the stage's `validation`")
    return train, kept


def _of_split(examples: Examples, split: str) -> np.ndarray:
    """Which examples are held out, as all below. [N]"""
    splits, names = examples.named("splits")
    chosen = splits == names.index(split) if split in names else np.zeros(len(examples), dtype=bool)
    if not chosen.any():
        there = ", ".join(sorted({str(names[i]) for i in np.unique(splits)}))
        raise RellmError(
            f"no row is of the split {split!r}, which validation holds out",
            allowed=there,
            todo=f"Continue it too, and give its file: re-llm continue MANIFEST --split {split} --out FILE",
        )
    return chosen


def _drawn(examples: Examples, options: ValidationOptions, seed: int) -> np.ndarray:
    groups, names = np.arange(len(examples)), (source.key for source in examples.sources())
    if options.by == "speaker":
        groups, speakers = examples.named("speakers")
        without = np.flatnonzero([speakers[group] is None for group in groups.tolist()])
        if len(without):
            raise RellmError(
                f"{examples.key(without[0])} has no speaker, by which validation holds rows out",
                todo="Set validation.by to row",
            )
        names = (str(speakers[group]) for group in np.unique(groups))
    there, counts = np.unique(groups, return_counts=True)
    ranks = bytearray()
    for name in names:
        ranks += hashlib.sha256(f"{seed}/{name}".encode()).digest()
    order = np.lexsort(np.frombuffer(ranks, dtype=">u8").reshape(-1, 4).T[::-1])
    before = np.cumsum(counts[order]) - counts[order]  # rows of the groups that are held out earlier
    wanted = (options.fraction or 0.0) * len(examples)
    return np.isin(groups, there[order][before < wanted])


def row_batches(rows: TrainingRows, lengths: Sequence[int], size: int) -> Iterator[list[Row]]:
    """All rows once, neighbours of similar length."""
    order = sorted(range(len(rows)), key=lambda i: lengths[i])
    for first in range(0, len(order), size):
        yield [rows[EPOCH, i] for i in order[first : first + size]]
