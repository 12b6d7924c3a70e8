"""Encoder states on disk: appended by several processes at once, never half there, in files of bounded size.

    FOLDER/speech-HASH/  states.bin, states-1.bin, ... (rows one after another)  index.txt (id, number of rows)
                         store.json (width, dtype, rows after which a file is full)

T frames, D width.
"""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from re_llm.core import files
from re_llm.train.examples import KeyIndex

SHARD_BYTES = 2**33  # of a file of states, after which the next one begins


class StateStore:
    """States of one encoder, by the id of the recording's segment. Several processes may add to it and read it.

    The states stand one after another; a file that has reached `SHARD_BYTES` is followed by another one.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._index, self._ends = KeyIndex(), array("Q", [0])  # of each id, the row behind its last one
        self._begins = [0]  # of each file, its first row
        self._read = 0
        self._states: dict[int, np.ndarray] = {}
        self.refresh()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, key: str) -> bool:
        return self._index.find(key) is not None

    def length(self, key: str) -> int:
        """Number of rows of a segment."""
        first, last = self._span(key)
        return last - first

    def lengths(self, keys: Iterable[str]) -> np.ndarray:
        """Of many segments at once; -1 of one that is not held. [N]"""
        places = self._index.find_all(keys)
        ends = np.frombuffer(self._ends[:], dtype=np.uint64).astype(np.int64)
        return np.where(places < 0, -1, ends[places + 1] - ends[places])

    def _span(self, key: str) -> tuple[int, int]:
        place = self._index.find(key)
        if place is None:
            raise KeyError(key)
        return self._ends[place], self._ends[place + 1]

    def refresh(self) -> None:
        """Takes over what was added since; a line that is not whole is none."""
        index = self.folder / "index.txt"
        if not (index.is_file() and self._file(0).is_file()):
            return
        shape = self._shape()
        there: dict[int, int] = {}  # rows of the files
        with index.open("rb") as lines:
            lines.seek(self._read)
            for line in lines:
                key, count = line.decode().split() if line.endswith(b"\n") else ("", "0")
                begin = self._begin(self._begins[-1], self._ends[-1], shape)
                number, end = len(self._begins) - (begin == self._begins[-1]), self._ends[-1] + int(count)
                if number not in there:
                    file = self._file(number)
                    there[number] = begin + (file.stat().st_size // shape.row_bytes if file.is_file() else 0)
                if not key or end > there[number]:  # torn, or its states were lost with the power
                    break
                if begin > self._begins[-1]:
                    self._begins.append(begin)
                self._index.add(key)
                self._ends.append(end)
                self._read += len(line)

    def _file(self, number: int) -> Path:
        return self.folder / (f"states-{number}.bin" if number else "states.bin")

    def _begin(self, begin: int, end: int, shape: _Shape) -> int:
        """Where the file begins that gets what follows row `end`, if the last one begins at `begin`."""
        return end if shape.file_rows and end - begin >= shape.file_rows else begin

    def _shape(self) -> _Shape:
        about = json.loads((self.folder / "store.json").read_bytes())
        return _Shape(int(about["width"]), np.dtype(about["dtype"]), int(about.get("file_rows", 0)))

    def add(self, states: Mapping[str, np.ndarray]) -> None:
        """Adds states [T, D] by id; those that another process has added meanwhile are left out."""
        with files.lock(self.folder, folder=True, wait=True):
            self.refresh()
            new = {key: each for key, each in states.items() if key not in self}
            if not new:
                return
            first = next(iter(new.values()))
            if not (self.folder / "store.json").is_file():
                rows = max(1, SHARD_BYTES // first[0].nbytes)
                about = {"width": first.shape[1], "dtype": str(first.dtype), "file_rows": rows}
                files.write_json(self.folder / "store.json", about)
            shape, begins, end = self._shape(), self._begins[:], self._ends[-1]
            parts: dict[int, tuple[int, list[bytes]]] = {}  # by file: its length, and what is added
            for each in new.values():
                begin = self._begin(begins[-1], end, shape)
                if begin > begins[-1]:
                    begins.append(begin)
                parts.setdefault(len(begins) - 1, ((end - begin) * shape.row_bytes, []))[1].append(each.tobytes())
                end += len(each)
            for number, (length, data) in parts.items():
                _append(self._file(number), length, b"".join(data))
            lines = "".join(f"{key} {len(each)}\n" for key, each in new.items())
            _append(self.folder / "index.txt", self._read, lines.encode())
            self.refresh()

    def get(self, key: str) -> np.ndarray:
        """States [T, D] of a segment, not in memory."""
        first, last = self._span(key)
        number = bisect_right(self._begins, first) - 1
        begin = self._begins[number]
        if number not in self._states or last - begin > len(self._states[number]):
            shape = self._shape()
            end = self._begins[number + 1] if number + 1 < len(self._begins) else self._ends[-1]
            self._states[number] = np.memmap(
                self._file(number), dtype=shape.dtype, mode="r", shape=(end - begin, shape.width)
            )
        return self._states[number][first - begin : last - begin]


class _Shape(NamedTuple):
    """Of the states of a store; `file_rows` after which another file begins, 0 = none does."""

    width: int
    dtype: np.dtype
    file_rows: int

    @property
    def row_bytes(self) -> int:
        return self.width * self.dtype.itemsize


def _append(file: Path, end: int, data: bytes) -> None:
    """Writes behind `end`: what stands there was left by a process that was killed."""
    with file.open("ab") as out:
        out.truncate(end)
        out.write(data)
