"""How a manifest is cut: chunks that are answered together, shards that are answered apart.

A chunk is always the same rows, whatever an earlier run finished and whichever shard it is in: its batches are then the
same too, and so is every last bit of what the LLM computes. That makes a resumed run, and merged shards, equal to one
uninterrupted run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from re_llm.continuations.dialogues import Dialogues
from re_llm.core.dialogues import Earlier
from re_llm.core.errors import RellmError
from re_llm.core.records import Utterance, read_numbered

CHUNK = 256  # rows answered between two writes, and the unit of a shard: what a kill can cost


@dataclass(frozen=True)
class Shard:
    """Part `index` (from 0) of `count`: the chunks whose number leaves `index` when divided by `count`."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise RellmError(f"there is no shard {self}", allowed="I/N with I from 0 to N-1: 0/4, 1/4, 2/4, 3/4")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `I/N` names.

        Raises:
            RellmError: it names none.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if not found:
            raise RellmError(f"{text!r} is not a shard", allowed="I/N with I from 0 to N-1: 0/4, 1/4, 2/4, 3/4")
        return cls(int(found[1]), int(found[2]))

    def holds(self, chunk: int) -> bool:
        return chunk % self.count == self.index


WHOLE = Shard()  # the only shard of a run that is not cut


@dataclass(frozen=True)
class Plan:
    """The rows of a manifest that a run answers, in order.

    Attributes:
        splits: only these; None takes all.
        chunk: rows in a chunk. Chunks are counted over the rows of the splits, unusable ones included.
        dialogues: what stands before the rows, if anything does.
    """

    manifest: Path
    splits: frozenset[str] | None = None
    chunk: int = CHUNK
    shard: Shard = WHOLE
    dialogues: Dialogues | None = None

    @cached_property
    def history(self) -> dict[str, list[Earlier]]:
        """Drawn turns of the rows of all shards, by key."""
        return {} if self.dialogues is None else self.dialogues.of(row for _, row in self._numbered())

    def rows(self) -> Iterator[tuple[int, Utterance]]:
        """(number of its chunk, utterance) of all shards, read from the file one by one.

        Raises:
            RellmError: the manifest is missing or a line of it is broken.
        """
        for number, row in self._numbered():
            drawn = self.history.get(row.key)
            yield number // self.chunk, row.model_copy(update={"history": drawn}) if drawn else row

    def _numbered(self) -> Iterator[tuple[int, Utterance]]:
        rows = (row for _, row in read_numbered(self.manifest, Utterance))
        return enumerate(row for row in rows if self.splits is None or row.split in self.splits)

    def chunks(self) -> Iterator[list[Utterance]]:
        """The chunks of this shard."""
        for chunk, rows in groupby(self.rows(), key=itemgetter(0)):
            if self.shard.holds(chunk):
                yield [row for _, row in rows]

    def keys(self) -> dict[str, int]:
        """Keys of the rows of all shards, in order, with the number of their chunk.

        Raises:
            RellmError: two rows share a key, or no row is in the splits.
        """
        found: dict[str, int] = {}
        other: set[str] = set()
        number = 0
        for line, row in read_numbered(self.manifest, Utterance):
            if self.splits is not None and row.split not in self.splits:
                other.add(row.split)
                continue
            if row.key in found:
                raise RellmError(
                    f"{self.manifest}:{line}: the key {row.key!r} stands in an earlier line too",
                    todo="Give every utterance its own key; `re-llm prepare check` lists them",
                )
            found[row.key] = number // self.chunk
            number += 1
        if not found:
            wanted = ", ".join(sorted(self.splits or ())) or "any split"
            raise RellmError(
                f"{self.manifest} has no utterance in {wanted}",
                allowed=", ".join(sorted(other)) or None,
                todo="Name another --split",
            )
        return found
