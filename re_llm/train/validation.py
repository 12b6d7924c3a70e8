"""Rows held out of training: which they are, the loss on them, and when a training ends because of it."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from re_llm.core.errors import RellmError
from re_llm.recipe.stages import ValidationOptions
from re_llm.train.collate import Batch
from re_llm.train.rows import Example, Row, TrainingRows

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
    collate: Callable[[Sequence[Row]], Batch]
    folder: Path

    @property
    def best(self) -> Path:
        return self.folder / BEST


def held_out(examples: Sequence[Example], options: ValidationOptions, seed: int) -> tuple[list[Example], list[Example]]:
    """(rows to train on, rows to validate on), each in their order.

    Speakers, or rows, are ranked by a hash of the seed, so the choice does not depend on their order.

    Raises:
        RellmError: one side would be empty, or a row has no speaker to go by.
    """
    chosen = _of_split(examples, options.split) if options.split else _drawn(examples, options, seed)
    train, kept = ([e for e in examples if (e.key in chosen) is side] for side in (False, True))
    for side, rows in (("training", train), ("validation", kept)):
        if all(example.role == "donor" for example in rows):
            raise RellmError(f"validation leaves no row for {side}", todo="Change the stage's `validation`")
    return train, kept


def _of_split(examples: Sequence[Example], split: str) -> set[str]:
    chosen = {example.key for example in examples if example.split == split}
    if not chosen:
        there = ", ".join(sorted({str(example.split) for example in examples}))
        raise RellmError(
            f"no row is of the split {split!r}, which validation holds out",
            allowed=there,
            todo=f"Continue it too, and give its file: re-llm continue MANIFEST --split {split} --out FILE",
        )
    return chosen


def _drawn(examples: Sequence[Example], options: ValidationOptions, seed: int) -> set[str]:
    groups: dict[str, list[str]] = defaultdict(list)
    for example in examples:
        if options.by == "speaker" and example.speaker is None:
            raise RellmError(
                f"{example.key} has no speaker, by which validation holds rows out", todo="Set validation.by to row"
            )
        groups[example.key if options.by == "row" else str(example.speaker)].append(example.key)
    wanted = (options.fraction or 0.0) * len(examples)
    chosen: set[str] = set()
    for group in sorted(groups, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()):
        if len(chosen) >= wanted:
            break
        chosen.update(groups[group])
    return chosen


def row_batches(rows: TrainingRows, lengths: Sequence[int], size: int) -> Iterator[list[Row]]:
    """All rows once, neighbours of similar length."""
    order = sorted(range(len(rows)), key=lambda i: lengths[i])
    for first in range(0, len(order), size):
        yield [rows[EPOCH, i] for i in order[first : first + size]]
