"""What a stretch of a recording holds, whatever its file is called and wherever it lies."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from re_llm.audio.source import locate
from re_llm.core.errors import RellmError
from re_llm.core.files import counted, file_hash


def segment_hash(
    source: str | os.PathLike[str],
    start: float = 0.0,
    duration: float | None = None,
    root: str | os.PathLike[str] | None = None,
) -> str:
    """Hash of a recording's file (or archive) and of the place in it, as 32 hexadecimal digits.

    Raises:
        RellmError: the file is missing or cannot be read; names it.
    """
    member = locate(source, root)
    return place_hash(recording_hash(member.path), member.offset, member.length, start, duration)


def place_hash(file: str, offset: int, length: int | None, start: float, duration: float | None) -> str:
    """As `segment_hash`, from the hash of the file."""
    place = counted((file, str(offset), str(length), str(start), str(duration)))  # as `hash_of` these
    return hashlib.sha256(place).hexdigest()[:32]


def recording_hash(path: Path) -> str:
    """SHA-256 of a recording's file or archive; see `re_llm.core.files.file_hash`.

    Raises:
        RellmError: it is missing or cannot be read; names it.
    """
    if path.exists() and not path.is_file():  # a pipe or a device would be read for ever
        raise RellmError(f"cannot read {path}: not a regular file")
    try:
        return file_hash(path)
    except FileNotFoundError:
        raise RellmError(f"no such file: {path}", todo="Check the path") from None
    except OSError as error:
        raise RellmError(f"cannot read {path}: {error.strerror or error}") from error
