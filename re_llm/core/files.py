"""Files: written whole or not at all, known by what they hold, and one writer at a time.

A hash is remembered by the file's inode, size and times, so that gigabytes are read once. The times include that of
the last change of the inode, which no program can set: a file that was changed and given its old date is read again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from re_llm.core.errors import RellmError

FRESH = 2.0  # s: a file that changed so recently may change again within one tick of its clock
LOCK_NAME = ".lock"
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)

_hashes: dict[str, str] = {}  # SHA-256 by stamp


def disk_error(path: Path, error: OSError) -> RellmError:
    """The user's view of a failed write (full disk, no permission)."""
    return RellmError(
        f"cannot write {path}: {error.strerror or error}",
        todo="Free space or choose another --out, then run the same command again: finished rows are kept",
    )


def existing(path: str | os.PathLike[str], *, todo: str = "Check the path") -> Path:
    """The path of a file that is there.

    Raises:
        RellmError: there is no such file.
    """
    if not Path(path).is_file():
        raise RellmError(f"no such file: {path}", todo=todo)
    return Path(path)


# ---- whole or not at all ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, which takes its name when the block ends without an error.

    Args:
        sync: wait until it is on the disk, so that it also outlives a power cut: a few milliseconds.

    Raises:
        RellmError: the disk is full, or the folder cannot be written. `path` is then as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if sync:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # the folder may be none
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(path: Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
    """An open file that becomes `path` when the block ends; see `replacing`."""
    with replacing(path, sync=sync) as temporary, temporary.open("wb") as file:
        yield file


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """See `replacing`."""
    with writing(path, sync=sync) as file:
        file.write(data)


def write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    """See `replacing`; line ends are written as they are."""
    write_bytes(path, text.encode(encoding))


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """One JSON document; NaN and infinity, which JSON does not have, are refused with a ValueError."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def refuse_existing(out: Path) -> None:
    """For what is written whole and has no sidecar that would tell whether it may be replaced.

    Raises:
        RellmError: `out` is a file that holds something, or a folder that does.
    """
    if out.stat().st_size if out.is_file() else out.is_dir() and any(out.iterdir()):
        raise RellmError(f"{out} is there already and not empty", todo="Give another name, or remove it")


@contextlib.contextmanager
def new_folder(target: Path, *, last: str = "config.json") -> Iterator[Path]:
    """A hidden folder to fill, whose files are in `target` when the block ends without an error.

    A target that does not exist takes the name of the filled folder at once. One that does (it may be a mount point)
    gets the files one by one, `last` at the end, so that a reader who waits for that file finds all of them.
    """
    there = target.is_dir()
    home = target if there else target.parent
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=f".{target.name}-") as room:
        new = Path(room) / "new"
        new.mkdir()
        yield new
        if not there:
            os.replace(new, target)
            return
        for path in sorted(new.iterdir(), key=lambda path: (path.name == last, path.name)):
            os.replace(path, target / path.name)


def sweep(out: Path) -> None:
    """Deletes what killed processes of this machine left half-written beside `out`."""
    import psutil

    for path in out.parent.glob(f".{out.name}.*.tmp"):
        owner = path.name.removesuffix(".tmp").rpartition(".")[2]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            path.unlink(missing_ok=True)


# ---- what a file holds ------------------------------------------------------------------------------------------


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal; a file that has not changed since is not read again."""
    before = stamp(path)
    known = _hashes.get(before)
    if known is not None:
        return known
    # The time of the inode, which every write sets; the file's own date may be anything.
    settled = time.time() - path.stat().st_ctime > FRESH
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if settled and stamp(path) == before:
        _hashes[before] = found
    return found


def stamp(path: Path) -> str:
    """Changes whenever the file does. Holds no path: a folder may be moved, and nobody's folders are written down."""
    stat = path.stat()
    return f"{stat.st_ino:x}-{stat.st_size:x}-{stat.st_mtime_ns:x}-{stat.st_ctime_ns:x}"


def hash_of(parts: Iterable[str]) -> str:
    """One hash of several texts, in their order."""
    digest, waiting = hashlib.sha256(), iter(parts)
    while some := list(itertools.islice(waiting, 64)):
        digest.update(counted(some))
    return digest.hexdigest()


def counted(parts: Iterable[str]) -> bytes:
    """Texts with their lengths, so that no others are the same when they are joined."""
    return "".join([f"{len(part)}:{part}\n" for part in parts]).encode("utf-8", "surrogatepass")


def files_hash(files: Mapping[str, Path]) -> str:
    """One hash of several files and their names."""
    return hash_of(f"{name} {file_hash(files[name])}" for name in sorted(files))


def known_hashes(paths: Iterable[Path] | None = None, *, at_least: int = 0) -> dict[str, str]:
    """Hashes that are remembered, by stamp, for `remember_hashes` of another process.

    Args:
        paths: of these files; None for all.
        at_least: of files of so many bytes or more.
    """
    stamps = _hashes if paths is None else {stamp(path) for path in paths} & _hashes.keys()
    return {stamp: _hashes[stamp] for stamp in stamps if int(stamp.split("-")[1], 16) >= at_least}


def remember_hashes(hashes: Mapping[str, str]) -> None:
    """Takes over what `known_hashes` gave; what is no such thing is left out."""
    _hashes.update({stamp: found for stamp, found in hashes.items() if isinstance(found, str) and len(found) == 64})


# ---- one writer at a time ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def lock(out: Path, *, folder: bool = False, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from writing `out` meanwhile; the lock goes with the process, however it ends.

    Args:
        folder: `out` is a folder, made when it is missing, and not a file.
        wait: wait for the other process instead of refusing.

    Raises:
        RellmError: another process is writing it, or the folder cannot be written.
    """
    path = out / LOCK_NAME if folder else out.with_name(f".{out.name}{LOCK_NAME}")
    file = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(path, out, wait)
    except OSError as error:
        if error.errno not in READ_ONLY:  # where nothing can be written, nothing has to be locked
            raise disk_error(out, error) from error
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
            file.close()


def _locked(path: Path, out: Path, wait: bool) -> IO[bytes]:
    """The lock file, open and taken. Whoever held it before has deleted it, and somebody else may hold a new one."""
    while True:
        file = path.open("ab")
        lock_file(file, out, wait=wait)
        with contextlib.suppress(FileNotFoundError):  # it was deleted after it was opened
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        file.close()


def lock_file(file: IO[bytes], path: Path, *, wait: bool = False) -> None:
    """Takes an open file for this process, until it is closed.

    Args:
        path: what it is called in a message.

    Raises:
        RellmError: another process has it. The file is closed then.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no lock
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        file.close()
        raise RellmError(
            f"another process is writing {path}", todo="Wait for it to end, or give another --out"
        ) from None
    except OSError as error:
        # Some network file systems have no locks.
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            file.close()
            raise
