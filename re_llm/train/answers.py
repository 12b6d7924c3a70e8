"""Where the answers that are trained stand in continuation files, and what is read there again."""

from __future__ import annotations

import os
import zlib
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from re_llm.core.errors import RellmError
from re_llm.core.records import Continuation, Line

FILE_BITS = 48  # of a line's place; above them the number of its file


class Answers:
    """Lines of continuation files by example and prompt, in 16 bytes each.

    The files stay open: one that is written anew under its name meanwhile is read as it was.

    Args:
        prompts: whose answers an example must have.
        kinds: what the lines of each file are.
    """

    def __init__(self, files: Sequence[Path], prompts: Sequence[str], kinds: Sequence[type[Continuation]]):
        self.files, self.prompts, self.kinds = tuple(files), tuple(prompts), tuple(kinds)
        self._places = {prompt: array("q") for prompt in prompts}  # -1: none
        self._sizes = {prompt: array("I") for prompt in prompts}
        self._sums = {prompt: array("I") for prompt in prompts}
        self._open: dict[int, IO[bytes]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": {}}  # another process opens them by name

    def add(self, index: int, prompt: str, file: int, line: Line) -> bool:
        """One more answer, of the next example or an earlier one; False where the example has one already."""
        if index == len(self._places[prompt]):
            for columns, empty in ((self._places, -1), (self._sizes, 0), (self._sums, 0)):
                for column in columns.values():
                    column.append(empty)
        if self._places[prompt][index] >= 0:
            return False
        if file not in self._open:
            self._open[file] = self.files[file].open("rb")
        self._places[prompt][index] = (file << FILE_BITS) | line.offset
        self._sizes[prompt][index] = len(line.data)
        self._sums[prompt][index] = zlib.crc32(line.data)
        return True

    def missing(self) -> np.ndarray:
        """By example, the place of the first prompt that it has no answer to; -1 = none is missing."""
        found = np.full(len(self._places[self.prompts[0]]), -1)
        for number, prompt in reversed(list(enumerate(self.prompts))):
            found[np.frombuffer(self._places[prompt], dtype=np.int64) < 0] = number
        return found

    def read(self, index: int) -> dict[str, tuple[int, Continuation]]:
        """By prompt, the file's number and the row of an example's answer, in the order in which they were read first.

        Raises:
            RellmError: a line is no longer what it was; names the file.
        """
        rows = {}
        for prompt in sorted(self.prompts, key=lambda prompt: self._places[prompt][index]):
            file, offset = divmod(self._places[prompt][index], 1 << FILE_BITS)
            line = self._bytes(file, offset, self._sizes[prompt][index])
            if zlib.crc32(line) != self._sums[prompt][index]:
                raise RellmError(f"{self.files[file]} has changed since it was read", todo="Start the training again")
            rows[prompt] = (file, self.kinds[file].model_validate_json(line))
        return rows

    def _bytes(self, file: int, offset: int, size: int) -> bytes:
        if file not in self._open:
            self._open[file] = self.files[file].open("rb")
        if hasattr(os, "pread"):  # processes that were forked share the position in an open file
            return os.pread(self._open[file].fileno(), size, offset)
        self._open[file].seek(offset)
        return self._open[file].read(size)
