"""Files of records that grow: rows are appended, a torn one is repaired, and one that was changed by hand is noticed.

Beside `NAME.jsonl` the hidden `.NAME.jsonl.rows` holds a hash of each row, 8 bytes in the order of writing. A row may
be missing (it is made again); one that the log does not have was changed or added by somebody else.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from re_llm.core import files
from re_llm.core.errors import RellmError
from re_llm.core.records import BEGINNING, MAX_LINE_BYTES, Record

_HASH_BYTES = 8


def log_path(path: Path) -> Path:
    """The log of the rows of a file."""
    return path.with_name(f".{path.name}.rows")


def _row_hash(line: bytes) -> bytes:
    return hashlib.sha256(line).digest()[:_HASH_BYTES]


def _rows(path: Path) -> Iterator[bytes]:
    """Hashes of the whole lines of a file."""
    with path.open("rb") as lines:
        yield from (_row_hash(line) for line in lines if line.endswith(b"\n") and line.strip())


def write_log(path: Path) -> None:
    """The log of a file as it is now."""
    files.write_bytes(log_path(path), b"".join(_rows(path)), sync=False)


def _open_log(path: Path) -> IO[bytes]:
    """The open log of a file, whose rows are taken as they are."""
    write_log(path)
    try:
        return log_path(path).open("ab", buffering=0)
    except OSError as error:
        raise files.disk_error(log_path(path), error) from error


def changed_row(path: Path, *, complete: bool) -> int | None:
    """Number of the first row, from 1, that was not written by a stage, or None; None too where there is no log.

    Args:
        complete: the file was finished. Of one that was not, the last rows may have outlived a power cut that their
            log did not, as long as no row of the log is missing.
    """
    if not log_path(path).is_file():
        return None
    log = log_path(path).read_bytes()
    known = {log[i : i + _HASH_BYTES] for i in range(0, len(log) - _HASH_BYTES + 1, _HASH_BYTES)} - {bytes(_HASH_BYTES)}
    missing, first = set(known), None
    for number, row in enumerate(_rows(path), 1):
        missing.discard(row)
        if row not in known:
            first = first or number
        elif first:
            return first
    return first if complete or missing else None


class RecordAppender:
    """Appends whole lines to a JSON-lines file; opening it repairs a torn last line and reads the keys present.

    One process writes at a time: a second one is refused, because the two would write every row twice. The lock goes
    with the process, however it ends.

    Attributes:
        keys: keys of the records that the file holds.
        rows: number of its records; more than `keys` when keys are repeated.
    """

    def __init__(self, path: str | os.PathLike[str], *, logged: bool = False):
        """Opens `path`; with `logged` beside a log of its rows, see `changed_row`."""
        self.path = Path(path)
        self._log: IO[bytes] | None = None
        self.keys: set[str] = set()
        self.rows = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: nothing waits in memory that a failed write would try to write again on closing.
            self._file = self.path.open("ab", buffering=0)
        except OSError as error:
            raise files.disk_error(self.path, error) from error
        try:
            files.lock_file(self._file, self.path)
            self._repair()
            self._log = _open_log(self.path) if logged else None
        except BaseException:
            self._file.close()
            raise

    def _repair(self) -> None:
        good = 0
        with self.path.open("rb") as lines:
            while line := lines.readline(MAX_LINE_BYTES + 1):
                if not line.endswith(b"\n"):
                    self._check_torn(line)
                    break
                good += len(line)
                if line.strip():
                    self.keys.add(self._key(line))
                    self.rows += 1
        if good != self.path.stat().st_size:
            os.truncate(self.path, good)

    def _check_torn(self, line: bytes) -> None:
        """The beginning of a record (or zeros, after a power cut) may be cut off; somebody's notes may not."""
        begun = len(line) <= MAX_LINE_BYTES and line[: len(BEGINNING)] == BEGINNING[: len(line)]
        if line.strip(b"\0") and not begun:
            raise self._no_record(line)

    def _key(self, line: bytes) -> str:
        try:
            return str(json.loads(line)["key"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise self._no_record(line) from None

    def _no_record(self, line: bytes) -> RellmError:
        return RellmError(
            f"{self.path} holds a line that is not a record: {line[:80]!r}",
            todo="Move the file away, or give another --out",
        )

    def append(self, records: Iterable[Record]) -> None:
        """Appends the records as one write, so that a kill leaves at most one torn line.

        Raises:
            RellmError: the disk is full or the file cannot be written; whole lines that reached it stay.
        """
        batch = list(records)
        lines = [r.to_line().encode() for r in batch]
        data = memoryview(b"".join(lines))
        done = 0
        try:
            if self._log is not None:  # first: a kill in between leaves a row less than the log has
                self._log.write(b"".join(map(_row_hash, lines)))
            while done < len(data):
                done += self._file.write(data[done:])
        except OSError as error:
            whole = bytes(data[:done]).rfind(b"\n") + 1
            os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - (done - whole))
            raise files.disk_error(self.path, error) from error
        self.keys.update(r.key for r in batch)
        self.rows += len(batch)

    def close(self) -> None:
        """Closes the file; what the system still holds back goes to the disk.

        Raises:
            RellmError: the disk is full (network file systems tell it only now).
        """
        if self._file.closed:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            # Pipes and some special files cannot be synchronised, and need not be.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise files.disk_error(self.path, error) from error
        finally:
            self._file.close()
            if self._log is not None:
                self._log.close()
                if not self.rows:
                    log_path(self.path).unlink(missing_ok=True)

    def __enter__(self) -> RecordAppender:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
