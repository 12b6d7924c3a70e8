"""Recordings that end before their own headers say: decoders return what is left of them without an error."""

from __future__ import annotations

import struct
from typing import IO

TOLERANCE = 1024  # bytes; some writers count the header as samples
UNKNOWN = 0x7FFF_0000  # and above: written to a pipe, whose length was not known
MAX_CHUNKS = 1000
MAX_PAGE = 27 + 255 + 255 * 255  # bytes of an Ogg page
_RIFF = {b"RIFF": "<", b"RF64": "<", b"BW64": "<", b"RIFX": ">", b"FORM": ">"}  # byte order
_LAST_PAGE = 0x04


def truncation(file: IO[bytes], size: int) -> str | None:
    """What the end of a WAV, AIFF, AU or Ogg file of `size` bytes lacks; None if it is whole or of another kind."""
    file.seek(0)
    magic = file.read(4)
    if magic in _RIFF:
        return _chunks(file, size, _RIFF[magic])
    if magic == b"OggS":
        return _pages(file, size)
    if magic == b".snd" and len(header := file.read(8)) == 8:
        start, length = struct.unpack(">II", header)
        return _missing(length, size - start)
    return None


def _missing(length: int, left: int) -> str | None:
    if UNKNOWN <= length < 1 << 32 or length - left <= TOLERANCE:
        return None
    return f"its header announces {length} bytes of samples, but only {max(left, 0)} follow"


def _chunks(file: IO[bytes], size: int, order: str) -> str | None:
    at, long_size = 12, None
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        header = file.read(24)
        if len(header) < 8:
            return None  # without samples: the decoder refuses it
        name, length = struct.unpack(f"{order}4sI", header[:8])
        if name == b"ds64" and len(header) == 24:  # RF64: the sizes that do not fit into 32 bits
            long_size = struct.unpack("<Q", header[16:])[0]
        if name in (b"data", b"SSND"):
            length = long_size if length == 0xFFFF_FFFF and long_size is not None else length
            return _missing(length, size - at - 8)
        at += 8 + length + length % 2
    return None


def _pages(file: IO[bytes], size: int) -> str | None:
    file.seek(max(0, size - 2 * MAX_PAGE))
    tail = file.read()
    page = tail[tail.rfind(b"OggS") :]
    count = page[26] if len(page) > 26 else 0
    length = 27 + count + sum(page[27 : 27 + count])
    if not tail.count(b"OggS") or len(page) < length or not page[5] & _LAST_PAGE:
        return "its last page is missing"
    return None
