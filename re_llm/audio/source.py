"""Locations of recordings: a file, a byte range of an archive (`archive.zip:offset:length`), or bytes.

Members of a zip that are compressed are marked: `archive.zip:offset:length:deflate`.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from re_llm.core.errors import RellmError

MEMBER = re.compile(
    r"^(?P<archive>.+\.(?:zip|tar))(?P<range>:(?P<offset>[0-9]{1,18}):(?P<length>[0-9]{1,18})(?P<packed>:deflate)?)$",
    re.IGNORECASE,
)
MAX_UNPACKED = 1 << 29  # bytes of a compressed member, which is read whole

HEAD_BYTES = 4096  # no format of sound begins with so many zeros

Source = str | os.PathLike[str] | bytes


@dataclass(frozen=True)
class Member:
    """A byte range of an archive, or the whole file when `length` is None; `packed` when it is compressed."""

    path: Path
    offset: int = 0
    length: int | None = None
    packed: bool = False


class _Window(io.RawIOBase):
    """A file-like view of a byte range of an open file."""

    def __init__(self, file: IO[bytes], offset: int, length: int):
        self.length = length
        self._file, self._offset, self._at = file, offset, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.length}[whence]
        self._at = min(max(base + offset, 0), self.length)
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self.length - self._at)
        self._file.seek(self._offset + self._at)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def locate(source: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> Member:
    """The file, or the member of an archive, that `source` names; a relative name is taken from `root`."""
    name, offset, length = split_member(source)
    path = Path(name) if root is None else Path(root) / name
    return Member(path, offset, length, length is not None and os.fspath(source).lower().endswith(":deflate"))


def split_member(source: str | os.PathLike[str]) -> tuple[str, int, int | None]:
    """(file, offset, length) that `source` names; the whole of a file has no length."""
    name = os.fspath(source)
    match = MEMBER.match(name)
    return (name, 0, None) if match is None else (match["archive"], int(match["offset"]), int(match["length"]))


def moved(name: str, old: Path, new: Path) -> str:
    """A path (or member of an archive) that is relative to the folder `old`, as one that is relative to `new`.

    An empty one, of an utterance without a recording, stays empty.
    """
    if not name:
        return name
    match = MEMBER.match(name)
    path = os.path.relpath(old / (match["archive"] if match else name), new)
    return path + match["range"] if match else path


@contextmanager
def open_bytes(source: Source, root: str | os.PathLike[str] | None = None) -> Iterator[tuple[IO[bytes], int, str]]:
    """Opens a source: (readable and seekable file, its size in bytes, its name for messages).

    Raises:
        RellmError: there is no such file, it is a folder, pipe or device, it is empty or begins with thousands of
            zeros, or the archive ends before the member does.
    """
    if isinstance(source, bytes):
        if not source:
            raise RellmError("the audio is empty (0 bytes)")
        yield _Window(io.BytesIO(source), 0, len(source)), len(source), "the audio given as bytes"  # type: ignore[misc]
        return
    member = locate(source, root)
    with _regular(member.path) as raw:
        file = io.BufferedReader(raw)
        size = os.fstat(file.fileno()).st_size
        if member.length is not None:
            if member.offset + member.length > size:
                raise RellmError(f"{member.path} ends before the member at {member.offset}:{member.length} does")
            window = _Window(file, member.offset, member.length)
            if member.packed:
                window = _unpacked(window.readall(), os.fspath(source))
            yield io.BufferedReader(window, 1 << 16), window.length, os.fspath(source)
        else:
            head = raw.read(HEAD_BYTES)
            raw.seek(0)
            if not head:
                raise RellmError(f"{member.path} is empty (0 bytes)", todo="Copy the file again")
            if len(head) == HEAD_BYTES and not any(head):  # decoders would search all of a sparse file for a header
                raise RellmError(f"{member.path} is not audio that can be read: it begins with {HEAD_BYTES} zeros")
            yield file, size, str(member.path)


def _unpacked(data: bytes, name: str) -> _Window:
    """A compressed member.

    Raises:
        RellmError: it is damaged, or too large.
    """
    decoder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        whole = decoder.decompress(data, MAX_UNPACKED)
    except zlib.error as error:
        raise RellmError(f"{name} cannot be unpacked: {error}", todo="Copy the archive again") from error
    if not decoder.eof:
        more = decoder.unconsumed_tail
        why = f"it has more than {MAX_UNPACKED} bytes" if more else "the compressed data end too early"
        raise RellmError(f"{name} cannot be unpacked: {why}", todo="Unpack the archive")
    return _Window(io.BytesIO(whole), 0, len(whole))


def _regular(path: Path) -> io.FileIO:
    """Opens a file. A pipe would block until somebody writes to it, a device may never end.

    Raises:
        RellmError: it is missing, not a regular file, or cannot be read.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
            raise RellmError(f"{path} is {kind}, not a recording")
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        raise RellmError(f"no such file: {path}", todo="Check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character, half a surrogate pair
        why = error.strerror if isinstance(error, OSError) else None
        raise RellmError(f"cannot read {str(path)!r}: {why or error}") from error
