"""Reads the header of a binary file of weights that is not trusted.

Every length comes from the file and is checked against what is left of it, before anything of that size is made.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from re_llm.core.errors import RellmError

AGAIN = "Copy or download it again"
MAX_NAME_BYTES = 1024


class Walk:
    """A cursor in an open binary file, little endian.

    Args:
        what: what the file should be, for messages.
    """

    def __init__(self, file: BinaryIO, path: Path, what: str):
        self.file, self.path, self.what = file, path, what
        self.size = path.stat().st_size
        self.at = 0

    def wrong(self, reason: str) -> RellmError:
        """The error for a file that is not what it should be."""
        return RellmError(f"{self.path} is not a whole {self.what}: {reason}", todo=AGAIN)

    def take(self, count: int) -> bytes:
        """The next bytes.

        Raises:
            RellmError: the file ends before.
        """
        self._check(count)
        self.at += count
        return self.file.read(count)

    def skip(self, count: int) -> int:
        """Steps over bytes; returns where they begin."""
        self._check(count)
        begin, self.at = self.at, self.at + count
        self.file.seek(self.at)
        return begin

    def number(self, kind: str) -> int:
        """The next whole number; `kind` is its letter in `struct`."""
        (value,) = struct.unpack(f"<{kind}", self.take(struct.calcsize(f"<{kind}")))
        return int(value)

    def text(self, length: int) -> str:
        """The next bytes as UTF-8."""
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.wrong(f"the text at byte {self.at - length} is not UTF-8") from None

    def name(self, length: int) -> str:
        """A text that names something: not empty, short, printable."""
        if not 0 < length <= MAX_NAME_BYTES:
            raise self.wrong(f"a name of {length} bytes at byte {self.at}")
        name = self.text(length)
        if not name.isprintable():
            raise self.wrong(f"a name that cannot be printed: {name[:40]!r}")
        return name

    def _check(self, count: int) -> None:
        if count > self.size - self.at:
            raise self.wrong(f"it ends at byte {self.size}, and {count} bytes should follow byte {self.at}")
